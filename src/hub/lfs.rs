//! Sends the content of large files, by git-lfs's batch API.
//!
//! The hub answers each SHA-256 with addresses to send the content to, or with none if it has the
//! content. Addresses expire, so each file's are requested when its turn comes. Source: git-lfs,
//! `docs/api/batch.md`, `basic-transfers.md`; for `multipart`: `huggingface_hub`, `lfs.py` (2.x).
//! Not here: Xet, the hub's deduplicating transfer, which would need 150 more crates.

use super::HubName;
use super::client::{ApiRequest, Client, RequestBody};
use super::local_file::{FilePart, LocalFile};
use crate::base::error::Result;
use crate::base::progress::Progress;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use ureq::http::Method;

/// The content type of the API.
const LFS_JSON: &str = "application/vnd.git-lfs+json";
/// The number of parts that are sent at the same time.
const THREADS: usize = 4;
/// The most parts that an object store accepts.
const MAX_PARTS: u64 = 10_000;

/// The answer to a batch request.
#[derive(Deserialize)]
struct BatchAnswer {
    #[serde(default)]
    transfer: Option<String>,
    objects: Vec<LfsObject>,
}

/// The answer about one object. Without `actions`, the hub has its content.
#[derive(Deserialize)]
struct LfsObject {
    oid: String,
    size: u64,
    #[serde(default)]
    actions: Option<LfsActions>,
    #[serde(default)]
    error: Option<LfsError>,
}

/// Where to send an object, and where to confirm that it is complete.
#[derive(Deserialize)]
struct LfsActions {
    #[serde(default)]
    upload: Option<LfsAction>,
    #[serde(default)]
    verify: Option<LfsAction>,
}

/// An address, with headers to send to it.
#[derive(Deserialize)]
struct LfsAction {
    href: String,
    #[serde(default)]
    header: Option<Map<String, Json>>,
}

/// Why the hub does not accept an object.
#[derive(Deserialize)]
struct LfsError {
    #[serde(default)]
    message: String,
}

impl LfsAction {
    /// The headers to send, without the entries that describe parts.
    fn headers(&self) -> Vec<(String, String)> {
        let entries = self.header.iter().flatten();
        let strings = entries.filter_map(|(name, value)| Some((name.clone(), as_text(value)?)));
        let part = |name: &str| name == "chunk_size" || name.bytes().all(|b| b.is_ascii_digit());
        strings.filter(|(name, _)| !part(name)).collect()
    }
}

/// A JSON string or number, as text.
fn as_text(value: &Json) -> Option<String> {
    match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Sends files to the LFS store of a repository.
pub(super) struct LfsStore<'a> {
    pub client: &'a Client,
    pub repo: &'a HubName,
    pub progress: &'a dyn Progress,
}

impl LfsStore<'_> {
    /// Sends the content of `file` unless the hub has it. Returns whether it was sent.
    pub(super) fn send_file(&self, file: &LocalFile) -> Result<bool> {
        let purpose = format!("'{}'", file.name);
        let object = self.request_object(file, &purpose)?;
        let Some(actions) = object.actions else {
            self.progress.advance(file.bytes);
            return Ok(false);
        };
        let Some(upload) = &actions.upload else {
            return self
                .client
                .fail(format!("{purpose}: the server sent no address to upload it to"));
        };
        match upload.header.as_ref().and_then(|header| header.get("chunk_size")) {
            Some(size) => self.send_in_parts(file, upload, size, &purpose)?,
            None => {
                let part = Arc::new(FilePart::new(&file.path, file.state(), 0, file.bytes));
                self.send_part(part, &upload.href, upload.headers(), &purpose)?;
            }
        }
        if let Some(verify) = &actions.verify {
            let content = json!({ "oid": file.sha256, "size": file.bytes });
            let content = RequestBody::json(content, LFS_JSON);
            let url = self.client.resolve(&verify.href)?;
            let headers = with_accept(verify.headers());
            let request =
                ApiRequest { headers, ..ApiRequest::new(Method::POST, url, content, &purpose) };
            self.client.send_ok(&request, self.progress)?;
        }
        Ok(true)
    }

    /// Asks the hub where to send `file`.
    fn request_object(&self, file: &LocalFile, purpose: &str) -> Result<LfsObject> {
        let client = self.client;
        let url = format!("{}/{}.git/info/lfs/objects/batch", client.endpoint(), self.repo.path());
        let body = json!({
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "objects": [{ "oid": file.sha256, "size": file.bytes }],
            "hash_algo": "sha256",
            "ref": { "name": self.repo.revision() },
        });
        let content = RequestBody::json(body, LFS_JSON);
        let headers = with_accept(Vec::new());
        let request =
            ApiRequest { headers, ..ApiRequest::new(Method::POST, url, content, purpose) };
        let reply = client.send_ok(&request, self.progress)?;
        let batch: BatchAnswer = client.json(&request, &reply)?;
        if let Some(transfer) = batch.transfer.filter(|t| t != "basic" && t != "multipart") {
            return client.fail(format!(
                "{purpose}: the server asks for the transfer '{transfer}', which is not supported"
            ));
        }
        let same = |object: &LfsObject| object.oid == file.sha256 && object.size == file.bytes;
        let Some(object) = batch.objects.into_iter().find(same) else {
            return client.fail(format!("{purpose}: the server answers about another file"));
        };
        match object.error {
            Some(error) => client.fail(format!("{purpose}: {}", error.message)),
            None => Ok(object),
        }
    }

    /// Sends `file` in parts of the size that the hub asks for, and then confirms that all are
    /// complete.
    fn send_in_parts(
        &self,
        file: &LocalFile,
        upload: &LfsAction,
        size: &Json,
        purpose: &str,
    ) -> Result<()> {
        let client = self.client;
        let size = as_text(size).and_then(|size| size.parse().ok()).filter(|size| *size > 0);
        let urls = upload.header.as_ref().map(part_urls).unwrap_or_default();
        let count = size.map_or(0, |size| file.bytes.div_ceil(size));
        let Some(size) = size.filter(|_| urls.len() as u64 == count && count <= MAX_PARTS) else {
            return client
                .fail(format!("{purpose}: the server's list of parts does not fit the file"));
        };
        let parts: Vec<Arc<FilePart>> = (0..count)
            .map(|index| {
                let from = index * size;
                let len = size.min(file.bytes - from);
                Arc::new(FilePart::new(&file.path, file.state(), from, len))
            })
            .collect();
        let tags = self.send_parts(&parts, &urls, purpose)?.into_iter().enumerate();
        let parts: Vec<Json> =
            tags.map(|(index, tag)| json!({ "partNumber": index + 1, "etag": tag })).collect();
        let content = json!({ "oid": file.sha256, "parts": parts });
        let content = RequestBody::json(content, LFS_JSON);
        let (headers, url) = (with_accept(Vec::new()), client.resolve(&upload.href)?);
        // The address itself grants access.
        let request = ApiRequest {
            headers,
            authorized: false,
            ..ApiRequest::new(Method::POST, url, content, purpose)
        };
        client.send_ok(&request, self.progress).map(|_| ())
    }

    /// Sends `parts` to `urls` in several threads. Returns the ETag of each part.
    fn send_parts(
        &self,
        parts: &[Arc<FilePart>],
        urls: &[String],
        purpose: &str,
    ) -> Result<Vec<String>> {
        let next = AtomicUsize::new(0);
        let tags = Mutex::new(vec![String::new(); parts.len()]);
        let send = |index: usize, part: &Arc<FilePart>| -> Result<()> {
            let purpose = format!("{purpose}, part {}", index + 1);
            let Some(tag) = self.send_part(Arc::clone(part), &urls[index], Vec::new(), &purpose)?
            else {
                return self.client.fail(format!("{purpose}: the server sent no ETag for it"));
            };
            tags.lock().expect("no panics")[index] = tag;
            Ok(())
        };
        let work = || -> Result<()> {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(part) = parts.get(index) else { return Ok(()) };
                if let Err(error) = send(index, part) {
                    // The other threads stop after their current part.
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

    /// Sends a part to `url`. Returns the ETag that the store gave it.
    fn send_part(
        &self,
        part: Arc<FilePart>,
        url: &str,
        headers: Vec<(String, String)>,
        purpose: &str,
    ) -> Result<Option<String>> {
        let url = self.client.resolve(url)?;
        let request = ApiRequest::new(Method::PUT, url, RequestBody::FilePart(part), purpose);
        let request = ApiRequest { headers, authorized: false, ..request };
        let reply = self.client.send_ok(&request, self.progress)?;
        Ok(reply.header("etag").filter(|tag| !tag.is_empty()).map(str::to_string))
    }
}

/// `headers` with an `Accept` header for the API.
fn with_accept(mut headers: Vec<(String, String)>) -> Vec<(String, String)> {
    headers.push(("Accept".to_string(), LFS_JSON.to_string()));
    headers
}

/// The addresses of the parts, in order; none unless they are numbered from 1 without gaps.
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
    fn part_addresses_are_in_order_and_complete() {
        let header = |text: &str| part_urls(&serde_json::from_str(text).unwrap());
        let urls = header(r#"{"chunk_size": "5", "00010": "j", "2": "b", "1": "a", "3": "c"}"#);
        assert!(urls.is_empty(), "4 to 9 are missing");
        assert_eq!(header(r#"{"chunk_size": 5, "00002": "b", "00001": "a"}"#), ["a", "b"]);
        assert!(header(r#"{"0": "a", "1": "b"}"#).is_empty());
        assert!(header(r#"{"1": "a", "01": "b"}"#).is_empty());
        assert!(header(r#"{"Authorization": "x"}"#).is_empty());
    }
}
