//! Runs over calibration text that are interrupted, and continued to the same bytes.

use crate::support::program::{Place, finished, one_error};
use serde_json::Value as Json;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// 80 chunks of the built-in text.
const RUN: &str = "imatrix @recipes/demo/clerk --ctx 256 --chunks 80 --json";
const SAVING: &str = "--save-every 0 -o out.gguf";
const STATE: &str = ".out.gguf.layers.part";

fn spawn(place: &Place, line: &str) -> Child {
    place.command(line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Layers in the saved state. It is read while a run replaces it: it must always be whole.
fn saved(place: &Place) -> u64 {
    let Ok(bytes) = fs::read(place.path(STATE)) else { return 0 };
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Json = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    header["layers"].as_u64().unwrap()
}

/// Lets `child` run until it has saved more than `layers` layers or has ended, and kills it with SIGKILL.
fn kill_after(place: &Place, mut child: Child, layers: u64) {
    let started = Instant::now();
    while saved(place) <= layers && child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < Duration::from_secs(120), "nothing is saved");
        std::thread::sleep(Duration::from_micros(500));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A place with a state of some layers, not of all.
fn interrupted(place: &Place) -> u64 {
    interrupt(place, &format!("{RUN} {SAVING}"))
}

/// Runs `line`, which saves its state on the way to out.gguf, and kills it before its end; layers in the state.
pub(crate) fn interrupt(place: &Place, line: &str) -> u64 {
    for _ in 0..20 {
        kill_after(place, spawn(place, line), 0);
        if saved(place) > 0 {
            return saved(place);
        }
        // It has ended before it was stopped: once more.
        fs::remove_file(place.path("out.gguf")).unwrap();
    }
    panic!("no run was stopped before its end");
}

#[test]
fn killed_at_any_moment_a_run_continues_to_the_same_bytes() {
    let place = Place::new();
    let started = Instant::now();
    let reference = place.ok(&format!("{RUN} -o reference.gguf")).json();
    let whole_run = started.elapsed();
    let mut random = 2463534242u32;
    let mut continued = 0;
    for round in 0..8 {
        let before = saved(&place);
        let mut child = spawn(&place, &format!("{RUN} {SAVING}"));
        if round % 2 == 0 {
            kill_after(&place, child, before);
        } else {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            std::thread::sleep(whole_run.mul_f64(f64::from(random >> 16) / 131072.0));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(saved(&place) >= before || place.path("out.gguf").exists(), "a state is lost");
        continued += usize::from(before > 0);
        if place.path("out.gguf").exists() {
            assert!(place.read("out.gguf") == place.read("reference.gguf"));
            fs::remove_file(place.path("out.gguf")).unwrap();
        }
    }
    assert!(continued >= 2, "{continued} runs continued");
    let kept = match saved(&place) {
        0 => interrupted(&place),
        kept => kept,
    };
    // With another number of threads, and without saving.
    let ran = place.ok(&format!("{RUN} -o out.gguf --threads 1"));
    let note = format!("continuing from {STATE}: {kept} layers are done");
    assert!(ran.stderr.contains(&note), "{}", ran.stderr);
    let json = ran.json();
    assert_eq!(json["kept_layers"], kept);
    for key in ["perplexity", "perplexity_error", "running_perplexity", "chunks", "entries"] {
        assert_eq!(json[key], reference[key], "{key}");
    }
    assert!(place.read("out.gguf") == place.read("reference.gguf"), "bytes differ");
    let left = place.entries();
    let torn = |name: &String| {
        name.starts_with("..out.gguf.layers.part.") || name.starts_with(".out.gguf.")
    };
    let left: Vec<_> = left.iter().filter(|name| !torn(name)).collect();
    assert_eq!(left, ["out.gguf", "reference.gguf"], "the state is gone");
    assert!(!place.path(STATE).exists());
}

#[test]
fn a_state_of_another_run_is_not_continued() {
    let place = Place::new();
    place.ok(&format!("{RUN} -o reference.gguf"));
    let other = "imatrix @recipes/demo/clerk --json -o out.gguf";
    for (line, reason) in [
        (format!("{other} --ctx 128 --chunks 80"), "--ctx changed"),
        (format!("{other} --ctx 256 --chunks 81"), "the choice of chunks changed"),
        (format!("{other} --ctx 256 --chunks 80 --shard 2/2"), "the choice of chunks changed"),
        (format!("{other} --ctx 256 -f @README.md"), "the text changed"),
        (
            "imatrix @recipes/demo/storyteller --ctx 256 --chunks 80 --json -o out.gguf".into(),
            "the model changed",
        ),
    ] {
        interrupted(&place);
        let ran = place.ok(&line);
        let warning = ".out.gguf.layers.part: left by an interrupted run; starting anew: ";
        assert!(ran.stderr.contains(warning) && ran.stderr.contains(reason), "{}", ran.stderr);
        assert_eq!(ran.json()["kept_layers"], 0);
        assert!(!place.path(STATE).exists());
        fs::remove_file(place.path("out.gguf")).unwrap();
    }
    interrupted(&place);
    let ran = place.ok(&format!("{RUN} {SAVING} --restart"));
    assert!(!ran.stderr.contains("warning"), "{}", ran.stderr);
    assert_eq!(ran.json()["kept_layers"], 0);
    assert!(place.read("out.gguf") == place.read("reference.gguf"), "saving changes nothing");
}

#[test]
fn a_shard_is_continued_as_a_shard() {
    let place = Place::new();
    let shard = RUN.to_string() + " --shard 2/2";
    place.ok(&format!("{shard} -o reference.gguf"));
    let mut kept = 0;
    for _ in 0..20 {
        kill_after(&place, spawn(&place, &format!("{shard} {SAVING}")), 0);
        kept = saved(&place);
        if kept > 0 {
            break;
        }
        fs::remove_file(place.path("out.gguf")).unwrap();
    }
    assert!(kept > 0);
    let ran = place.ok(&format!("{shard} {SAVING}"));
    assert_eq!(ran.json()["kept_layers"], kept);
    assert!(place.read("out.gguf") == place.read("reference.gguf"), "bytes differ");
}

#[test]
fn what_stands_where_the_state_would_is_not_touched() {
    let place = Place::new();
    let line = format!("{RUN} {SAVING}");
    for content in ["mine", ""] {
        fs::write(place.path(STATE), content).unwrap();
        place.fails(2, &line, &[STATE, "in the way, and not a saved state", "move it away"]);
        place.fails(2, &format!("{line} --restart"), &[STATE, "in the way"]);
        assert_eq!(place.read(STATE), content.as_bytes());
    }
    fs::remove_file(place.path(STATE)).unwrap();
    fs::create_dir(place.path(STATE)).unwrap();
    place.fails(2, &line, &[STATE, "it is not a file"]);
    fs::remove_dir(place.path(STATE)).unwrap();
    // An importance matrix of another program.
    fs::copy(
        crate::support::program::shipped("tests/data/smollm2/imatrix-gpl3.gguf"),
        place.path(STATE),
    )
    .unwrap();
    place.fails(2, &line, &[STATE, "it has another format"]);
    assert_eq!(place.entries(), [STATE]);
}

/// With files limited to 512 or 1,024 bytes no state can be written, as on a full disk.
#[cfg(unix)]
#[test]
fn a_state_that_cannot_be_written_leaves_the_earlier_one() {
    let place = Place::new();
    let reference = place.ok(&format!("{RUN} -o reference.gguf")).json();
    let kept = interrupted(&place);
    let state = place.read(STATE);
    let line = format!("{RUN} {SAVING}");
    let mut full = Command::new("sh");
    full.args([
        "-c",
        "trap '' XFSZ; ulimit -f 1; exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_aqueduct"),
    ]);
    full.args(crate::support::program::arguments(&line)).current_dir(place.path("."));
    let ran = finished(&line, 1, full.output().unwrap());
    one_error(&line, &ran.stderr, &["out.gguf", "cannot"]);
    assert!(place.read(STATE) == state, "the earlier state is as it was");
    let ran = place.ok(&line).json();
    assert_eq!((&ran["kept_layers"], &ran["perplexity"]), (&kept.into(), &reference["perplexity"]));
    assert!(place.read("out.gguf") == place.read("reference.gguf"), "bytes differ");
}

#[test]
fn ctrl_c_leaves_the_state_and_says_so() {
    let place = Place::new();
    for _ in 0..20 {
        let mut command = place.command(&format!("{RUN} {SAVING}"));
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        while saved(&place) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(kill.success());
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            fs::remove_file(place.path("out.gguf")).unwrap();
            continue;
        }
        let ran = finished("imatrix", 130, output);
        one_error("imatrix", &ran.stderr, &["interrupted"]);
        let said = format!("{} layers are done and stay in {STATE}", saved(&place));
        assert!(ran.stderr.contains(&said), "{}", ran.stderr);
        assert_eq!(place.entries(), [STATE]);
        return;
    }
    panic!("no run was stopped before its end");
}
