//! Merges that are interrupted and continued: what stays, what is made again, and that the bytes are
//! those of a run without interruption.

use crate::support::files::{assert_error, assert_same_folders, entries};
use crate::support::folders;
use crate::support::program::{Place, finished};
use aqueduct::Result;
use aqueduct::base::dtype::DType;
use aqueduct::base::output;
use aqueduct::base::progress::{Progress, Unit};
use aqueduct::base::resume::{Checkpointing, Fingerprint};
use aqueduct::formats::checkpoint::{self, Checkpoint, WriteOptions, Written};
use aqueduct::formats::source::{PART_BYTES, TensorData, TensorInfo, TensorSource, TensorTable};
use std::fs;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const JOURNAL: &str = "aqueduct-resume.json";

/// Collects notes and warnings.
#[derive(Default)]
struct Said(Mutex<Vec<String>>);

impl Progress for Said {
    fn begin(&self, _: &str, _: u64, _: Unit) {}
    fn advance(&self, _: u64) {}
    fn detail(&self, _: &str) {}
    fn note(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_string());
    }
    fn warn(&self, text: &str) {
        self.note(text);
    }
    fn end(&self) {}
}

/// Eight tensors of a little more than a part each, one a shard; those from `bad` on cannot be read.
struct Source {
    table: TensorTable,
    bad: usize,
    reads: Mutex<Vec<usize>>,
}

const COUNT: usize = 8;
const ELEMENTS: usize = PART_BYTES / 4 + 1000;

impl Source {
    fn new(bad: usize) -> Arc<Source> {
        let info = |i| TensorInfo::new(format!("t{i}"), vec![ELEMENTS], DType::F32);
        let table = TensorTable::new("source", (0..COUNT).map(info).collect()).unwrap();
        Arc::new(Source { table, bad, reads: Mutex::default() })
    }

    /// The tensors that were read, in order.
    fn reads(&self) -> Vec<usize> {
        let mut reads = self.reads.lock().unwrap().clone();
        reads.sort_unstable();
        reads
    }
}

impl TensorSource for Source {
    fn origin(&self) -> &str {
        "source"
    }

    fn table(&self) -> &TensorTable {
        &self.table
    }

    fn read(&self, index: usize) -> Result<TensorData<'_>> {
        self.reads.lock().unwrap().push(index);
        if index >= self.bad {
            return Err(aqueduct::Error::tensor("source", format!("t{index}"), "unreadable"));
        }
        let values: Vec<f32> = (0..ELEMENTS).map(|i| (i * 31 + index * 7) as f32).collect();
        Ok(TensorData::from_f32(vec![ELEMENTS], &values))
    }
}

/// A folder to write to, with what was said of the last run.
struct Run {
    temp: TempDir,
    checkpointing: Checkpointing,
    said: String,
}

impl Run {
    fn new() -> Run {
        let checkpointing = Checkpointing::new(vec![Fingerprint::new("the recipe", "one")]);
        Run { temp: tempfile::tempdir().unwrap(), checkpointing, said: String::new() }
    }

    /// A folder in which tensors 0 to `bad - 1` have been written.
    fn interrupted(bad: usize) -> Run {
        let mut run = Run::new();
        assert_error(run.write(&Source::new(bad)), &["unreadable"]);
        run
    }

    fn options(&self) -> WriteOptions {
        let (max_shard_bytes, checkpointing) = (1, Some(self.checkpointing.clone()));
        WriteOptions { max_shard_bytes, checkpointing, ..WriteOptions::default() }
    }

    fn write(&mut self, source: &Arc<Source>) -> Result<Written> {
        let checkpoint = Checkpoint { tensors: source.clone(), ..folders::model() };
        let said = Said::default();
        let written =
            checkpoint::write(&checkpoint, &self.temp.path().join("out"), &self.options(), &said);
        self.said = said.0.into_inner().unwrap().join("\n");
        written
    }

    /// Writes everything; checks that it is what one run gives, that nothing else is left, and that
    /// only the tensors `made` were read.
    fn finish(&mut self, made: &[usize]) {
        let source = Source::new(COUNT);
        let written = self.write(&source).unwrap();
        assert_eq!(source.reads(), made);
        assert_eq!(written.kept_shards, COUNT - made.len());
        assert_eq!(entries(self.temp.path()), ["out"]);
        let reference = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint { tensors: Source::new(COUNT), ..folders::model() };
        let options = WriteOptions { checkpointing: None, ..self.options() };
        checkpoint::write(&checkpoint, &reference.path().join("out"), &options, &Said::default())
            .unwrap();
        assert_same_folders(&self.temp.path().join("out"), &reference.path().join("out"));
    }

    fn hidden(&self) -> std::path::PathBuf {
        self.temp.path().join(".out.part")
    }
}

fn shard(number: usize) -> String {
    format!("model-{:05}-of-{COUNT:05}.safetensors", number + 1)
}

#[test]
fn whole_shards_stay_and_only_the_others_are_made() {
    let mut run = Run::interrupted(3);
    assert_eq!(entries(run.temp.path()), [".out.part"]);
    assert_eq!(entries(&run.hidden()), [JOURNAL, &shard(0), &shard(1), &shard(2)]);
    let parts = ["3 of 8 shards", ".out.part", "--restart"];
    assert!(parts.iter().all(|part| run.said.contains(part)), "{}", run.said);

    // A second interruption, further on.
    let source = Source::new(5);
    assert_error(run.write(&source), &["'t5'"]);
    assert_eq!(source.reads(), [3, 4, 5]);
    assert!(run.said.contains("continuing in") && run.said.contains("5 of 8"), "{}", run.said);
    run.finish(&[5, 6, 7]);
}

#[test]
fn without_a_whole_shard_nothing_stays() {
    let run = Run::interrupted(0);
    assert!(entries(run.temp.path()).is_empty());
    assert_eq!(run.said, "");
    // Nor where nobody asked for it.
    let run = Run::new();
    let checkpoint = Checkpoint { tensors: Source::new(5), ..folders::model() };
    let options = WriteOptions { checkpointing: None, ..run.options() };
    let out = run.temp.path().join("out");
    assert_error(checkpoint::write(&checkpoint, &out, &options, &Said::default()), &["'t5'"]);
    assert!(entries(run.temp.path()).is_empty());
}

#[test]
fn damaged_shards_are_made_again() {
    let mut run = Run::interrupted(5);
    let edit = |number: usize, edit: &dyn Fn(&mut Vec<u8>)| {
        let path = run.hidden().join(shard(number));
        let mut bytes = fs::read(&path).unwrap();
        edit(&mut bytes);
        fs::write(&path, bytes).unwrap();
    };
    edit(0, &|bytes| *bytes.last_mut().unwrap() ^= 1);
    edit(1, &|bytes| bytes.truncate(1000));
    edit(2, &|bytes| bytes[20] ^= 1);
    fs::remove_file(run.hidden().join(shard(3))).unwrap();
    fs::write(run.hidden().join(".model-00006.99-1.part"), "half").unwrap();
    run.finish(&[0, 1, 2, 3, 5, 6, 7]);
    for number in 0..4 {
        assert!(run.said.contains(&format!("{}: not as it was written", shard(number))));
    }
}

#[test]
fn other_inputs_start_anew_and_say_why() {
    let mut run = Run::interrupted(4);
    run.checkpointing.fingerprints =
        vec![Fingerprint::new("the recipe", "two"), Fingerprint::new("member 'x'", "")];
    run.finish(&[0, 1, 2, 3, 4, 5, 6, 7]);
    let why = "starting anew: the recipe changed, member 'x' is new";
    assert!(run.said.contains(why) && run.said.contains(".out.part"), "{}", run.said);

    let mut run = Run::interrupted(4);
    run.checkpointing.restart = true;
    run.finish(&[0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(run.said, "", "that is what was asked for");

    let mut run = Run::interrupted(4);
    fs::write(run.hidden().join(JOURNAL), "{").unwrap();
    run.finish(&[0, 1, 2, 3, 4, 5, 6, 7]);
    assert!(run.said.contains("cannot be read"), "{}", run.said);

    let run = Run::interrupted(4);
    let checkpoint = Checkpoint { tensors: Source::new(COUNT), ..folders::model() };
    let options = WriteOptions { max_shard_bytes: 1 << 30, ..run.options() };
    let said = Said::default();
    checkpoint::write(&checkpoint, &run.temp.path().join("out"), &options, &said).unwrap();
    assert!(said.0.into_inner().unwrap().join("\n").contains("size of shards changed"));
    assert_eq!(entries(run.temp.path()), ["out"]);
}

#[test]
fn a_record_cannot_name_files_outside_the_folder() {
    let mut run = Run::interrupted(4);
    let path = run.hidden().join(JOURNAL);
    let outside = run.temp.path().join("outside");
    fs::write(&outside, "mine").unwrap();
    let text = fs::read_to_string(&path).unwrap().replace(&shard(1), "../outside");
    fs::write(&path, text).unwrap();
    let source = Source::new(6);
    assert_error(run.write(&source), &["'t6'"]);
    assert_eq!(source.reads(), [1, 4, 5, 6]);
    assert_eq!(fs::read(&outside).unwrap(), b"mine");
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let mut run = Run::new();
    fs::create_dir(run.hidden()).unwrap();
    fs::write(run.hidden().join("thesis.doc"), "mine").unwrap();
    assert_error(run.write(&Source::new(COUNT)), &[".out.part", "thesis.doc", "move it away"]);
    assert_eq!(entries(&run.hidden()), ["thesis.doc"]);
    fs::remove_dir_all(run.hidden()).unwrap();
    fs::write(run.hidden(), "mine").unwrap();
    assert_error(run.write(&Source::new(COUNT)), &[".out.part", "in the way"]);
    assert_eq!(fs::read(run.hidden()).unwrap(), b"mine");
}

#[test]
fn two_runs_do_not_share_a_folder() {
    let mut run = Run::new();
    let other = output::OutputDir::reopen(run.temp.path().join("out"), false).unwrap();
    other.abandon();
    assert_error(run.write(&Source::new(COUNT)), &["out", "another run", ".out.part"]);
    drop(other);
    run.finish(&[0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn an_output_that_appears_meanwhile_costs_no_shard() {
    let mut run = Run::interrupted(7);
    let out = run.temp.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("theirs"), "").unwrap();
    assert_error(run.write(&Source::new(COUNT)), &["out", "exists"]);
    assert_eq!(entries(run.temp.path()), [".out.part", "out"]);
    fs::remove_dir_all(&out).unwrap();
    run.finish(&[7]);
}

/// Tells how much it holds and fails if that is more than its bound.
struct Heavy {
    table: TensorTable,
    held: AtomicU64,
    most: AtomicU64,
    running: AtomicUsize,
    most_running: AtomicUsize,
}

impl TensorSource for Heavy {
    fn origin(&self) -> &str {
        "heavy"
    }

    fn table(&self) -> &TensorTable {
        &self.table
    }

    fn read(&self, index: usize) -> Result<TensorData<'_>> {
        let bytes = self.working_bytes(index);
        let held = self.held.fetch_add(bytes, Ordering::SeqCst) + bytes;
        self.most.fetch_max(held, Ordering::SeqCst);
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_running.fetch_max(running, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(10));
        self.running.fetch_sub(1, Ordering::SeqCst);
        self.held.fetch_sub(bytes, Ordering::SeqCst);
        Ok(TensorData::from_f32(vec![10], &[1.0; 10]))
    }

    fn working_bytes(&self, index: usize) -> u64 {
        [300, 300, 900, 0, 200, 300, 100, 0][index]
    }
}

#[test]
fn tensors_are_computed_ahead_within_the_memory_given() {
    for (memory, most, together) in [(600, 900, true), (1, 900, false), (1 << 30, 1800, true)] {
        let info = |i| TensorInfo::new(format!("t{i}"), vec![10], DType::F32);
        let table = TensorTable::new("heavy", (0..8).map(info).collect()).unwrap();
        let heavy = Arc::new(Heavy {
            table,
            held: AtomicU64::new(0),
            most: AtomicU64::new(0),
            running: AtomicUsize::new(0),
            most_running: AtomicUsize::new(0),
        });
        let temp = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint { tensors: heavy.clone(), ..folders::model() };
        let options = WriteOptions { memory, ..WriteOptions::default() };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        pool.install(|| {
            let out = temp.path().join("out");
            checkpoint::write(&checkpoint, &out, &options, &Said::default()).unwrap();
        });
        let held = heavy.most.load(Ordering::SeqCst);
        assert!(held <= most && held >= 900, "{held} of {memory}");
        // With too little memory, only what takes none runs beside another.
        assert_eq!(heavy.most_running.load(Ordering::SeqCst) > 2, together, "{memory}");
    }
}

/// The number of shards in the journal of `out` in `place`. The journal is beside the hidden folder
/// from the moment all files are written until the folder has its final name.
fn recorded(place: &Place) -> usize {
    let hidden = place.path(".out.part");
    let path = match hidden.join("config.json").exists() && !hidden.join(JOURNAL).exists() {
        true => place.path(".out.part.json"),
        false => hidden.join(JOURNAL),
    };
    let text = fs::read(path).unwrap_or_default();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    json["shards"].as_array().map_or(0, Vec::len)
}

#[test]
fn killed_at_any_moment_a_merge_continues_to_the_same_bytes() {
    const MERGE: &str = "merge @recipes/demo.yml --max-shard-size 200kB --save-every 0 --json -o";
    let place = Place::new();
    let started = Instant::now();
    let shards =
        place.ok(&format!("{MERGE} reference")).json()["shards"].as_u64().unwrap() as usize;
    let whole_run = started.elapsed();
    assert!(shards >= 6, "{shards} shards are too few to test anything");
    let mut random = 12345u32;
    let (mut continued, mut finished_runs) = (0, 0);
    for round in 0..24 {
        let before = recorded(&place);
        let mut child = place
            .command(&format!("{MERGE} out"))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if round % 2 == 0 {
            std::thread::sleep(whole_run.mul_f64(f64::from(random >> 16) / 65536.0));
        } else {
            // Until one shard more is whole, so that the merge gets on whatever the machine's speed.
            while recorded(&place) <= before && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(recorded(&place) >= before || place.path("out").exists());
        continued += usize::from(recorded(&place) > 0);
        if place.path("out").exists() {
            assert_same_folders(&place.path("out"), &place.path("reference"));
            fs::remove_dir_all(place.path("out")).unwrap();
            finished_runs += 1;
        }
    }
    assert!(continued >= 3, "{continued} runs continued, {finished_runs} finished");
    if recorded(&place) == 0 {
        // The last run had ended: one more that is stopped halfway.
        let mut child = place.command(&format!("{MERGE} out --quiet")).spawn().unwrap();
        while recorded(&place) == 0 && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let kept = recorded(&place);
    let line = format!("{MERGE} out --force");
    let ran = finished(&line, 0, place.command(&line).output().unwrap());
    assert_eq!(ran.json()["kept_shards"], kept, "{}", ran.stderr);
    assert_same_folders(&place.path("out"), &place.path("reference"));
    assert_eq!(place.entries(), ["out", "reference"]);
}

#[test]
fn a_changed_recipe_or_member_starts_anew() {
    let place = Place::new();
    let copy = |from: &str, to: &str| {
        fs::create_dir_all(place.path(to)).unwrap();
        for file in entries(&crate::support::program::shipped(from)) {
            fs::copy(
                crate::support::program::shipped(from).join(&file),
                place.path(to).join(&file),
            )
            .unwrap();
        }
    };
    copy("recipes/demo/clerk", "clerk");
    fs::write(place.path("r.yml"), "merge_method: passthrough\nmodels: [{model: clerk}]\n")
        .unwrap();
    let merge = "merge r.yml --max-shard-size 200kB --save-every 0 -o out";
    let stop = |place: &Place| {
        let mut child = place.command(&format!("{merge} --quiet")).spawn().unwrap();
        while recorded(place) == 0 && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let interrupted = recorded(place) > 0;
        let _ = fs::remove_dir_all(place.path("out"));
        interrupted
    };
    let mut tested = 0;
    for what in ["the recipe", "member 'clerk'"] {
        // A run that ends before it is stopped tells nothing; a few tries find one that does not.
        if !(0..20).any(|_| stop(&place)) {
            continue;
        }
        let changed = if what == "the recipe" { "r.yml" } else { "clerk/model.safetensors" };
        let mut bytes = fs::read(place.path(changed)).unwrap();
        if what == "the recipe" {
            bytes.extend_from_slice(b"# changed\n");
        }
        std::thread::sleep(Duration::from_millis(20));
        fs::write(place.path(changed), bytes).unwrap();
        let ran = place.ok(merge);
        assert!(ran.stderr.contains(&format!("starting anew: {what} changed")), "{}", ran.stderr);
        fs::remove_dir_all(place.path("out")).unwrap();
        tested += 1;
    }
    assert_eq!(tested, 2);
}
