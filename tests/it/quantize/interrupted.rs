//! Quantizing that is interrupted and resumed: the same bytes, and reasons where it starts anew.

use crate::support::files::entries;
use crate::support::program::{Place, finished, one_error};
use serde_json::Value as Json;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const QUANTIZE: &str = "quantize @recipes/demo.yml Q4_K_M IQ3_S Q8_0 --save-every 0";
const FILES: [&str; 3] = ["demo-IQ3_S.gguf", "demo-Q4_K_M.gguf", "demo-Q8_0.gguf"];

fn spawn(place: &Place, line: &str) -> Child {
    place.command(line).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Tensors in the journal of one output.
fn recorded(place: &Place) -> usize {
    let path = place.path("out/.demo-IQ3_S.gguf.tensors.part");
    let json: Json =
        serde_json::from_slice(&fs::read(path).unwrap_or_default()).unwrap_or_default();
    json["tensors"].as_object().map_or(0, |tensors| tensors.len())
}

fn is_whole(place: &Place) -> bool {
    FILES.iter().all(|name| place.path("out").join(name).exists())
}

fn assert_same(place: &Place) {
    for name in FILES {
        let (left, right) =
            (place.read(&format!("out/{name}")), place.read(&format!("whole/{name}")));
        assert!(left == right, "{name}");
    }
}

/// Runs `line` until it has recorded more than `tensors` tensors, or has ended, and kills it.
fn kill_after(place: &Place, line: &str, tensors: usize) {
    let mut child = spawn(place, line);
    let deadline = Instant::now() + Duration::from_secs(120);
    while recorded(place) <= tensors && child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "nothing is recorded");
        std::thread::sleep(Duration::from_micros(200));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Leaves `out` as a run that was killed halfway; returns the number of tensors in a journal.
fn interrupt(place: &Place) -> usize {
    for _ in 0..20 {
        let _ = fs::remove_dir_all(place.path("out"));
        kill_after(place, &format!("{QUANTIZE} -o out"), 2);
        if recorded(place) > 0 && !FILES.iter().any(|name| place.path("out").join(name).exists()) {
            return recorded(place);
        }
    }
    panic!("no run was stopped before its end");
}

#[test]
fn killed_at_any_moment_quantizing_continues_to_the_same_bytes() {
    let place = Place::new();
    let started = Instant::now();
    place.ok(&format!("{QUANTIZE} -o whole"));
    let whole_run = started.elapsed();
    let (mut random, mut continued) = (12345u32, 0);
    for round in 0..16 {
        let before = recorded(&place);
        let line = format!("{QUANTIZE} -o out --threads {}", 1 + round % 3);
        if round % 2 == 0 {
            let mut child = spawn(&place, &line);
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            std::thread::sleep(whole_run.mul_f64(f64::from(random >> 16) / 65536.0));
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            let refused = ["error:", "anew", "not as it was written"];
            assert!(!refused.iter().any(|word| stderr.contains(word)), "{stderr}");
        } else {
            // Until something more is recorded, so that the runs get on whatever the machine's speed.
            kill_after(&place, &line, before);
        }
        assert!(recorded(&place) >= before || is_whole(&place), "progress is lost");
        continued += usize::from(before > 0);
        if is_whole(&place) {
            assert_same(&place);
            fs::remove_dir_all(place.path("out")).unwrap();
        }
    }
    assert!(continued >= 3, "{continued} runs continued");
    let kept = interrupt(&place);
    // What a run leaves that is killed while it replaces its journal.
    fs::write(place.path("out/..demo-Q8_0.gguf.tensors.part.4711-5.part"), "{").unwrap();
    let ran = place.ok(&format!("{QUANTIZE} -o out"));
    let note = "continuing out/demo-IQ3_S.gguf: ";
    assert!(ran.stderr.contains(&format!("{note}{kept} of ")), "{}", ran.stderr);
    assert_same(&place);
    assert_eq!(entries(&place.path("out")), FILES);
    place.fails(2, &format!("{QUANTIZE} -o out"), &["exists already", "--force"]);
    assert_eq!(entries(&place.path("out")), FILES);
}

#[test]
fn what_changed_starts_anew_and_says_why() {
    let place = Place::new();
    place.ok(&format!("{QUANTIZE} -o whole"));
    interrupt(&place);
    let ran = place.ok(&format!("{QUANTIZE} -o out --restart"));
    assert!(!ran.stderr.contains("continuing") && !ran.stderr.contains("anew"), "{}", ran.stderr);
    assert_same(&place);

    interrupt(&place);
    let ran = place.ok(&format!("{QUANTIZE} -o out --token-embedding-type q4_0"));
    let reason = "types of tensors or the size of shards changed";
    assert!(ran.stderr.contains(&format!("starting anew: {reason}")), "{}", ran.stderr);

    interrupt(&place);
    fs::write(place.path("out/.demo-IQ3_S.gguf.tensors.part"), "{").unwrap();
    let ran = place.ok(&format!("{QUANTIZE} -o out"));
    assert!(ran.stderr.contains("its record cannot be read"), "{}", ran.stderr);
    assert_same(&place);
}

#[test]
fn damaged_tensors_are_made_again() {
    let place = Place::new();
    place.ok(&format!("{QUANTIZE} -o whole"));
    interrupt(&place);
    // The first tensor, which is whole first.
    let whole = aqueduct::formats::gguf::GgufFile::open(place.path("whole/demo-IQ3_S.gguf"));
    let start = whole.unwrap().header().offsets[0] as usize;
    let part = place.path("out/.demo-IQ3_S.gguf.part");
    let mut bytes = fs::read(&part).unwrap();
    bytes[start] ^= 1;
    fs::write(&part, bytes).unwrap();
    let ran = place.ok(&format!("{QUANTIZE} -o out"));
    let warning = "is not as it was written; it is made again";
    assert!(ran.stderr.contains(warning), "{}", ran.stderr);
    assert_same(&place);
    assert_eq!(entries(&place.path("out")), FILES);
}

#[test]
fn files_that_are_not_ours_are_left_alone() {
    let place = Place::new();
    fs::create_dir(place.path("out")).unwrap();
    let part = place.path("out/.demo-Q8_0.gguf.part");
    fs::write(&part, "mine").unwrap();
    let line = "quantize @recipes/demo.yml Q8_0 -o out";
    place.fails(2, line, &[".demo-Q8_0.gguf.part", "in the way", "move it away"]);
    assert_eq!(fs::read(&part).unwrap(), b"mine");
    fs::remove_file(&part).unwrap();
    fs::create_dir(&part).unwrap();
    place.fails(2, line, &[".demo-Q8_0.gguf.part", "in the way"]);
    assert_eq!(entries(&place.path("out")), [".demo-Q8_0.gguf.part"]);
}

#[cfg(unix)]
fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// Starts a run, and stops it for a while once it has recorded something.
#[cfg(unix)]
fn stopped(place: &Place) -> Child {
    for _ in 0..20 {
        let _ = fs::remove_dir_all(place.path("out"));
        let mut child = spawn(place, &format!("{QUANTIZE} -o out"));
        while recorded(place) == 0 && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        signal(&child, "-STOP");
        if recorded(place) > 0 && !is_whole(place) {
            return child;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    panic!("no run was stopped before its end");
}

#[cfg(unix)]
#[test]
fn two_runs_do_not_write_one_output() {
    let place = Place::new();
    let mut child = stopped(&place);
    place.fails(2, &format!("{QUANTIZE} -o out"), &["another run is writing it"]);
    assert!(recorded(&place) > 0, "the first run's files stay");
    child.kill().unwrap();
    child.wait().unwrap();
    place.ok(&format!("{QUANTIZE} -o out"));
    assert_eq!(entries(&place.path("out")), FILES);
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_whole_tensors_and_says_so() {
    let place = Place::new();
    for _ in 0..20 {
        let child = stopped(&place);
        signal(&child, "-INT");
        signal(&child, "-CONT");
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            continue;
        }
        let ran = finished("quantize", 130, output);
        one_error("quantize", &ran.stderr, &["interrupted"]);
        assert!(ran.stderr.contains("whole and stay in hidden files"), "{}", ran.stderr);
        assert!(recorded(&place) > 0);
        place.ok(&format!("{QUANTIZE} -o out"));
        return;
    }
    panic!("no run was interrupted before its end");
}
