//! JSON as Python's `json` module reads and writes it, for all files beside the weights.
//!
//! Python accepts NaN, infinities, repeated keys (the last one wins) and lone surrogates, and
//! transformers writes them. A byte order mark is skipped too. Numbers that JSON cannot express
//! become strings with a prefix, from which [`to_text`] writes them again. Not here: Aqueduct's own
//! files, which are strict JSON.

use crate::base::error::{Error, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::borrow::Cow;
use std::path::Path;

/// The prefix of strings that represent special numbers, a private-use character.
const SPECIAL_PREFIX: char = '\u{f8ff}';
/// The numbers that JSON cannot express, as Python writes them.
const SPECIAL_NUMBERS: [(&str, f64); 3] =
    [("NaN", f64::NAN), ("-Infinity", f64::NEG_INFINITY), ("Infinity", f64::INFINITY)];

/// Parses `bytes`; `path` names the file in errors.
///
/// # Errors
/// Bytes that are not UTF-8, or not JSON that Python reads.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Value> {
    value(bytes).map_err(|e| Error::format(path, format!("not valid JSON: {e}")))
}

/// Parses `bytes` into a type. If that fails, parses again with null members of objects left out.
///
/// # Errors
/// Those of [`parse`]; values that do not fit the type.
pub fn parse_as<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    let strict = match serde_json::from_slice(bytes) {
        Ok(parsed) => return Ok(parsed),
        Err(error) => error,
    };
    // The strict error has the line and column.
    let mut value = value(bytes).map_err(|_| strict)?;
    drop_nulls(&mut value);
    serde_json::from_value(value)
}

/// Like [`parse_as`], for a parsed value.
///
/// # Errors
/// Values that do not fit the type.
pub fn value_as<T: DeserializeOwned>(value: &Value) -> serde_json::Result<T> {
    let mut value = value.clone();
    drop_nulls(&mut value);
    serde_json::from_value(value)
}

fn value(bytes: &[u8]) -> serde_json::Result<Value> {
    let bytes = without_bom(bytes);
    serde_json::from_slice(bytes).or_else(|strict| match plain(bytes) {
        Cow::Borrowed(_) => Err(strict),
        Cow::Owned(plain) => serde_json::from_slice(&plain).map_err(|_| strict),
    })
}

/// Returns `bytes` without a byte order mark.
pub fn without_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// The value as a number, including NaN and infinities.
pub fn number(value: &Value) -> Option<f64> {
    let special = || {
        let name = value.as_str()?.strip_prefix(SPECIAL_PREFIX)?;
        SPECIAL_NUMBERS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
    };
    value.as_f64().or_else(special)
}

/// Writes `value` in several lines with a line break at the end, as transformers does.
pub fn to_text(value: &(impl serde::Serialize + ?Sized)) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("JSON values serialize");
    text.push('\n');
    if text.contains(SPECIAL_PREFIX) {
        for (name, _) in SPECIAL_NUMBERS {
            text = text.replace(&format!("\"{SPECIAL_PREFIX}{name}\""), name);
        }
    }
    text
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, member| !member.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Returns `bytes` with special numbers and lone surrogates replaced, so that they are standard
/// JSON; borrowed if there are none.
fn plain(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut out: Vec<u8> = Vec::new();
    let (mut copied, mut at, mut in_string) = (0, 0, false);
    while at < bytes.len() {
        let rest = &bytes[at..];
        let (length, instead): (usize, Option<Cow<'_, [u8]>>) = match rest[0] {
            b'"' => {
                in_string = !in_string;
                (1, None)
            }
            b'\\' if in_string => match surrogates(rest) {
                Some((length, true)) => (length, None),
                Some((length, false)) => (length, Some(Cow::Borrowed(br"\ufffd"))),
                None => (2, None),
            },
            b'N' | b'I' | b'-' if !in_string => {
                match SPECIAL_NUMBERS.iter().find(|(name, _)| rest.starts_with(name.as_bytes())) {
                    Some((name, _)) => (
                        name.len(),
                        Some(Cow::Owned(format!("\"{SPECIAL_PREFIX}{name}\"").into_bytes())),
                    ),
                    None => (1, None),
                }
            }
            _ => (1, None),
        };
        if let Some(instead) = instead {
            out.extend_from_slice(&bytes[copied..at]);
            out.extend_from_slice(&instead);
            copied = at + length;
        }
        at += length;
    }
    if copied == 0 {
        return Cow::Borrowed(bytes);
    }
    out.extend_from_slice(&bytes[copied..]);
    Cow::Owned(out)
}

/// If `text` begins with an escaped surrogate or pair of surrogates: its length, and whether it is
/// a pair.
fn surrogates(text: &[u8]) -> Option<(usize, bool)> {
    let unit = |text: &[u8]| {
        let digits = std::str::from_utf8(text.strip_prefix(br"\u")?.get(..4)?).ok()?;
        u16::from_str_radix(digits, 16).ok()
    };
    let first = unit(text).filter(|unit| (0xd800..0xe000).contains(unit))?;
    let second = text.get(6..).and_then(unit);
    let is_pair = first < 0xdc00 && second.is_some_and(|unit| (0xdc00..0xe000).contains(&unit));
    Some((if is_pair { 12 } else { 6 }, is_pair))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parsed(text: &str) -> Value {
        parse(Path::new("x.json"), text.as_bytes()).unwrap()
    }

    #[test]
    fn special_numbers_survive_the_round_trip() {
        let text = "\u{feff}{\"a\": NaN, \"b\": [-Infinity, Infinity, -1.5], \"c\": \"NaN, \\\" -Infinity\"}";
        let value = parsed(text);
        assert!(number(&value["a"]).unwrap().is_nan());
        let list: Vec<f64> = value["b"].as_array().unwrap().iter().filter_map(number).collect();
        assert_eq!(list, [f64::NEG_INFINITY, f64::INFINITY, -1.5]);
        assert_eq!(value["c"], "NaN, \" -Infinity");
        assert_eq!((number(&value["c"]), number(&json!("Infinity"))), (None, None));
        let written: String = to_text(&value).split_whitespace().collect();
        let given: String = text[3..].split_whitespace().collect();
        assert_eq!(written, given);
    }

    #[test]
    fn the_last_of_repeated_keys_wins_and_lone_surrogates_are_replaced() {
        assert_eq!(parsed(r#"{"a": 1, "b": 2, "a": 3}"#), json!({"a": 3, "b": 2}));
        let text = r#"["\ud83d\ude00", "\ud83dx", "\ude00", "\\ud83d"]"#;
        let replaced = json!(["\u{1f600}", "\u{fffd}x", "\u{fffd}", "\\ud83d"]);
        assert_eq!(parsed(text), replaced);
    }

    #[test]
    fn types_accept_repeated_keys_and_nulls_like_python() {
        #[derive(serde::Deserialize)]
        struct AddedToken {
            text: String,
            #[serde(default)]
            special: bool,
        }
        let token: AddedToken =
            parse_as(br#"{"text": "a", "special": null, "text": "b"}"#).unwrap();
        assert_eq!((token.text.as_str(), token.special), ("b", false));
        let wrong = parse_as::<AddedToken>(b"{\n  \"text\": 1}").err().unwrap().to_string();
        assert!(wrong.contains("integer `1`"), "{wrong}");
    }

    #[test]
    fn invalid_json_is_an_error_with_its_place() {
        for bad in ["", "{", "{\"a\": nan}", "{'a': 1}", "[1,]", "Nan", "\"\\", "\"\\ud8", "-"] {
            let error = parse(Path::new("x.json"), bad.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("x.json: not valid JSON") && error.contains("line"), "{error}");
        }
        assert!(parse(Path::new("x.json"), b"\"\xff\"").is_err());
    }
}
