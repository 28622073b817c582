//! Text that models write themselves, and the decoding it comes from.

use crate::support::golden_models::{NAMES, checkpoint, converted, golden};
use crate::support::program::{Place, shipped};
use aqueduct::Result;
use aqueduct::base::progress::Silent;
use aqueduct::build::Source;
use aqueduct::formats::gguf::GgufModel;
use aqueduct::kernels::Precision;
use aqueduct::model::convert::OutputType;
use aqueduct::model::forward::{
    self, Activations, DecodeOptions, Feed, Footprint, Logits, Observer,
};

fn clerk() -> GgufModel {
    let source = Source::open(&shipped("recipes/demo/clerk")).unwrap();
    source.to_gguf(&Default::default(), &Silent).unwrap()
}

/// The logits of all positions of each chunk, by the forward pass.
fn whole_pass(model: &GgufModel, chunks: &[Vec<u32>]) -> Vec<Vec<f32>> {
    struct Keep(Vec<Vec<f32>>);
    impl Observer for Keep {
        fn activations(&mut self, _: &Activations<'_>) -> Result<()> {
            Ok(())
        }
        fn logits(&mut self, logits: &Logits<'_>) -> Result<()> {
            self.0[logits.chunk].extend_from_slice(logits.values);
            Ok(())
        }
    }
    let mut keep = Keep(vec![Vec::new(); chunks.len()]);
    let (precision, memory) = (Precision::F32, forward::default_memory());
    let options = forward::Options { logits: 0..1000, precision, memory, first_chunk: 0 };
    forward::run(model, chunks, &mut keep, &options, &Silent).unwrap();
    keep.0
}

/// The same by decoding in `slots` slots: each takes the next sequence when it has come to an end.
fn token_by_token(
    model: &GgufModel,
    chunks: &[Vec<u32>],
    slots: usize,
    hold: bool,
) -> Vec<Vec<f32>> {
    // Some models turn queries and keys otherwise in long texts.
    let positions = chunks.iter().map(Vec::len).max().unwrap();
    let options = DecodeOptions { slots, positions, precision: Precision::F32, hold };
    let mut got = vec![Vec::new(); chunks.len()];
    // Slot, sequence and how many of its tokens were fed.
    let mut fed: Vec<(usize, usize, usize)> = (0..slots).map(|slot| (slot, slot, 1)).collect();
    let mut waiting = slots..chunks.len();
    let feed = |&(slot, chunk, n): &(usize, usize, usize)| {
        let token: u32 = chunks[chunk][n - 1];
        Feed { slot, token, begins: n == 1 }
    };
    let first = fed.iter().map(feed).collect();
    forward::decode(model, &options, first, &mut |logits| {
        let n_vocab = logits.len() / fed.len();
        for ((_, chunk, _), row) in fed.iter().zip(logits.chunks(n_vocab)) {
            got[*chunk].extend_from_slice(row);
        }
        fed = fed
            .iter()
            .filter_map(|&(slot, chunk, n)| match n < chunks[chunk].len() {
                true => Some((slot, chunk, n + 1)),
                false => waiting.next().map(|chunk| (slot, chunk, 1)),
            })
            .collect();
        Ok(fed.iter().map(feed).collect())
    })
    .unwrap();
    got
}

/// Compares decoding in `slots` with the forward pass on sequences of `lengths`; returns the logits.
fn agrees(
    name: &str,
    model: &GgufModel,
    lengths: &[u32],
    slots: usize,
) -> (Vec<Vec<u32>>, Vec<Vec<f32>>) {
    let n_vocab = forward::check(model).unwrap() as u32;
    let chunk = |(i, &n): (usize, &u32)| {
        (0..n).map(|t| (t * t * 7 + i as u32 * 31 + t) % n_vocab).collect()
    };
    let chunks: Vec<Vec<u32>> = lengths.iter().enumerate().map(chunk).collect();
    let want = whole_pass(model, &chunks);
    let got = token_by_token(model, &chunks, slots, true);
    for ((got, want), n) in got.iter().zip(&want).zip(lengths) {
        assert_eq!(got.len(), (n * n_vocab) as usize);
        let spread = want.iter().fold(0f32, |most, v| most.max(v.abs()));
        let worst = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0f32, f32::max);
        assert!(worst <= 1e-5 * spread, "{name}: {worst} of {spread} in a sequence of {n}");
    }
    (chunks, got)
}

#[test]
fn decoding_gives_the_logits_of_the_forward_pass() {
    let model = clerk();
    let n_vocab = forward::check(&model).unwrap();
    // Longer than a tile of keys, and shorter ones that end and make room at different times.
    let (chunks, got) = agrees("clerk", &model, &[300, 5, 70, 33, 1, 128], 3);
    assert!(got[0][..n_vocab] != got[0][n_vocab..2 * n_vocab]);
    // Nothing depends on the sequences beside, or on where the weights are.
    assert_eq!(token_by_token(&model, &chunks, 1, true), got);
    assert_eq!(token_by_token(&model, &chunks, 6, false), got);
}

#[test]
fn decoding_knows_every_architecture() {
    for name in NAMES {
        let model = converted(&checkpoint(name, &golden(name), 0), OutputType::F32);
        agrees(name, &model, &[40, 9, 25], 2);
    }
}

#[test]
fn tokens_that_cannot_be_decoded_are_refused() {
    let model = clerk();
    let options = DecodeOptions { slots: 1, positions: 2, precision: Precision::F32, hold: true };
    let error = |token: u32| {
        let first = vec![Feed { slot: 0, token, begins: true }];
        let mut next = |_: &[f32]| Ok(vec![Feed { slot: 0, token, begins: false }]);
        forward::decode(&model, &options, first, &mut next).unwrap_err().to_string()
    };
    assert!(error(7).contains("position 2 of 2"), "{}", error(7));
    assert!(error(u32::MAX).contains("vocabulary"));
}

#[test]
fn a_footprint_counts_weights_and_slots() {
    let model = clerk();
    let of = |positions| Footprint::of(&model, Precision::F32, positions).unwrap();
    let (short, long) = (of(64), of(128));
    let elements = |name: &str| model.tensors.table().find(name).unwrap();
    let head = model.tensors.table().infos()[elements("token_embd.weight")].elements() as u64;
    assert!(short.parts > 4 * head && short.weights > short.parts && short.base > 0);
    assert_eq!((long.weights, long.parts), (short.weights, short.parts));
    assert_eq!(long.slot, 2 * short.slot);
}

#[test]
fn a_seed_writes_one_text_on_any_machine() {
    let place = Place::new();
    let write = |options: &str| {
        let line = format!(
            "calibrate @recipes/demo/clerk --tokens 700 --length 90 -o t --force {options}"
        );
        place.ok(&line);
        String::from_utf8(place.read("t")).unwrap()
    };
    let text = write("--precision f32");
    assert!(text.len() > 700 && text.ends_with('\n'), "{text}");
    assert!(text.matches("\n\n\n").count() >= 7, "a separator after each sequence but the last");
    assert!(!text.contains('\u{fffd}'));
    for options in ["--threads 1", "--threads 5", "--memory 500MB"] {
        assert_eq!(write(&format!("--precision f32 {options}")), text, "{options}");
    }
    let others = ["--seed 1", "--temperature 0.5", "--top-k 5", "--top-p 0.5"];
    let others: Vec<String> =
        others.iter().map(|o| write(&format!("--precision f32 {o}"))).collect();
    for (index, other) in others.iter().enumerate() {
        assert!(*other != text && !others[..index].contains(other), "{other}");
    }
    // With no chance left, seeds choose the beginnings only.
    assert_eq!(write("--temperature 0"), write("--temperature 0 --top-k 9"));
}

#[test]
fn what_was_written_calibrates() {
    let place = Place::new();
    let line = "calibrate @recipes/demo.yml --tokens 1000 --length 200 -o own.txt";
    let told = place.ok(&format!("{line} --json")).json();
    assert_eq!((told["path"].as_str(), told["tokens"].as_u64()), (Some("own.txt"), Some(1000)));
    assert_eq!(told["bytes"].as_u64(), Some(place.read("own.txt").len() as u64));
    assert!(told["sequences"].as_u64().unwrap() >= 5);
    place.fails(2, line, &["own.txt", "--force"]);
    let ran = place.ok(&format!("{line} --force"));
    assert!(ran.stdout.starts_with("own.txt: ") && ran.stdout.contains("1000 tokens in "));
    let matrix = place.ok("imatrix @recipes/demo.yml -f own.txt --ctx 64 -o m --json").json();
    // Text tokenizes a little differently from what it was sampled as, but not much.
    assert!((12..=16).contains(&matrix["chunks"].as_u64().unwrap()), "{matrix}");
    assert_eq!(place.entries(), ["m", "own.txt"]);
}

#[test]
fn sampling_without_sense_is_refused() {
    let place = Place::new();
    let fails = |options: &str, part: &str| {
        place.fails(2, &format!("calibrate @recipes/demo/clerk -o t {options}"), &[part]);
    };
    fails("--temperature=-1", "temperature");
    fails("--top-p 0", "top-p");
    fails("--top-p 1.5", "top-p");
    fails("--length 1", "2 or more");
    fails("--memory 1MB", "--memory");
    assert_eq!(place.entries(), [""; 0]);
}
