//! `aqueduct split` and `join`: against llama.cpp's files by hash, and back to the file that was
//! split.

use crate::support::program::{Place, shipped};
use aqueduct::formats::gguf::{self, GgufFile, Value, shard_name};
use sha2::{Digest, Sha256};
use std::fs;

/// A place with the file that the hashes were made of.
fn place() -> Place {
    let place = Place::new();
    place.ok("convert @recipes/demo/clerk --type f16 -o clerk.gguf");
    place
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn files_equal_gguf_splits_and_join_gives_back_what_was_split() {
    let place = place();
    let source = place.read("clerk.gguf");
    let text = fs::read_to_string(shipped("tests/data/split/gguf-split.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    let golden = golden.as_object().unwrap();
    assert_eq!(golden.len(), 5);
    for (number, (options, expected)) in golden.iter().enumerate() {
        let dir = format!("d{number}");
        let told = place.ok(&format!("split clerk.gguf -o {dir}/x {options} --json")).json();
        let expected = expected.as_object().unwrap();
        let files = told["files"].as_array().unwrap();
        assert_eq!((files.len() + 1, &told["tensors"]), (expected.len(), &30.into()), "{options}");
        let bytes: usize = files.iter().map(|f| place.read(f.as_str().unwrap()).len()).sum();
        assert_eq!(told["bytes"], bytes, "{options}");
        let last = files.last().unwrap().as_str().unwrap();
        // Any shard stands for all.
        place.ok(&format!("join {last} -o {dir}/merged.gguf --keep-split-keys"));
        for (name, expected) in expected {
            let made = sha256(&place.read(&format!("{dir}/{name}")));
            assert_eq!(made, expected.as_str().unwrap(), "{options}: {name}");
        }
        place.ok(&format!("join {last} -o {dir}/joined.gguf"));
        assert!(place.read(&format!("{dir}/joined.gguf")) == source, "{options}");
    }
}

#[test]
fn split_models_are_divided_anew_and_quantized_ones_too() {
    let place = place();
    place.ok("quantize clerk.gguf Q4_K_M -o q.gguf");
    place.ok("split q.gguf -o a/ --max-tensors 4");
    let first = shard_name("a/q", 0, 8);
    // The folder takes the name without the shard's number; an end of .gguf is no part of a prefix.
    place.ok(&format!("split {first} -o b/ --max-shard-size 300kB"));
    place.ok("split q.gguf -o c/q.gguf --max-shard-size 300kB");
    let made: Vec<_> = fs::read_dir(place.path("b")).unwrap().map(|e| e.unwrap()).collect();
    assert!(made.len() > 2, "{}", made.len());
    for entry in made {
        let name = entry.file_name().into_string().unwrap();
        assert!(place.read(&format!("b/{name}")) == place.read(&format!("c/{name}")), "{name}");
    }
    let names: Vec<_> = fs::read_dir(place.path("b")).unwrap().collect();
    let first = shard_name("b/q", 0, names.len() as u64);
    place.ok(&format!("join {first} -o again.gguf"));
    assert!(place.read("again.gguf") == place.read("q.gguf"));
}

#[test]
fn a_first_file_of_metadata_opens_as_the_model() {
    let place = place();
    place.ok("split clerk.gguf -o m --no-tensor-first-split");
    let first = GgufFile::open(place.path(&shard_name("m", 0, 2))).unwrap();
    assert_eq!((first.header().tensors.len(), first.split()), (0, Some((0, 2))));
    assert_eq!(first.header().metadata.get("split.count"), Some(&Value::U16(2)));
    let (split, whole) = (gguf::open(first.path()), gguf::open(place.path("clerk.gguf")));
    let (split, whole) = (split.unwrap(), whole.unwrap());
    assert_eq!(split.metadata, whole.metadata);
    assert_eq!(split.tensors.table().infos(), whole.tensors.table().infos());
}

#[test]
fn what_cannot_be_split_or_joined_is_refused() {
    let place = place();
    place.fails(1, "join clerk.gguf -o x.gguf", &["clerk.gguf", "not a shard of a split model"]);
    let both = "split clerk.gguf -o x --max-tensors 3 --max-shard-size 1MB";
    place.fails(2, both, &["--max-tensors", "cannot be used with"]);
    place.fails(2, "split clerk.gguf -o x --max-tensors 0", &["--max-tensors"]);
    place.ok("split clerk.gguf -o x --max-tensors 20");
    place.fails(2, "split clerk.gguf -o x --max-tensors 20", &["x-0000", "exists", "--force"]);
    place.ok("split clerk.gguf -o x --max-tensors 20 --force");
    fs::remove_file(place.path(&shard_name("x", 1, 2))).unwrap();
    let first = shard_name("x", 0, 2);
    place.fails(1, &format!("join {first} -o y.gguf"), &["x-00002-of-00002.gguf' is missing"]);
    assert!(!place.path("y.gguf").exists());
}
