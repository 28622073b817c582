//! Added tokens in GGUF: those that are not normalized are decoded.
//!
//! Expected: llama.cpp's `get_vocab_base` (October 2026, transformers 5.24) on the demo's tokenizer with such
//! tokens added.

use crate::support::tiny_llama::{CONFIG, checkpoint, tensors, tokenizer_json};
use aqueduct::base::dtype::DType;
use aqueduct::formats::gguf::{Array, GgufModel, Value};
use aqueduct::model::convert::{ConvertOptions, convert};
use aqueduct::model::tokenizer::{Detokenizer, Tokenizer, restore};
use serde_json::json;

/// Content, normalized, special; text and kind in GGUF (3 control, 4 user-defined).
const CASES: &[(&str, bool, bool, &str, i32)] = &[
    ("\u{120}ab", false, false, " ab", 4),
    ("\u{2581}foo", false, false, " foo", 4),
    ("\u{10a}", false, false, "\n", 4),
    ("\u{120}<y>", false, true, " <y>", 3),
    ("\u{e9} \u{e8}", false, false, "\u{e9} \u{e8}", 4),
    (" z ", false, false, " z ", 4),
    ("caf\u{e9}", false, false, "caf\u{fffd}", 4),
    ("\u{65e5}\u{672c}", false, false, "\u{65e5}\u{672c}", 4),
    ("\u{120}abb", true, false, "\u{120}abb", 4),
    ("\u{2581}bar", true, false, " bar", 4),
    ("na\u{ef}ve", true, true, "na\u{ef}ve", 3),
    ("\u{2581}baz", true, true, "\u{2581}baz", 3),
];

fn converted() -> GgufModel {
    let mut json = tokenizer_json();
    let first = 10;
    for (at, (content, normalized, special, ..)) in CASES.iter().enumerate() {
        json["added_tokens"].as_array_mut().unwrap().push(json!({
            "id": first + at, "content": content, "normalized": normalized, "special": special,
        }));
    }
    let config = CONFIG.replace("\"vocab_size\": 16", "\"vocab_size\": 24");
    let tensors = tensors(DType::F16).into_iter().map(|(mut info, bytes)| {
        let wide = info.shape == [16, 8];
        if wide {
            info.shape = vec![24, 8];
        }
        let bytes = if wide { [&bytes[..], &bytes[..bytes.len() / 2]].concat() } else { bytes };
        (info, bytes)
    });
    let dir = tempfile::tempdir().unwrap();
    let text = json.to_string();
    let files = [("tokenizer.json", text.as_bytes())];
    let checkpoint = checkpoint(dir.path(), &config, tensors.collect(), &files);
    convert(&checkpoint, &ConvertOptions::default()).unwrap()
}

#[test]
fn tokens_that_are_not_normalized_are_decoded() {
    let model = converted();
    let tokens = model.metadata.strings("tokenizer.ggml.tokens").unwrap();
    let Some(Value::Array(Array::I32(kinds))) = model.metadata.get("tokenizer.ggml.token_type")
    else {
        panic!("no kinds")
    };
    for (at, (content, normalized, _, text, kind)) in CASES.iter().enumerate() {
        assert_eq!(
            (tokens[10 + at].as_str(), kinds[10 + at]),
            (*text, *kind),
            "{content} {normalized}"
        );
    }
    let warned: Vec<_> = model.warnings.iter().filter(|w| w.contains("is decoded to")).collect();
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(warned[0].contains("'caf\u{e9}'"), "{warned:?}");
}

#[test]
fn they_are_found_in_texts_and_become_text_again() {
    let model = converted();
    let tokenizer = Tokenizer::from_metadata("m", &model.metadata).unwrap();
    let detokenizer = Detokenizer::from_metadata("m", &model.metadata).unwrap();
    for (text, id) in [(" foo", 11), ("\n", 12), ("\u{e9} \u{e8}", 14), (" z ", 15), (" bar", 19)] {
        let ids = tokenizer.encode(&format!("a{text}b"), false).unwrap();
        assert!(ids.contains(&id), "{text:?}: {ids:?}");
        assert_eq!(detokenizer.text(&ids), format!("a{text}b"));
    }
    // Control tokens only where they are asked for.
    assert!(!tokenizer.encode(" <y>", false).unwrap().contains(&13));
    assert_eq!(tokenizer.encode(" <y>", true).unwrap(), [13]);
}

#[test]
fn restored_files_convert_to_the_same_tokens() {
    let model = converted();
    let files = restore("m", &model.metadata).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let files: Vec<_> =
        files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let config = CONFIG.replace("\"vocab_size\": 16", "\"vocab_size\": 24");
    let tensors = tensors(DType::F16).into_iter().map(|(mut info, bytes)| {
        let wide = info.shape == [16, 8];
        info.shape = if wide { vec![24, 8] } else { info.shape };
        let bytes = if wide { [&bytes[..], &bytes[..bytes.len() / 2]].concat() } else { bytes };
        (info, bytes)
    });
    let checkpoint = checkpoint(dir.path(), &config, tensors.collect(), &files);
    let again = convert(&checkpoint, &ConvertOptions::default()).unwrap();
    for key in ["tokenizer.ggml.tokens", "tokenizer.ggml.token_type"] {
        assert_eq!(again.metadata.get(key), model.metadata.get(key), "{key}");
    }
}
