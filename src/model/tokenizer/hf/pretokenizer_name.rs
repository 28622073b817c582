//! Which pre-tokenizer a byte-level `tokenizer.json` needs: recognised by the hash of the ids of a fixed text,
//! as llama.cpp's converter does, else by the structure of its `pre_tokenizer`.
//!
//! The hash knows vocabularies, so a model with a new vocabulary is new to it even where its rules are
//! old ones. The structure knows rules.

use super::known_hashes::{KNOWN, PROBE};
use super::tokenizer_json::TokenizerJson;
use crate::base::error::{Error, Result};
use crate::base::hash;
use crate::formats::checkpoint::json;
use crate::model::tokenizer::encode::pretokenizer;
use serde_json::{Value, json};
use std::path::Path;

/// A step of a pre-tokenizer, as far as it decides where text is cut.
#[derive(Debug, PartialEq)]
enum Step<'a> {
    /// Matches stand alone, and so does what is between them.
    Split(&'a str),
    /// Every digit stands alone.
    Digits,
    /// GPT-2's words.
    Gpt2,
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

const THREE_NUMBERS: &str = r"\p{N}{1,3}";
const KANA: &str = "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";

/// Whether llama.cpp has the name.
pub(super) fn is_known(name: &str) -> bool {
    KNOWN.iter().any(|(_, known)| *known == name)
}

/// The name for `tokenizer.ggml.pre`; an error that says how to give it if it cannot be recognised.
pub(super) fn pre_tokenizer(path: &Path, bytes: &[u8], json: &TokenizerJson) -> Result<String> {
    let hash = probe_hash(bytes);
    let by_hash = hash
        .as_ref()
        .ok()
        .and_then(|hash| KNOWN.iter().find(|(known, _)| known == hash).map(|(_, name)| *name));
    if let Some(name) = by_hash.or_else(|| by_structure(json)) {
        return Ok(name.to_string());
    }
    let why = match hash {
        Ok(hash) => format!("the hash {hash} of its ids is not among the known ones"),
        Err(e) => format!("it cannot be tried ({e})"),
    };
    let detail = format!(
        "cannot recognise the pre-tokenizer: {why}, and neither is the structure of its 'pre_tokenizer'; \
         name one with --pre-tokenizer NAME (llama-bpe, qwen2, gpt-2, smollm, tekken, ...)"
    );
    Err(Error::format(path, detail))
}

/// SHA-256 of the ids of the probe, printed as a Python list.
fn probe_hash(bytes: &[u8]) -> Result<String, String> {
    let tokenizer =
        tokenizers::Tokenizer::from_bytes(json::without_bom(bytes)).map_err(|e| e.to_string())?;
    let encoding = tokenizer.encode(PROBE, true).map_err(|e| e.to_string())?;
    Ok(hash::sha256(format!("{:?}", encoding.get_ids())))
}

fn by_structure(json: &TokenizerJson) -> Option<&'static str> {
    // llama.cpp normalizes nothing before byte-level BPE; NFC changes few texts and is accepted there.
    let normalizer = json.normalizer.get("type").and_then(Value::as_str);
    if !matches!(normalizer, None | Some("NFC")) {
        return None;
    }
    let mut steps = Vec::new();
    collect(&json.pre_tokenizer, &mut steps)?;
    let whole_words_first = json.model.ignore_merges;
    match steps[..] {
        [Step::Gpt2] | [Step::Split(GPT2)] if !whole_words_first => Some("gpt-2"),
        [Step::Digits, Step::Gpt2] if !whole_words_first => Some("smollm"),
        [Step::Split(LLAMA3)] => Some(if whole_words_first { "llama-bpe" } else { "smaug-bpe" }),
        [Step::Split(QWEN2)] if !whole_words_first => Some("qwen2"),
        [Step::Split(QWEN35)] if !whole_words_first => Some("qwen35"),
        [Step::Split(TEKKEN)] if whole_words_first => Some("tekken"),
        [Step::Split(GPT4O)] if !whole_words_first => Some("gpt-4o"),
        [Step::Split(THREE_NUMBERS), Step::Split(KANA), Step::Split(DEEPSEEK3)]
            if !whole_words_first =>
        {
            Some("deepseek-v3")
        }
        _ => None,
    }
}

/// The steps of a `tokenizer.json` that cut text as the pre-tokenizer `name` does: what [`by_structure`]
/// knows, the other way round. `None` if it does not know the rule.
pub(super) fn structure(name: &str) -> Option<Vec<Value>> {
    let split = |pattern: &str| {
        json!({
            "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false,
        })
    };
    let byte_level = |use_regex: bool| {
        json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex,
        })
    };
    let names = pretokenizer::same_rule(name);
    let is = |name: &str| names.contains(&name);
    let patterns: &[&str] = match () {
        () if is("gpt-2") => return Some(vec![byte_level(true)]),
        () if is("smollm") => {
            let digits = json!({ "type": "Digits", "individual_digits": true });
            return Some(vec![digits, byte_level(true)]);
        }
        () if is("llama-bpe") || is("smaug-bpe") => &[LLAMA3],
        () if is("qwen2") => &[QWEN2],
        () if is("qwen35") => &[QWEN35],
        () if is("tekken") => &[TEKKEN],
        () if is("gpt-4o") => &[GPT4O],
        () if is("deepseek-v3") => &[THREE_NUMBERS, KANA, DEEPSEEK3],
        () => return None,
    };
    Some(patterns.iter().map(|pattern| split(pattern)).chain([byte_level(false)]).collect())
}

/// The steps of `value`, or `None` if one of them has no counterpart here.
fn collect<'a>(value: &'a Value, steps: &mut Vec<Step<'a>>) -> Option<()> {
    let flag = |key: &str, default: bool| value.get(key).map_or(Some(default), Value::as_bool);
    match value.get("type")?.as_str()? {
        "Sequence" => {
            for step in value.get("pretokenizers")?.as_array()? {
                collect(step, steps)?;
            }
        }
        "Digits" if flag("individual_digits", false)? => steps.push(Step::Digits),
        "ByteLevel" if !flag("add_prefix_space", true)? => {
            if flag("use_regex", true)? {
                steps.push(Step::Gpt2);
            }
        }
        "Split" if !flag("invert", false)? => {
            let behaviour = value.get("behavior")?.as_str()?;
            if !matches!(behaviour, "Isolated") {
                return None;
            }
            steps.push(Step::Split(value.get("pattern")?.get("Regex")?.as_str()?));
        }
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recognized(pre_tokenizer: &str, ignore_merges: bool) -> Option<&'static str> {
        let text = format!(
            r#"{{"pre_tokenizer": {pre_tokenizer}, "model": {{"type": "BPE",
                "ignore_merges": {ignore_merges}, "vocab": {{}}, "merges": []}}}}"#
        );
        by_structure(&serde_json::from_str(&text).unwrap())
    }

    fn split(pattern: &str) -> String {
        let pattern = serde_json::to_string(pattern).unwrap();
        let byte_level = r#"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}"#;
        format!(
            r#"{{"type":"Sequence","pretokenizers":[{{"type":"Split","pattern":{{"Regex":{pattern}}},
                "behavior":"Isolated","invert":false}},{byte_level}]}}"#
        )
    }

    #[test]
    fn structures_are_recognized_as_what_they_were_made_for() {
        for name in [
            "gpt-2",
            "smollm",
            "llama-bpe",
            "smaug-bpe",
            "qwen2",
            "qwen35",
            "tekken",
            "gpt-4o",
            "deepseek-v3",
        ] {
            let steps = Value::Array(structure(name).unwrap());
            let text = format!(r#"{{"type": "Sequence", "pretokenizers": {steps}}}"#);
            let whole = pretokenizer::takes_whole_words(name);
            assert_eq!(recognized(&text, whole), Some(name));
        }
        assert_eq!(structure("starcoder"), structure("smollm"));
        assert_eq!(structure("default"), None);
    }

    #[test]
    fn structures_are_told_apart() {
        let byte_level = r#"{"type":"ByteLevel","add_prefix_space":false,"use_regex":true}"#;
        let digits = format!(
            r#"{{"type":"Sequence","pretokenizers":[{{"type":"Digits","individual_digits":true}},{byte_level}]}}"#
        );
        assert_eq!(recognized(byte_level, false), Some("gpt-2"));
        assert_eq!(recognized(&digits, false), Some("smollm"));
        assert_eq!(recognized(&split(LLAMA3), true), Some("llama-bpe"));
        assert_eq!(recognized(&split(LLAMA3), false), Some("smaug-bpe"));
        assert_eq!(recognized(&split(QWEN2), false), Some("qwen2"));
        assert_eq!(recognized(&split(TEKKEN), true), Some("tekken"));
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        let prefix = r#"{"type":"ByteLevel","add_prefix_space":true,"use_regex":true}"#;
        assert_eq!(recognized(prefix, false), None);
        assert_eq!(recognized(&split(r"\p{L}+"), false), None);
        assert_eq!(recognized(r#"{"type":"Whitespace"}"#, false), None);
        assert_eq!(recognized("null", false), None);
    }

    #[test]
    fn the_probe_is_the_known_text() {
        assert!(hash::sha256(PROBE).starts_with("a36179c1"), "the hashes fit this text only");
    }
}
