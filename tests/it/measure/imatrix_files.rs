//! Importance matrices: the peer's files read and written, and, on a real model, its values met.

use aqueduct::base::progress::{Progress, Silent, Unit};
use aqueduct::formats::checkpoint::Checkpoint;
use aqueduct::kernels::Precision;
use aqueduct::measure::imatrix::{self, Format, ImportanceMatrix, Options};
use aqueduct::model::convert::{self, ConvertOptions};
use aqueduct::model::tokenizer::Tokenizer;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/smollm2").join(name)
}

#[test]
fn the_peers_gguf_file_reads_and_is_written_byte_for_byte() {
    let path = golden("imatrix-gpl3.gguf");
    let matrix = ImportanceMatrix::read(&path).unwrap();
    assert_eq!(matrix.entries.len(), 210);
    assert_eq!((matrix.chunk_count, matrix.chunk_size), (14, 512));
    assert_eq!(matrix.datasets, ["/usr/share/common-licenses/GPL-3"]);
    let entry = &matrix.entries["blk.0.attn_k.weight"];
    assert_eq!((entry.sums.len(), &entry.counts[..]), (576, &[7168][..]));
    assert_eq!(entry.sums[..3], [1.0992126, 2.3760579, 2.3319216]);
    let weights = matrix.weights_for("blk.0.attn_k.weight", 576).unwrap().unwrap();
    assert_eq!(weights[1], 2.3760579f32 / 7168.0);

    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.gguf");
    matrix.write(&copy, Format::Gguf, false).unwrap();
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&path).unwrap(), "bytes differ");
    let again = matrix.write(&copy, Format::Gguf, false).unwrap_err().to_string();
    assert!(again.contains("--force"), "{again}");
}

#[test]
fn the_peers_dat_file_reads_and_is_written_byte_for_byte() {
    let path = golden("imatrix-gpl3-4chunks.dat");
    let matrix = ImportanceMatrix::read(&path).unwrap();
    assert_eq!((matrix.entries.len(), matrix.chunk_count, matrix.chunk_size), (210, 4, 0));
    let entry = &matrix.entries["blk.0.attn_k.weight"];
    assert_eq!((entry.sums.len(), &entry.counts[..]), (576, &[4][..]));
    assert_eq!(entry.sums[0].to_bits(), 0x3a23dd0c);
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.dat");
    matrix.write(&copy, Format::Dat, false).unwrap();
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&path).unwrap(), "bytes differ");
}

#[test]
fn files_that_are_no_importance_matrix_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text");
    std::fs::write(&text, "not an importance matrix, but long enough to look at").unwrap();
    let error = ImportanceMatrix::read(&text).unwrap_err().to_string();
    assert!(error.contains("not an imatrix file"), "{error}");
    let empty = dir.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    assert!(ImportanceMatrix::read(&empty).is_err());
    let bytes = std::fs::read(golden("imatrix-gpl3.gguf")).unwrap();
    let cut = dir.path().join("cut.gguf");
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    assert!(ImportanceMatrix::read(&cut).is_err());
}

/// Keeps notes.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Progress for Notes {
    fn begin(&self, _: &str, _: u64, _: Unit) {}
    fn advance(&self, _: u64) {}
    fn detail(&self, _: &str) {}
    fn note(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_string());
    }
    fn warn(&self, text: &str) {
        panic!("unexpected warning: {text}");
    }
    fn end(&self) {}
}

/// The largest relative L2 distance of an entry's means, and the tensor that has it.
fn worst_distance(ours: &ImportanceMatrix, peer: &ImportanceMatrix) -> (f64, String) {
    let names = |m: &ImportanceMatrix| m.entries.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(ours), names(peer));
    let distance = |name: &String| {
        let n = peer.entries[name].sums.len();
        let a = ours.weights_for(name, n).unwrap().unwrap();
        let b = peer.weights_for(name, n).unwrap().unwrap();
        let square = |x: f64| x * x;
        let d: f64 = a.iter().zip(&b).map(|(&a, &b)| square(a as f64 - b as f64)).sum();
        (d / b.iter().map(|&b| square(b as f64)).sum::<f64>()).sqrt()
    };
    let all = names(peer).into_iter().map(|name| (distance(&name), name));
    all.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
}

/// The check of the whole path on a real model. Get the model with `scripts/fetch-smollm2`, then
/// `cargo test --release --test it smollm2 -- --ignored --nocapture`.
#[test]
#[ignore = "needs SmolLM2-135M-Instruct in F16, 270 MB"]
fn smollm2_meets_the_peers_matrix_and_perplexity() {
    let folder = std::env::var("AQUEDUCT_SMOLLM2")
        .unwrap_or_else(|_| "models/SmolLM2-135M-Instruct".to_string());
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let model = convert::convert(&checkpoint, &ConvertOptions::default()).unwrap();
    let tokenizer = Tokenizer::from_metadata(&folder, &model.metadata).unwrap();
    let text = std::fs::read_to_string(golden("gpl-3.txt")).unwrap();
    let (tokens, bos) = imatrix::tokenize(&tokenizer, &[text], false).unwrap();
    let ids = std::fs::read_to_string(golden("token-ids-gpl3.json")).unwrap();
    assert_eq!(tokens, serde_json::from_str::<Vec<u32>>(&ids).unwrap());
    assert_eq!(bos, None);

    let notes = Notes::default();
    let start = std::time::Instant::now();
    let options = Options { precision: Precision::F32, ..Options::default() };
    let all = imatrix::compute(&model, &tokens, &options, None, &notes).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    let peer = ImportanceMatrix::read(golden("imatrix-gpl3.gguf")).unwrap();
    let (worst, name) = worst_distance(&all.imatrix, &peer);
    println!("{seconds:.1} s; worst relative L2 distance {worst:.2e} ({name})");
    println!("{}", notes.0.lock().unwrap().join("\n"));
    assert!(worst < 0.01, "{name}: {worst}");
    for (name, entry) in &peer.entries {
        assert_eq!(all.imatrix.entries[name].counts, entry.counts, "{name}");
    }
    assert_eq!((all.imatrix.chunk_count, all.imatrix.chunk_size), (14, 512));
    let running = [
        16.2622, 17.6857, 16.2910, 18.2014, 18.2337, 18.0697, 18.0734, 18.3444, 18.2666, 18.5212,
        18.3903, 18.4556, 17.6342, 18.3022,
    ];
    assert_eq!(all.perplexity.running.len(), running.len());
    for (ours, peer) in all.perplexity.running.iter().zip(running) {
        assert!((ours / peer - 1.0).abs() < 0.005, "{ours} for {peer}");
    }
    assert!((all.perplexity.error / 0.8597 - 1.0).abs() < 0.005, "{}", all.perplexity.error);

    let bf16 = Options { precision: Precision::Bf16, ..Options::default() };
    let bf16 = imatrix::compute(&model, &tokens, &bf16, None, &Silent).unwrap();
    let (worst, name) = worst_distance(&bf16.imatrix, &all.imatrix);
    println!("bf16 and f32: {worst:.2e} ({name}), perplexity {}", bf16.perplexity.estimate);
    assert!(worst < 0.01, "{name}: {worst}");
    assert!((bf16.perplexity.estimate / all.perplexity.estimate - 1.0).abs() < 0.005);

    let four = Options { chunks: Some(4), ..options };
    let part = imatrix::compute(&model, &tokens, &four, None, &Silent).unwrap();
    assert_eq!(part.perplexity.running, all.perplexity.running[..4]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("four.dat");
    part.imatrix.write(&file, Format::Dat, false).unwrap();
    let ours = ImportanceMatrix::read(&file).unwrap();
    let peer = ImportanceMatrix::read(golden("imatrix-gpl3-4chunks.dat")).unwrap();
    assert_eq!(ours.chunk_count, peer.chunk_count);
    let (worst, name) = worst_distance(&ours, &peer);
    println!("4 chunks: worst relative L2 distance {worst:.2e} ({name})");
    assert!(worst < 0.01, "{name}: {worst}");
}
