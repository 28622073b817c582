//! The tokenizer files of a checkpoint, parsed: `tokenizer.json`, `tokenizer_config.json` and the small
//! ones beside them. Only reading happens here; what the values mean is decided by the callers.

use super::tokenizer_json::{AddedToken, TokenizerJson};
use super::vocab_merges;
use crate::base::error::{Error, Result};
use crate::formats::checkpoint::{Checkpoint, Config, json};
use crate::model::tokenizer::MAX_FILE_BYTES;
use serde_json::{Map, Value};
use std::path::PathBuf;

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
        let read = |name: &str| {
            checkpoint.side_file(name).map(|file| (file.path(), file.read(MAX_FILE_BYTES)))
        };
        let config =
            |name: &str| checkpoint.side_file(name).map(Config::from_side_file).transpose();
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
            (None, None) => match vocab_merges::tokenizer_json(checkpoint)? {
                Some((file, value)) => {
                    let bytes = value.to_string().into_bytes();
                    let parsed = serde_json::from_value(value).map_err(|e| {
                        Error::format(file.path(), format!("no usable tokenizer: {e}"))
                    })?;
                    made_specials = Some(vocab_merges::special_texts(checkpoint)?);
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
