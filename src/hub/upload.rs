//! Uploads files to a model repository on the hub, in one commit.
//!
//! The hub is asked how it wants each file (`preupload`): large ones go to its store (`lfs`), small
//! ones into the commit. What the hub has is not sent again, so the same command resumes. Source:
//! `huggingface_hub`, `_commit_api.py`, `hf_api.py` (2.x). Not here: removing files, pull requests.
//! Not used: the crate `hf-hub` (1.0), which reads large files into memory and ignores Ctrl-C.

use super::client::{ApiRequest, ApiResponse, Client, RequestBody, is_transient, pause};
use super::digest;
use super::lfs::LfsStore;
use super::local_file::LocalFile;
use super::name::MAIN;
use super::{HubName, is_offline};
use crate::base::error::{Error, Result};
use crate::base::progress::{Progress, Unit, check_interrupted};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use ureq::http::Method;

/// The content type of JSON.
const JSON: &str = "application/json";
/// The number of files in one preupload request.
const PREUPLOAD_FILES: usize = 256;
/// The number of bytes from which the hub detects whether a file is text.
const SAMPLE: u64 = 512;
/// The most bytes of all files in the commit itself. The hub takes files of more than a few MB by
/// LFS.
const MAX_INLINE: u64 = 100 << 20;
/// How often a commit or the creation of a repository is retried.
const MAX_RETRIES: u32 = 4;

/// A request to upload files to a repository.
#[derive(Debug)]
pub struct Upload<'a> {
    /// The repository, and the branch as its revision.
    pub repo: &'a HubName,
    /// Whether the repository is private, if it has to be created.
    pub private: bool,
    /// The first line of the commit message.
    pub message: &'a str,
    /// The files to upload.
    pub files: &'a [LocalFile],
}

/// The outcome of an upload for one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UploadOutcome {
    /// The content was sent.
    Sent,
    /// The file is new or changed, but the hub had its content already.
    Present,
    /// The repository has the same file.
    Unchanged,
    /// The repository's `.gitignore` excludes it.
    Ignored,
}

/// One file of an upload, and its outcome.
#[derive(Clone, Debug, Serialize)]
pub struct UploadedFile {
    /// Its path in the repository.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// The SHA-256 of its content, in hexadecimal.
    pub sha256: String,
    /// What was done with it.
    #[serde(rename = "fate")]
    pub outcome: UploadOutcome,
}

/// The result of an upload.
#[derive(Clone, Debug, Serialize)]
pub struct UploadReport {
    /// The page of the repository.
    pub url: String,
    /// Whether the repository was created.
    pub created: bool,
    /// The commit; `None` if nothing had changed, or if the answer with its name was lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The files, in the order of the request.
    pub files: Vec<UploadedFile>,
}

/// The answer to a preupload request.
#[derive(Deserialize)]
struct PreuploadAnswer {
    files: Vec<PreuploadFile>,
}

/// How the hub wants one file.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PreuploadFile {
    path: String,
    upload_mode: String,
    #[serde(default)]
    should_ignore: bool,
    /// The hash of the file that the repository has under this path.
    #[serde(default)]
    oid: Option<String>,
}

/// The answer to a commit.
#[derive(Deserialize)]
struct CommitAnswer {
    #[serde(rename = "commitOid")]
    oid: String,
}

/// How a file is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
enum SendMode {
    /// Its content goes to the LFS store.
    Lfs,
    /// Its content is part of the commit.
    Inline,
    /// It is not sent.
    Skip(UploadOutcome),
}

/// Uploads files to the server that `HF_ENDPOINT` names, else the hub. The user's token is sent to
/// that server only and appears in no message.
///
/// # Errors
/// If there is no token, offline (`HF_HUB_OFFLINE`), if the server refuses or cannot be reached, if
/// a file changes during the upload, and if the user interrupts it. No file is visible on the hub
/// then; a repository or a branch that was created stays.
pub fn upload(upload: &Upload<'_>, progress: &dyn Progress) -> Result<UploadReport> {
    if is_offline() {
        return Err(Error::Usage(
            "HF_HUB_OFFLINE forbids requests to the hub; unset it to upload".to_string(),
        ));
    }
    let client = Client::from_env()?;
    client.require_token()?;
    let uploader = Uploader { client: &client, upload, progress };
    let created = uploader.create_repository()?;
    uploader.create_branch()?;
    let modes = uploader.send_modes()?;
    let outcomes = uploader.send_all(&modes)?;
    let commit = if modes.iter().all(|mode| matches!(mode, SendMode::Skip(_))) {
        None
    } else {
        uploader.commit(&modes)?
    };
    let files = upload.files.iter().zip(outcomes).map(|(file, outcome)| UploadedFile {
        name: file.name.clone(),
        bytes: file.bytes,
        sha256: file.sha256.clone(),
        outcome,
    });
    let url = format!("{}/{}", client.endpoint(), upload.repo.path());
    Ok(UploadReport { url, created, commit, files: files.collect() })
}

/// The state of one upload.
struct Uploader<'a> {
    client: &'a Client,
    upload: &'a Upload<'a>,
    progress: &'a dyn Progress,
}

impl Uploader<'_> {
    /// The address of `rest` in the repository's API.
    fn url(&self, rest: &str) -> String {
        let path = self.upload.repo.path();
        format!("{}/api/models/{path}{rest}", self.client.endpoint())
    }

    /// The branch, escaped for an address.
    fn branch(&self) -> String {
        self.upload.repo.revision().replace('/', "%2F")
    }

    /// The purpose of a request for error messages: `doing` and the repository.
    fn purpose(&self, doing: &str) -> String {
        format!("{doing} {}", self.upload.repo.path())
    }

    /// Whether `rest` of the repository exists and this user may see it.
    fn exists(&self, rest: &str, purpose: &str) -> Result<bool> {
        let request = ApiRequest::new(Method::GET, self.url(rest), RequestBody::Nothing, purpose);
        let reply = self.client.send(&request, self.progress)?;
        match reply.status {
            404 => Ok(false),
            _ if reply.is_ok() => Ok(true),
            _ => self.client.fail_refused(&request, &reply),
        }
    }

    /// Creates the repository unless it exists. Returns whether it was created.
    fn create_repository(&self) -> Result<bool> {
        let HubName { owner, name, .. } = self.upload.repo;
        let url = format!("{}/api/repos/create", self.client.endpoint());
        let mut body = json!({ "name": name, "organization": owner, "type": "model" });
        if self.upload.private {
            body["visibility"] = "private".into();
        }
        let purpose = self.purpose("creating the repository");
        let request = ApiRequest::new(Method::POST, url, RequestBody::json(body, JSON), &purpose);
        let mut tries = 0;
        let reply = loop {
            let reply = self.client.send(&request, self.progress)?;
            // The hub creates one repository per user at a time.
            let busy = String::from_utf8_lossy(reply.body()).contains("in progress");
            if reply.status != 409 || !busy || tries == MAX_RETRIES {
                break reply;
            }
            pause(tries, None, self.progress)?;
            tries += 1;
        };
        match reply.status {
            _ if reply.is_ok() => return Ok(true),
            409 => {}
            // A token that may not create repositories may still write to this one.
            401..=403 if self.exists("", &purpose).unwrap_or(false) => {}
            _ => return self.client.fail_refused(&request, &reply),
        }
        if self.upload.private {
            let repo = self.upload.repo.path();
            self.progress.warn(&format!(
                "{repo} exists already, so --private has no effect; \
                 change its visibility on its page"
            ));
        }
        Ok(false)
    }

    /// Creates the branch unless it exists.
    fn create_branch(&self) -> Result<()> {
        let (revision, purpose) = (self.branch(), self.purpose("creating a branch of"));
        if revision == MAIN || self.exists(&format!("/revision/{revision}"), &purpose)? {
            return Ok(());
        }
        let url = self.url(&format!("/branch/{revision}"));
        let request = ApiRequest::new(Method::POST, url, RequestBody::json("{}", JSON), purpose);
        let reply = self.client.send(&request, self.progress)?;
        if reply.is_ok() || reply.status == 409 {
            Ok(())
        } else {
            self.client.fail_refused(&request, &reply)
        }
    }

    /// Asks the hub how each file is sent.
    fn send_modes(&self) -> Result<Vec<SendMode>> {
        let url = self.url(&format!("/preupload/{}", self.branch()));
        let purpose = self.purpose("asking about the files of");
        let mut answers = BTreeMap::new();
        for files in self.upload.files.chunks(PREUPLOAD_FILES) {
            let entries = files.iter().map(|file| {
                let sample = BASE64_STANDARD.encode(beginning(file, SAMPLE)?);
                Ok(json!({ "path": file.name, "size": file.bytes, "sample": sample }))
            });
            let content = json!({ "files": entries.collect::<Result<Vec<_>>>()? });
            let request =
                ApiRequest::new(Method::POST, &url, RequestBody::json(content, JSON), &purpose);
            let reply = self.client.send_ok(&request, self.progress)?;
            let answer: PreuploadAnswer = self.client.json(&request, &reply)?;
            answers.extend(answer.files.into_iter().map(|file| (file.path.clone(), file)));
        }
        let mut inline = 0;
        let modes = self.upload.files.iter().map(|file| {
            let Some(answer) = answers.get(&file.name) else {
                return self.client.fail(format!("{purpose}: the answer omits '{}'", file.name));
            };
            let mode = self.send_mode(file, answer)?;
            inline += if mode == SendMode::Inline { file.bytes } else { 0 };
            if inline > MAX_INLINE {
                let name = &file.name;
                return self
                    .client
                    .fail(format!("{purpose}: '{name}' is too large to be part of a commit"));
            }
            Ok(mode)
        });
        modes.collect()
    }

    /// How `file` is sent, given the hub's answer about it.
    fn send_mode(&self, file: &LocalFile, answer: &PreuploadFile) -> Result<SendMode> {
        // Object stores do not accept empty objects.
        let large = answer.upload_mode == "lfs" && file.bytes > 0;
        if answer.should_ignore {
            self.progress
                .warn(&format!("'{}': the repository's .gitignore excludes it", file.name));
            return Ok(SendMode::Skip(UploadOutcome::Ignored));
        }
        let same = match &answer.oid {
            None => false,
            Some(oid) if large => oid.eq_ignore_ascii_case(&file.sha256),
            Some(oid) => {
                let mut content = File::open(&file.path).map_err(Error::io(&file.path, "open"))?;
                let sum = digest::git_blob(&mut content, file.bytes, &file.path)?;
                oid.eq_ignore_ascii_case(&sum)
            }
        };
        Ok(match (same, large) {
            (true, _) => SendMode::Skip(UploadOutcome::Unchanged),
            (false, true) => SendMode::Lfs,
            (false, false) => SendMode::Inline,
        })
    }

    /// Sends the content of large files. Returns the outcome for every file.
    fn send_all(&self, modes: &[SendMode]) -> Result<Vec<UploadOutcome>> {
        let large = self.upload.files.iter().zip(modes).filter(|(_, mode)| **mode == SendMode::Lfs);
        self.progress.begin("upload", large.map(|(file, _)| file.bytes).sum(), Unit::Bytes);
        let store =
            LfsStore { client: self.client, repo: self.upload.repo, progress: self.progress };
        let mut outcomes = Vec::new();
        for (file, mode) in self.upload.files.iter().zip(modes) {
            check_interrupted()?;
            outcomes.push(match mode {
                SendMode::Skip(outcome) => *outcome,
                SendMode::Inline => UploadOutcome::Sent,
                SendMode::Lfs => {
                    self.progress.detail(&file.name);
                    if store.send_file(file)? {
                        UploadOutcome::Sent
                    } else {
                        UploadOutcome::Present
                    }
                }
            });
        }
        self.progress.end();
        Ok(outcomes)
    }

    /// Creates the commit and returns its name; `None` if the commit exists but the answer to it
    /// was lost.
    fn commit(&self, modes: &[SendMode]) -> Result<Option<String>> {
        let url = self.url(&format!("/commit/{}", self.branch()));
        let purpose = self.purpose("committing to");
        let content = RequestBody::Bytes(self.commit_body(modes)?.into(), "application/x-ndjson");
        self.upload.files.iter().try_for_each(|file| file.state().check(&file.path))?;
        let request = ApiRequest::new(Method::POST, url, content, &purpose);
        for tries in 0.. {
            check_interrupted()?;
            let error = match self.client.try_once(&request, self.progress)? {
                Ok(reply) if reply.is_ok() => {
                    let committed: CommitAnswer = self.client.json(&request, &reply)?;
                    return Ok(Some(committed.oid).filter(|oid| is_commit(oid)));
                }
                Ok(reply) if !is_transient(reply.status) => {
                    return self.client.fail_refused(&request, &reply);
                }
                Ok(reply) => self.wait_for_retry(&reply, tries)?,
                Err(failure) if failure.is_transient() => {
                    pause(tries, None, self.progress)?;
                    failure.text
                }
                Err(failure) => return self.client.fail(format!("{purpose}: {}", failure.text)),
            };
            // The commit may exist although the request failed.
            if self.send_modes()?.iter().all(|mode| matches!(mode, SendMode::Skip(_))) {
                return Ok(None);
            }
            if tries == MAX_RETRIES {
                return self.client.fail(format!("{purpose}: {error}"));
            }
        }
        unreachable!("the loop ends after MAX_RETRIES")
    }

    /// Waits as `reply` asks. Returns the error message in case no retry is left.
    fn wait_for_retry(&self, reply: &ApiResponse, tries: u32) -> Result<String> {
        pause(tries, reply.requested_wait(), self.progress)?;
        Ok(format!("the server answered {}", reply.status))
    }

    /// The body of the commit: one line of JSON per file, LFS files first and the model card last.
    fn commit_body(&self, modes: &[SendMode]) -> Result<Vec<u8>> {
        let header = json!({ "summary": self.upload.message, "description": "" });
        let mut lines = vec![json!({ "key": "header", "value": header })];
        let with = |mode: &SendMode| {
            let mode = mode.clone();
            self.upload
                .files
                .iter()
                .zip(modes)
                .filter(move |(_, w)| **w == mode)
                .map(|(file, _)| file)
        };
        for LocalFile { name, bytes, sha256, .. } in with(&SendMode::Lfs) {
            let value = json!({ "path": name, "algo": "sha256", "oid": sha256, "size": bytes });
            lines.push(json!({ "key": "lfsFile", "value": value }));
        }
        let mut inline: Vec<_> = with(&SendMode::Inline).collect();
        inline.sort_by_key(|file| file.name == "README.md");
        for file in inline {
            let content = BASE64_STANDARD.encode(beginning(file, file.bytes)?);
            let value = json!({ "content": content, "path": file.name, "encoding": "base64" });
            lines.push(json!({ "key": "file", "value": value }));
        }
        let text = |line: &Json| format!("{line}\n");
        Ok(lines.iter().map(text).collect::<String>().into_bytes())
    }
}

/// The first `len` bytes of `file`, or all if it has fewer.
fn beginning(file: &LocalFile, len: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let opened = File::open(&file.path).map_err(Error::io(&file.path, "open"))?;
    opened.take(len).read_to_end(&mut bytes).map_err(Error::io(&file.path, "read"))?;
    Ok(bytes)
}

/// Whether `text` can be the name of a commit.
fn is_commit(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}
