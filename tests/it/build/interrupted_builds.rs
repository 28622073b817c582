//! Builds that are killed, repeated and changed: what is continued, what is made again and why, and that the files
//! are those of a build without interruption.

use crate::support::files::entries;
use crate::support::program::{Place, Ran, finished, shipped};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

const STATE: &str = ".aqueduct-build.json";
const EVERYTHING: &str = "build @recipes/demo.yml --chunks 6 --keep-stack --max-shard-size 700kB \
                          --types Q4_K_M,IQ3_S,Q8_0 --eval @tests/data/demo/held-out.txt --eval-chunks 4 \
                          --save-every 0 --json";
/// Times are in the report, and its sum in SHA256SUMS.
const TIMED: [&str; 3] = [STATE, "report.html", "SHA256SUMS"];

/// Contents of every file below `folder`, but for those that differ from run to run.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for name in entries(folder).into_iter().filter(|name| !TIMED.contains(&name.as_str())) {
        let path = folder.join(&name);
        if path.is_dir() {
            let inner = contents(&path).into_iter();
            files.extend(inner.map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            files.insert(name, fs::read(path).unwrap());
        }
    }
    files
}

fn assert_same(left: &Path, right: &Path) {
    let (left, right) = (contents(left), contents(right));
    assert_eq!(left.keys().collect::<Vec<_>>(), right.keys().collect::<Vec<_>>());
    for (name, bytes) in &left {
        assert!(*bytes == right[name], "{name} differs");
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in entries(from) {
        match from.join(&name).is_dir() {
            true => copy_folder(&from.join(&name), &to.join(&name)),
            false => drop(fs::copy(from.join(&name), to.join(&name)).unwrap()),
        }
    }
}

fn state(folder: &Path) -> Json {
    serde_json::from_slice(&fs::read(folder.join(STATE)).unwrap_or_default()).unwrap_or_default()
}

/// A stage of a build, by what is missing before it.
struct Stage {
    name: &'static str,
    /// Beginnings of the names of its outputs and all later ones.
    outputs: &'static [&'static str],
}

const LATE: &str = "README.md report.html recipe.yml plan.svg SHA256SUMS";
const STAGES: [Stage; 5] = [
    Stage { name: "stack", outputs: &["demo-", LATE] },
    Stage { name: "imatrix", outputs: &["demo-imatrix", "demo-Q", "demo-IQ", LATE] },
    Stage { name: "quantize", outputs: &["demo-Q", "demo-IQ", LATE] },
    Stage { name: "evaluate", outputs: &[LATE] },
    Stage { name: "documents", outputs: &[LATE] },
];

impl Stage {
    fn has(&self, name: &str) -> bool {
        let begins = |output: &&str| output.split(' ').any(|output| name.starts_with(output));
        self.outputs.iter().any(begins)
    }

    /// Makes `folder` what a build leaves that has come to this stage.
    fn prepare(&self, whole: &Path, folder: &Path) {
        if folder.exists() {
            fs::remove_dir_all(folder).unwrap();
        }
        copy_folder(whole, folder);
        for name in entries(folder).into_iter().filter(|name| self.has(name)) {
            let path = folder.join(name);
            match path.is_dir() {
                true => fs::remove_dir_all(path).unwrap(),
                false => fs::remove_file(path).unwrap(),
            }
        }
        if self.name != "documents" {
            let mut state = state(folder);
            state["evaluations"] = serde_json::json!({});
            fs::write(folder.join(STATE), state.to_string()).unwrap();
        }
    }
}

#[test]
fn killed_at_fifty_random_moments_of_every_stage_a_build_ends_with_the_same_bytes() {
    let place = Place::new();
    place.ok(&format!("{EVERYTHING} -o whole"));
    let (whole, folder) = (place.path("whole"), place.path("out"));
    let mut random = 88_172_645u32;
    let mut next = || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(random >> 8) / f64::from(1u32 << 24)
    };
    let mut continued: BTreeMap<&str, usize> = BTreeMap::new();
    for stage in &STAGES {
        stage.prepare(&whole, &folder);
        let started = Instant::now();
        place.ok(&format!("{EVERYTHING} -o out"));
        let time = started.elapsed();
        assert_same(&folder, &whole);
        stage.prepare(&whole, &folder);
        let mut since = 0;
        for kill in 0..50 {
            let threads = 1 + kill % 2;
            let mut command = place.command(&format!("{EVERYTHING} -o out --threads {threads}"));
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            std::thread::sleep(time.mul_f64(next()));
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            let damaged = ["not as it was written", "cannot be", "error:", "anew"];
            let damaged = damaged.iter().find(|word| stderr.contains(**word));
            assert!(damaged.is_none(), "{}: {stderr}", stage.name);
            if stderr.contains("continuing") {
                *continued.entry(stage.name).or_default() += 1;
            }
            since += 1;
            // A build that came to its end, or would soon be at stages that are not meant.
            if output.status.success() || since == 10 {
                place.ok(&format!("{EVERYTHING} -o out"));
                assert_same(&folder, &whole);
                stage.prepare(&whole, &folder);
                since = 0;
            }
        }
    }
    for stage in ["imatrix", "quantize"] {
        assert!(continued.get(stage).is_some_and(|&n| n >= 3), "{continued:?}");
    }
}

/// Names of outputs that a run of `line` did not make, from its JSON.
fn reused(place: &Place, line: &str) -> (Vec<String>, Ran) {
    let ran = place.ok(line);
    let list = ran.json()["reused"].as_array().unwrap().clone();
    let name = |path: &Json| path.as_str().unwrap().trim_start_matches("out/").to_string();
    (list.iter().map(name).collect(), ran)
}

/// A recipe with members of its own, whose folders are `one` and `two`.
fn own_recipe(place: &Place) {
    for (from, to) in [("storyteller", "one"), ("clerk", "two")] {
        copy_folder(&shipped("recipes/demo").join(from), &place.path(to));
    }
    let text = "merge_method: linear\nmodels:\n  - {model: one, parameters: {weight: 0.5}}\n  - {model: two, \
                parameters: {weight: 0.5}}\ndtype: float16\n";
    fs::write(place.path("r.yml"), text).unwrap();
}

const IMATRIX: &str = "r-imatrix.gguf";

#[test]
fn what_has_changed_is_made_anew_and_nothing_else() {
    let place = Place::new();
    own_recipe(&place);
    let build = |rest: &str| format!("build r.yml -o out --json {rest}");
    place.ok(&build("--chunks 2 --types Q4_K_M,Q8_0"));
    let before = contents(&place.path("out"));
    let report = place.read("out/report.html");
    // The same again: nothing is written at all.
    let (names, _) = reused(&place, &build("--chunks 2 --types Q4_K_M,Q8_0"));
    assert_eq!(names, [IMATRIX, "r-Q4_K_M.gguf", "r-Q8_0.gguf"]);
    assert!(contents(&place.path("out")) == before && place.read("out/report.html") == report);

    // Layout of the recipe, times of files: what is made does not depend on them.
    let recipe = fs::read_to_string(place.path("r.yml")).unwrap();
    fs::write(place.path("r.yml"), format!("# A comment.\n{recipe}---\nbuild:\n  chunks: 2\n"))
        .unwrap();
    copy_folder(&place.path("one"), &place.path("copy"));
    fs::remove_dir_all(place.path("one")).unwrap();
    fs::rename(place.path("copy"), place.path("one")).unwrap();
    let (names, _) = reused(&place, &build("--types Q4_K_M,Q8_0"));
    assert_eq!(names, [IMATRIX, "r-Q4_K_M.gguf", "r-Q8_0.gguf"]);
    assert!(fs::read_to_string(place.path("out/recipe.yml")).unwrap().contains("A comment"));

    // One type more, one less.
    let (names, ran) = reused(&place, &build("--types Q4_K_M,Q6_K"));
    assert_eq!(names, [IMATRIX, "r-Q4_K_M.gguf"]);
    assert!(ran.stderr.contains("do not list them: r-Q8_0.gguf"), "{}", ran.stderr);
    assert!(!String::from_utf8(place.read("out/SHA256SUMS")).unwrap().contains("Q8_0"));

    // Other text, other metadata: only with --force, and with reasons.
    let kept = contents(&place.path("out"));
    let changed =
        ["--force", "out/r-imatrix.gguf: --ctx, --chunks", "out/r-Q8_0.gguf: the importance"];
    place.fails(2, &build("--chunks 3 --types Q4_K_M,Q8_0"), &changed);
    let mark = "out/r-Q4_K_M.gguf: the metadata changed";
    place.fails(2, &build("--types Q4_K_M --license mit"), &["--force", mark]);
    assert!(contents(&place.path("out")) == kept, "a refused build changes nothing");
    let (names, ran) = reused(&place, &build("--types Q4_K_M --license mit --force"));
    assert_eq!(names, [IMATRIX]);
    assert!(
        ran.stderr.contains("r-Q4_K_M.gguf is made anew: the metadata changed"),
        "{}",
        ran.stderr
    );
    let (names, _) = reused(&place, &build("--types Q4_K_M --license mit --chunks 3 --force"));
    assert!(names.is_empty(), "{names:?}");

    // A member's weights: all, and the member is named.
    let weights = place.path("two/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last - 1] ^= 1;
    fs::write(&weights, bytes).unwrap();
    let line = build("--types Q4_K_M --license mit --chunks 3");
    place.fails(2, &line, &["out/r-imatrix.gguf: member 'two' changed"]);
    let (names, _) = reused(&place, &format!("{line} --force"));
    assert!(names.is_empty(), "{names:?}");
    place.ok("build r.yml -o fresh --types Q4_K_M --license mit --chunks 3");
    for name in [IMATRIX, "r-Q4_K_M.gguf", "README.md"] {
        assert!(
            place.read(&format!("out/{name}")) == place.read(&format!("fresh/{name}")),
            "{name}"
        );
    }
    // Anew in any case.
    place.fails(2, &format!("{line} --restart"), &["exists already", "--force"]);
    let (names, ran) = reused(&place, &format!("{line} --types Q8_0 --restart --force"));
    assert!(names.is_empty(), "{names:?}");
    assert!(ran.stderr.contains("do not list them: r-Q6_K.gguf"), "{}", ran.stderr);
    let line = line.replace("Q4_K_M", "Q8_0");
    let (_, ran) = reused(&place, &format!("{line} --restart --force"));
    assert!(ran.stderr.contains("do not list them: r-Q4_K_M.gguf"), "{}", ran.stderr);
}

#[test]
fn what_is_not_as_it_was_written_is_not_used() {
    let place = Place::new();
    let line = "build @recipes/demo.yml -o out --chunks 2 --types Q4_K_M,Q8_0 --json";
    place.ok(line);
    let whole = contents(&place.path("out"));
    // Words that somebody wrote are not lost, and neither is anything else.
    fs::write(place.path("out/README.md"), "mine").unwrap();
    place.fails(2, line, &["README.md", "exists already", "--force"]);
    assert_eq!(place.read("out/README.md"), b"mine");
    fs::write(place.path("out/README.md"), &whole["README.md"]).unwrap();
    // A damaged file is made again, and no other.
    let mut damaged = whole["demo-Q8_0.gguf"].clone();
    let at = damaged.len() - 100;
    damaged[at] ^= 1;
    fs::write(place.path("out/demo-Q8_0.gguf"), damaged).unwrap();
    place.fails(2, line, &["demo-Q8_0.gguf", "exists already", "--force"]);
    let (names, _) = reused(&place, &format!("{line} --force"));
    assert_eq!(names, ["demo-imatrix.gguf", "demo-Q4_K_M.gguf"]);
    assert!(contents(&place.path("out")) == whole);
    // So is one that is gone.
    fs::remove_file(place.path("out/demo-imatrix.gguf")).unwrap();
    let (names, _) = reused(&place, line);
    assert_eq!(names, ["demo-Q4_K_M.gguf", "demo-Q8_0.gguf"]);
    assert!(contents(&place.path("out")) == whole);
    // A record that cannot be read is no permission to replace anything.
    fs::write(place.path("out").join(STATE), "{\"version\":1").unwrap();
    place.fails(2, line, &["exists already", "--force"]);
    let ran = place.ok(&format!("{line} --force"));
    assert!(ran.stderr.contains("cannot be read; starting anew"), "{}", ran.stderr);
    assert!(contents(&place.path("out")) == whole);
    // Nor one that names files elsewhere.
    let mut state = state(&place.path("out"));
    state["outputs"]["evil"] = state["outputs"]["demo-Q8_0.gguf"].clone();
    state["outputs"]["evil"]["files"] = serde_json::json!({"../mine": {"bytes": 4, "sha256": ""}});
    fs::write(place.path("out").join(STATE), state.to_string()).unwrap();
    fs::write(place.path("mine"), "mine").unwrap();
    place.ok(line);
    assert_eq!(place.read("mine"), b"mine");
}

/// Lets `line` run until `ready`, and kills it; again if it ends before.
fn kill_when(place: &Place, line: &str, ready: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let mut command = place.command(line);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while !ready() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(300));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if ready() {
            return;
        }
        assert!(Instant::now() < deadline, "{line}: never killed in time");
        fs::remove_dir_all(place.path("out")).unwrap();
    }
}

#[test]
fn damage_to_what_an_interrupted_build_left_is_found() {
    let place = Place::new();
    let line = "build @recipes/demo.yml -o out --chunks 40 --types Q4_K_M,IQ2_S --save-every 0";
    place.ok(&format!("{line} -q").replace("-o out", "-o whole"));
    let (layers, part) =
        (place.path("out/.demo-imatrix.gguf.layers.part"), place.path("out/.demo-IQ2_S.gguf.part"));
    let flip = |path: &Path, at: usize| {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    kill_when(&place, line, || layers.exists());
    // An undamaged one is continued, by a build that is killed too.
    let half = fs::metadata(&layers).unwrap().len() as usize / 2;
    flip(&layers, half);
    let count = |state: &Json| {
        state["outputs"]["demo-IQ2_S.gguf"]["tensors"]
            .as_object()
            .map_or(0, |tensors| tensors.len())
    };
    let mut command = place.command(line);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while count(&state(&place.path("out"))) < 3 && child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_micros(300));
    }
    child.kill().unwrap();
    let stderr = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
    assert!(stderr.contains("it is damaged") && stderr.contains("starting anew"), "{stderr}");
    if count(&state(&place.path("out"))) > 0 && part.exists() {
        // The embedding's first bytes: it is first in the file, and was whole first.
        let start = aqueduct::formats::gguf::GgufFile::open(place.path("whole/demo-IQ2_S.gguf"))
            .map(|file| file.header().offsets[0] as usize)
            .unwrap();
        flip(&part, start);
        let ran = place.ok(line);
        assert!(
            ran.stderr.contains("is not as it was written; it is made again"),
            "{}",
            ran.stderr
        );
    } else {
        place.ok(line);
    }
    assert_same(&place.path("out"), &place.path("whole"));
}

#[test]
fn a_second_build_in_a_folder_is_refused_until_the_first_one_ends() {
    let place = Place::new();
    let text = fs::read_to_string(shipped("calibration/aqueduct-v1.txt")).unwrap();
    fs::write(place.path("long.txt"), text.repeat(30)).unwrap();
    let mut command = place.command("build @recipes/demo.yml -o out -f long.txt");
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !place.path("out").join(STATE).exists() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(2));
    }
    let short = "build @recipes/demo.yml -o out --chunks 1 --types Q8_0";
    let error = place.fails(2, short, &["out: another run is writing it", "another name"]);
    assert!(!error.contains(".part"), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    // The lock has died with its owner; what that had begun was something else.
    place.ok(short);
}

#[test]
fn a_full_disk_costs_no_more_than_what_was_not_whole() {
    let place = Place::new();
    let line = "build @recipes/demo.yml -o out --chunks 2 --types Q4_K_M,Q8_0";
    place.ok(&line.replace("-o out", "-o whole"));
    // The largest file is too large: the stand-in for a full disk is a limit on the size of files, in blocks of 512.
    let limit = fs::metadata(place.path("whole/demo-Q8_0.gguf")).unwrap().len() / 512 - 1;
    let output = std::process::Command::new("sh")
        .args(["-c", &format!("trap '' XFSZ; ulimit -f {limit}; exec \"$0\" \"$@\"")])
        .arg(env!("CARGO_BIN_EXE_aqueduct"))
        .args(crate::support::program::arguments(line))
        .current_dir(place.path("."))
        .output()
        .unwrap();
    let ran = finished(line, 1, output);
    assert!(ran.stderr.contains("no larger file"), "{}", ran.stderr);
    assert!(ran.stderr.contains("the same command continues"), "{}", ran.stderr);
    let left = [STATE, "demo-imatrix.gguf"];
    assert_eq!(entries(&place.path("out")), left);
    let (names, _) = reused(&place, &format!("{line} --json"));
    assert_eq!(names, ["demo-imatrix.gguf"]);
    assert_same(&place.path("out"), &place.path("whole"));
}

#[test]
fn a_member_that_vanishes_is_told_and_back_again_nothing_is_lost() {
    let place = Place::new();
    own_recipe(&place);
    let line = "build r.yml -o out --chunks 40 --types Q4_K_M,Q8_0 --save-every 0";
    place.ok(&line.replace("-o out", "-o whole"));
    let imatrix = place.path("out/r-imatrix.gguf");
    kill_when(&place, line, || imatrix.exists());
    fs::rename(place.path("two"), place.path("gone")).unwrap();
    place.fails(1, line, &["two"]);
    fs::rename(place.path("gone"), place.path("two")).unwrap();
    let ran = place.ok(line);
    assert!(ran.stderr.contains("r-imatrix.gguf is there, and whole"), "{}", ran.stderr);
    assert_same(&place.path("out"), &place.path("whole"));
}
