//! A mock of the hub that models can be published to: its API and its object store, on two ports.
//!
//! It checks what the hub checks: the token (which the store rejects, as S3 does), sizes and
//! hashes, that the content of a commit was uploaded, and that a model card has front matter. Tests
//! inject faults into single requests. The official `hf` client can upload to it as well, see
//! `hub_publish`.

use crate::support::http::{Exchange, serve};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value as Json, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Environment variables of the hub's programs, which tests remove from the commands they run.
pub(crate) const HUB_VARIABLES: &[&str] = &[
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_TOKEN_PATH",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// The token that the mock accepts.
pub(crate) const SECRET: &str = "hf_secretsecretsecret";
/// The largest object that is sent in one piece.
const BASIC: usize = 1_500_000;
/// The size of the parts of larger objects.
const PART: usize = 400_000;
/// The largest text file that is part of the commit.
const INLINE: usize = 10 << 20;

/// A fault that is injected into a request.
#[derive(Clone)]
pub(crate) enum Fault {
    /// The server sends this answer without reading the request.
    Answer(u16, Vec<(&'static str, &'static str)>, String),
    /// The server closes the connection after this number of bytes of the body.
    Drop(usize),
    /// The server executes the request, but closes the connection before the answer.
    LoseAnswer,
    /// The server does not react for this number of seconds.
    Stall(u64),
}

/// A fault that answers with `status` alone.
pub(crate) fn answer(status: u16) -> Fault {
    Fault::Answer(status, Vec::new(), String::new())
}

/// A request that reached the server.
#[derive(Clone, Debug)]
pub(crate) struct SeenRequest {
    /// Whether it went to the object store.
    pub store: bool,
    pub request: String,
    pub authorization: String,
}

/// A commit.
#[derive(Clone, Debug)]
pub(crate) struct Commit {
    pub branch: String,
    pub summary: String,
    /// The paths, in the order of the commit.
    pub paths: Vec<String>,
}

/// The files of a branch by path: content, and whether it is in the object store.
type BranchFiles = BTreeMap<String, (Vec<u8>, bool)>;

#[derive(Default)]
pub(crate) struct Repository {
    pub private: bool,
    pub branches: BTreeMap<String, BranchFiles>,
    pub commits: Vec<Commit>,
}

/// An object that is being uploaded in parts.
struct MultipartUpload {
    oid: String,
    parts: BTreeMap<usize, Vec<u8>>,
}

#[derive(Default)]
pub(crate) struct HubState {
    pub repositories: BTreeMap<String, Repository>,
    pub objects: BTreeMap<String, Vec<u8>>,
    uploads: Vec<MultipartUpload>,
    pub seen: Vec<SeenRequest>,
    /// Faults, each for the next request that contains the text.
    faults: Vec<(&'static str, Fault)>,
    pub gitignore: Vec<String>,
}

/// The running server.
pub(crate) struct HubServer {
    pub endpoint: String,
    state: Arc<Mutex<HubState>>,
}

type HubAnswer = (u16, Json);

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn git_blob(bytes: &[u8]) -> String {
    let sum = Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes);
    sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An answer with an error message.
fn refused(status: u16, text: &str) -> HubAnswer {
    (status, json!({ "error": text }))
}

impl HubServer {
    pub(crate) fn new() -> HubServer {
        let state = Arc::new(Mutex::new(HubState::default()));
        let shared = Arc::clone(&state);
        let store = serve(move |exchange| respond(&shared, exchange, None));
        let shared = Arc::clone(&state);
        let endpoint = serve(move |exchange| respond(&shared, exchange, Some(&store)));
        HubServer { endpoint, state }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, HubState> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Injects `fault` into the next request with `part` in its method and path.
    pub(crate) fn fault(&self, part: &'static str, fault: Fault) {
        self.state().faults.push((part, fault));
    }

    /// Returns the requests since the last call.
    pub(crate) fn seen(&self) -> Vec<SeenRequest> {
        std::mem::take(&mut self.state().seen)
    }

    /// The files of a branch of a repository.
    pub(crate) fn files(&self, repository: &str, branch: &str) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        let files = &state.repositories[repository].branches[branch];
        files.iter().map(|(name, (bytes, _))| (name.clone(), bytes.clone())).collect()
    }
}

/// Answers a request to the hub; without `store`, the address of the store, a request to the store
/// itself.
fn respond(state: &Mutex<HubState>, exchange: &mut Exchange, store: Option<&str>) {
    let request = format!("{} {}", exchange.method, exchange.path);
    let authorization = exchange.header("authorization").to_string();
    let fault = {
        let mut state = state.lock().unwrap();
        let seen = SeenRequest { store: store.is_none(), request: request.clone(), authorization };
        state.seen.push(seen);
        let found = state.faults.iter().position(|(part, _)| request.contains(part));
        found.map(|at| state.faults.remove(at).1)
    };
    match &fault {
        Some(Fault::Answer(status, headers, body)) => {
            exchange.body();
            return exchange.answer(*status, headers, body.as_bytes(), None);
        }
        Some(Fault::Drop(bytes)) => {
            exchange.read(*bytes);
            return;
        }
        Some(Fault::Stall(seconds)) => {
            std::thread::sleep(Duration::from_secs(*seconds));
            return;
        }
        Some(Fault::LoseAnswer) | None => {}
    }
    let head: Vec<_> = ["authorization", "content-length", "content-type", "accept"]
        .iter()
        .map(|name| exchange.header(name).to_string())
        .collect();
    let body = exchange.body();
    let path = exchange.path.clone();
    let mut state = state.lock().unwrap();
    let (tag, (status, answer)) = match store {
        None => state.store(&exchange.method, &path, &head, &body),
        Some(store) => (String::new(), state.hub(&exchange.method, &path, store, &head, &body)),
    };
    drop(state);
    if !matches!(fault, Some(Fault::LoseAnswer)) {
        let tag = [("ETag", tag.as_str())];
        let tag = if tag[0].1.is_empty() { &[][..] } else { &tag[..] };
        exchange.answer(status, tag, answer.to_string().as_bytes(), None);
    }
}

impl HubState {
    /// Handles `PUT /object/OID` and `PUT /part/UPLOAD/NUMBER` in the store. The signature grants
    /// access.
    fn store(
        &mut self,
        method: &str,
        path: &str,
        head: &[String],
        body: &[u8],
    ) -> (String, HubAnswer) {
        let fail = |status, text: &str| (String::new(), refused(status, text));
        let Some(place) = path.strip_suffix("?signature=private").filter(|_| method == "PUT")
        else {
            return fail(403, "no signature");
        };
        if !head[0].is_empty() {
            return fail(400, "Only one auth mechanism allowed");
        }
        if head[1].parse() != Ok(body.len()) {
            return fail(411, "length required");
        }
        let words: Vec<&str> = place.split('/').skip(1).collect();
        match words[..] {
            ["object", oid] if sha256(body) == oid => {
                self.objects.insert(oid.to_string(), body.to_vec());
            }
            ["part", upload, number] => {
                let (upload, number): (usize, usize) =
                    (upload.parse().unwrap(), number.parse().unwrap());
                self.uploads[upload].parts.insert(number, body.to_vec());
            }
            _ => return fail(400, "the content has another hash"),
        }
        (format!("\"{}\"", &sha256(body)[..32]), (200, json!({})))
    }

    /// Handles a request to the API of the hub.
    fn hub(
        &mut self,
        method: &str,
        path: &str,
        store: &str,
        head: &[String],
        body: &[u8],
    ) -> HubAnswer {
        if path.starts_with("/api/complete_multipart/") {
            return self.complete(path, body);
        }
        if head[0] != format!("Bearer {SECRET}") {
            let shown = head[0].trim_start_matches("Bearer ");
            return refused(401, &format!("Invalid credentials: {shown}"));
        }
        let text: Json = serde_json::from_slice(body).unwrap_or_default();
        if (method, path) == ("POST", "/api/repos/create") {
            return self.create(&text);
        }
        if path == "/api/validate-yaml" {
            return (200, json!({ "errors": [], "warnings": [] }));
        }
        if let Some(rest) = path.strip_suffix(".git/info/lfs/objects/batch") {
            let typed = head[2] == "application/vnd.git-lfs+json" && head[3].contains("git-lfs");
            let known = self.repositories.contains_key(&rest[1..]);
            return if typed && known {
                self.batch(&text, store)
            } else {
                refused(404, "no batch")
            };
        }
        if path == "/api/lfs/verify" {
            let (oid, size) = (text["oid"].as_str().unwrap_or(""), text["size"].as_u64());
            let there = self.objects.get(oid).map(|bytes| bytes.len() as u64);
            return if size.is_some() && there == size {
                (200, json!({}))
            } else {
                refused(404, "no object")
            };
        }
        let Some(rest) = path.strip_prefix("/api/models/") else {
            return refused(404, "no such page");
        };
        let words: Vec<&str> = rest.split('?').next().unwrap().splitn(4, '/').collect();
        let name = words[..2].join("/");
        let Some(repository) = self.repositories.get_mut(&name) else {
            return refused(404, "Repository not found");
        };
        let branch = words.get(3).map(|branch| branch.replace("%2F", "/"));
        match (method, words.get(2).copied(), branch) {
            ("GET", None, _) => (200, json!({ "id": name, "sha": "0".repeat(40), "siblings": [] })),
            ("POST", Some("branch"), Some(branch)) => {
                let files = repository.branches["main"].clone();
                repository.branches.insert(branch, files);
                (200, json!({}))
            }
            (_, _, Some(branch)) if !repository.branches.contains_key(&branch) => {
                refused(404, "Invalid rev id")
            }
            ("GET", Some("revision"), _) => {
                (200, json!({ "id": name, "sha": "0".repeat(40), "siblings": [] }))
            }
            ("POST", Some("preupload"), Some(branch)) => {
                preupload(&repository.branches[&branch], &text, &self.gitignore)
            }
            ("POST", Some("commit"), Some(branch)) if head[2] == "application/x-ndjson" => {
                self.commit(&name, &branch, body)
            }
            _ => refused(400, "no such request"),
        }
    }

    /// Creates a repository.
    fn create(&mut self, text: &Json) -> HubAnswer {
        let word = |key: &str| text[key].as_str().unwrap_or("").to_string();
        let name = format!("{}/{}", word("organization"), word("name"));
        if word("type") != "model" || word("organization") != "org" {
            return refused(
                403,
                "You don't have the rights to create a model under this namespace",
            );
        }
        if self.repositories.contains_key(&name) {
            return refused(409, "You already created this model repo");
        }
        let branches = BTreeMap::from([("main".to_string(), BranchFiles::new())]);
        let private = word("visibility") == "private";
        self.repositories
            .insert(name.clone(), Repository { private, branches, ..Repository::default() });
        (200, json!({ "url": format!("https://huggingface.co/{name}"), "name": name }))
    }

    /// Answers with the addresses to send objects to.
    fn batch(&mut self, text: &Json, store: &str) -> HubAnswer {
        assert_eq!((&text["operation"], &text["hash_algo"]), (&"upload".into(), &"sha256".into()));
        let mut transfer = "basic";
        let mut objects = Vec::new();
        for object in text["objects"].as_array().unwrap() {
            let (oid, size) =
                (object["oid"].as_str().unwrap(), object["size"].as_u64().unwrap() as usize);
            let mut answer = json!({ "oid": oid, "size": size });
            let verify = json!({ "href": "https://huggingface.co/api/lfs/verify" });
            if self.objects.contains_key(oid) {
                // The content is there already, so the answer has no actions.
            } else if size <= BASIC {
                let href = format!("{store}/object/{oid}?signature=private");
                answer["actions"] =
                    json!({ "upload": { "href": href, "header": {} }, "verify": verify });
            } else {
                transfer = "multipart";
                let upload = self.uploads.len();
                self.uploads.push(MultipartUpload { oid: oid.to_string(), parts: BTreeMap::new() });
                let mut header = json!({ "chunk_size": PART.to_string() });
                for number in 1..=size.div_ceil(PART) {
                    let url = format!("{store}/part/{upload}/{number}?signature=private");
                    header[format!("{number:05}")] = url.into();
                }
                let href = format!("https://huggingface.co/api/complete_multipart/{upload}");
                answer["actions"] =
                    json!({ "upload": { "href": href, "header": header }, "verify": verify });
            }
            objects.push(answer);
        }
        (200, json!({ "transfer": transfer, "objects": objects }))
    }

    /// Joins the parts of an object.
    fn complete(&mut self, path: &str, body: &[u8]) -> HubAnswer {
        let number: usize = path.rsplit('/').next().unwrap().parse().unwrap();
        let text: Json = serde_json::from_slice(body).unwrap();
        let upload = &self.uploads[number];
        let mut content = Vec::new();
        for (index, part) in text["parts"].as_array().unwrap().iter().enumerate() {
            let bytes = &upload.parts[&(index + 1)];
            let tag = format!("\"{}\"", &sha256(bytes)[..32]);
            if part["partNumber"] != index + 1 || part["etag"] != tag {
                return refused(400, "a part has another number or tag");
            }
            content.extend_from_slice(bytes);
        }
        if sha256(&content) != upload.oid || text["oid"] != upload.oid {
            return refused(400, "the content has another hash");
        }
        self.objects.insert(upload.oid.clone(), content);
        (200, json!({}))
    }

    /// Adds a commit to a branch.
    fn commit(&mut self, name: &str, branch: &str, body: &[u8]) -> HubAnswer {
        let text = String::from_utf8(body.to_vec()).unwrap();
        let lines: Vec<Json> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let (header, rest) = lines.split_first().unwrap();
        let summary = header["value"]["summary"].as_str().unwrap_or("");
        if header["key"] != "header" || summary.is_empty() || rest.is_empty() {
            return refused(400, "no commit");
        }
        let mut files = BranchFiles::new();
        let mut paths = Vec::new();
        for line in rest {
            let value = &line["value"];
            let path = value["path"].as_str().unwrap().to_string();
            let (content, large) = match line["key"].as_str().unwrap() {
                "file" => {
                    (BASE64_STANDARD.decode(value["content"].as_str().unwrap()).unwrap(), false)
                }
                "lfsFile" => match self.objects.get(value["oid"].as_str().unwrap()) {
                    Some(bytes) if value["size"] == bytes.len() && value["algo"] == "sha256" => {
                        (bytes.clone(), true)
                    }
                    _ => return refused(400, &format!("{path}: its content is not there")),
                },
                key => return refused(400, &format!("no operation: {key}")),
            };
            if path == "README.md" && !content.starts_with(b"---\n") {
                return refused(400, "no metadata in README.md");
            }
            paths.push(path.clone());
            files.insert(path, (content, large));
        }
        let repository = self.repositories.get_mut(name).unwrap();
        repository.branches.get_mut(branch).unwrap().extend(files);
        let (branch, summary) = (branch.to_string(), summary.to_string());
        repository.commits.push(Commit { branch, summary, paths });
        let oid = format!("{:040x}", repository.commits.len());
        let url = format!("https://huggingface.co/{name}/commit/{oid}");
        let answer =
            json!({ "success": true, "commitOid": oid, "commitUrl": url, "hookOutput": "" });
        (200, answer)
    }
}

/// Answers how each file is to be sent.
fn preupload(files: &BranchFiles, text: &Json, ignored: &[String]) -> HubAnswer {
    let answer = |file: &Json| {
        let (path, size) =
            (file["path"].as_str().unwrap(), file["size"].as_u64().unwrap() as usize);
        let sample = BASE64_STANDARD.decode(file["sample"].as_str().unwrap()).unwrap();
        assert_eq!(sample.len(), size.min(512), "{path}");
        let large =
            path.ends_with(".gguf") || size > INLINE || std::str::from_utf8(&sample).is_err();
        let oid = files.get(path).map(
            |(bytes, large)| {
                if *large { sha256(bytes) } else { git_blob(bytes) }
            },
        );
        json!({
            "path": path,
            "uploadMode": if large { "lfs" } else { "regular" },
            "shouldIgnore": ignored.iter().any(|name| name == path),
            "oid": oid,
        })
    };
    let files: Vec<Json> = text["files"].as_array().unwrap().iter().map(answer).collect();
    (200, json!({ "files": files }))
}
