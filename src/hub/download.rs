//! Downloading a model from the hub into the shared cache.
//!
//! The hub is asked once for the commit and its files; each missing file is then fetched, resumed where an
//! earlier attempt ended, checked against the size and the sum that the hub told (SHA-256 of large files, git's
//! of others), and linked into the snapshot. The configuration comes last, so a snapshot that has one is whole.
//! Addresses and answers: `huggingface_hub`, `hf_api.py` and `file_download.py` (1.x).
//!
//! `ureq`, not `hf-hub`: its blocking client trusts names and lengths that a server sends, checks no sums,
//! and brings three times as many crates. Deliberately absent: other kinds of repositories, and folders within a
//! model's but for that of named chat templates.

use super::client::{Call, Client, Content, asked_wait, is_transient, pause};
use super::{CONFIGS, HubCache, HubName, HubReference, digest, is_part};
use crate::base::error::{Error, Result};
use crate::base::output::{self, check_space};
use crate::base::progress::{Progress, Unit, check_interrupted};
use serde::Deserialize;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::Method;

/// How often a connection that breaks off is taken up again without a byte gained.
const ATTEMPTS: u32 = 5;

/// What the hub says of a model.
#[derive(Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Remote>,
}

/// One file of a model.
#[derive(Deserialize)]
struct Remote {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob: Option<String>,
    lfs: Option<Lfs>,
}

/// What is known of a large file.
#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Remote {
    /// The sum of its content, in hexadecimal, which is its name in the cache: a SHA-256 of a large file, else git's.
    fn blob(&self) -> Option<&str> {
        let (blob, len) = match &self.lfs {
            Some(lfs) => (lfs.sha256.as_str(), 64),
            None => (self.blob.as_deref()?, 40),
        };
        (blob.len() == len && blob.bytes().all(|b| b.is_ascii_hexdigit())).then_some(blob)
    }

    /// Its length in bytes; a file without one is taken to be empty, and refused if it is not.
    fn size(&self) -> u64 {
        self.lfs.as_ref().map(|lfs| lfs.size).or(self.size).unwrap_or(0)
    }
}

/// Gets `reference` into `cache`, and gives the folder of its files, or the file if it names one. Of a model in
/// the form of GGUF files, the only one is taken. Does nothing about files that are there.
///
/// The server is `HF_ENDPOINT`, else the hub. A token is taken from `HF_TOKEN` or from the file that
/// `hf auth login` writes, goes to that server alone, and appears in no message.
///
/// # Errors
/// If the server cannot be reached, refuses, or sends something else than it announced.
pub fn download(
    cache: &HubCache,
    reference: &HubReference,
    progress: &dyn Progress,
) -> Result<PathBuf> {
    let name = &reference.name;
    let hub = Hub { client: Client::from_env()?, name };
    let listing = hub.list(progress)?;
    if !is_part(&listing.sha) {
        return hub.fail("the server names a commit that is none");
    }
    let repository = cache.repository(name);
    let snapshot = repository.join("snapshots").join(&listing.sha);
    let blobs = repository.join("blobs");
    for folder in [&snapshot, &blobs] {
        std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
    }
    let mut files = match &reference.file {
        Some(file) => gguf_shards(&listing.siblings, file),
        None => wanted(&listing.siblings),
    };
    let has = |end: &str| files.iter().any(|file| file.rfilename.ends_with(end));
    let configured = files.iter().any(|file| CONFIGS.contains(&file.rfilename.as_str()));
    match &reference.file {
        Some(file) if files.is_empty() => {
            return hub.fail(format!("it has no file '{file}'"));
        }
        Some(_) => {}
        None if has(".safetensors") || has(".bin") => {
            if !configured {
                return hub.fail("it has no config.json, so it is no model in Hugging Face's form");
            }
        }
        None => files = hub.only_gguf(&listing.siblings)?,
    }
    files.sort_by_key(|file| CONFIGS.contains(&file.rfilename.as_str()));
    files.retain(|file| !snapshot.join(&file.rfilename).exists());
    let total = files.iter().map(|file| file.size()).sum();
    check_space(&blobs, total)?;
    progress.begin("download", total, Unit::Bytes);
    for file in &files {
        progress.detail(&file.rfilename);
        let Some(blob) = file.blob() else {
            return hub.fail(format!("the server tells no sum of '{}'", file.rfilename));
        };
        let path = blobs.join(blob);
        if path.is_file() {
            progress.advance(file.size());
        } else {
            hub.fetch(&listing.sha, file, blob, &path, progress)?;
        }
        link(&path, &snapshot, &file.rfilename)?;
    }
    progress.end();
    let revision = repository.join("refs").join(name.revision());
    if name.revision() != listing.sha {
        let folder = revision.parent().expect("in refs");
        std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
        std::fs::write(&revision, &listing.sha).map_err(Error::io(&revision, "write"))?;
    }
    Ok(match &reference.file {
        Some(file) => snapshot.join(file),
        None => snapshot,
    })
}

/// The file `name` and, if it is a shard of a split GGUF file, all others.
fn gguf_shards<'f>(files: &'f [Remote], name: &str) -> Vec<&'f Remote> {
    // llama.cpp's names of shards: NAME-00001-of-00003.gguf.
    let series = |name: &str| -> Option<String> {
        let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        (number.len() == 5 && count.len() == 5).then(|| format!("{stem} {count}"))
    };
    let own = series(name);
    let belongs = |file: &&Remote| {
        let path = file.rfilename.as_str();
        path == name || own.is_some() && series(path) == own
    };
    files.iter().filter(|file| file.rfilename.split('/').all(is_part)).filter(belongs).collect()
}

/// The files that a merge reads: configurations, tokenizer, and weights in one form.
fn wanted(files: &[Remote]) -> Vec<&Remote> {
    let ends = |name: &str, ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    let usable = |file: &&Remote| {
        let name = file.rfilename.as_str();
        let inner = name.strip_prefix(output::INNER_FOLDER).and_then(|name| name.strip_prefix('/'));
        let template = inner.is_some_and(|inner| is_part(inner) && inner.ends_with(".jinja"));
        template || (is_part(name) && !name.starts_with("consolidated"))
    };
    let safe = files.iter().filter(usable).any(|file| file.rfilename.ends_with(".safetensors"));
    let pickled = |name: &str| {
        (name.starts_with("pytorch_model") || name.starts_with("adapter_model"))
            && ends(name, &[".bin", ".bin.index.json"])
    };
    let is_wanted = |file: &&Remote| {
        let name = file.rfilename.as_str();
        if pickled(name) {
            return !safe;
        }
        ends(name, &[".json", ".safetensors", ".jinja"])
            || ["tokenizer.model", "merges.txt", "README.md"].contains(&name)
    };
    files.iter().filter(usable).filter(is_wanted).collect()
}

/// A link in a snapshot to a blob; where links are not to be had, the file itself.
fn link(blob: &Path, snapshot: &Path, file: &str) -> Result<()> {
    let place = &snapshot.join(file);
    let folder = place.parent().unwrap_or(snapshot);
    std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
    #[cfg(unix)]
    {
        let name = blob.file_name().expect("a blob has a name");
        let up = "../".repeat(file.split('/').count());
        let relative = Path::new(&up).join("../blobs").join(name);
        std::os::unix::fs::symlink(relative, place).map_err(Error::io(place, "create"))
    }
    #[cfg(not(unix))]
    std::fs::rename(blob, place).map_err(Error::io(place, "create"))
}

/// A server, and the model that is wanted of it.
struct Hub<'a> {
    client: Client,
    name: &'a HubName,
}

/// Why an attempt failed that may succeed later, and how long the server asks to wait.
type Passing = (String, Option<Duration>);

impl Hub<'_> {
    fn fail<T>(&self, detail: impl std::fmt::Display) -> Result<T> {
        self.client.fail(format!("{}: {detail}", self.name.path()))
    }

    /// The only GGUF model of a repository that has no other weights.
    fn only_gguf<'f>(&self, files: &'f [Remote]) -> Result<Vec<&'f Remote>> {
        let names = files.iter().map(|file| file.rfilename.as_str());
        let is_model = |name: &&str| {
            let file = name.rsplit('/').next().unwrap_or(name);
            name.ends_with(".gguf") && !file.starts_with("mmproj") && !file.contains("imatrix")
        };
        let models: Vec<&str> = names.filter(is_model).collect();
        let Some(first) = models.first() else {
            return self.fail("it has no config.json with weights beside it, and no GGUF file");
        };
        let series = gguf_shards(files, first);
        if series.len() == models.len() {
            return Ok(series);
        }
        let list: Vec<_> = models.iter().take(40).copied().collect();
        self.fail(format!(
            "it has {} GGUF files; name one of them, as {}/{first}: {}",
            models.len(),
            self.name.path(),
            list.join(", ")
        ))
    }

    fn list(&self, progress: &dyn Progress) -> Result<Listing> {
        let (path, revision) = (self.name.path(), self.name.revision().replace('/', "%2F"));
        let endpoint = self.client.endpoint();
        let url = format!("{endpoint}/api/models/{path}/revision/{revision}?blobs=true");
        let call = Call::new(Method::GET, url, Content::Nothing, path);
        let reply = self.client.call(&call, progress)?;
        match reply.status {
            200 => self.client.json(&call, &reply),
            status => self.fail(refusal(status, self.name.revision())),
        }
    }

    /// Gets the content of `file` of `commit` to `path`, by way of a file beside it that is kept when the
    /// connection breaks off.
    fn fetch(
        &self,
        commit: &str,
        file: &Remote,
        blob: &str,
        path: &Path,
        progress: &dyn Progress,
    ) -> Result<()> {
        let (endpoint, name) = (self.client.endpoint(), self.name.path());
        let url = format!("{endpoint}/{name}/resolve/{commit}/{}", file.rfilename);
        let part_path = path.with_extension("incomplete");
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        let mut part = options.open(&part_path).map_err(Error::io(&part_path, "create"))?;
        // Another process that gets the same file is waited for; it may be done then.
        part.lock().map_err(Error::io(&part_path, "lock"))?;
        if path.is_file() {
            return Ok(());
        }
        let mut have = part.metadata().map_err(Error::io(&part_path, "examine"))?.len();
        progress.advance(have);
        let mut idle = 0;
        while have < file.size() {
            let before = have;
            let outcome = self.fetch_from(&url, &mut part, &part_path, have, file, progress)?;
            have = part.metadata().map_err(Error::io(&part_path, "examine"))?.len();
            idle = if have > before { 0 } else { idle + 1 };
            let nothing = || ("nothing more came".to_string(), None);
            let (why, wait) = outcome.err().unwrap_or_else(nothing);
            if idle >= ATTEMPTS {
                return self.fail(format!("'{}': {why}", file.rfilename));
            }
            if idle > 0 || wait.is_some() {
                pause(idle, wait, progress)?;
            }
        }
        self.verify(&mut part, &part_path, have, file, blob)?;
        part.sync_all().map_err(Error::io(&part_path, "write"))?;
        std::fs::rename(&part_path, path).map_err(Error::io(path, "rename"))
    }

    /// One attempt, from byte `from` on. The inner error may pass with another attempt.
    fn fetch_from(
        &self,
        url: &str,
        part: &mut File,
        part_path: &Path,
        from: u64,
        file: &Remote,
        progress: &dyn Progress,
    ) -> Result<std::result::Result<(), Passing>> {
        let response = match self.client.get(url, from)? {
            Ok(response) => response,
            Err(failure) if failure.is_transient() => return Ok(Err((failure.text, None))),
            Err(failure) => return self.fail(format!("'{}': {}", file.rfilename, failure.text)),
        };
        match response.status().as_u16() {
            200 if from > 0 => {
                // The server begins anew.
                part.set_len(0).map_err(Error::io(part_path, "write"))?;
            }
            200 | 206 => {}
            status if is_transient(status) => {
                let wait = asked_wait(response.headers());
                return Ok(Err((format!("the server answered {status}"), wait)));
            }
            status => return self.fail(format!("'{}': {}", file.rfilename, refusal(status, ""))),
        }
        // One byte more than announced, so that too much shows.
        let start = part.metadata().map_err(Error::io(part_path, "examine"))?.len();
        let limit = file.size().saturating_sub(start).saturating_add(1);
        let mut body = response.into_body().into_reader().take(limit);
        let mut buffer = vec![0; 1 << 18];
        loop {
            check_interrupted()?;
            let n = match body.read(&mut buffer) {
                Ok(0) => return Ok(Ok(())),
                Ok(n) => n,
                Err(e) => return Ok(Err((format!("the connection broke off: {e}"), None))),
            };
            part.write_all(&buffer[..n]).map_err(Error::io(part_path, "write"))?;
            progress.advance(n as u64);
        }
    }

    /// Checks what was fetched; what is wrong is removed, so that the next attempt begins anew.
    fn verify(
        &self,
        part: &mut File,
        part_path: &Path,
        have: u64,
        file: &Remote,
        blob: &str,
    ) -> Result<()> {
        let mut wrong = (have != file.size())
            .then(|| format!("has {have} bytes, not the {} announced", file.size()));
        if wrong.is_none() {
            part.rewind().map_err(Error::io(part_path, "read"))?;
            let (kind, sum) = match file.lfs {
                Some(_) => ("SHA-256", digest::sha256(part, part_path)?),
                None => ("git object name", digest::git_blob(part, have, part_path)?),
            };
            let same = sum.eq_ignore_ascii_case(blob);
            wrong = (!same).then(|| format!("has the {kind} {sum}, not the {blob} announced"));
        }
        match wrong {
            None => Ok(()),
            Some(wrong) => {
                std::fs::remove_file(part_path).map_err(Error::io(part_path, "remove"))?;
                self.fail(format!("'{}' {wrong}; try again", file.rfilename))
            }
        }
    }
}

fn refusal(status: u16, revision: &str) -> String {
    match status {
        401 | 403 => {
            "the server refuses access; accept the model's terms on its page, and give a token \
                      in HF_TOKEN or with: hf auth login"
                .to_string()
        }
        404 if revision.is_empty() => "the server does not have it".to_string(),
        404 => format!("there is no such model, or none with the revision '{revision}'"),
        status => format!("the server answered {status}"),
    }
}
