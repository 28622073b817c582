//! `tokenizer.json`, parsed: its added tokens, its model and the steps around it.

use crate::base::error::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

/// A token that `tokenizer.json` or `tokenizer_config.json` adds to the model's vocabulary.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct AddedToken {
    #[serde(default)]
    pub id: u32,
    pub content: String,
    #[serde(default)]
    pub special: bool,
    #[serde(default)]
    pub single_word: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
    pub normalized: Option<bool>,
}

impl AddedToken {
    /// An added token as the tokenizers library makes it of a text alone.
    pub(super) fn plain(id: u32, content: &str) -> AddedToken {
        let (special, single_word, lstrip, rstrip) = (false, false, false, false);
        let content = content.to_string();
        AddedToken { id, content, special, single_word, lstrip, rstrip, normalized: None }
    }

    /// Whether it is looked for in the normalized text; by default if it is not special.
    pub(super) fn is_normalized(&self) -> bool {
        self.normalized.unwrap_or(!self.special)
    }

    /// Whether both are declared alike; ids do not count.
    pub(super) fn same_flags(&self, other: &AddedToken) -> bool {
        let flags =
            |t: &AddedToken| (t.special, t.single_word, t.lstrip, t.rstrip, t.is_normalized());
        flags(self) == flags(other)
    }
}

/// A merge, in the old spelling or in the new one.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Merge {
    Text(String),
    Pair(String, String),
}

/// The `model` object of `tokenizer.json`.
#[derive(Debug, Deserialize)]
pub(super) struct ModelJson {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    #[serde(default)]
    pub vocab: Value,
    #[serde(default)]
    pub merges: Vec<Merge>,
    pub unk_token: Option<String>,
    #[serde(default)]
    pub byte_fallback: bool,
    #[serde(default)]
    pub ignore_merges: bool,
}

/// What this program needs of `tokenizer.json`.
#[derive(Debug, Deserialize)]
pub(super) struct TokenizerJson {
    #[serde(default)]
    pub added_tokens: Vec<AddedToken>,
    #[serde(default)]
    pub normalizer: Value,
    #[serde(default)]
    pub pre_tokenizer: Value,
    #[serde(default)]
    pub post_processor: Value,
    #[serde(default)]
    pub decoder: Value,
    pub model: ModelJson,
}

impl TokenizerJson {
    /// The vocabulary of the model, by id; `None` where no token has the id.
    pub(super) fn vocab(&self, path: &Path) -> Result<Vec<Option<String>>> {
        let fail = |detail: String| Error::format(path, detail);
        if let Value::Array(pieces) = &self.model.vocab {
            // Unigram: pairs of text and score, numbered by their order.
            let text = |piece: &Value| piece.get(0).and_then(Value::as_str).map(str::to_string);
            return Ok(pieces.iter().map(text).collect());
        }
        let map = self.model.vocab.as_object().ok_or_else(|| fail("no vocabulary".into()))?;
        let mut tokens = vec![None; map.len()];
        for (text, id) in map {
            let id = id
                .as_u64()
                .filter(|&id| id < 1 << 30)
                .ok_or_else(|| fail(format!("the id of token '{text}' is no usable number")))?
                as usize;
            if id >= tokens.len() {
                // Gaps are legal but cannot be wide: the ids of the rest fill the space below.
                if id >= 4 * map.len() + 1024 {
                    return Err(fail(format!("the id {id} of token '{text}' is out of all range")));
                }
                tokens.resize(id + 1, None);
            }
            if let Some(other) = tokens[id].replace(text.clone()) {
                return Err(fail(format!("tokens '{other}' and '{text}' share the id {id}")));
            }
        }
        Ok(tokens)
    }
}
