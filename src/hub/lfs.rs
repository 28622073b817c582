//! Content of large files to where the hub stores it: git-lfs's batch interface, its `basic` transfer and the hub's
//! `multipart`.
//!
//! The hub answers each object's SHA-256 with addresses to send it to, or with none where it has the object. Protocol:
//! git-lfs, `docs/api/batch.md` and `basic-transfers.md`; the hub's parts: `huggingface_hub`, `lfs.py` (2.x). Each file's
//! addresses are asked for when its turn comes, so that they are valid however long the files before it took. The token
//! goes to the hub only, never along with content. Deliberately absent: Xet, the hub's transfer by deduplicated chunks,
//! which needs two hundred crates more; the hub takes both.

use super::HubName;
use super::client::{Call, Client, Content};
use super::digest::{Part, State};
use super::upload::LocalFile;
use crate::error::Result;
use crate::progress::Progress;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
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
    /// Sends the content of `file`, which is in `state`, unless the hub has it; tells whether it was sent.
    pub(super) fn put(&self, file: &LocalFile, state: State) -> Result<bool> {
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
            Some(size) => self.put_parts(file, state, upload, size, &what)?,
            None => {
                let part = Part::new(&file.path, state, 0, file.bytes, self.progress);
                let url = self.client.here(&upload.href)?;
                let headers = upload.headers();
                let content = Content::Part(&part);
                let what = what.as_str();
                let call = Call {
                    method: Method::PUT,
                    url: &url,
                    headers,
                    content,
                    authorized: false,
                    what,
                };
                self.client.demand(&call, self.progress)?;
            }
        }
        if let Some(verify) = &actions.verify {
            let body = json!({ "oid": file.sha256, "size": file.bytes }).to_string();
            let url = self.client.here(&verify.href)?;
            let content = Content::Bytes(body.as_bytes(), LFS_JSON);
            let call = Call {
                headers: accepting(verify.headers()),
                ..Call::new(Method::POST, &url, content, &what)
            };
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
        let body = body.to_string();
        let content = Content::Bytes(body.as_bytes(), LFS_JSON);
        let call =
            Call { headers: accepting(Vec::new()), ..Call::new(Method::POST, &url, content, what) };
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
    fn put_parts(
        &self,
        file: &LocalFile,
        state: State,
        upload: &Action,
        size: &Json,
        what: &str,
    ) -> Result<()> {
        let client = self.client;
        let size = text(size).and_then(|size| size.parse().ok()).filter(|size| *size > 0);
        let urls = upload.header.as_ref().map(part_urls).unwrap_or_default();
        let count = size.map_or(0, |size| file.bytes.div_ceil(size));
        let Some(size) = size.filter(|_| urls.len() as u64 == count && count <= MAX_PARTS) else {
            return client
                .fail(format!("{what}: the server's list of parts does not fit the file"));
        };
        let parts: Vec<Part> = (0..count)
            .map(|index| {
                let from = index * size;
                let len = size.min(file.bytes - from);
                Part::new(&file.path, state, from, len, self.progress)
            })
            .collect();
        let next = AtomicUsize::new(0);
        let tags: Mutex<Vec<Option<String>>> = Mutex::new(vec![None; parts.len()]);
        let work = || -> Result<()> {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(part) = parts.get(index) else { return Ok(()) };
                let sent =
                    self.put_part(part, &urls[index], &format!("{what}, part {}", index + 1));
                match sent {
                    Ok(tag) => tags.lock().expect("no panics")[index] = Some(tag),
                    Err(error) => {
                        next.store(parts.len(), Ordering::Relaxed);
                        return Err(error);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..THREADS.min(parts.len())).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("no panics"))
        })?;
        let tags = tags.into_inner().expect("no panics").into_iter().enumerate();
        let parts: Vec<Json> =
            tags.map(|(index, tag)| json!({ "partNumber": index + 1, "etag": tag })).collect();
        let body = json!({ "oid": file.sha256, "parts": parts }).to_string();
        let url = client.here(&upload.href)?;
        let content = Content::Bytes(body.as_bytes(), LFS_JSON);
        // The address is its own permission.
        let call = Call {
            headers: accepting(Vec::new()),
            authorized: false,
            ..Call::new(Method::POST, &url, content, what)
        };
        client.demand(&call, self.progress).map(|_| ())
    }

    /// Sends a part and gives its tag.
    fn put_part(&self, part: &Part, url: &str, what: &str) -> Result<String> {
        let url = self.client.here(url)?;
        let (headers, content) = (Vec::new(), Content::Part(part));
        let call =
            Call { method: Method::PUT, url: &url, headers, content, authorized: false, what };
        let reply = self.client.demand(&call, self.progress)?;
        match reply.header("etag").filter(|tag| !tag.is_empty()) {
            Some(tag) => Ok(tag.to_string()),
            None => self.client.fail(format!("{what}: the server gives no tag for it")),
        }
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
