//! Downloads of members from a mock of the hub. Only with the feature `hub`.

use crate::support::http::{Exchange, serve};
use crate::support::hub_server::HUB_VARIABLES;
use crate::support::hub_server::{SECRET, git_blob, sha256 as sum};
use crate::support::program::Place;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Output;
use std::sync::{Arc, Mutex};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The files of the mock server, and its faults.
#[derive(Default)]
struct MockHub {
    files: BTreeMap<String, Vec<u8>>,
    /// Names that the listing has in addition, without content.
    also_listed: Vec<String>,
    /// Files that are sent with a wrong last byte.
    corrupt: Vec<String>,
    /// The connection breaks after this number of bytes of every file.
    cut: Option<usize>,
    /// Whether requests without the token are answered with 401.
    gated: bool,
    /// The server to which requests of files are redirected.
    elsewhere: Option<String>,
    /// Path endings and statuses: the next request with that ending is refused.
    refusals: Mutex<Vec<(&'static str, u16)>>,
    /// The requests: path, range, authorization.
    seen: Mutex<Vec<(String, String, String)>>,
}

impl MockHub {
    fn of_folder(dir: &Path) -> MockHub {
        let mut hub = MockHub::default();
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            hub.files.insert(name, fs::read(entry.path()).unwrap());
        }
        hub.files.insert("consolidated.safetensors".to_string(), b"the same again".to_vec());
        hub.files.insert("pytorch_model.bin".to_string(), b"and again".to_vec());
        hub
    }

    /// Serves on a free port until the test ends.
    fn serve(self) -> (Arc<MockHub>, String) {
        let hub = Arc::new(self);
        let server = Arc::clone(&hub);
        (hub, serve(move |exchange| server.answer(exchange)))
    }

    fn answer(&self, exchange: &mut Exchange) {
        let path = exchange.path.clone();
        let (range, authorization) =
            (exchange.header("range").to_string(), exchange.header("authorization").to_string());
        self.seen.lock().unwrap().push((path.clone(), range.clone(), authorization.clone()));
        let refusal = {
            let mut refusals = self.refusals.lock().unwrap();
            let found = refusals.iter().position(|(end, _)| path.ends_with(end));
            found.map(|at| refusals.remove(at).1)
        };
        if let Some(status) = refusal {
            return exchange.answer(status, &[("Retry-After", "1")], b"later", None);
        }
        let file = path.strip_prefix(&format!("/org/clerk/resolve/{COMMIT}/"));
        if let (Some(name), Some(elsewhere)) = (file, &self.elsewhere) {
            let target = format!("{elsewhere}/store/{name}");
            return exchange.answer(302, &[("Location", &target)], b"", None);
        }
        let (status, body) = match path.strip_prefix("/api/models/org/clerk/revision/") {
            _ if self.gated && authorization != format!("Bearer {SECRET}") => (401, Vec::new()),
            Some("main?blobs=true" | "refs%2Fpr%2F1?blobs=true") => (200, self.listing()),
            Some(_) => (404, Vec::new()),
            None => match file.or(path.strip_prefix("/store/")) {
                Some(name) if self.files.contains_key(name) => (200, self.content(name)),
                _ => (404, Vec::new()),
            },
        };
        let from = range.strip_prefix("bytes=").and_then(|r| r.strip_suffix('-')?.parse().ok());
        let (status, from) = match from {
            Some(from) if from < body.len() => (206, from),
            _ => (status, 0),
        };
        exchange.answer(status, &[], &body[from..], self.cut.filter(|_| file.is_some()));
    }

    fn content(&self, name: &str) -> Vec<u8> {
        let mut bytes = self.files[name].clone();
        if self.corrupt.iter().any(|corrupt| corrupt == name) {
            *bytes.last_mut().unwrap() ^= 1;
        }
        bytes
    }

    fn listing(&self) -> Vec<u8> {
        let file = |(name, bytes): (&String, &Vec<u8>)| {
            let mut file = serde_json::json!({
                "rfilename": name, "size": bytes.len(), "blobId": git_blob(bytes),
            });
            if name.ends_with(".safetensors") {
                file["lfs"] = serde_json::json!({
                    "sha256": sum(bytes), "size": bytes.len(), "pointerSize": 1,
                });
            }
            file
        };
        let mut files: Vec<_> = self.files.iter().map(file).collect();
        for name in &self.also_listed {
            files.push(
                serde_json::json!({ "rfilename": name, "size": 4, "blobId": "f".repeat(40) }),
            );
        }
        serde_json::json!({ "sha": COMMIT, "siblings": files }).to_string().into_bytes()
    }

    fn requests(&self) -> Vec<(String, String, String)> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

fn clerk() -> MockHub {
    MockHub::of_folder(&crate::support::program::shipped("recipes/demo/clerk"))
}

/// Merges `model` with a cache inside `place`; `edit` sets environment variables.
fn merge(place: &Place, endpoint: &str, model: &str, edit: &[(&str, &str)]) -> Output {
    let text = format!("merge_method: passthrough\nmodels: [{{model: {model}}}]\n");
    fs::write(place.path("recipe.yml"), text).unwrap();
    let mut command = place.command("merge recipe.yml -o out --force");
    for variable in HUB_VARIABLES {
        command.env_remove(variable);
    }
    command.env("HF_ENDPOINT", endpoint).env("HF_HOME", place.path("hf")).env("HF_TOKEN", SECRET);
    command.envs(edit.iter().copied()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!text.contains(SECRET), "a token was shown: {text}");
    text
}

#[track_caller]
fn fails(output: Output, parts: &[&str]) {
    let text = stderr(&output);
    assert!(!output.status.success() && parts.iter().all(|part| text.contains(part)), "{text}");
}

#[test]
fn hub_names_are_downloaded_into_the_cache_once() {
    let place = Place::new();
    let hub = MockHub {
        also_listed: ["../evil.json", "sub/config.json", ".hidden.json", "/etc/x.json"]
            .map(String::from)
            .to_vec(),
        gated: true,
        ..clerk()
    };
    let (hub, endpoint) = hub.serve();
    let ran = merge(&place, &endpoint, "org/clerk", &[]);
    assert!(ran.status.success(), "{}", stderr(&ran));
    assert!(stderr(&ran).is_empty() || !stderr(&ran).contains("error"));
    let requests = hub.requests();
    assert_eq!(requests.len(), 1 + 6, "the list and six files: {requests:?}");
    assert!(requests.last().unwrap().0.ends_with("/config.json"), "the configuration comes last");
    let repository = place.path("hf/hub/models--org--clerk");
    assert_eq!(fs::read_to_string(repository.join("refs/main")).unwrap(), COMMIT);
    let snapshot = repository.join("snapshots").join(COMMIT);
    assert_eq!(crate::support::files::entries(&snapshot).len(), 6);
    for (name, bytes) in &hub.files {
        match fs::read(snapshot.join(name)) {
            Ok(there) => assert!(there == *bytes, "{name}"),
            Err(_) => assert!(name.starts_with("consolidated") || name.ends_with(".bin"), "{name}"),
        }
    }
    let weights = repository.join("blobs").join(sum(&hub.files["model.safetensors"]));
    assert!(weights.is_file(), "content is stored under its hash, as by other programs");
    // The second run sends no request.
    assert!(merge(&place, &endpoint, "org/clerk@main", &[]).status.success());
    assert_eq!(hub.requests().len(), 0);
    // Another revision with the same commit is looked up, but no file is downloaded.
    assert!(merge(&place, &endpoint, "org/clerk@refs/pr/1", &[]).status.success());
    assert_eq!(hub.requests().len(), 1);
}

#[test]
fn hub_downloads_are_resumed() {
    let place = Place::new();
    let size = clerk().files["model.safetensors"].len();
    let (hub, endpoint) = MockHub { cut: Some(size / 3 + 1), ..clerk() }.serve();
    let ran = merge(&place, &endpoint, "org/clerk", &[]);
    assert!(ran.status.success(), "{}", stderr(&ran));
    let requests = hub.requests();
    let ranges: Vec<_> = requests.iter().filter(|r| r.0.ends_with("model.safetensors")).collect();
    let starts: Vec<&str> = ranges.iter().map(|r| r.1.as_str()).collect();
    let third = size / 3 + 1;
    assert_eq!(starts, ["", &format!("bytes={third}-"), &format!("bytes={}-", 2 * third)]);

    // The next run resumes as well.
    let place = Place::new();
    let (hub, endpoint) = clerk().serve();
    let blobs = place.path("hf/hub/models--org--clerk/blobs");
    fs::create_dir_all(&blobs).unwrap();
    let weights = &hub.files["model.safetensors"];
    fs::write(blobs.join(sum(weights) + ".incomplete"), &weights[..1000]).unwrap();
    assert!(merge(&place, &endpoint, "org/clerk", &[]).status.success());
    let requests = hub.requests();
    assert!(requests.iter().any(|r| r.0.ends_with("model.safetensors") && r.1 == "bytes=1000-"));
}

#[test]
fn hub_files_that_differ_from_the_listing_are_refused() {
    let place = Place::new();
    let corrupt = vec!["model.safetensors".to_string()];
    let (hub, endpoint) = MockHub { corrupt, ..clerk() }.serve();
    fails(
        merge(&place, &endpoint, "org/clerk", &[]),
        &["recipe.yml:2:18", "'model.safetensors' has the SHA-256", "try again"],
    );
    let blobs = place.path("hf/hub/models--org--clerk/blobs");
    let weights = sum(&hub.files["model.safetensors"]);
    // Small files are checked by their git object name.
    let small = Place::new();
    let corrupt = vec!["tokenizer.json".to_string()];
    let (_, small_endpoint) = MockHub { corrupt, ..clerk() }.serve();
    fails(
        merge(&small, &small_endpoint, "org/clerk", &[]),
        &["'tokenizer.json' has the git object name", "try again"],
    );
    assert!(!crate::support::files::entries(&blobs).iter().any(|name| name.starts_with(&weights)));
    assert!(!place.path("hf/hub/models--org--clerk/refs/main").exists());
    // The download fails when attempts bring no more bytes.
    let place = Place::new();
    let (_, endpoint) = MockHub { cut: Some(0), ..clerk() }.serve();
    fails(merge(&place, &endpoint, "org/clerk", &[]), &["http://127.0.0.1:", "connection"]);
}

#[test]
fn hub_download_errors_say_what_to_do() {
    let place = Place::new();
    let (_, endpoint) = MockHub { gated: true, ..clerk() }.serve();
    let no_token = [("HF_TOKEN", "")];
    fails(merge(&place, &endpoint, "org/clerk", &no_token), &["refuses access", "HF_TOKEN"]);
    fs::create_dir_all(place.path("hf")).unwrap();
    fs::write(place.path("hf/token"), format!("{SECRET}\n")).unwrap();
    let mut command = place.command("merge recipe.yml -o out --force");
    command.env("HF_ENDPOINT", &endpoint).env("HF_HOME", place.path("hf"));
    for variable in HUB_VARIABLES {
        command.env_remove(variable);
    }
    let ran = command.output().unwrap();
    assert!(ran.status.success(), "{}", stderr(&ran));

    let place = Place::new();
    fails(merge(&place, &endpoint, "org/clerk@gone", &[]), &["none with the revision 'gone'"]);
    fails(merge(&place, &endpoint, "org/other", &[]), &["org/other", "there is no such model"]);
    fails(merge(&place, "http://127.0.0.1:9", "org/clerk", &[]), &["cannot be reached"]);
    let offline = [("HF_HUB_OFFLINE", "1")];
    fails(
        merge(&place, &endpoint, "org/clerk", &offline),
        &["is not on disk", "hf download org/clerk"],
    );
    let (_, endpoint) = MockHub::default().serve();
    fails(merge(&place, &endpoint, "org/clerk", &[]), &["no config.json"]);
}

#[test]
fn hub_tokens_are_not_sent_unencrypted_over_a_network() {
    // 0.0.0.0 reaches this machine, but does not count as a local address.
    let place = Place::new();
    let (hub, endpoint) = clerk().serve();
    let ran = merge(&place, &endpoint.replace("127.0.0.1", "0.0.0.0"), "org/clerk", &[]);
    assert!(ran.status.success(), "{}", stderr(&ran));
    let requests = hub.requests();
    assert!(requests.len() > 1 && requests.iter().all(|request| request.2.is_empty()));
}

#[test]
fn hub_tokens_do_not_follow_redirects() {
    let place = Place::new();
    let (store, elsewhere) = clerk().serve();
    let hub = MockHub { gated: true, elsewhere: Some(elsewhere), ..clerk() };
    let (hub, endpoint) = hub.serve();
    let ran = merge(&place, &endpoint, "org/clerk", &[]);
    assert!(ran.status.success(), "{}", stderr(&ran));
    assert!(hub.requests().iter().all(|request| request.2 == format!("Bearer {SECRET}")));
    let there = store.requests();
    assert!(there.len() == 6 && there.iter().all(|request| request.2.is_empty()), "{there:?}");
}

#[test]
fn hub_requests_to_busy_servers_are_retried() {
    let place = Place::new();
    let refusals = vec![("blobs=true", 503), ("/config.json", 429), ("/model.safetensors", 500)];
    let (hub, endpoint) = MockHub { refusals: Mutex::new(refusals), ..clerk() }.serve();
    let ran = merge(&place, &endpoint, "org/clerk", &[]);
    assert!(ran.status.success(), "{}", stderr(&ran));
    assert_eq!(hub.requests().len(), 1 + 6 + 3);
}
