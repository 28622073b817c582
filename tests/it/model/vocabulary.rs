//! Tokenizer files to GGUF vocabularies: byte-level, SentencePiece, and SentencePiece as JSON.

use crate::support::files::assert_error;
use crate::support::sentencepiece::{PIECES, sentencepiece};
use crate::support::tiny_llama::{CONFIG, checkpoint, tensors, tokenizer_json};
use aqueduct::base::dtype::DType;
use aqueduct::formats::checkpoint::Checkpoint;
use aqueduct::formats::gguf::{Array, Metadata, Value};
use aqueduct::model::convert::{ConvertOptions, convert};
use aqueduct::model::tokenizer::Tokenizer;
use serde_json::{Value as Json, json};

fn model(files: &[(&str, &[u8])], options: &ConvertOptions) -> aqueduct::Result<Metadata> {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint: Checkpoint = checkpoint(dir.path(), CONFIG, tensors(DType::F16), files);
    convert(&checkpoint, options).map(|model| model.metadata)
}

fn with_files(files: &[(&str, Json)]) -> aqueduct::Result<Metadata> {
    let files: Vec<(&str, String)> = files.iter().map(|(n, json)| (*n, json.to_string())).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(n, text)| (*n, text.as_bytes())).collect();
    model(&files, &ConvertOptions::default())
}

fn tokens(metadata: &Metadata) -> &[String] {
    metadata.strings("tokenizer.ggml.tokens").unwrap()
}

fn kinds(metadata: &Metadata) -> &[i32] {
    match metadata.get("tokenizer.ggml.token_type") {
        Some(Value::Array(Array::I32(kinds))) => kinds,
        other => panic!("{other:?}"),
    }
}

fn scores(metadata: &Metadata) -> &[f32] {
    match metadata.get("tokenizer.ggml.scores") {
        Some(Value::Array(Array::F32(scores))) => scores,
        other => panic!("{other:?}"),
    }
}

fn encode(metadata: &Metadata, text: &str) -> Vec<u32> {
    Tokenizer::from_metadata("test", metadata).unwrap().encode_document(text, true).unwrap()
}

#[test]
fn byte_level_tokens_and_kinds() {
    let metadata = with_files(&[("tokenizer.json", tokenizer_json())]).unwrap();
    assert_eq!(metadata.str("tokenizer.ggml.model"), Some("gpt2"));
    assert_eq!(metadata.str("tokenizer.ggml.pre"), Some("smollm"), "recognised by its structure");
    let expected = ["<s>", "</s>", "a", "b", "Ġ", "ab", "Ġab", "1", "<br>", "<|x|>", "[PAD10]"];
    assert_eq!(tokens(&metadata)[..11], expected.map(String::from));
    assert_eq!(tokens(&metadata).len(), 16, "padded to the rows of the embedding");
    assert_eq!(kinds(&metadata)[..11], [3, 3, 1, 1, 1, 1, 1, 1, 4, 3, 5]);
    assert_eq!(encode(&metadata, "ab ab11<br><s>"), [5, 6, 7, 7, 8, 0]);
}

#[test]
fn merges_in_both_spellings_are_written_alike() {
    let mut pairs = tokenizer_json();
    pairs["model"]["merges"] = json!([["a", "b"], ["Ġ", "ab"]]);
    let pairs = with_files(&[("tokenizer.json", pairs)]).unwrap();
    let texts = with_files(&[("tokenizer.json", tokenizer_json())]).unwrap();
    let merges = |m: &Metadata| m.strings("tokenizer.ggml.merges").unwrap().to_vec();
    assert_eq!(merges(&pairs), ["a b", "Ġ ab"]);
    assert_eq!(merges(&pairs), merges(&texts));
}

#[test]
fn special_tokens_and_what_is_added() {
    let mut tokenizer = tokenizer_json();
    tokenizer["post_processor"] = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                 {"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}});
    let config = json!({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": "<|x|>",
        "add_bos_token": false, "add_eos_token": true, "add_prefix_space": false,
        "chat_template": [{"name": "default", "template": "D"}, {"name": "tool use", "template": "T"}]});
    let files = [("tokenizer.json", tokenizer), ("tokenizer_config.json", config)];
    let metadata = with_files(&files).unwrap();
    let first = metadata.iter().position(|(key, _)| key == "tokenizer.ggml.merges").unwrap() + 1;
    let written: Vec<(&str, String)> =
        metadata.iter().skip(first).map(|(k, v)| (k, format!("{v:?}"))).collect();
    let written: Vec<(&str, &str)> = written.iter().map(|(k, v)| (*k, v.as_str())).collect();
    assert_eq!(
        written,
        [
            ("tokenizer.ggml.bos_token_id", "U32(0)"),
            ("tokenizer.ggml.eos_token_id", "U32(1)"),
            ("tokenizer.ggml.padding_token_id", "U32(9)"),
            // The post-processor decides over tokenizer_config.json.
            ("tokenizer.ggml.add_bos_token", "Bool(true)"),
            ("tokenizer.ggml.add_sep_token", "Bool(false)"),
            ("tokenizer.ggml.add_eos_token", "Bool(true)"),
            ("tokenizer.chat_template.tool_use", "String(\"T\")"),
            ("tokenizer.chat_templates", "Array(String([\"tool_use\"]))"),
            ("tokenizer.chat_template", "String(\"D\")"),
        ]
    );
    assert_eq!(metadata.bool("tokenizer.ggml.add_space_prefix"), Some(false));
    assert_eq!(encode(&metadata, "ab"), [0, 5, 1]);
}

#[test]
fn chat_templates_come_from_their_files_too() {
    let template = |files: &[(&str, &[u8])]| {
        let json = tokenizer_json().to_string();
        let mut all = vec![("tokenizer.json", json.as_bytes()), ("tokenizer_config.json", b"{}")];
        all.extend_from_slice(files);
        let metadata = model(&all, &ConvertOptions::default()).unwrap();
        metadata.str("tokenizer.chat_template").map(str::to_string)
    };
    assert_eq!(template(&[]), None);
    let json: (&str, &[u8]) = ("chat_template.json", br#"{"chat_template": "J"}"#);
    assert_eq!(template(&[json]).as_deref(), Some("J"));
    assert_eq!(
        template(&[json, ("chat_template.jinja", b"{{ x }}\n")]).as_deref(),
        Some("{{ x }}\n")
    );
}

#[test]
fn an_unknown_pre_tokenizer_must_be_named() {
    let mut tokenizer = tokenizer_json();
    tokenizer["pre_tokenizer"] = json!({"type": "Whitespace"});
    let text = tokenizer.to_string();
    let files = [("tokenizer.json", text.as_bytes())];
    let named = |name: &str| {
        let pre_tokenizer = Some(name.to_string());
        model(&files, &ConvertOptions { pre_tokenizer, ..ConvertOptions::default() })
    };
    let unnamed = model(&files, &ConvertOptions::default());
    assert_error(unnamed, &["tokenizer.json", "pre-tokenizer", "--pre-tokenizer NAME"]);
    assert_eq!(named("qwen2").unwrap().str("tokenizer.ggml.pre"), Some("qwen2"));
    assert_error(named("nonsense"), &["--pre-tokenizer", "'nonsense'", "llama-bpe"]);
}

#[test]
fn vocabularies_that_do_not_fit_are_refused() {
    let mut large = tokenizer_json();
    large["added_tokens"][3]["id"] = json!(16);
    let result = with_files(&[("tokenizer.json", large)]);
    assert_error(result, &["tokenizer.json", "token id 16", "'vocab_size' of 16"]);
    let mut doubled = tokenizer_json();
    doubled["model"]["vocab"]["b"] = json!(2);
    assert_error(with_files(&[("tokenizer.json", doubled)]), &["share the id 2"]);
    let mut far = tokenizer_json();
    far["model"]["vocab"]["b"] = json!(1u64 << 29);
    assert_error(with_files(&[("tokenizer.json", far)]), &["token 'b'", "out of all range"]);
    let unigram = json!({"model": {"type": "Unigram", "vocab": [["a", -1.0]]}});
    assert_error(with_files(&[("tokenizer.json", unigram)]), &["'Unigram' is not supported"]);
    assert_error(with_files(&[("tokenizer.json", json!([1]))]), &["tokenizer.json"]);
    let none = model(&[], &ConvertOptions::default());
    assert_error(none, &["tiny/config.json", "no tokenizer", "tokenizer.model"]);
}

#[test]
fn sentencepiece_tokens_scores_and_kinds() {
    let config = json!({"added_tokens_decoder": {
        "11": {"content": "<mark>", "special": false}, "1": {"content": "<s>", "special": true},
        "12": {"content": "a\u{2581}b"}, "99": {"content": "beyond"}}})
    .to_string();
    let bytes = sentencepiece(PIECES, true);
    let files: [(&str, &[u8]); 3] = [
        ("tokenizer.model", &bytes),
        ("tokenizer_config.json", config.as_bytes()),
        ("added_tokens.json", br#"{"<extra>": 13}"#),
    ];
    let metadata = model(&files, &ConvertOptions::default()).unwrap();
    assert_eq!(metadata.str("tokenizer.ggml.model"), Some("llama"));
    assert_eq!(metadata.str("tokenizer.ggml.pre"), Some("default"));
    let expected = ["<mark>", "a b", "<extra>", "[PAD14]", "[PAD15]"];
    assert_eq!(tokens(&metadata)[11..], expected.map(String::from));
    assert_eq!(kinds(&metadata), [2, 3, 3, 6, 1, 1, 1, 1, 1, 1, 5, 4, 4, 4, 5, 5]);
    let added = -1000.0;
    let expected = [added, 0.0, 0.0, -0.5, -1.5, -2.5, -3.5, -4.5, -5.5, -6.5, added, added, added];
    assert_eq!(scores(&metadata)[1..14], expected);
    assert_eq!(scores(&metadata)[14..], [-10000.0; 2]);
    assert_eq!(metadata.get("tokenizer.ggml.add_space_prefix"), None);
    assert_eq!(encode(&metadata, "ab ab!"), [0, 4, 4, 3], "BOS is 0 in config.json");
}

#[test]
fn sentencepiece_without_a_space_before_texts_says_so() {
    let bytes = sentencepiece(PIECES, false);
    let metadata = model(&[("tokenizer.model", &bytes)], &ConvertOptions::default()).unwrap();
    assert_eq!(metadata.bool("tokenizer.ggml.add_space_prefix"), Some(false));
    assert_eq!(encode(&metadata, "ab ab"), [0, 5, 4]);
}

#[test]
fn damaged_sentencepiece_models_are_refused() {
    let bytes = sentencepiece(PIECES, true);
    for cut in [1, 7, bytes.len() - 1] {
        let result = model(&[("tokenizer.model", &bytes[..cut])], &ConvertOptions::default());
        assert_error(result, &["tokenizer.model", "SentencePiece"]);
    }
    let empty = model(&[("tokenizer.model", b"")], &ConvertOptions::default());
    assert_error(empty, &["tokenizer.model", "without pieces"]);
}

#[test]
fn sentencepiece_as_json_keeps_the_order_of_merges() {
    let vocab = ["<unk>", "<s>", "</s>", "<0x21>", "\u{2581}", "a", "b", "ba", "ab", "\u{2581}a"];
    let vocab: serde_json::Map<String, Json> =
        vocab.iter().enumerate().map(|(id, text)| (text.to_string(), json!(id))).collect();
    let tokenizer = json!({
        "added_tokens": [{"id": 1, "content": "<s>", "special": true},
                         {"id": 10, "content": "<new>", "special": false}],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
        "pre_tokenizer": null,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "byte_fallback": true, "unk_token": "<unk>", "vocab": vocab,
                  "merges": [["b", "a"], ["a", "b"], ["\u{2581}", "a"]]},
    });
    let mut bare = tokenizer.clone();
    let metadata = with_files(&[("tokenizer.json", tokenizer)]).unwrap();
    assert_eq!(metadata.str("tokenizer.ggml.model"), Some("llama"));
    assert_eq!(kinds(&metadata)[..12], [2, 3, 1, 6, 1, 1, 1, 1, 1, 1, 4, 5]);
    assert_eq!(scores(&metadata)[7..10], [-0.0, -1.0, -2.0]);
    assert_eq!(metadata.get("tokenizer.ggml.add_space_prefix"), None);
    assert_eq!(encode(&metadata, "aba!"), [0, 9, 7, 3], "'b a' ranks first");
    bare["normalizer"] =
        json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    let metadata = with_files(&[("tokenizer.json", bare)]).unwrap();
    assert_eq!(metadata.bool("tokenizer.ggml.add_space_prefix"), Some(false));
}
