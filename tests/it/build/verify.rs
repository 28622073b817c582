//! `aqueduct verify`: what is whole passes, and each kind of damage is found, with its place.

use crate::support::program::{Place, Ran, finished, one_error, shipped};
use aqueduct::base::dtype::DType;
use aqueduct::formats::gguf::{GgufFile, GgufWriter, Metadata, shard_name};
use aqueduct::formats::source::TensorInfo;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use std::fs;

/// A place with the demo's clerk as `clerk.gguf` in F16, and quantized with an importance matrix in the folder
/// `q`, with SHA256SUMS.
fn place() -> Place {
    let place = Place::new();
    fs::create_dir(place.path("q")).unwrap();
    let imatrix = shipped("tests/data/quantize/clerk-imatrix.gguf");
    fs::copy(imatrix, place.path("q/clerk-imatrix.gguf")).unwrap();
    place.ok("convert @recipes/demo/clerk --type f16 -o clerk.gguf");
    let line = "quantize clerk.gguf --imatrix q/clerk-imatrix.gguf -o q Q4_K_M IQ2_XS Q8_0 --quiet";
    place.ok(line);
    write_sums(&place);
    place
}

const FILES: [&str; 4] =
    ["clerk-imatrix.gguf", "clerk-IQ2_XS.gguf", "clerk-Q4_K_M.gguf", "clerk-Q8_0.gguf"];

fn write_sums(place: &Place) {
    let line = |name: &str| {
        let sum = Sha256::digest(place.read(&format!("q/{name}")));
        let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{sum}  {name}\n")
    };
    fs::write(place.path("q/SHA256SUMS"), FILES.map(line).concat()).unwrap();
}

/// Runs the program, which must find something wrong.
fn wrong(place: &Place, line: &str) -> Ran {
    let ran = finished(line, 1, place.command(line).output().unwrap());
    one_error(line, &ran.stderr, &[" problem"]);
    ran
}

/// The problems that the program finds.
fn problems(place: &Place, line: &str) -> Vec<Json> {
    let json = wrong(place, &format!("{line} --json")).json();
    json["problems"].as_array().unwrap().clone()
}

/// Changes byte `at` of the file `name`.
fn flip(place: &Place, name: &str, at: u64) {
    let mut bytes = place.read(name);
    bytes[at as usize] ^= 1;
    fs::write(place.path(name), bytes).unwrap();
}

fn offset(place: &Place, name: &str, tensor: &str) -> u64 {
    let file = GgufFile::open(place.path(name)).unwrap();
    let index = file.header().tensors.iter().position(|info| info.name == tensor).unwrap();
    file.header().offsets[index]
}

#[test]
fn what_derives_from_its_source_passes() {
    let place = place();
    let ran = place.ok("verify q --source clerk.gguf --full");
    assert!(ran.stdout.contains("nothing is wrong") && ran.stderr.is_empty(), "{}", ran.stderr);
    let json = place.ok("verify q --source @recipes/demo/clerk --full --json").json();
    assert_eq!(json["files"].as_array().unwrap().len(), 4);
    assert_eq!(json["checksums"]["files"], 4);
    let derivation = &json["derivation"];
    assert_eq!((&derivation["tensors"], &derivation["of"]), (&30.into(), &30.into()));
    assert_eq!(derivation["compared"], 90, "30 tensors of three models");
    // A sample of a seed is the same at any number of threads.
    let sample = "verify q/clerk-Q4_K_M.gguf --source clerk.gguf --sample 5 --seed 7 --json";
    let json = place.ok(sample).json();
    assert_eq!(json["derivation"]["compared"], 5);
    assert_eq!(json["checksums"]["files"], 1, "SHA256SUMS beside a file counts");
    // Shards are a model, named by any of them.
    place.ok("split q/clerk-Q4_K_M.gguf -o s/ --max-tensors 8");
    fs::copy(place.path("q/clerk-imatrix.gguf"), place.path("s/clerk-imatrix.gguf")).unwrap();
    let third = shard_name("s/clerk-Q4_K_M", 2, 4);
    for target in ["s", &third] {
        let line = format!("verify {target} --source clerk.gguf --full --json");
        assert_eq!(place.ok(&line).json()["derivation"]["compared"], 30, "{target}");
    }
}

#[test]
fn a_build_from_a_recipe_passes() {
    let place = Place::new();
    place.ok("build @recipes/demo.yml -o out --chunks 2 --quiet");
    let json = place.ok("verify out --source @recipes/demo.yml --full --json").json();
    let compared = json["derivation"]["compared"].as_u64().unwrap();
    assert_eq!((compared, json["files"].as_array().unwrap().len()), (4 * 48, 5));
}

#[test]
fn a_flipped_byte_is_found_with_and_without_sums() {
    let place = place();
    let name = "q/clerk-Q4_K_M.gguf";
    let start = offset(&place, name, "blk.1.ffn_up.weight");
    // In the fourth block, past its scales.
    let at = start + 3 * 144 + 60;
    flip(&place, name, at);
    let found = problems(&place, "verify q");
    assert_eq!(found.len(), 1);
    assert!(found[0]["detail"].as_str().unwrap().contains("SHA-256 is"), "{found:?}");
    fs::remove_file(place.path("q/SHA256SUMS")).unwrap();
    place.ok("verify q");
    let found = problems(&place, "verify q --source clerk.gguf --full");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (&found[0]["tensor"], &found[0]["offset"]),
        (&"blk.1.ffn_up.weight".into(), &at.into())
    );
    let detail = found[0]["detail"].as_str().unwrap();
    assert!(detail.contains("1 of 256 rows") && detail.contains("(row 3)"), "{detail}");
    let text = wrong(&place, "verify q --source clerk.gguf --full").stdout;
    assert!(text.contains(&format!("(at offset {at})")) && text.contains("1 wrong"), "{text}");
    // Some seeds' samples have the tensor, others do not.
    let sample = |seed| {
        let line = format!("verify {name} --source clerk.gguf --sample 12 --seed {seed}");
        place.command(&line).output().unwrap().status.code().unwrap()
    };
    let codes: Vec<_> = (0..12).map(sample).collect();
    assert!(codes.contains(&0) && codes.contains(&1), "{codes:?}");
    assert_eq!(sample(3), codes[3]);
}

#[test]
fn damage_is_found_without_a_source() {
    let place = place();
    fs::remove_file(place.path("q/SHA256SUMS")).unwrap();
    let name = "q/clerk-Q8_0.gguf";
    let whole = place.read(name);
    let one = |bytes: &[u8], parts: &[&str], at: Option<u64>| {
        fs::write(place.path(name), bytes).unwrap();
        let found = problems(&place, "verify q");
        assert_eq!(found.len(), 1, "{found:?}");
        let text = found[0].to_string();
        parts.iter().for_each(|part| assert!(text.contains(part), "{part}: {text}"));
        assert_eq!(found[0]["offset"].as_u64(), at, "{text}");
        assert!(text.contains("clerk-Q8_0.gguf"), "{text}");
    };
    let start = offset(&place, name, "blk.0.attn_q.weight");
    let mut bytes = whole.clone();
    // The scale of the third block becomes NaN.
    bytes[start as usize + 2 * 34 + 1] |= 0x7f;
    one(&bytes, &["blk.0.attn_q.weight", "weights 64 to 95"], Some(start + 2 * 34));
    one(&whole[..whole.len() - 100], &["truncated"], None);
    let more = [&whole[..], &[0; 40]].concat();
    one(&more, &["40 bytes follow"], Some(whole.len() as u64));
    one(b"GGUX", &["not a GGUF file"], None);
    fs::write(place.path(name), whole).unwrap();
    place.ok("verify q");
}

#[test]
fn padding_is_zero() {
    let place = Place::new();
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", "llama");
    let info = |name: &str| TensorInfo::new(name, vec![1], DType::F32);
    let path = place.path("p.gguf");
    let writer = GgufWriter::create(&path, false, &metadata, vec![info("a"), info("b")]).unwrap();
    (0..2).for_each(|index| writer.write_tensor(index, &[0; 4]).unwrap());
    writer.finish().unwrap();
    place.ok("verify p.gguf");
    let b = offset(&place, "p.gguf", "b");
    for (at, part) in [(b - 1, "before tensor 'b'"), (b + 31, "at the end of the file")] {
        flip(&place, "p.gguf", at);
        let found = problems(&place, "verify p.gguf");
        assert_eq!((found.len(), &found[0]["offset"]), (1, &at.into()), "{found:?}");
        assert!(found[0]["detail"].as_str().unwrap().contains(part), "{found:?}");
        flip(&place, "p.gguf", at);
    }
}

#[test]
fn sums_are_compared_for_all_that_is_listed() {
    let place = place();
    let sums = fs::read_to_string(place.path("q/SHA256SUMS")).unwrap();
    fs::write(place.path("q/SHA256SUMS"), sums.replace("clerk-Q8_0", "gone")).unwrap();
    let found = problems(&place, "verify q");
    assert_eq!(found.len(), 1);
    assert!(found[0]["detail"].as_str().unwrap().contains("not there"), "{found:?}");
    let ran = wrong(&place, "verify q");
    assert!(ran.stderr.contains("clerk-Q8_0.gguf: not in SHA256SUMS"), "{}", ran.stderr);
    let wrong_sum = format!("{}{}", if sums.starts_with('0') { "1" } else { "0" }, &sums[1..]);
    fs::write(place.path("q/SHA256SUMS"), format!("{wrong_sum}{}  ../clerk.gguf\n", &sums[..64]))
        .unwrap();
    let found = problems(&place, "verify q");
    let details: Vec<_> = found.iter().map(|p| p["detail"].as_str().unwrap()).collect();
    assert_eq!(details.len(), 2, "{details:?}");
    assert!(details[0].contains("line 5") && details[1].contains(&sums[..64]), "{details:?}");
    // As `sha256sum ./clerk.gguf` writes it.
    fs::write(place.path("SHA256SUMS"), format!("{}  ./clerk.gguf\n", "0".repeat(64))).unwrap();
    for name in ["clerk.gguf", "./clerk.gguf"] {
        assert_eq!(problems(&place, &format!("verify {name}")).len(), 1, "{name}");
    }
}

#[test]
fn what_was_made_of_something_else_does_not_pass() {
    let place = place();
    let line = "verify q/clerk-Q8_0.gguf --source @recipes/demo/storyteller --full";
    assert!(problems(&place, line).len() > 20);
    // Without its importance matrix a file cannot be made again, and Q8_0 needs none.
    fs::rename(place.path("q/clerk-imatrix.gguf"), place.path("moved.gguf")).unwrap();
    fs::remove_file(place.path("q/SHA256SUMS")).unwrap();
    let found = problems(&place, "verify q/clerk-Q8_0.gguf --source clerk.gguf --full");
    assert_eq!(found.len(), 1);
    assert!(found[0]["detail"].as_str().unwrap().contains("--imatrix"), "{found:?}");
    place.ok("verify q --source clerk.gguf --full --imatrix moved.gguf");
    // With some of the weights left out of use, and with none.
    place.ok("quantize clerk.gguf Q4_K_M --imatrix moved.gguf -o half.gguf --exclude-weights ffn --quiet");
    place.ok("verify half.gguf --source clerk.gguf --full");
    place.ok("quantize clerk.gguf Q4_K_M -o plain.gguf --quiet");
    place.ok("verify plain.gguf --source clerk.gguf --full --imatrix moved.gguf");
    place.fails(2, "verify q --full", &["--source"]);
    fs::create_dir(place.path("empty")).unwrap();
    place.fails(1, "verify empty", &["no GGUF file"]);
}

#[test]
fn missing_shards_and_tensors_are_found() {
    let place = place();
    place.ok("split q/clerk-Q8_0.gguf -o s/ --max-tensors 8");
    fs::remove_file(place.path(&shard_name("s/clerk-Q8_0", 2, 4))).unwrap();
    let found = problems(&place, "verify s");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0]["detail"].as_str().unwrap().contains("00003-of-00004.gguf' is missing"));
    place.ok("quantize clerk.gguf Q8_0 -o pruned.gguf --prune-layers 2 --quiet");
    let found = problems(&place, "verify pruned.gguf --source clerk.gguf");
    let names: Vec<_> = found.iter().filter_map(|p| p["tensor"].as_str()).collect();
    assert!(names.contains(&"blk.2.ffn_up.weight"), "{names:?}");
    let details: Vec<_> = found.iter().map(|p| p["detail"].as_str().unwrap()).collect();
    assert!(details.iter().any(|d| d.contains("llama.block_count")), "{details:?}");
}

/// Files do not record what `quantize` was told to drop or to set: `verify` is told so, too.
#[test]
fn what_was_pruned_or_overridden_derives_from_the_changed_source() {
    let place = place();
    place.ok(
        "quantize clerk.gguf Q4_K_M --imatrix q/clerk-imatrix.gguf -o short.gguf --prune-layers 1 \
              --override-kv llama.context_length=int:99 --quiet",
    );
    let line = "verify short.gguf --source clerk.gguf --imatrix q/clerk-imatrix.gguf --full";
    assert!(problems(&place, line).len() > 5);
    let dropped = format!("{line} --prune-layers 1");
    let found = problems(&place, &dropped);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0]["detail"].as_str().unwrap().contains("llama.context_length"), "{found:?}");
    let set = "--override-kv llama.context_length=int:99";
    let json = place.ok(&format!("{dropped} {set} --json")).json();
    // Two of three layers of nine tensors, and the ends.
    assert_eq!(json["derivation"]["compared"], 21);
    // Layer 0 in place of layer 1: what is now the second layer is another one.
    assert!(!problems(&place, &format!("{line} --prune-layers 0 {set}")).is_empty());
    place.fails(2, "verify short.gguf --prune-layers 1", &["--source"]);
    place.fails(2, &format!("{line} --prune-layers 7"), &["no layer 7 to prune"]);
}
