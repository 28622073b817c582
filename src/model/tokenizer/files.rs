//! The tokenizer files of a checkpoint, parsed: `tokenizer.json`, `tokenizer_config.json` and the small
//! ones beside them. Only reading happens here; what the values mean is decided by the callers.

use super::hf_slow;
use crate::base::error::{Error, Result};
use crate::formats::checkpoint::{Checkpoint, Config, json};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// No tokenizer file of the field comes near this; a larger one is not read into memory.
pub(super) const MAX_BYTES: u64 = 512 << 20;

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

/// The files that were found; the paths are for errors.
pub(super) struct TokenizerFiles {
    pub sentencepiece: Option<(PathBuf, Vec<u8>)>,
    pub json: Option<(PathBuf, Vec<u8>, TokenizerJson)>,
    /// `json` is made of `vocab.json` and `merges.txt`; then the special tokens' texts by kind.
    pub made_specials: Option<Vec<(&'static str, String)>>,
    /// `tokenizer_config.json`.
    pub config: Option<Config>,
    /// `added_tokens.json`: text to id.
    pub added_tokens: Map<String, Value>,
}

impl TokenizerFiles {
    pub(super) fn read(checkpoint: &Checkpoint) -> Result<TokenizerFiles> {
        let read =
            |name: &str| checkpoint.side_file(name).map(|file| (file.path(), file.read(MAX_BYTES)));
        let config = |name: &str| checkpoint.side_file(name).map(Config::of_side_file).transpose();
        let sentencepiece = match read("tokenizer.model") {
            Some((path, bytes)) => Some((path.to_path_buf(), bytes?.into_owned())),
            None => None,
        };
        let json = match read("tokenizer.json") {
            Some((path, bytes)) => {
                let bytes = bytes?.into_owned();
                let parsed = json::parse_as(&bytes)
                    .map_err(|e| Error::format(path, format!("no usable tokenizer: {e}")))?;
                Some((path.to_path_buf(), bytes, parsed))
            }
            None => None,
        };
        let mut made_specials = None;
        let json = match (json, &sentencepiece) {
            (None, None) => match hf_slow::tokenizer_json(checkpoint)? {
                Some((file, value)) => {
                    let bytes = value.to_string().into_bytes();
                    let parsed = serde_json::from_value(value).map_err(|e| {
                        Error::format(file.path(), format!("no usable tokenizer: {e}"))
                    })?;
                    made_specials = Some(hf_slow::special_texts(checkpoint)?);
                    Some((file.path().to_path_buf(), bytes, parsed))
                }
                None => None,
            },
            (json, _) => json,
        };
        Ok(TokenizerFiles {
            sentencepiece,
            json,
            made_specials,
            config: config("tokenizer_config.json")?,
            added_tokens: config("added_tokens.json")?.map(|c| c.map().clone()).unwrap_or_default(),
        })
    }

    /// `added_tokens_decoder` of `tokenizer_config.json`, in its order.
    pub(super) fn config_added_tokens(&self) -> Result<Vec<AddedToken>> {
        let Some(config) = &self.config else { return Ok(Vec::new()) };
        let Some(Value::Object(map)) = config.get("added_tokens_decoder") else {
            return Ok(Vec::new());
        };
        let parse = |(id, token): (&String, &Value)| {
            let detail = || format!("'added_tokens_decoder' has an unusable entry '{id}'");
            let id = id.parse().map_err(|_| Error::model(config.origin(), detail()))?;
            let token: AddedToken = json::value_as(token)
                .map_err(|e| Error::model(config.origin(), format!("{}: {e}", detail())))?;
            Ok(AddedToken { id, ..token })
        };
        map.iter().map(parse).collect()
    }

    /// The text of special token `kind` (`bos`, `eos`, ..) that `tokenizer_config.json` names.
    pub(super) fn named_token(&self, kind: &str) -> Option<&str> {
        token_text(self.config.as_ref()?.get(&format!("{kind}_token"))?)
    }

    /// All texts that `tokenizer_config.json` declares special by name.
    pub(super) fn named_specials(&self) -> Vec<&str> {
        let kinds = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"];
        let mut texts: Vec<&str> = kinds.iter().filter_map(|kind| self.named_token(kind)).collect();
        // The second is the name since transformers 5; in version 4 it held names beside the texts.
        for key in ["additional_special_tokens", "extra_special_tokens"] {
            match self.config.as_ref().and_then(|c| c.get(key)) {
                Some(Value::Array(more)) => texts.extend(more.iter().filter_map(token_text)),
                Some(Value::Object(more)) => texts.extend(more.values().filter_map(token_text)),
                _ => {}
            }
        }
        texts
    }
}

/// A token given as its text or as an object with `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}
