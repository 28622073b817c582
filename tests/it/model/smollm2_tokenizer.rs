//! Text to ids: special tokens, BOS and EOS, errors, and a real model's ids where one is at hand.

use crate::support::tiny_llama::smollm2;
use aqueduct::formats::gguf::{Array, Metadata, Value};
use aqueduct::model::convert::{ConvertOptions, convert};
use aqueduct::model::tokenizer::{Detokenizer, Role, TokenKind, Tokenizer};
use std::path::Path;

fn strings(texts: &[&str]) -> Value {
    Value::Array(Array::String(texts.iter().map(|t| t.to_string()).collect()))
}

fn kinds(kinds: &[TokenKind]) -> Value {
    Value::Array(Array::I32(kinds.iter().map(|&k| k as i32).collect()))
}

/// A byte-level vocabulary: two control tokens, a user-defined one, a few letters and merges.
fn byte_level() -> Metadata {
    let tokens = ["<s>", "</s>", "<br>", "a", "b", "Ġ", "Ċ", "ab", "Ġab", "<", "s", ">", "r", "/"];
    let mut all = vec![TokenKind::Control, TokenKind::Control, TokenKind::UserDefined];
    all.resize(tokens.len(), TokenKind::Normal);
    let mut metadata = Metadata::new();
    metadata.set("tokenizer.ggml.model", "gpt2");
    metadata.set("tokenizer.ggml.pre", "gpt-2");
    metadata.set("tokenizer.ggml.tokens", strings(&tokens));
    metadata.set("tokenizer.ggml.token_type", kinds(&all));
    metadata.set("tokenizer.ggml.merges", strings(&["a b", "Ġ ab"]));
    metadata.set("tokenizer.ggml.bos_token_id", 0);
    metadata.set("tokenizer.ggml.eos_token_id", 1);
    metadata
}

/// A SentencePiece-style vocabulary with byte tokens for everything.
fn score_based() -> Metadata {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    let mut all = vec![TokenKind::Unknown, TokenKind::Control, TokenKind::Control];
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    all.resize(tokens.len(), TokenKind::Byte);
    tokens.extend(["\u{2581}", "a", "b", "\u{2581}a", "ab", "\u{2581}ab"].map(String::from));
    all.resize(tokens.len(), TokenKind::Normal);
    let scores = (0..tokens.len()).map(|i| if i < 262 { 0.0 } else { 261.0 - i as f32 }).collect();
    let mut metadata = Metadata::new();
    metadata.set("tokenizer.ggml.model", "llama");
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
    metadata.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    metadata.set("tokenizer.ggml.token_type", kinds(&all));
    metadata
}

fn tokenizer(metadata: &Metadata) -> Tokenizer {
    Tokenizer::from_metadata("test", metadata).unwrap()
}

fn error(metadata: &Metadata) -> String {
    Tokenizer::from_metadata("m.gguf", metadata).err().unwrap().to_string()
}

#[test]
fn user_defined_tokens_are_always_cut_out_and_control_tokens_on_request() {
    let tokenizer = tokenizer(&byte_level());
    assert_eq!(tokenizer.encode("ab ab<br>ab", false).unwrap(), [7, 8, 2, 7]);
    assert_eq!(tokenizer.encode("ab<s>", true).unwrap(), [7, 0]);
    assert_eq!(tokenizer.encode("ab<s>", false).unwrap(), [7, 9, 10, 11]);
    assert_eq!(tokenizer.encode("", true).unwrap(), [0u32; 0]);
}

#[test]
fn bos_and_eos_are_added_to_documents_as_the_model_says() {
    let mut metadata = byte_level();
    assert_eq!(tokenizer(&metadata).encode_document("ab", false).unwrap(), [7]);
    metadata.set("tokenizer.ggml.add_bos_token", true);
    metadata.set("tokenizer.ggml.add_eos_token", true);
    let tokenizer = tokenizer(&metadata);
    assert_eq!(tokenizer.encode_document("ab", false).unwrap(), [0, 7, 1]);
    assert_eq!(
        (tokenizer.n_vocab(), tokenizer.bos_id(), tokenizer.eos_id()),
        (14, Some(0), Some(1))
    );
}

#[test]
fn score_vocabularies_add_a_space_and_fall_back_to_bytes() {
    let mut metadata = score_based();
    let with_space = tokenizer(&metadata);
    assert_eq!(with_space.encode_document("ab ab", false).unwrap(), [1, 264, 264]);
    assert_eq!(with_space.encode("\u{e9}", false).unwrap(), [259, 3 + 0xc3, 3 + 0xa9]);
    assert_eq!(with_space.encode("a<s>b", true).unwrap(), [262, 1, 259, 261]);
    metadata.set("tokenizer.ggml.add_space_prefix", false);
    assert_eq!(tokenizer(&metadata).encode("ab ab", false).unwrap(), [263, 264]);
}

#[test]
fn what_cannot_be_used_is_refused_by_name() {
    assert!(error(&Metadata::new()).contains("m.gguf: metadata key 'tokenizer.ggml.model'"));
    let changed = |key: &str, value: Value| {
        let mut metadata = byte_level();
        metadata.set(key, value);
        error(&metadata)
    };
    assert!(changed("tokenizer.ggml.model", "bert".into()).contains("'bert' is not supported"));
    assert!(changed("tokenizer.ggml.pre", "nope".into()).contains("pre-tokenizer 'nope'"));
    assert!(changed("tokenizer.ggml.merges", strings(&["ab"])).contains("merge 0"));
    assert!(changed("tokenizer.ggml.token_type", kinds(&[])).contains("0 token types"));
    let mut metadata = byte_level();
    metadata.set("tokenizer.ggml.add_bos_token", true);
    metadata.set("tokenizer.ggml.bos_token_id", 99);
    assert!(error(&metadata).contains("BOS"), "an id beyond the vocabulary is no BOS");
    let mut scores = score_based();
    scores.set("tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.0; 3])));
    assert!(error(&scores).contains("3 token scores"));
}

#[test]
#[ignore = "needs SmolLM2-135M-Instruct: run scripts/fetch-smollm2"]
fn smollm2_gives_the_peers_ids() {
    let model = convert(&smollm2(), &ConvertOptions::default()).unwrap();
    let tokenizer = Tokenizer::from_metadata("smollm2", &model.metadata).unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/smollm2");
    let text = std::fs::read_to_string(data.join("gpl-3.txt")).unwrap();
    let expected = std::fs::read_to_string(data.join("token-ids-gpl3.json")).unwrap();
    let expected: Vec<u32> = serde_json::from_str(&expected).unwrap();
    assert_eq!(tokenizer.encode_document(&text, false).unwrap(), expected);
}

#[test]
fn ids_become_the_text_they_came_from() {
    let text = " ab<br>ba\n ab  a";
    let bytes = byte_level();
    let ids = tokenizer(&bytes).encode(text, false).unwrap();
    let back = Detokenizer::from_metadata("test", &bytes).unwrap();
    assert_eq!(back.text(&ids), text);
    assert_eq!([0, 2, 3].map(|id| back.role(id)), [Role::Control, Role::Text, Role::Text]);
    assert_eq!(back.role(99), Role::Nothing);
    // What is no text leaves no trace.
    assert_eq!(back.text(&[0, 3, 1, 4]), "ab");

    let scores = score_based();
    let text = "ab a\u{e9}\u{65e5}b  \u{1f600}\n";
    let ids = tokenizer(&scores).encode(text, false).unwrap();
    let back = Detokenizer::from_metadata("test", &scores).unwrap();
    assert_eq!(back.text(&ids), text, "without the space that encoding puts before it");
    let roles = [0, 1, 3, 259].map(|id| back.role(id));
    assert_eq!(roles, [Role::Nothing, Role::Control, Role::Text, Role::Text]);
    // The first two bytes of three make no character.
    assert_eq!(back.text(&[260, 3 + 0xe6, 3 + 0x97, 261]), "ab");
    let mut unknown = byte_level();
    unknown.set("tokenizer.ggml.model", "rwkv");
    assert!(Detokenizer::from_metadata("test", &unknown).is_err());
}
