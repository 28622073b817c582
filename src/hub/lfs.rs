//! Content of large files to where the hub stores it: git-lfs's batch interface, its `basic` transfer and the hub's
//! `multipart`.
//!
//! The hub answers each object's SHA-256 with addresses to send it to, or with none where it has the object. Protocol:
//! git-lfs, `docs/api/batch.md` and `basic-transfers.md`; the hub's parts: `huggingface_hub`, `lfs.py` (2.x). Each file's
//! addresses are asked for when its turn comes, so that they are valid however long the files before it took. The token
//! goes to the hub only, never along with content. Deliberately absent: Xet, the hub's transfer by deduplicated chunks,
//! which needs some hundred and fifty crates more; the hub takes both.

use super::HubName;
use super::client::{Call, Client, Content};
use super::digest::Part;
use super::upload::LocalFile;
use crate::base::error::Result;
use crate::base::progress::Progress;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use ureq::http::Method;

/// The type of all that is said about objects.
const LFS_JSON: &str = "application/vnd.git-lfs+json";
/// Parts that are sent at once.
const THREADS: usize = 4;
/// The most parts that a store of objects takes.
const MAX_PARTS: u64 = 10_000;

#[derive(Deserialize)]
struct Batch {
    #[serde(default)]
    transfer: Option<String>,
    objects: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    oid: String,
    size: u64,
    #[serde(default)]
    actions: Option<Actions>,
    #[serde(default)]
    error: Option<ObjectError>,
}

#[derive(Deserialize)]
struct Actions {
    #[serde(default)]
    upload: Option<Action>,
    #[serde(default)]
    verify: Option<Action>,
}

#[derive(Deserialize)]
struct Action {
    href: String,
    #[serde(default)]
    header: Option<Map<String, Json>>,
}

#[derive(Deserialize)]
struct ObjectError {
    #[serde(default)]
    message: String,
}

impl Action {
    /// What is to be sent along, but for what describes parts.
    fn headers(&self) -> Vec<(String, String)> {
        let entries = self.header.iter().flatten();
        let strings = entries.filter_map(|(name, value)| Some((name.clone(), text(value)?)));
        let part = |name: &str| name == "chunk_size" || name.bytes().all(|b| b.is_ascii_digit());
        strings.filter(|(name, _)| !part(name)).collect()
    }
}

/// A string or a number, as text.
fn text(value: &Json) -> Option<String> {
    match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Files of a repository on their way to where content is stored.
pub(super) struct Store<'a> {
    pub client: &'a Client,
    pub repo: &'a HubName,
    pub progress: &'a dyn Progress,
}

impl Store<'_> {
    /// Sends the content of `file` unless the hub has it; tells whether it was sent.
    pub(super) fn put(&self, file: &LocalFile) -> Result<bool> {
        let what = format!("'{}'", file.name);
        let object = self.ask(file, &what)?;
        let Some(actions) = object.actions else {
            self.progress.advance(file.bytes);
            return Ok(false);
        };
        let Some(upload) = &actions.upload else {
            return self.client.fail(format!("{what}: the server does not say where to send it"));
        };
        match upload.header.as_ref().and_then(|header| header.get("chunk_size")) {
            Some(size) => self.put_parts(file, upload, size, &what)?,
            None => {
                let part = Arc::new(Part::new(&file.path, file.state(), 0, file.bytes));
                self.put_part(part, &upload.href, upload.headers(), &what)?;
            }
        }
        if let Some(verify) = &actions.verify {
            let content = json!({ "oid": file.sha256, "size": file.bytes });
            let content = Content::json(content, LFS_JSON);
            let url = self.client.here(&verify.href)?;
            let headers = accepting(verify.headers());
            let call = Call { headers, ..Call::new(Method::POST, url, content, &what) };
            self.client.demand(&call, self.progress)?;
        }
        Ok(true)
    }

    /// What the hub wants done about `file`.
    fn ask(&self, file: &LocalFile, what: &str) -> Result<Object> {
        let client = self.client;
        let url = format!("{}/{}.git/info/lfs/objects/batch", client.endpoint(), self.repo.path());
        let body = json!({
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "objects": [{ "oid": file.sha256, "size": file.bytes }],
            "hash_algo": "sha256",
            "ref": { "name": self.repo.revision() },
        });
        let content = Content::json(body, LFS_JSON);
        let headers = accepting(Vec::new());
        let call = Call { headers, ..Call::new(Method::POST, url, content, what) };
        let reply = client.demand(&call, self.progress)?;
        let batch: Batch = client.json(&call, &reply)?;
        if let Some(transfer) = batch.transfer.filter(|t| t != "basic" && t != "multipart") {
            return client.fail(format!("{what}: the server wants the transfer '{transfer}'"));
        }
        let same = |object: &Object| object.oid == file.sha256 && object.size == file.bytes;
        let Some(object) = batch.objects.into_iter().find(same) else {
            return client.fail(format!("{what}: the server answers about another file"));
        };
        match object.error {
            Some(error) => client.fail(format!("{what}: {}", error.message)),
            None => Ok(object),
        }
    }

    /// Sends `file` in the parts that the hub asks for, several at once, and says when all are there.
    fn put_parts(&self, file: &LocalFile, upload: &Action, size: &Json, what: &str) -> Result<()> {
        let client = self.client;
        let size = text(size).and_then(|size| size.parse().ok()).filter(|size| *size > 0);
        let urls = upload.header.as_ref().map(part_urls).unwrap_or_default();
        let count = size.map_or(0, |size| file.bytes.div_ceil(size));
        let Some(size) = size.filter(|_| urls.len() as u64 == count && count <= MAX_PARTS) else {
            return client
                .fail(format!("{what}: the server's list of parts does not fit the file"));
        };
        let parts: Vec<Arc<Part>> = (0..count)
            .map(|index| {
                let from = index * size;
                let len = size.min(file.bytes - from);
                Arc::new(Part::new(&file.path, file.state(), from, len))
            })
            .collect();
        let tags = self.send(&parts, &urls, what)?.into_iter().enumerate();
        let parts: Vec<Json> =
            tags.map(|(index, tag)| json!({ "partNumber": index + 1, "etag": tag })).collect();
        let content = json!({ "oid": file.sha256, "parts": parts });
        let content = Content::json(content, LFS_JSON);
        let (headers, url) = (accepting(Vec::new()), client.here(&upload.href)?);
        // The address is its own permission.
        let call =
            Call { headers, authorized: false, ..Call::new(Method::POST, url, content, what) };
        client.demand(&call, self.progress).map(|_| ())
    }

    /// Sends `parts` to `urls`, several at once, and gives their tags.
    fn send(&self, parts: &[Arc<Part>], urls: &[String], what: &str) -> Result<Vec<String>> {
        let next = AtomicUsize::new(0);
        let tags = Mutex::new(vec![String::new(); parts.len()]);
        let send = |index: usize, part: &Arc<Part>| -> Result<()> {
            let what = format!("{what}, part {}", index + 1);
            let Some(tag) = self.put_part(Arc::clone(part), &urls[index], Vec::new(), &what)?
            else {
                return self.client.fail(format!("{what}: the server gives no tag for it"));
            };
            tags.lock().expect("no panics")[index] = tag;
            Ok(())
        };
        let work = || -> Result<()> {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(part) = parts.get(index) else { return Ok(()) };
                if let Err(error) = send(index, part) {
                    // The others need not begin any more.
                    next.store(parts.len(), Ordering::Relaxed);
                    return Err(error);
                }
            }
        };
        std::thread::scope(|scope| {
            let threads = (0..THREADS.min(parts.len())).map(|_| scope.spawn(work));
            let threads: Vec<_> = threads.collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("no panics"))
        })?;
        Ok(tags.into_inner().expect("no panics"))
    }

    /// Sends a part to `url`, and gives the tag that it has there.
    fn put_part(
        &self,
        part: Arc<Part>,
        url: &str,
        headers: Vec<(String, String)>,
        what: &str,
    ) -> Result<Option<String>> {
        let url = self.client.here(url)?;
        let call = Call::new(Method::PUT, url, Content::Part(part), what);
        let call = Call { headers, authorized: false, ..call };
        let reply = self.client.demand(&call, self.progress)?;
        Ok(reply.header("etag").filter(|tag| !tag.is_empty()).map(str::to_string))
    }
}

fn accepting(mut headers: Vec<(String, String)>) -> Vec<(String, String)> {
    headers.push(("Accept".to_string(), LFS_JSON.to_string()));
    headers
}

/// The addresses of parts, in order, if they are numbered from 1 without a gap.
fn part_urls(header: &Map<String, Json>) -> Vec<String> {
    let numbered = header.iter().filter_map(|(name, value)| {
        let digits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
        Some((name.parse::<usize>().ok().filter(|_| digits)?, value.as_str()?.to_string()))
    });
    let mut numbered: Vec<_> = numbered.collect();
    numbered.sort();
    let whole = numbered.iter().enumerate().all(|(index, (number, _))| *number == index + 1);
    if whole { numbered.into_iter().map(|(_, url)| url).collect() } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_in_order_and_whole() {
        let header = |text: &str| part_urls(&serde_json::from_str(text).unwrap());
        let urls = header(r#"{"chunk_size": "5", "00010": "j", "2": "b", "1": "a", "3": "c"}"#);
        assert!(urls.is_empty(), "4 to 9 are missing");
        assert_eq!(header(r#"{"chunk_size": 5, "00002": "b", "00001": "a"}"#), ["a", "b"]);
        assert!(header(r#"{"0": "a", "1": "b"}"#).is_empty());
        assert!(header(r#"{"1": "a", "01": "b"}"#).is_empty());
        assert!(header(r#"{"Authorization": "x"}"#).is_empty());
    }
}
