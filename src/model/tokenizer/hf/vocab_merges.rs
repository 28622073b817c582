//! A byte-level tokenizer of `vocab.json` and `merges.txt` alone, as folders from before `tokenizer.json` have it.
//!
//! It is brought to the form of a `tokenizer.json`, so that all readers of that read it. The rules are those of
//! transformers' classes GPT2Tokenizer and Qwen2Tokenizer (5.24, `models/gpt2/tokenization_gpt2.py`,
//! `models/qwen2/tokenization_qwen2.py`); llama.cpp's converter loads the folder with them.

use super::pretokenizer_name;
use crate::base::error::{Error, Result};
use crate::formats::checkpoint::{Checkpoint, Config, SideFile, json};
use crate::model::tokenizer::MAX_FILE_BYTES;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Which class a folder's tokenizer is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Gpt2,
    Qwen2,
}

impl Class {
    /// `tokenizer_class` decides; without a usable one the architecture does, but for GPT-2's cuts in a Qwen 2.
    fn of(model_type: Option<&str>, class: Option<&str>) -> Option<Class> {
        match (model_type, class.map(|class| class.trim_end_matches("Fast"))) {
            (Some("qwen2"), _) | (_, Some("Qwen2Tokenizer")) => Some(Class::Qwen2),
            (_, Some("GPT2Tokenizer")) => Some(Class::Gpt2),
            (Some("qwen2_moe" | "qwen3" | "qwen3_moe"), None) => Some(Class::Qwen2),
            (Some("gpt2"), None) => Some(Class::Gpt2),
            _ => None,
        }
    }

    /// The special tokens that a folder need not name.
    fn default_specials(self) -> &'static [&'static str] {
        match self {
            Class::Gpt2 => &["bos", "eos", "unk"],
            Class::Qwen2 => &["eos", "unk", "pad"],
        }
    }
}

/// The text of special tokens that neither class is given.
const END_OF_TEXT: &str = "<|endoftext|>";
const KINDS: [&str; 7] = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"];

/// The `tokenizer.json` that `checkpoint`'s vocab.json and merges.txt amount to, and the file to name in errors; `None`
/// if they are not both there. `pre_tokenizer` names the rule by which text is cut where the folder does not name it.
///
/// # Errors
/// Files that cannot be read or are not what their names say; a folder that does not name the class.
pub(super) fn tokenizer_json(checkpoint: &Checkpoint) -> Result<Option<(SideFile, Value)>> {
    let files = [checkpoint.side_file("vocab.json"), checkpoint.side_file("merges.txt")];
    let [Some(vocab), Some(merges)] = files else { return Ok(None) };
    let read = |name: &str| checkpoint.side_file(name).map(Config::from_side_file).transpose();
    let config = read("tokenizer_config.json")?;
    let map = read("special_tokens_map.json")?;
    let added = read("added_tokens.json")?;
    let class = config.as_ref().and_then(|config| config.str("tokenizer_class"));
    let class_of = Class::of(checkpoint.config.str("model_type"), class);
    let pieces = Config::from_side_file(vocab)?;
    let named = named_specials(config.as_ref(), map.as_ref(), class_of);
    let list = added_tokens(vocab, &pieces, added.as_ref(), config.as_ref(), &named)?;
    let steps = match class_of {
        Some(Class::Gpt2) => pretokenizer_name::structure("gpt-2"),
        Some(Class::Qwen2) => pretokenizer_name::structure("qwen2"),
        None => None,
    };
    let value = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": list,
        "normalizer": if class_of == Some(Class::Qwen2) { json!({"type": "NFC"}) } else { Value::Null },
        "pre_tokenizer": steps.map(|steps| json!({"type": "Sequence", "pretokenizers": steps})),
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": pieces.map(), "merges": read_merges(merges)?,
        },
    });
    Ok(Some((vocab.clone(), value)))
}

/// The added tokens as `tokenizer.json` lists them, by id: those of added_tokens.json, and the special tokens
/// `named`, with the next ids where no file gives one.
fn added_tokens(
    vocab: &SideFile,
    pieces: &Config,
    added: Option<&Config>,
    config: Option<&Config>,
    named: &[String],
) -> Result<Vec<Value>> {
    let mut tokens = Map::new();
    let mut next = 0;
    let known = added.map(|added| added.map().iter()).into_iter().flatten();
    for (text, id) in pieces.map().iter().chain(known.clone()) {
        let id = id.as_u64().filter(|id| *id < 1 << 30).ok_or_else(|| {
            let text = format!("the id of token '{text}' is no usable number");
            Error::format(vocab.path(), text)
        })?;
        next = next.max(id + 1);
    }
    for (text, id) in known {
        tokens.insert(text.clone(), id.clone());
    }
    for text in named {
        let explicit = text != END_OF_TEXT;
        match pieces.map().get(text) {
            Some(id) => {
                tokens.entry(text.clone()).or_insert(id.clone());
            }
            // transformers gives special tokens that are nowhere the next ids.
            None if explicit && !tokens.contains_key(text) && !decoded(config, text) => {
                tokens.insert(text.clone(), next.into());
                next += 1;
            }
            None => {}
        }
    }
    let mut list: Vec<Value> = tokens
        .iter()
        .map(|(text, id)| {
            let special = named.contains(text);
            json!({
                "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": !special, "special": special,
            })
        })
        .collect();
    list.sort_by_key(|token| token["id"].as_u64());
    Ok(list)
}

/// Whether tokenizer_config.json gives the token an id.
fn decoded(config: Option<&Config>, text: &str) -> bool {
    let decoder = config.and_then(|config| config.get("added_tokens_decoder")?.as_object());
    decoder.is_some_and(|map| map.values().any(|token| token["content"] == text))
}

/// The texts of the special tokens, in transformers' order: as tokenizer_config.json names them, else
/// special_tokens_map.json, else the class.
fn named_specials(
    config: Option<&Config>,
    map: Option<&Config>,
    class: Option<Class>,
) -> Vec<String> {
    let text = |value: &Value| {
        value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_string)
    };
    let sources = [config, map];
    let given = |key: &str| sources.iter().flatten().find_map(|source| source.get(key)).cloned();
    let mut texts = Vec::new();
    for kind in KINDS {
        let named = given(&format!("{kind}_token")).as_ref().and_then(text);
        let default = || {
            let defaults = class.map_or(&[][..], Class::default_specials);
            defaults.contains(&kind).then(|| END_OF_TEXT.to_string())
        };
        texts.extend(named.or_else(default));
    }
    if let Some(Value::Array(more)) = given("additional_special_tokens") {
        texts.extend(more.iter().filter_map(text));
    }
    let mut unique: Vec<String> = Vec::new();
    for text in texts {
        if !unique.contains(&text) {
            unique.push(text);
        }
    }
    unique
}

/// The ids of special tokens by kind, for a folder without `tokenizer.json`: where config.json has none.
pub(super) fn special_texts(checkpoint: &Checkpoint) -> Result<Vec<(&'static str, String)>> {
    let read = |name: &str| checkpoint.side_file(name).map(Config::from_side_file).transpose();
    let (config, map) = (read("tokenizer_config.json")?, read("special_tokens_map.json")?);
    let class = config.as_ref().and_then(|config| config.str("tokenizer_class"));
    let class = Class::of(checkpoint.config.str("model_type"), class);
    let of = |kind: &'static str| {
        let key = format!("{kind}_token");
        let given = [&config, &map].into_iter().flatten().find_map(|source| source.get(&key));
        let text = given.and_then(|v| v.as_str().or_else(|| v.get("content")?.as_str()));
        let default = class.is_some_and(|class| class.default_specials().contains(&kind));
        let default = default.then_some(END_OF_TEXT);
        Some((kind, text.or(default)?.to_string()))
    };
    Ok(KINDS.into_iter().filter_map(of).collect())
}

/// The merges: two tokens on a line, after a line that may say the version.
fn read_merges(file: &SideFile) -> Result<Vec<String>> {
    let path = file.path();
    let bytes = file.read(MAX_FILE_BYTES)?;
    let text = std::str::from_utf8(json::without_bom(&bytes))
        .map_err(|_| Error::format(path, "not UTF-8 text"))?;
    let mut merges = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if (number == 0 && line.starts_with("#version")) || line.trim().is_empty() {
            continue;
        }
        merges.push(merge(path, number + 1, line)?);
    }
    Ok(merges)
}

fn merge(path: &Path, number: usize, line: &str) -> Result<String> {
    let parts: Vec<&str> = line.split_ascii_whitespace().collect();
    match parts[..] {
        [left, right] => Ok(format!("{left} {right}")),
        _ => {
            let detail =
                format!("line {number} has {} tokens, not the two of a merge", parts.len());
            Err(Error::format(path, detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_told_as_transformers_tells_them() {
        for (model_type, class, expected) in [
            ("qwen2", Some("Qwen2Tokenizer"), Some(Class::Qwen2)),
            ("qwen2", Some("GPT2Tokenizer"), Some(Class::Qwen2)),
            ("qwen2", None, Some(Class::Qwen2)),
            ("qwen3", Some("GPT2TokenizerFast"), Some(Class::Gpt2)),
            ("qwen3", Some("Qwen2TokenizerFast"), Some(Class::Qwen2)),
            ("qwen3", Some("PreTrainedTokenizerFast"), None),
            ("llama", Some("GPT2Tokenizer"), Some(Class::Gpt2)),
            ("llama", Some("LlamaTokenizer"), None),
            ("llama", None, None),
        ] {
            assert_eq!(Class::of(Some(model_type), class), expected, "{model_type} {class:?}");
        }
    }
}
