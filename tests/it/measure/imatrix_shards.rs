//! Importance matrices in parts: shards added together, and what is refused.

use crate::support::program::{Place, shipped};
use aqueduct::kernels::Precision;
use aqueduct::measure::imatrix::{ImportanceMatrix, Record};
use serde_json::{Value as Json, json};
use std::fs;

/// 578 tokens of the demo's vocabulary: 18 chunks of 32.
const TEXT: &str = "-f @tests/data/demo/held-out.txt --ctx 32";

fn matrix(place: &Place, name: &str) -> ImportanceMatrix {
    ImportanceMatrix::read(place.path(name)).unwrap()
}

/// A run over `rest` of the text, as JSON.
fn run(place: &Place, rest: &str) -> Json {
    place.ok(&format!("imatrix @recipes/demo/clerk {TEXT} --json {rest}")).json()
}

#[test]
fn shards_add_up_to_the_whole_run() {
    let place = Place::new();
    let whole = run(&place, "-o whole.gguf");
    assert_eq!((&whole["chunks"], &whole["covered"]), (&json!(18), &whole["wanted"]));
    let mut firsts = Vec::new();
    for number in 1..=4 {
        let shard = run(&place, &format!("--shard {number}/4 -o {number}.gguf"));
        assert_eq!(shard["wanted"], whole["wanted"]);
        firsts.push(shard["covered"][0]["start"].clone());
    }
    assert_eq!(firsts, [0, 4, 9, 13]);
    let merged = place.ok("imatrix merge 3.gguf 1.gguf 4.gguf 2.gguf -o merged.gguf --json").json();
    for key in ["perplexity", "perplexity_error", "chunks", "entries"] {
        assert_eq!(merged[key], whole[key], "{key} is the same to the last bit");
    }
    assert_eq!(merged["missing"], json!([]));

    let parts: Vec<_> = (1..=4).map(|n| matrix(&place, &format!("{n}.gguf"))).collect();
    let (merged, whole) = (matrix(&place, "merged.gguf"), matrix(&place, "whole.gguf"));
    assert_eq!(merged.record, whole.record);
    assert_eq!((merged.chunk_count, merged.chunk_size), (18, 32));
    assert_eq!(merged.datasets, whole.datasets);
    assert!(merged.entries.keys().eq(whole.entries.keys()));
    for (name, entry) in &merged.entries {
        assert_eq!(entry.counts, whole.entries[name].counts, "{name}");
        for (column, &sum) in entry.sums.iter().enumerate() {
            let exact = parts.iter().map(|m| f64::from(m.entries[name].sums[column])).sum::<f64>();
            assert_eq!(sum, exact as f32, "{name} {column}");
            let direct = whole.entries[name].sums[column];
            // 576 f32 additions, in another order.
            assert!((sum - direct).abs() <= 2e-5 * direct, "{name} {column}: {sum} for {direct}");
        }
    }
    place.ok("imatrix merge 1.gguf 2.gguf 3.gguf 4.gguf -o again.gguf");
    assert_eq!(place.read("again.gguf").len(), place.read("merged.gguf").len());
    assert!(matrix(&place, "again.gguf") == merged, "the order of the files does not matter");
}

#[test]
fn skipped_chunks_are_the_same_chunks_as_a_shards() {
    let place = Place::new();
    run(&place, "--shard 2/2 -o shard.gguf");
    let skipped = run(&place, "--from-chunk 9 -o skipped.gguf");
    assert_eq!(skipped["covered"], json!([{ "start": 9, "end": 18 }]));
    let (shard, skipped) = (matrix(&place, "shard.gguf"), matrix(&place, "skipped.gguf"));
    assert!(shard.entries == skipped.entries, "the same chunks, the same sums");
    run(&place, "--chunks 9 -o first.gguf");
    let merged = place.ok("imatrix merge skipped.gguf first.gguf -o whole.gguf --json").json();
    assert_eq!((&merged["chunks"], &merged["missing"]), (&json!(18), &json!([])));
    run(&place, "-o direct.gguf");
    assert_eq!(matrix(&place, "whole.gguf").record, matrix(&place, "direct.gguf").record);
    let line = format!("imatrix @recipes/demo/clerk {TEXT} --from-chunk 18 -o x.gguf");
    place.fails(2, &line, &["18 chunks to skip", "only 18 of 32 tokens"]);
}

#[test]
fn a_folder_and_its_conversion_give_shards_of_one_run() {
    let place = Place::new();
    place.ok("convert @recipes/demo/clerk -o renamed.gguf --name Other");
    place.ok(&format!("imatrix renamed.gguf {TEXT} --shard 1/2 -o 1.gguf"));
    run(&place, "--shard 2/2 -o 2.gguf");
    place.ok("imatrix merge 1.gguf 2.gguf -o whole.gguf");
    assert_eq!(matrix(&place, "whole.gguf").chunk_count, 18);
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let place = Place::new();
    let shard = |source: &str, text: &str, more: &str, to: &str| {
        place.ok(&format!("imatrix {source} {text} {more} -o {to}.gguf --quiet"));
    };
    let clerk = "@recipes/demo/clerk";
    shard(clerk, TEXT, "--shard 1/2", "a");
    shard("@recipes/demo/storyteller", TEXT, "--shard 2/2", "model");
    shard(clerk, "-f @tests/data/demo/held-out.txt --ctx 16", "--shard 2/2", "ctx");
    shard(clerk, TEXT, "--shard 2/2 --process-output", "output");
    shard(clerk, TEXT, "--shard 1/4", "overlap");
    let mut text = fs::read_to_string(shipped("tests/data/demo/held-out.txt")).unwrap();
    text.push_str(" And then?");
    fs::write(place.path("text.txt"), text).unwrap();
    shard(clerk, "-f text.txt --ctx 32", "--shard 2/2", "text");
    place.ok("quantize @recipes/demo/clerk BF16 -o bf16.gguf");
    shard("bf16.gguf", TEXT, "--shard 2/2", "type");
    let other = match Precision::fastest() {
        Precision::F32 => "bf16",
        Precision::Bf16 => "f32",
    };
    shard(clerk, TEXT, &format!("--shard 2/2 --precision {other}"), "precision");
    for (other, parts) in [
        ("model.gguf", &["model.gguf: not a shard of the same run as a.gguf: the model"][..]),
        ("ctx.gguf", &["ctx.gguf", "settings (ctx = 16 for ctx = 32)"]),
        ("output.gguf", &["output.gguf", "process_output = true"]),
        ("precision.gguf", &["precision.gguf", &format!("precision = {other} for precision = ")]),
        ("overlap.gguf", &["chunks 1-4 of the text are in", "too"]),
        ("text.gguf", &["text.gguf: not a shard of the same run as a.gguf: the text"]),
        ("type.gguf", &["type.gguf", "the model"]),
        ("a.gguf", &["a.gguf: chunks 1-9 of the text are in a.gguf too"]),
        ("@tests/data/smollm2/imatrix-gpl3.gguf", &["does not record what it was computed from"]),
        ("@tests/data/smollm2/imatrix-gpl3-4chunks.dat", &["does not record what it was"]),
        ("bf16.gguf", &["bf16.gguf", "not an importance matrix"]),
    ] {
        place.fails(1, &format!("imatrix merge a.gguf {other} -o x.gguf"), parts);
    }
    let ends = ["imatrix merge -o x.gguf", "imatrix merge a.gguf"];
    ends.iter().for_each(|line| drop(place.fails(2, line, &["required"])));
    place.fails(2, "imatrix merge a.gguf -o a.gguf", &["a.gguf", "exists already", "--force"]);
    let line = format!("imatrix {clerk} {TEXT} -o x.dat --format dat --shard 1/2");
    place.fails(2, &line, &["--shard needs the gguf layout"]);
    let line = format!("imatrix {clerk} {TEXT} -o x.gguf --shard 1/19");
    place.fails(2, &line, &["shard 1/19 of 18 chunks is empty"]);
    place.fails(2, &format!("imatrix {clerk} {TEXT} -o x.gguf --shard 0/2"), &["1/4 to 4/4"]);
    assert!(!place.path("x.gguf").exists());
}

#[test]
fn other_weights_of_the_same_shapes_are_another_model() {
    let place = Place::new();
    place.ok("convert @recipes/demo/clerk -o a.gguf");
    let bytes = place.read("a.gguf");
    let hash = |name: &str| {
        let model = aqueduct::formats::gguf::open(place.path(name)).unwrap();
        aqueduct::measure::imatrix::model_hash(&model).unwrap()
    };
    let first = hash("a.gguf");
    let file = aqueduct::formats::gguf::GgufFile::open(place.path("a.gguf")).unwrap();
    for (tensor, differs) in [
        ("blk.0.attn_norm.weight", true),
        ("output_norm.weight", true),
        ("blk.2.attn_v.weight", true),
        ("blk.2.ffn_down.weight", true),
        // Not looked at.
        ("token_embd.weight", false),
    ] {
        let index = file.header().tensors.iter().position(|info| info.name == tensor).unwrap();
        let data = file.tensor_bytes(index);
        let at = bytes.windows(data.len()).position(|window| window == data).unwrap();
        let mut changed = bytes.clone();
        changed[at + data.len() / 2] ^= 1;
        fs::write(place.path("b.gguf"), changed).unwrap();
        assert_eq!(hash("b.gguf") != first, differs, "{tensor}");
    }
}

#[test]
fn missing_shards_are_warned_of() {
    let place = Place::new();
    for number in [1, 3] {
        run(&place, &format!("--shard {number}/4 -o {number}.gguf"));
    }
    let ran = place.ok("imatrix merge 1.gguf 3.gguf -o part.gguf");
    let expected = "warning: chunks 5-9, 14-18 were requested and are in none of the files";
    assert!(ran.stderr.contains(expected), "{}", ran.stderr);
    assert!(ran.stdout.contains("2 files") && ran.stdout.contains("from 8 chunks"));
    let ran = place.ok("quantize @recipes/demo/clerk Q4_K_M --imatrix part.gguf -o q.gguf");
    assert!(ran.stderr.contains("without chunks 5-9, 14-18"), "{}", ran.stderr);
    let shown = place.ok("imatrix show part.gguf --layers").stdout;
    assert!(shown.contains("a part: chunks 5-9, 14-18 were requested too"), "{shown}");
    for number in [2, 4] {
        run(&place, &format!("--shard {number}/4 -o {number}.gguf"));
    }
    // What was merged merges on.
    let ran = place.ok("imatrix merge part.gguf 4.gguf 2.gguf -o whole.gguf");
    assert_eq!(ran.stderr, "");
    assert!(matrix(&place, "whole.gguf").record.unwrap().missing().is_empty());
}

#[test]
fn without_checks_anything_of_the_same_shapes_is_added() {
    let place = Place::new();
    run(&place, "--chunks 3 -o a.gguf");
    let dat = "--chunks 2 --format dat -o b.dat";
    place.ok(&format!("imatrix @recipes/demo/storyteller {TEXT} {dat}"));
    let ran = place.ok("imatrix merge --unchecked a.gguf b.dat -o c.gguf --json").json();
    assert_eq!((&ran["chunks"], &ran["perplexity"]), (&json!(5), &Json::Null));
    let [a, b, c] = ["a.gguf", "b.dat", "c.gguf"].map(|name| matrix(&place, name));
    assert_eq!(c.record, None::<Record>, "nothing is known of the sum");
    let name = "blk.1.ffn_down.weight";
    assert_eq!(c.entries[name].counts, [160]);
    let expected = a.entries[name].sums[7] + b.entries[name].sums[7] * 32.0;
    assert_eq!(c.entries[name].sums[7], expected);
    let peer = "@tests/data/smollm2/imatrix-gpl3.gguf";
    let parts = ["imatrix-gpl3.gguf", "tensor 'blk.", "columns"];
    place.fails(1, &format!("imatrix merge --unchecked a.gguf {peer} -o x.gguf"), &parts);
}
