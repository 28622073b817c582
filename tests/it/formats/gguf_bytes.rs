//! Strings of a GGUF file that are no UTF-8 are carried byte for byte.

use crate::support::program::{Place, shipped};
use aqueduct::base::progress::Silent;
use aqueduct::formats::gguf::{self, Array, GgufModel, Value, text_of_bytes};
use std::sync::Arc;

/// What the third and the fourth token become.
const TOKENS: [&[u8]; 2] = [b"\xe2\x96", b"a\xff\xfe\xf4\x8f\xbf\xbf"];

/// The demo's clerk as a GGUF file with such tokens.
fn place() -> Place {
    let place = Place::new();
    place.ok("convert @recipes/demo/clerk -o clerk.gguf --quiet");
    let GgufModel { mut metadata, tensors, warnings } =
        gguf::open(place.path("clerk.gguf")).unwrap();
    let mut tokens = metadata.strings("tokenizer.ggml.tokens").unwrap().to_vec();
    for (at, bytes) in TOKENS.iter().enumerate() {
        tokens[500 + at] = text_of_bytes(bytes);
    }
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
    metadata.set("general.description", text_of_bytes(b"caf\xe9"));
    let model = GgufModel { metadata, tensors: Arc::clone(&tensors), warnings };
    gguf::write(&model, &place.path("odd.gguf"), false, &Silent).unwrap();
    place
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    let with_length = [&(part.len() as u64).to_le_bytes()[..], part].concat();
    bytes.windows(with_length.len()).any(|window| window == with_length)
}

#[test]
fn odd_bytes_are_read_quantized_split_joined_and_copied() {
    let place = place();
    let odd = place.read("odd.gguf");
    place.ok("convert odd.gguf -o copy.gguf --quiet");
    assert_eq!(place.read("copy.gguf"), odd);
    place.ok("split odd.gguf -o part --max-tensors 8 --quiet");
    let shard = place.entries().into_iter().find(|name| name.starts_with("part-00001")).unwrap();
    place.ok(&format!("join {shard} -o joined.gguf --quiet"));
    assert_eq!(place.read("joined.gguf"), odd);
    place.ok("quantize odd.gguf -o q Q8_0 --quiet");
    std::fs::write(place.path("t.txt"), "A page about a house by the sea. ".repeat(40)).unwrap();
    place.ok("imatrix odd.gguf -f t.txt --ctx 32 --chunks 1 -o i.gguf --quiet");
    for bytes in [odd, place.read("q/odd-Q8_0.gguf")] {
        for part in TOKENS.into_iter().chain([&b"caf\xe9"[..]]) {
            assert!(holds(&bytes, part), "{part:?}");
        }
    }
}

#[test]
fn odd_bytes_are_shown_escaped() {
    let place = place();
    let shown = place.ok("inspect odd.gguf").stdout;
    assert!(shown.contains("caf\\xe9"), "{shown}");
    let json = place.ok("inspect odd.gguf --json").stdout;
    assert!(json.contains(r"caf\\xe9"), "{json}");
}

#[test]
fn a_merge_says_which_token_files_cannot_hold() {
    let place = place();
    let clerk = shipped("recipes/demo/clerk");
    let recipe = |more: &str| {
        format!(
            "merge_method: linear\ndtype: float16\n{more}models:\n- {{model: odd.gguf, parameters: {{weight: 0.5}}}}\n\
             - {{model: {}, parameters: {{weight: 0.5}}}}\n",
            clerk.display()
        )
    };
    std::fs::write(place.path("r.yml"), recipe("base_model: odd.gguf\n")).unwrap();
    place.fails(1, "convert r.yml -o r.gguf", &["token 500, '\\xe2\\x96', is not UTF-8"]);
    // Its weights are as good as any.
    let other = format!("tokenizer_source: {}\n", clerk.display());
    std::fs::write(place.path("r.yml"), recipe(&other)).unwrap();
    place.ok("merge r.yml -o merged --quiet");
}

#[test]
fn keys_and_names_must_be_utf8() {
    let place = place();
    let mut bytes = place.read("clerk.gguf");
    let at = bytes.windows(12).position(|window| window == b"general.type").unwrap();
    bytes[at] = 0xff;
    std::fs::write(place.path("bad.gguf"), bytes).unwrap();
    place.fails(1, "inspect bad.gguf", &["the key of metadata entry", "not valid UTF-8"]);
}
