//! Downloads a model from the hub into the shared cache.
//!
//! Each listed file is fetched, resumed where an earlier attempt ended, checked against the listed
//! size and hash, and linked into the snapshot; the configuration last, so that a snapshot with one
//! is complete. Source of the requests: `huggingface_hub`, `hf_api.py`, `file_download.py` (1.x).
//! Not used: the crate `hf-hub`, which trusts names and sizes from the server and checks no hashes.

use super::cache::CONFIGS;
use super::client::{ApiRequest, Client, RequestBody, is_transient, pause, requested_wait};
use super::name::is_part;
use super::{HubCache, HubName, HubReference, digest};
use crate::base::error::{Error, Result};
use crate::base::output::{self, check_space};
use crate::base::progress::{Progress, Unit, check_interrupted};
use serde::Deserialize;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::Method;

/// How many attempts in a row may end without a new byte.
const ATTEMPTS: u32 = 5;

/// The hub's description of a model.
#[derive(Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Remote>,
}

/// One file in the listing of a model.
#[derive(Deserialize)]
struct Remote {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob: Option<String>,
    lfs: Option<Lfs>,
}

/// Hash and size of a large file.
#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Remote {
    /// The hash of the content, in hexadecimal, which is also its name in the cache: SHA-256 for
    /// large files, git's object name for others. `None` if the listing has no valid one.
    fn blob(&self) -> Option<&str> {
        let (blob, len) = match &self.lfs {
            Some(lfs) => (lfs.sha256.as_str(), 64),
            None => (self.blob.as_deref()?, 40),
        };
        (blob.len() == len && blob.bytes().all(|b| b.is_ascii_hexdigit())).then_some(blob)
    }

    /// The size in bytes. Zero if the listing has none; verification then refuses a file that is
    /// not empty.
    fn size(&self) -> u64 {
        self.lfs.as_ref().map(|lfs| lfs.size).or(self.size).unwrap_or(0)
    }
}

/// Downloads `reference` into `cache`; returns the folder of its files, or the file if `reference`
/// names one. If the model consists of GGUF files, there must be only one. Files that are in the
/// cache stay.
///
/// The server is `HF_ENDPOINT`, else the hub. The token comes from `HF_TOKEN` or from the file that
/// `hf auth login` writes. It is sent to that server only and appears in no message.
///
/// # Errors
/// If the server cannot be reached, refuses access, or sends content that differs from its listing.
pub fn download(
    cache: &HubCache,
    reference: &HubReference,
    progress: &dyn Progress,
) -> Result<PathBuf> {
    let name = &reference.name;
    let hub = Downloader { client: Client::from_env()?, name };
    let listing = hub.list(progress)?;
    if !is_part(&listing.sha) {
        return hub.fail("the server names a commit that is not valid");
    }
    let repository = cache.repository(name);
    let snapshot = repository.join("snapshots").join(&listing.sha);
    let blobs = repository.join("blobs");
    for folder in [&snapshot, &blobs] {
        std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
    }
    let mut files = hub.choose_files(&listing.siblings, reference.file.as_deref())?;
    files.sort_by_key(|file| CONFIGS.contains(&file.rfilename.as_str()));
    files.retain(|file| !snapshot.join(&file.rfilename).exists());
    let total = files.iter().map(|file| file.size()).sum();
    check_space(&blobs, total)?;
    progress.begin("download", total, Unit::Bytes);
    for file in &files {
        progress.detail(&file.rfilename);
        let Some(blob) = file.blob() else {
            return hub.fail(format!("the server lists no hash of '{}'", file.rfilename));
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
    if name.revision() != listing.sha {
        write_ref(&repository.join("refs").join(name.revision()), &listing.sha)?;
    }
    Ok(match &reference.file {
        Some(file) => snapshot.join(file),
        None => snapshot,
    })
}

/// Writes the commit of a revision to the file `path` in `refs`.
fn write_ref(path: &Path, commit: &str) -> Result<()> {
    let folder = path.parent().expect("in refs");
    std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
    std::fs::write(path, commit).map_err(Error::io(path, "write"))
}

/// The file `name` and, if it is a shard of a split GGUF file, the other shards.
fn gguf_shards<'f>(files: &'f [Remote], name: &str) -> Vec<&'f Remote> {
    // llama.cpp names shards like this: NAME-00001-of-00003.gguf.
    let series = |name: &str| -> Option<String> {
        let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        (number.len() == 5 && count.len() == 5).then(|| format!("{stem} {count}"))
    };
    let series_of_name = series(name);
    let belongs = |file: &&Remote| {
        let path = file.rfilename.as_str();
        path == name || series_of_name.is_some() && series(path) == series_of_name
    };
    files.iter().filter(|file| file.rfilename.split('/').all(is_part)).filter(belongs).collect()
}

/// The files that a merge reads: configurations, tokenizer, and weights in one format.
fn files_for_merge(files: &[Remote]) -> Vec<&Remote> {
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

/// Links `file` of a snapshot to a blob. Without symbolic links, the blob is moved there instead.
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

/// Downloads the model `name` from a server.
struct Downloader<'a> {
    client: Client,
    name: &'a HubName,
}

/// Why an attempt failed that may succeed later, and the delay that the server asks for.
type TransientFailure = (String, Option<Duration>);

impl Downloader<'_> {
    fn fail<T>(&self, detail: impl std::fmt::Display) -> Result<T> {
        self.client.fail(format!("{}: {detail}", self.name.path()))
    }

    /// The files to download: `file` with its other shards, or all that a merge reads, or the only
    /// GGUF model.
    fn choose_files<'f>(&self, files: &'f [Remote], file: Option<&str>) -> Result<Vec<&'f Remote>> {
        if let Some(file) = file {
            let shards = gguf_shards(files, file);
            return match shards.is_empty() {
                true => self.fail(format!("it has no file '{file}'")),
                false => Ok(shards),
            };
        }
        let chosen = files_for_merge(files);
        let has = |end: &str| chosen.iter().any(|file| file.rfilename.ends_with(end));
        if !has(".safetensors") && !has(".bin") {
            return self.only_gguf(files);
        }
        if !chosen.iter().any(|file| CONFIGS.contains(&file.rfilename.as_str())) {
            return self
                .fail("it has no config.json, so it is not a model in Hugging Face's format");
        }
        Ok(chosen)
    }

    /// The only GGUF model of a repository without other weights.
    fn only_gguf<'f>(&self, files: &'f [Remote]) -> Result<Vec<&'f Remote>> {
        let names = files.iter().map(|file| file.rfilename.as_str());
        let is_model = |name: &&str| {
            let file = name.rsplit('/').next().unwrap_or(name);
            name.ends_with(".gguf") && !file.starts_with("mmproj") && !file.contains("imatrix")
        };
        let models: Vec<&str> = names.filter(is_model).collect();
        let Some(first) = models.first() else {
            return self.fail("it has no config.json with weights, and no GGUF file");
        };
        let series = gguf_shards(files, first);
        if series.len() == models.len() {
            return Ok(series);
        }
        let list: Vec<_> = models.iter().take(40).copied().collect();
        self.fail(format!(
            "it has {} GGUF files; name one of them, for example {}/{first}: {}",
            models.len(),
            self.name.path(),
            list.join(", ")
        ))
    }

    /// Asks the hub for the commit and the files of the revision.
    fn list(&self, progress: &dyn Progress) -> Result<Listing> {
        let (path, revision) = (self.name.path(), self.name.revision().replace('/', "%2F"));
        let endpoint = self.client.endpoint();
        let url = format!("{endpoint}/api/models/{path}/revision/{revision}?blobs=true");
        let request = ApiRequest::new(Method::GET, url, RequestBody::Nothing, path);
        let reply = self.client.send(&request, progress)?;
        match reply.status {
            200 => self.client.json(&request, &reply),
            status => self.fail(refusal(status, self.name.revision())),
        }
    }

    /// Downloads `file` of `commit` to `path`. The content goes to a file beside it, which stays
    /// for the next run if the connection breaks.
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
        // Waits for another process that downloads the same file; afterwards the file may be
        // complete.
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
            let ended = || ("the server sent less than it announced".to_string(), None);
            let (why, wait) = outcome.err().unwrap_or_else(ended);
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

    /// One attempt to download, from byte `from`. After the inner error, another attempt may
    /// succeed.
    fn fetch_from(
        &self,
        url: &str,
        part: &mut File,
        part_path: &Path,
        from: u64,
        file: &Remote,
        progress: &dyn Progress,
    ) -> Result<std::result::Result<(), TransientFailure>> {
        let response = match self.client.get(url, from)? {
            Ok(response) => response,
            Err(failure) if failure.is_transient() => return Ok(Err((failure.text, None))),
            Err(failure) => return self.fail(format!("'{}': {}", file.rfilename, failure.text)),
        };
        match response.status().as_u16() {
            200 if from > 0 => {
                // The server ignored the range and sends the file from its start.
                part.set_len(0).map_err(Error::io(part_path, "write"))?;
            }
            200 | 206 => {}
            status if is_transient(status) => {
                let wait = requested_wait(response.headers());
                return Ok(Err((format!("the server answered {status}"), wait)));
            }
            status => return self.fail(format!("'{}': {}", file.rfilename, refusal(status, ""))),
        }
        // One byte more than announced, so that a file that is too long is detected.
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

    /// Checks size and hash of a download. Removes it if they are wrong, so that the next run
    /// starts over.
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

/// Explains a status that refuses a download. `revision` is empty for a request of a file.
fn refusal(status: u16, revision: &str) -> String {
    match status {
        401 | 403 => {
            "the server refuses access; accept the model's terms on its page, and provide a token \
             in HF_TOKEN or with: hf auth login"
                .to_string()
        }
        404 if revision.is_empty() => "the server does not have this file".to_string(),
        404 => format!("there is no such model, or none with the revision '{revision}'"),
        status => format!("the server answered {status}"),
    }
}
