//! `aqueduct publish` up to the moment at which something would be sent: which files would go, and which folders may not.

use crate::support::program::Place;
use sha2::{Digest, Sha256};
use std::fs;

const CARD: &str = "---\nlicense: mit\n---\n# Clerk\n";

/// A place with the demo's clerk, quantized, in the folder `q`, with a card and sums.
fn place() -> Place {
    let place = Place::new();
    place.ok("quantize @recipes/demo/clerk -o q Q4_K_M Q8_0 --quiet");
    fs::write(place.path("q/README.md"), CARD).unwrap();
    write_sums(&place);
    place
}

fn write_sums(place: &Place) {
    let names = crate::support::files::entries(&place.path("q"));
    let line = |name: &String| {
        let sum = Sha256::digest(place.read(&format!("q/{name}")));
        let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{sum}  {name}\n")
    };
    let names = names.iter().filter(|name| !name.starts_with('.') && *name != "SHA256SUMS");
    fs::write(place.path("q/SHA256SUMS"), names.map(line).collect::<String>()).unwrap();
}

/// Names of files that would go.
fn names(place: &Place, line: &str) -> Vec<String> {
    let json = place.ok(&format!("publish q org/clerk --dry-run --json {line}")).json();
    assert_eq!((&json["repo"], &json["dry_run"]), (&"org/clerk".into(), &true.into()));
    let files = json["files"].as_array().unwrap().iter();
    let size = |name: &str| fs::metadata(place.path(&format!("q/{name}"))).unwrap().len();
    let name = |file: &serde_json::Value| {
        let name = file["name"].as_str().unwrap().to_string();
        assert_eq!(file["bytes"], size(&name));
        name
    };
    let names: Vec<String> = files.map(name).collect();
    assert_eq!(json["bytes"], names.iter().map(|name| size(name)).sum::<u64>());
    names
}

#[test]
fn what_would_go_is_shown() {
    let place = place();
    fs::write(place.path("q/.hidden"), "x").unwrap();
    fs::create_dir(place.path("q/stack")).unwrap();
    fs::write(place.path("q/stack/config.json"), "{}").unwrap();
    fs::write(place.path("q/stack/.DS_Store"), "x").unwrap();
    let all =
        ["README.md", "SHA256SUMS", "clerk-Q4_K_M.gguf", "clerk-Q8_0.gguf", "stack/config.json"];
    assert_eq!(names(&place, ""), all);
    assert_eq!(names(&place, "--include *.gguf --exclude *Q8*"), ["clerk-Q4_K_M.gguf"]);
    assert_eq!(
        names(&place, "--include stack/ --include *.md"),
        ["README.md", "stack/config.json"]
    );
    let text = place.ok("publish q org/clerk --revision next --dry-run").stdout;
    assert!(text.contains("stack/config.json") && text.contains("5 files, "), "{text}");
    assert!(text.contains("would go to org/clerk, branch next"), "{text}");
    assert!(!text.contains("hidden"), "{text}");
}

#[test]
fn folders_that_are_not_whole_stay() {
    let place = place();
    let fails = |code, parts: &[&str]| {
        place.fails(code, "publish q org/clerk --dry-run", parts);
    };
    let refused = |parts: &[&str]| {
        fails(1, &[&["q: is not ready to be published"], parts].concat());
        place.ok("publish q org/clerk --dry-run --no-verify");
    };
    // The card.
    fs::write(place.path("q/README.md"), "# Clerk\n").unwrap();
    refused(&["q/README.md: has no front matter", "q/README.md: its SHA-256 is", "renew its line"]);
    fs::remove_file(place.path("q/README.md")).unwrap();
    refused(&["q/README.md: not there", "q/README.md: listed in SHA256SUMS, and not there"]);
    fs::write(place.path("q/README.md"), CARD).unwrap();
    // The sums.
    fs::rename(place.path("q/SHA256SUMS"), place.path("sums")).unwrap();
    refused(&["q/SHA256SUMS: not there"]);
    fs::rename(place.path("sums"), place.path("q/SHA256SUMS")).unwrap();
    let model = place.read("q/clerk-Q8_0.gguf");
    let mut damaged = model.clone();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(place.path("q/clerk-Q8_0.gguf"), &damaged).unwrap();
    refused(&["q/clerk-Q8_0.gguf: its SHA-256 is"]);
    // Damage that sums cover.
    fs::write(place.path("q/clerk-Q8_0.gguf"), &model[..model.len() / 2]).unwrap();
    write_sums(&place);
    refused(&["q/clerk-Q8_0.gguf: "]);
    fs::write(place.path("q/clerk-Q8_0.gguf"), &model).unwrap();
    write_sums(&place);
    assert_eq!(names(&place, "").len(), 4);

    // What has not finished stays in any case.
    for (state, allowed) in [
        ("{\"finished\": true}", true),
        ("{\"finished\": false}", false),
        ("{}", false),
        ("{", false),
        ("[]", false),
    ] {
        fs::write(place.path("q/.aqueduct-build.json"), state).unwrap();
        match allowed {
            true => drop(names(&place, "")),
            false => {
                let parts = ["q/.aqueduct-build.json: the build has not finished"];
                place.fails(1, "publish q org/clerk --dry-run --no-verify", &parts);
            }
        }
    }
    fs::remove_file(place.path("q/.aqueduct-build.json")).unwrap();
    fs::write(place.path("q/.clerk-Q6_K.gguf.1-2.part"), "").unwrap();
    fails(1, &[".1-2.part: left by a command that has not finished"]);
}

#[test]
fn wrong_requests_are_refused() {
    let place = place();
    for repo in ["clerk", "a/b/c", "../q", "org/..", "org/clerk@main", ""] {
        let ran = place.command("publish q").arg(repo).arg("--dry-run").output().unwrap();
        let text = String::from_utf8(ran.stderr).unwrap();
        assert!(ran.status.code() == Some(2) && text.contains("OWNER/NAME"), "{repo}: {text}");
    }
    let line = "publish q org/clerk --dry-run";
    place.fails(2, &format!("{line} --revision ../x"), &["\"../x\" no branch"]);
    place.fails(2, "publish nowhere org/clerk", &["nowhere: no folder"]);
    place.fails(2, "publish q/README.md org/clerk", &["q/README.md: no folder"]);
    place.fails(2, &format!("{line} --include *.txt"), &["no file is chosen"]);
    place.fails(2, &format!("{line} --include [z-a]"), &["\"[z-a]\" is no pattern"]);
    fs::create_dir(place.path("empty")).unwrap();
    fs::write(place.path("empty/README.md"), CARD).unwrap();
    place.fails(1, "publish empty org/clerk", &["empty: holds no GGUF file"]);
    // Names and things that the hub does not take.
    fs::write(place.path("q/a\\b"), "x").unwrap();
    place.fails(1, line, &["the hub does not take its name"]);
    fs::remove_file(place.path("q/a\\b")).unwrap();
    std::os::unix::fs::symlink("nowhere", place.path("q/dangling")).unwrap();
    place.fails(1, line, &["q/dangling: cannot examine"]);
    fs::remove_file(place.path("q/dangling")).unwrap();
    // A link to a folder elsewhere does not take that along.
    std::os::unix::fs::symlink("..", place.path("q/up")).unwrap();
    place.fails(1, line, &["q/up: neither file nor folder"]);
}

#[cfg(not(feature = "hub"))]
#[test]
fn the_command_of_the_hubs_program_is_printed() {
    let place = place();
    let ran = place.ok("publish q org/clerk --private --revision v1");
    let command = "hf upload org/clerk q . --repo-type model --private --revision v1 --exclude '.*' \
                   --exclude '*/.*'\n";
    assert_eq!(ran.stdout, command);
    assert!(ran.stderr.contains("without the feature hub"), "{}", ran.stderr);
    let json = place.ok("publish q org/clerk --json --quiet").json();
    let command = json["command"].as_str().unwrap();
    assert!(command.starts_with("hf upload org/clerk q ."), "{command}");
    // Checks come before.
    fs::remove_file(place.path("q/README.md")).unwrap();
    place.fails(1, "publish q org/clerk", &["q/README.md: not there"]);
}
