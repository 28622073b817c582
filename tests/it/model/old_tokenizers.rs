//! Folders whose tokenizer is vocab.json and merges.txt: converted, calibrated and merged like others.
//!
//! Expected ids: transformers 5.24 (AutoTokenizer) on the same files, with model_type gpt2, for it refuses such files
//! beside a llama.

use crate::support::program::{Place, shipped};
use aqueduct::formats::gguf::{self, Metadata};
use aqueduct::model::tokenizer::Tokenizer;
use serde_json::{Value as Json, json};
use std::fs;

/// The demo's clerk with its tokenizer in the old form. `files` are added or replace what is there.
fn place(files: &[(&str, Json)]) -> Place {
    let place = Place::new();
    write_model(&place, "model", files);
    place
}

fn write_model(place: &Place, name: &str, files: &[(&str, Json)]) {
    let clerk = shipped("recipes/demo/clerk");
    let dir = place.path(name);
    fs::create_dir(&dir).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(clerk.join(file), dir.join(file)).unwrap();
    }
    let text = fs::read_to_string(clerk.join("tokenizer.json")).unwrap();
    let json: Json = serde_json::from_str(&text).unwrap();
    fs::write(dir.join("vocab.json"), json["model"]["vocab"].to_string()).unwrap();
    let merge = |merge: &Json| match merge {
        Json::String(text) => text.clone(),
        pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
    };
    let merges: Vec<_> = json["model"]["merges"].as_array().unwrap().iter().map(merge).collect();
    fs::write(dir.join("merges.txt"), format!("#version: 0.2\n{}\n", merges.join("\n"))).unwrap();
    for (name, value) in files {
        fs::write(dir.join(name), value.to_string()).unwrap();
    }
}

fn metadata(place: &Place) -> Metadata {
    place.ok("convert model -o m.gguf --force --quiet");
    gguf::open(place.path("m.gguf")).unwrap().metadata
}

fn ids(metadata: &Metadata, text: &str) -> Vec<u32> {
    Tokenizer::from_metadata("m", metadata).unwrap().encode(text, true).unwrap()
}

const GPT2: [u32; 24] = [
    257, 292, 79, 221, 262, 274, 327, 7, 83, 303, 18, 19, 221, 199, 199, 221, 88, 28, 92, 443, 63,
    388, 278, 84,
];

#[test]
fn gpt2s_class_cuts_text_as_transformers_does() {
    let place = place(&[("tokenizer_config.json", json!({"tokenizer_class": "GPT2Tokenizer"}))]);
    let made = metadata(&place);
    assert_eq!(made.str("tokenizer.ggml.pre"), Some("gpt-2"));
    let ids_here = ids(&made, "hello  world's 123 \n\n x<|im_start|>");
    assert_eq!(ids_here[..24], GPT2);
    assert_eq!(ids(&made, "don't I'LL 2024"), [68, 268, 7, 84, 324, 7, 44, 44, 342, 16, 18, 20]);
    // The default special token is one.
    assert_eq!(ids(&made, "x<|endoftext|>a"), [88, 0, 65]);
    fs::write(place.path("t.txt"), "A page about a house by the sea. ".repeat(40)).unwrap();
    place.ok("imatrix model -f t.txt --ctx 32 --chunks 1 -o i.gguf --quiet");
}

#[test]
fn qwen2s_class_has_its_own_cuts_and_added_tokens() {
    let files = [
        ("tokenizer_config.json", json!({"tokenizer_class": "Qwen2Tokenizer"})),
        ("added_tokens.json", json!({"<extra>": 511})),
        (
            "special_tokens_map.json",
            json!({"eos_token": {"content": "<|endoftext|>"}, "pad_token": "<extra>"}),
        ),
    ];
    let place = place(&files);
    // One token gives its place to the added one.
    let path = place.path("model/vocab.json");
    let mut vocab: Json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let last = vocab.as_object().unwrap().iter().find(|(_, id)| **id == 511).unwrap().0.clone();
    vocab.as_object_mut().unwrap().remove(&last);
    fs::write(&path, vocab.to_string()).unwrap();
    let merges = fs::read_to_string(place.path("model/merges.txt")).unwrap();
    let kept = merges.lines().filter(|line| line.replace(' ', "") != last);
    fs::write(place.path("model/merges.txt"), kept.collect::<Vec<_>>().join("\n")).unwrap();
    let made = metadata(&place);
    assert_eq!(made.str("tokenizer.ggml.pre"), Some("qwen2"));
    let expected = [68, 268, 7, 84, 324, 7, 44, 44, 221, 18, 16, 18, 20];
    assert_eq!(ids(&made, "don't I'LL 2024"), expected);
    assert_eq!(ids(&made, "<extra> <|endoftext|>a"), [511, 221, 0, 65]);
    assert_eq!(made.u64("tokenizer.ggml.padding_token_id"), Some(511));
    assert_eq!(made.u64("tokenizer.ggml.eos_token_id"), Some(0));
}

#[test]
fn the_old_form_gives_what_a_tokenizer_json_gives() {
    let place = place(&[("tokenizer_config.json", json!({"tokenizer_class": "GPT2Tokenizer"}))]);
    let made = metadata(&place);
    let new = Place::new();
    new.ok("convert @recipes/demo/clerk -o m.gguf --quiet");
    let expected = gguf::open(new.path("m.gguf")).unwrap().metadata;
    for key in ["tokens", "token_type", "merges", "model", "pre", "bos_token_id", "eos_token_id"] {
        let key = format!("tokenizer.ggml.{key}");
        assert_eq!(made.get(&key), expected.get(&key), "{key}");
    }
}

#[test]
fn merges_carry_the_old_form_and_replace_it_where_tokens_change() {
    let gpt2 = json!({"tokenizer_class": "GPT2Tokenizer"});
    let place = place(&[("tokenizer_config.json", gpt2.clone())]);
    write_model(&place, "other", &[("tokenizer_config.json", gpt2)]);
    let recipe = |more: &str| {
        format!(
            "merge_method: linear\ndtype: float16\n{more}models:\n- {{model: model, parameters: {{weight: 0.5}}}}\n\
             - {{model: other, parameters: {{weight: 0.5}}}}\n"
        )
    };
    fs::write(place.path("r.yml"), recipe("")).unwrap();
    place.ok("merge r.yml -o plain --quiet");
    for file in ["vocab.json", "merges.txt", "tokenizer_config.json"] {
        assert_eq!(
            place.read(&format!("plain/{file}")),
            place.read(&format!("model/{file}")),
            "{file}"
        );
    }
    let tokens = "tokenizer: {source: union, tokens: {'<new>': {source: {kind: zero}}}}\n";
    fs::write(place.path("r.yml"), recipe(tokens)).unwrap();
    place.ok("merge r.yml -o grown --quiet");
    let names = crate::support::files::entries(&place.path("grown"));
    assert!(names.contains(&"tokenizer.json".to_string()), "{names:?}");
    assert!(!names.contains(&"vocab.json".to_string()), "{names:?}");
    place.ok("convert grown -o g.gguf --quiet");
    let grown = gguf::open(place.path("g.gguf")).unwrap().metadata;
    assert_eq!(ids(&grown, "x<new>"), [88, 512]);
    assert_eq!(ids(&grown, "don't I'LL 2024"), [68, 268, 7, 84, 324, 7, 44, 44, 342, 16, 18, 20]);
}

#[test]
fn what_is_not_told_or_damaged_is_an_error_that_says_so() {
    let place = place(&[]);
    place.fails(1, "convert model -o m.gguf", &["vocab.json", "--pre-tokenizer"]);
    place.ok("convert model -o m.gguf --pre-tokenizer qwen2 --quiet");
    fs::write(place.path("model/merges.txt"), "#version: 0.2\na b\na b c\n").unwrap();
    place.fails(
        1,
        "convert model -o x.gguf",
        &["merges.txt: line 3 has 3 tokens, not the two of a merge"],
    );
    fs::write(place.path("model/vocab.json"), "{\"a\": -1}").unwrap();
    place.fails(
        1,
        "convert model -o x.gguf",
        &["vocab.json", "the id of token 'a' is no usable number"],
    );
}
