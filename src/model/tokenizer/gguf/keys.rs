//! Reads the per-token arrays of `tokenizer.ggml.*` metadata.

use super::token::TokenKind;
use crate::base::error::{Error, Result};
use crate::formats::gguf::{Array, Metadata, Value};
use std::borrow::Cow;

/// `tokenizer.ggml.token_type`, one for each token; all normal if the key is missing.
pub(crate) fn token_kinds(origin: &str, metadata: &Metadata, n: usize) -> Result<Vec<TokenKind>> {
    let kinds: Cow<'_, [i32]> = match metadata.get("tokenizer.ggml.token_type") {
        None => return Ok(vec![TokenKind::Normal; n]),
        Some(Value::Array(Array::I32(kinds))) => Cow::Borrowed(kinds),
        Some(Value::Array(Array::U32(kinds))) => kinds.iter().map(|&k| k as i32).collect(),
        Some(_) => {
            let detail = "metadata key 'tokenizer.ggml.token_type' is no array of 32-bit integers";
            return Err(Error::model(origin, detail));
        }
    };
    if kinds.len() < n {
        let detail = format!("{} token types for {n} tokens", kinds.len());
        return Err(Error::model(origin, detail));
    }
    Ok(kinds[..n].iter().map(|&k| TokenKind::from_number(k)).collect())
}

/// `tokenizer.ggml.scores`, empty if the key is missing.
pub(crate) fn scores<'a>(origin: &str, metadata: &'a Metadata) -> Result<&'a [f32]> {
    match metadata.get("tokenizer.ggml.scores") {
        None => Ok(&[]),
        Some(Value::Array(Array::F32(scores))) => Ok(scores),
        Some(_) => {
            let detail = "metadata key 'tokenizer.ggml.scores' is no array of f32";
            Err(Error::model(origin, detail))
        }
    }
}
