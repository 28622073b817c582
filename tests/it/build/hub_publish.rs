//! `aqueduct publish` to a mock of the hub. Only with the feature `hub`.

use crate::support::hub_server::{Fault, HUB_VARIABLES, HubServer, SECRET, answer, sha256};
use crate::support::program::{Place, Ran, finished, one_error};
use serde_json::Value as Json;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A folder with a build of the demo in `out`, to which hidden files were added.
fn place() -> Place {
    let place = Place::new();
    place.ok("build @recipes/demo.yml -o out --chunks 2 --types Q4_K_M,Q8_0 --quiet");
    fs::write(place.path("out/.hidden.gguf"), "not for others").unwrap();
    fs::create_dir(place.path("out/.cache")).unwrap();
    fs::write(place.path("out/.cache/x"), "nor this").unwrap();
    place
}

/// The files in `dir` that are uploaded: those that are not hidden.
fn local(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let files = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().unwrap();
        (!name.starts_with('.')).then(|| (name, fs::read(entry.path()).unwrap()))
    });
    files.collect()
}

/// The command `line`, with the address of the server and the token as its only variables of the
/// hub.
fn command(place: &Place, hub: &HubServer, line: &str) -> Command {
    let mut command = place.command(line);
    for variable in HUB_VARIABLES {
        command.env_remove(variable);
    }
    command
        .env("HF_ENDPOINT", &hub.endpoint)
        .env("HF_HOME", place.path("hf"))
        .env("HF_TOKEN", SECRET);
    command
}

fn run(code: i32, line: &str, mut command: Command) -> Ran {
    let ran = finished(line, code, command.output().unwrap());
    for text in [&ran.stdout, &ran.stderr] {
        assert!(!text.contains(SECRET), "a token was shown: {text}");
        assert!(!text.contains("signature=private"), "a permission was shown: {text}");
    }
    ran
}

fn ok(place: &Place, hub: &HubServer, line: &str) -> Ran {
    run(0, line, command(place, hub, line))
}

fn json(place: &Place, hub: &HubServer, line: &str) -> Json {
    ok(place, hub, &format!("{line} --json --quiet")).json()
}

fn fails(place: &Place, hub: &HubServer, code: i32, line: &str, parts: &[&str]) {
    fails_as(run(code, line, command(place, hub, line)), line, parts);
}

fn fails_as(ran: Ran, line: &str, parts: &[&str]) {
    assert_eq!(ran.stdout, "", "{line}");
    one_error(line, &ran.stderr, parts);
}

/// The outcomes of the files, by name.
fn outcomes(result: &Json) -> BTreeMap<String, String> {
    let files = result["files"].as_array().unwrap().iter();
    let word = |value: &Json| value.as_str().unwrap().to_string();
    files.map(|file| (word(&file["name"]), word(&file["fate"]))).collect()
}

/// Asserts that every request to the hub had the token, except those with a signed address, and
/// that no request to the store had it.
fn assert_token_went_to_the_hub_only(hub: &HubServer) {
    let seen = hub.seen();
    assert!(seen.iter().any(|seen| seen.store) && seen.iter().any(|seen| !seen.store));
    for request in seen {
        let expected = match request.store || request.request.contains("complete_multipart") {
            true => String::new(),
            false => format!("Bearer {SECRET}"),
        };
        assert_eq!(request.authorization, expected, "{}", request.request);
    }
}

#[test]
fn hub_folders_are_published_once() {
    let (place, hub) = (place(), HubServer::new());
    let result = json(&place, &hub, "publish out org/demo --private");
    let files = local(&place.path("out"));
    assert!(files.len() >= 8 && hub.files("org/demo", "main") == files);
    assert!(outcomes(&result).values().all(|outcome| outcome == "sent"), "{result}");
    assert_eq!(result["url"], format!("{}/org/demo", hub.endpoint));
    assert_eq!(result["created"], true);
    assert_eq!(result["commit"], format!("{:040x}", 1));
    let bytes: usize = files.values().map(Vec::len).sum();
    assert_eq!(result["sent_bytes"], bytes);
    {
        let state = hub.state();
        let repository = &state.repositories["org/demo"];
        assert!(repository.private);
        let commit = &repository.commits[0];
        assert!(commit.summary.starts_with("Upload with Aqueduct "));
        assert_eq!(commit.paths.last().unwrap(), "README.md", "the card comes last");
        assert!(commit.paths[0].ends_with(".gguf"), "weights come first: {:?}", commit.paths);
        let request = |part: &str| state.seen.iter().filter(|s| s.request.contains(part)).count();
        assert!(request("PUT /object/") >= 2 && request("PUT /part/") > 4, "both transfers");
    }
    assert_token_went_to_the_hub_only(&hub);

    // A second run sends nothing and creates no empty commit.
    let ran = ok(&place, &hub, "publish out org/demo");
    assert!(
        ran.stdout.contains("unchanged") && ran.stdout.contains(", 0 B sent"),
        "{}",
        ran.stdout
    );
    assert!(hub.seen().iter().all(|seen| !seen.store && !seen.request.contains("/commit/")));
    // Only the model card changed; it goes to a new branch.
    let card = String::from_utf8(place.read("out/README.md")).unwrap() + "\nMore.\n";
    fs::write(place.path("out/README.md"), &card).unwrap();
    fails(&place, &hub, 1, "publish out org/demo", &["README.md: its SHA-256", "renew its line"]);
    let sums = String::from_utf8(place.read("out/SHA256SUMS")).unwrap();
    let renewed = |line: &str| match line.ends_with("  README.md") {
        true => format!("{}  README.md\n", sha256(card.as_bytes())),
        false => format!("{line}\n"),
    };
    fs::write(place.path("out/SHA256SUMS"), sums.lines().map(renewed).collect::<String>()).unwrap();
    let line = "publish out org/demo --revision next -m The_card";
    let result = json(&place, &hub, line);
    let sent: Vec<_> =
        outcomes(&result).into_iter().filter(|(_, outcome)| outcome != "unchanged").collect();
    let expected = ["README.md", "SHA256SUMS"].map(|name| (name.to_string(), "sent".to_string()));
    assert_eq!((sent, &result["created"]), (expected.to_vec(), &false.into()));
    assert_eq!(hub.files("org/demo", "next"), local(&place.path("out")));
    assert_eq!(hub.files("org/demo", "main"), files);
    let commits = &hub.state().repositories["org/demo"].commits;
    assert_eq!((commits.len(), commits[1].summary.as_str()), (2, "The_card"));
    assert_eq!(commits[1].branch, "next");
}

#[test]
fn hub_uploads_survive_temporary_failures() {
    let (place, hub) = (place(), HubServer::new());
    hub.fault("/api/repos/create", answer(503));
    let wait = vec![("Retry-After", "1")];
    hub.fault("/preupload/", Fault::Answer(429, wait, "slowly".to_string()));
    hub.fault("/objects/batch", Fault::Drop(0));
    hub.fault("PUT /object/", Fault::Drop(1000));
    hub.fault("PUT /part/0/2", answer(500));
    hub.fault("PUT /part/0/3", Fault::Drop(200_000));
    hub.fault("/complete_multipart/", answer(502));
    hub.fault("/api/lfs/verify", answer(504));
    hub.fault("/commit/", answer(503));
    let result = json(&place, &hub, "publish out org/demo");
    assert_eq!(hub.files("org/demo", "main"), local(&place.path("out")));
    assert!(result["commit"].is_string());
    assert_eq!(hub.state().repositories["org/demo"].commits.len(), 1);
    assert_token_went_to_the_hub_only(&hub);

    // If the answer to a commit is lost, it is not repeated.
    let line = "publish out org/other";
    hub.fault("/commit/", Fault::LoseAnswer);
    let result = json(&place, &hub, line);
    assert_eq!(hub.files("org/other", "main"), local(&place.path("out")));
    assert!(result["commit"].is_null());
    assert_eq!(hub.state().repositories["org/other"].commits.len(), 1);
}

#[test]
fn hub_uploads_are_resumed() {
    let (place, hub) = (place(), HubServer::new());
    // Files are sent in the order of their names. A part of the second one is refused permanently.
    let xml = "<Error><StringToSign>signature=private</StringToSign></Error>".to_string();
    hub.fault("PUT /part/", Fault::Answer(403, Vec::new(), xml));
    let line = "publish out org/demo";
    fails(&place, &hub, 1, line, &["-Q8_0.gguf', part ", "answered 403", &hub.endpoint]);
    let there = hub.state().objects.len();
    assert!(there >= 1 && hub.files("org/demo", "main").is_empty(), "no file is visible yet");
    hub.seen();
    let result = json(&place, &hub, line);
    let present = outcomes(&result).values().filter(|outcome| *outcome == "present").count();
    assert_eq!(present, there, "{result}");
    assert_eq!(hub.files("org/demo", "main"), local(&place.path("out")));
    let again = hub.seen().iter().filter(|seen| seen.request.contains("PUT /object/")).count();
    assert_eq!(again + there, 2 + usize::from(there > 2), "{there}");
}

/// Runs `line`, which must fail, and calls `act` once a request that contains `part` has arrived.
fn run_and_act(
    place: &Place,
    hub: &HubServer,
    line: &str,
    part: &str,
    code: i32,
    act: impl Fn(u32),
) -> Ran {
    let mut command = command(place, hub, line);
    let piped = std::process::Stdio::piped;
    let child = command.stdout(piped()).stderr(piped()).spawn().unwrap();
    let begun = || hub.state().seen.iter().any(|seen| seen.request.contains(part));
    let start = Instant::now();
    while !begun() {
        assert!(start.elapsed().as_secs() < 60, "no request with {part} arrived");
        std::thread::sleep(Duration::from_millis(20));
    }
    act(child.id());
    finished(line, code, child.wait_with_output().unwrap())
}

#[test]
fn hub_uploads_fail_if_files_change() {
    let (place, hub) = (place(), HubServer::new());
    hub.fault("PUT /part/0/1", Fault::Stall(1));
    let line = "publish out org/demo";
    let path = place.path("out/report.html");
    let change = |_| fs::write(&path, "other").unwrap();
    let ran = run_and_act(&place, &hub, line, "PUT /part/0/1", 1, change);
    fails_as(ran, line, &["out/report.html: changed during the upload"]);
    assert!(hub.files("org/demo", "main").is_empty());
}

#[test]
fn hub_uploads_can_be_interrupted() {
    let (place, hub) = (place(), HubServer::new());
    // An interruption does not wait for a server that is silent.
    for part in ["PUT /part/0/1", "PUT /part/0/2", "PUT /part/0/3", "PUT /part/0/4"] {
        hub.fault(part, Fault::Stall(30));
    }
    let line = "publish out org/demo";
    let start = Cell::new(Instant::now());
    let interrupt = |id: u32| {
        let kill = Command::new("kill").args(["-INT", &id.to_string()]).status().unwrap();
        assert!(kill.success());
        start.set(Instant::now());
    };
    let ran = run_and_act(&place, &hub, line, "PUT /part/0/", 130, interrupt);
    assert!(start.get().elapsed().as_secs() < 20, "{:?}", start.get().elapsed());
    fails_as(ran, line, &["interrupted"]);
    assert!(hub.files("org/demo", "main").is_empty());
    assert!(ok(&place, &hub, line).stdout.contains("content was there"));
    assert_eq!(hub.files("org/demo", "main"), local(&place.path("out")));
}

#[test]
fn hub_upload_errors_say_what_to_do() {
    let (place, hub) = (place(), HubServer::new());
    let line = "publish out org/demo --no-verify";
    let with = |variable: &str, value: &str| {
        let mut command = command(&place, &hub, line);
        command.env("HF_TOKEN", "").env(variable, value);
        command
    };
    fails_as(
        run(2, line, with("X", "")),
        line,
        &["no token for http://127.0.0.1:", "HF_TOKEN", "hf auth login"],
    );
    assert!(hub.seen().is_empty(), "no request is sent without a token");
    let mut offline = command(&place, &hub, line);
    offline.env("HF_HUB_OFFLINE", "1");
    fails_as(run(2, line, offline), line, &["HF_HUB_OFFLINE"]);
    // 0.0.0.0 reaches this machine, but does not count as a local address.
    let mut open = command(&place, &hub, line);
    open.env("HF_ENDPOINT", hub.endpoint.replace("127.0.0.1", "0.0.0.0"));
    fails_as(run(2, line, open), line, &["HF_ENDPOINT is http://0.0.0.0:", "https only"]);
    for bad in ["nowhere", "http://", "http://127.0.0.1@evil.example"] {
        let mut none = command(&place, &hub, line);
        none.env("HF_ENDPOINT", bad);
        fails_as(run(2, line, none), line, &["HF_ENDPOINT is not the address"]);
    }
    assert!(hub.seen().is_empty());
    // The server repeats the invalid token in its answer; the message must hide it.
    let wrong = "hf_anothersecret";
    let mut command = with("HF_TOKEN", wrong);
    let output = command.output().unwrap();
    let ran = finished(line, 1, output);
    assert!(!ran.stderr.contains(wrong), "{}", ran.stderr);
    fails_as(ran, line, &["answered 401", "Invalid credentials: (token)", "not valid"]);
    hub.seen();
    // Tokens from other places than HF_TOKEN.
    fs::write(place.path("token"), format!("{SECRET}\n")).unwrap();
    fs::create_dir_all(place.path("hf")).unwrap();
    run(0, line, with("HUGGING_FACE_HUB_TOKEN", SECRET));
    run(0, line, with("HF_TOKEN_PATH", place.path("token").to_str().unwrap()));
    fs::rename(place.path("token"), place.path("hf/token")).unwrap();
    run(0, line, with("X", ""));

    fails(&place, &hub, 1, "publish out somebody/demo", &["answered 403", "lacks write access"]);
    let text = "{\"error\":\"Bad\\u001b[31m news\\nfor you.\"}".to_string();
    hub.fault("/preupload/", Fault::Answer(400, Vec::new(), text));
    fails(&place, &hub, 1, line, &["the server answered 400: Bad [31m news for you"]);
    // A redirect of a POST to another server is not followed.
    let other = HubServer::new();
    let target: &'static str = format!("{}/api/repos/create", other.endpoint).leak();
    hub.fault("/api/repos/create", Fault::Answer(307, vec![("Location", target)], String::new()));
    fails(&place, &hub, 1, line, &["answered 307", "was renamed"]);
    assert!(other.seen().is_empty());
    // Unusable answers are errors, and nothing is committed.
    hub.fault("/objects/batch", Fault::Answer(200, vec![], "{\"objects\": []}".to_string()));
    fails(&place, &hub, 1, "publish out org/new", &["answers about another file"]);
    let json = "{\"transfer\": \"xet\", \"objects\": []}".to_string();
    hub.fault("/objects/batch", Fault::Answer(200, vec![], json));
    fails(&place, &hub, 1, "publish out org/new", &["the transfer 'xet'"]);
    let fresh = HubServer::new();
    fresh.fault("/api/lfs/verify", answer(404));
    fails(&place, &fresh, 1, "publish out org/new", &[".gguf'", "answered 404"]);
    hub.fault("/preupload/", Fault::Answer(200, vec![], "{\"files\": []}".to_string()));
    fails(&place, &hub, 1, "publish out org/new", &["the answer omits"]);
    assert!(hub.files("org/new", "main").is_empty());
}

#[test]
fn hub_uploads_include_subfolders_and_honour_exclusions() {
    let (place, hub) = (place(), HubServer::new());
    fs::create_dir(place.path("out/demo-stack")).unwrap();
    fs::write(place.path("out/demo-stack/config.json"), "{}").unwrap();
    fs::write(place.path("out/empty.gguf"), "").unwrap();
    hub.state().gitignore.push("recipe.yml".to_string());
    let line = "publish out org/demo --no-verify --exclude *Q8_0* --exclude *.html";
    let ran = ok(&place, &hub, line);
    assert!(ran.stderr.contains("'recipe.yml': the repository's .gitignore"), "{}", ran.stderr);
    let there = hub.files("org/demo", "main");
    let names: Vec<&str> = there.keys().map(String::as_str).collect();
    assert!(names.contains(&"demo-stack/config.json") && there["empty.gguf"].is_empty());
    for absent in ["Q8_0", "report.html", "recipe.yml", ".hidden"] {
        assert!(!names.iter().any(|name| name.contains(absent)), "{absent}: {names:?}");
    }
}

/// Validates the mock server and the command that a build without the feature prints, with the
/// official client.
#[test]
#[ignore = "needs hf, of the package huggingface_hub, in PATH"]
fn hub_mock_and_printed_command_work_with_the_official_client() {
    use aqueduct::build::publish::{Options, hf_command};
    use aqueduct::hub::HubName;
    let (place, hub) = (place(), HubServer::new());
    let repo = HubName::parse("org/demo", None).unwrap();
    let options = Options {
        folder: "out".into(),
        repo,
        private: true,
        message: Some("It's a demo".to_string()),
        include: Vec::new(),
        exclude: vec!["report.*".to_string()],
    };
    let words = hf_command(&options);
    let mut hf = Command::new(&words[0]);
    hf.args(&words[1..])
        .current_dir(place.path(""))
        .env("HF_ENDPOINT", &hub.endpoint)
        .env("HF_HOME", place.path("hf"))
        .env("HF_TOKEN", SECRET);
    // The mock does not implement Xet.
    let output = hf.env("HF_HUB_DISABLE_XET", "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut expected = local(&place.path("out"));
    expected.remove("report.html");
    assert_eq!(hub.files("org/demo", "main"), expected);
    {
        let state = hub.state();
        let repository = &state.repositories["org/demo"];
        assert!(repository.private && repository.commits[0].summary == "It's a demo");
    }
    // Files that the client uploaded are not sent again.
    let result = json(&place, &hub, "publish out org/demo");
    let outcomes = outcomes(&result);
    assert_eq!(outcomes.values().filter(|outcome| *outcome == "sent").count(), 1, "{outcomes:?}");
}
