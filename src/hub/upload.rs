//! A folder's files to a model repository on the hub, in one commit.
//!
//! The repository and the branch are made where they are absent; the hub is asked what it has and how it wants each file
//! (`preupload`); content of large files goes to its store (`lfs`), small files go into the commit itself. What the
//! hub has is not sent: neither files that are the same, nor content that an interrupted run has sent. So nothing shows
//! before everything is there, and the same command continues. Requests: `huggingface_hub`, `_commit_api.py` and
//! `hf_api.py` (2.x).
//!
//! `ureq`, not the `hf-hub` crate (1.0): that one sends large files by Xet only and, where a server does not choose it,
//! reads them into memory whole to put them into the commit; it commits again what has not changed, cannot be
//! interrupted, and brings some hundred and fifty crates more, two of them under the MPL, which is not permissive.
//! Deliberately absent: removing files, pull requests, other kinds of repositories.

use super::client::{Call, Client, Content, Reply, is_transient, pause};
use super::digest::{self, State};
use super::lfs::Store;
use super::{HubName, MAIN, is_offline};
use crate::base::error::{Error, Result};
use crate::base::progress::{Progress, Unit, check_interrupted};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::SystemTime;
use ureq::http::Method;

const JSON: &str = "application/json";
/// Files that the hub is asked about at once.
const PREUPLOAD_FILES: usize = 256;
/// So much of a file tells the hub whether it is text.
const SAMPLE: u64 = 512;
/// The most that goes into a commit itself. The hub wants files of more than a few MB apart.
const MAX_INLINE: u64 = 100 << 20;
/// How often a commit whose answer was lost is looked for and made again.
const COMMITS: u32 = 4;

/// A file to be sent.
#[derive(Clone, Debug)]
pub struct LocalFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its path in the repository, with `/`.
    pub name: String,
    pub bytes: u64,
    /// When it was changed last, before its sum was taken.
    pub modified: Option<SystemTime>,
    /// Of its content, in hexadecimal.
    pub sha256: String,
}

impl LocalFile {
    /// What it is expected to be in while it is sent.
    pub(super) fn state(&self) -> State {
        State::new(self.bytes, self.modified)
    }
}

/// What is to be sent where.
#[derive(Debug)]
pub struct Upload<'a> {
    /// The repository, and the branch as its revision.
    pub repo: &'a HubName,
    /// Whether a repository that has to be made is private.
    pub private: bool,
    /// The first line of the commit's message.
    pub message: &'a str,
    pub files: &'a [LocalFile],
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// Its content was sent.
    Sent,
    /// The hub had the content; the file is new or changed.
    Present,
    /// The hub has the same file.
    Unchanged,
    /// The repository's `.gitignore` excludes it.
    Ignored,
}

/// A file and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct SentFile {
    pub name: String,
    pub bytes: u64,
    pub sha256: String,
    pub fate: Fate,
}

/// What was done.
#[derive(Clone, Debug, Serialize)]
pub struct Uploaded {
    /// The repository's page.
    pub url: String,
    /// Whether the repository was made.
    pub created: bool,
    /// The commit, unless nothing was different or the answer about it was lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    pub files: Vec<SentFile>,
}

#[derive(Deserialize)]
struct Preupload {
    files: Vec<Wanted>,
}

/// How the hub wants a file.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    path: String,
    upload_mode: String,
    #[serde(default)]
    should_ignore: bool,
    /// The sum of what is there under that name.
    #[serde(default)]
    oid: Option<String>,
}

#[derive(Deserialize)]
struct Committed {
    #[serde(rename = "commitOid")]
    oid: String,
}

/// How a file goes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    /// Content apart.
    Large,
    /// In the commit.
    Inline,
    /// Not at all.
    No(Fate),
}

/// Uploads to the server that `HF_ENDPOINT` names, else the hub, with the user's token, which goes to that server alone
/// and appears in no message.
///
/// # Errors
/// Without a token, offline (`HF_HUB_OFFLINE`), if the server refuses or cannot be reached, if a file changes
/// meanwhile, and if the user interrupts. Nothing shows on the hub then but a repository or a branch that was made.
pub fn upload(upload: &Upload<'_>, progress: &dyn Progress) -> Result<Uploaded> {
    if is_offline() {
        return Err(Error::Usage("HF_HUB_OFFLINE forbids to ask the hub".to_string()));
    }
    let client = Client::from_env()?;
    client.need_token()?;
    let hub = Hub { client: &client, upload, progress };
    let created = hub.make_repository()?;
    hub.make_branch()?;
    let ways = hub.ways()?;
    let fates = hub.put_all(&ways)?;
    let commit =
        if ways.iter().all(|way| matches!(way, Way::No(_))) { None } else { hub.commit(&ways)? };
    let files = upload.files.iter().zip(fates).map(|(file, fate)| SentFile {
        name: file.name.clone(),
        bytes: file.bytes,
        sha256: file.sha256.clone(),
        fate,
    });
    let url = format!("{}/{}", client.endpoint(), upload.repo.path());
    Ok(Uploaded { url, created, commit, files: files.collect() })
}

struct Hub<'a> {
    client: &'a Client,
    upload: &'a Upload<'a>,
    progress: &'a dyn Progress,
}

impl Hub<'_> {
    /// An address of the repository.
    fn url(&self, rest: &str) -> String {
        let path = self.upload.repo.path();
        format!("{}/api/models/{path}{rest}", self.client.endpoint())
    }

    /// The branch in an address.
    fn branch(&self) -> String {
        self.upload.repo.revision().replace('/', "%2F")
    }

    fn what(&self, doing: &str) -> String {
        format!("{doing} {}", self.upload.repo.path())
    }

    /// Whether `rest` of the repository is there for this user.
    fn exists(&self, rest: &str, what: &str) -> Result<bool> {
        let call = Call::new(Method::GET, self.url(rest), Content::Nothing, what);
        let reply = self.client.call(&call, self.progress)?;
        match reply.status {
            404 => Ok(false),
            _ if reply.is_ok() => Ok(true),
            _ => self.client.refuse(&call, &reply),
        }
    }

    /// Makes the repository if there is none; tells whether it did.
    fn make_repository(&self) -> Result<bool> {
        let HubName { owner, name, .. } = self.upload.repo;
        let url = format!("{}/api/repos/create", self.client.endpoint());
        let mut body = json!({ "name": name, "organization": owner, "type": "model" });
        if self.upload.private {
            body["visibility"] = "private".into();
        }
        let what = self.what("making the repository");
        let call = Call::new(Method::POST, url, Content::json(body, JSON), &what);
        let mut tries = 0;
        let reply = loop {
            let reply = self.client.call(&call, self.progress)?;
            // The hub makes one repository of a user at a time.
            let busy = String::from_utf8_lossy(reply.body()).contains("in progress");
            if reply.status != 409 || !busy || tries == COMMITS {
                break reply;
            }
            pause(tries, None, self.progress)?;
            tries += 1;
        };
        match reply.status {
            _ if reply.is_ok() => return Ok(true),
            409 => {}
            // Whoever may not make repositories may still write to one.
            401..=403 if self.exists("", &what).unwrap_or(false) => {}
            _ => return self.client.refuse(&call, &reply),
        }
        if self.upload.private {
            let repo = self.upload.repo.path();
            self.progress.warn(&format!("{repo} is there already; whether it is private stays"));
        }
        Ok(false)
    }

    fn make_branch(&self) -> Result<()> {
        let (revision, what) = (self.branch(), self.what("making a branch of"));
        if revision == MAIN || self.exists(&format!("/revision/{revision}"), &what)? {
            return Ok(());
        }
        let url = self.url(&format!("/branch/{revision}"));
        let call = Call::new(Method::POST, url, Content::json("{}", JSON), what);
        let reply = self.client.call(&call, self.progress)?;
        if reply.is_ok() || reply.status == 409 {
            Ok(())
        } else {
            self.client.refuse(&call, &reply)
        }
    }

    /// How each file goes.
    fn ways(&self) -> Result<Vec<Way>> {
        let url = self.url(&format!("/preupload/{}", self.branch()));
        let what = self.what("asking about the files of");
        let mut wanted = BTreeMap::new();
        for files in self.upload.files.chunks(PREUPLOAD_FILES) {
            let entries = files.iter().map(|file| {
                let sample = BASE64_STANDARD.encode(beginning(file, SAMPLE)?);
                Ok(json!({ "path": file.name, "size": file.bytes, "sample": sample }))
            });
            let content = json!({ "files": entries.collect::<Result<Vec<_>>>()? });
            let call = Call::new(Method::POST, &url, Content::json(content, JSON), &what);
            let reply = self.client.demand(&call, self.progress)?;
            let answer: Preupload = self.client.json(&call, &reply)?;
            wanted.extend(answer.files.into_iter().map(|file| (file.path.clone(), file)));
        }
        let mut inline = 0;
        let ways = self.upload.files.iter().map(|file| {
            let Some(wanted) = wanted.get(&file.name) else {
                return self.client.fail(format!("{what}: no answer about '{}'", file.name));
            };
            let way = self.way(file, wanted)?;
            inline += if way == Way::Inline { file.bytes } else { 0 };
            if inline > MAX_INLINE {
                let name = &file.name;
                return self.client.fail(format!("{what}: '{name}' is too large for a commit"));
            }
            Ok(way)
        });
        ways.collect()
    }

    fn way(&self, file: &LocalFile, wanted: &Wanted) -> Result<Way> {
        // Stores of objects take no empty ones.
        let large = wanted.upload_mode == "lfs" && file.bytes > 0;
        if wanted.should_ignore {
            self.progress
                .warn(&format!("'{}': the repository's .gitignore excludes it", file.name));
            return Ok(Way::No(Fate::Ignored));
        }
        let same = match &wanted.oid {
            None => false,
            Some(oid) if large => oid.eq_ignore_ascii_case(&file.sha256),
            Some(oid) => {
                let mut content = File::open(&file.path).map_err(Error::io(&file.path, "open"))?;
                let sum = digest::git_blob(&mut content, file.bytes, &file.path)?;
                oid.eq_ignore_ascii_case(&sum)
            }
        };
        Ok(match (same, large) {
            (true, _) => Way::No(Fate::Unchanged),
            (false, true) => Way::Large,
            (false, false) => Way::Inline,
        })
    }

    /// Sends the content of large files.
    fn put_all(&self, ways: &[Way]) -> Result<Vec<Fate>> {
        let large = self.upload.files.iter().zip(ways).filter(|(_, way)| **way == Way::Large);
        self.progress.begin("upload", large.map(|(file, _)| file.bytes).sum(), Unit::Bytes);
        let store = Store { client: self.client, repo: self.upload.repo, progress: self.progress };
        let mut fates = Vec::new();
        for (file, way) in self.upload.files.iter().zip(ways) {
            check_interrupted()?;
            fates.push(match way {
                Way::No(fate) => *fate,
                Way::Inline => Fate::Sent,
                Way::Large => {
                    self.progress.detail(&file.name);
                    if store.put(file)? { Fate::Sent } else { Fate::Present }
                }
            });
        }
        self.progress.end();
        Ok(fates)
    }

    /// Makes the commit. If the answer is lost, looks whether it was made; `None` if it was.
    fn commit(&self, ways: &[Way]) -> Result<Option<String>> {
        let url = self.url(&format!("/commit/{}", self.branch()));
        let what = self.what("committing to");
        let content = Content::Bytes(self.commit_body(ways)?.into(), "application/x-ndjson");
        self.upload.files.iter().try_for_each(|file| file.state().check(&file.path))?;
        let call = Call::new(Method::POST, url, content, &what);
        for tries in 0.. {
            check_interrupted()?;
            let error = match self.client.try_once(&call, self.progress)? {
                Ok(reply) if reply.is_ok() => {
                    let committed: Committed = self.client.json(&call, &reply)?;
                    return Ok(Some(committed.oid).filter(|oid| is_commit(oid)));
                }
                Ok(reply) if !is_transient(reply.status) => {
                    return self.client.refuse(&call, &reply);
                }
                Ok(reply) => self.later(&reply, tries)?,
                Err(failure) if failure.is_transient() => {
                    pause(tries, None, self.progress)?;
                    failure.text
                }
                Err(failure) => return self.client.fail(format!("{what}: {}", failure.text)),
            };
            // A server that fails, too, may have made it before.
            if self.ways()?.iter().all(|way| matches!(way, Way::No(_))) {
                return Ok(None);
            }
            if tries == COMMITS {
                return self.client.fail(format!("{what}: {error}"));
            }
        }
        unreachable!("tries end")
    }

    /// Waits as `reply` asks; gives what to say if that is in vain.
    fn later(&self, reply: &Reply, tries: u32) -> Result<String> {
        pause(tries, reply.asked_wait(), self.progress)?;
        Ok(format!("the server answered {}", reply.status))
    }

    /// The commit, a line of JSON for each of its parts: weights first, the card last.
    fn commit_body(&self, ways: &[Way]) -> Result<Vec<u8>> {
        let header = json!({ "summary": self.upload.message, "description": "" });
        let mut lines = vec![json!({ "key": "header", "value": header })];
        let with = |way: &Way| {
            let way = way.clone();
            self.upload
                .files
                .iter()
                .zip(ways)
                .filter(move |(_, w)| **w == way)
                .map(|(file, _)| file)
        };
        for LocalFile { name, bytes, sha256, .. } in with(&Way::Large) {
            let value = json!({ "path": name, "algo": "sha256", "oid": sha256, "size": bytes });
            lines.push(json!({ "key": "lfsFile", "value": value }));
        }
        let mut inline: Vec<_> = with(&Way::Inline).collect();
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

fn is_commit(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}
