//! A byte-level `tokenizer.json`, as GPT-2, Llama 3, SmolLM2 and Mistral Nemo ship it.
//! Rules: llama.cpp `conversion/base.py` (`get_vocab_base`), October 2026.

use super::files::TokenizerFiles;
use super::pretokenizer_name;
use super::sentencepiece_json::too_many;
use super::tokenizer_json::{AddedToken, Merge, TokenizerJson};
use crate::base::error::{Error, Result};
use crate::model::tokenizer::encode::{ByteChars, pretokenizer};
use crate::model::tokenizer::gguf::{
    Scheme, SpacePrefix, SpecialTokens, TokenKind, Vocabulary, added_token, padding_token,
};
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

/// The vocabulary of `json`, padded to `n_vocab` tokens. `bytes` are the file that `json` is.
pub(super) fn vocabulary(
    path: &Path,
    bytes: &[u8],
    json: &TokenizerJson,
    files: &TokenizerFiles,
    n_vocab: usize,
    pre_tokenizer: Option<&str>,
) -> Result<Vocabulary> {
    if !matches!(json.model.kind.as_deref(), Some("BPE") | None) || json.model.merges.is_empty() {
        let kind = json.model.kind.as_deref().unwrap_or("unnamed");
        let detail = format!("a tokenizer of type '{kind}' is not supported; BPE with merges is");
        return Err(Error::format(path, detail));
    }
    let mut texts = json.vocab(path)?;
    let added = added_tokens(json, files, &texts)?;
    for (&id, token) in &added {
        let id = id as usize;
        if id >= n_vocab {
            return Err(too_many(path, id, n_vocab));
        }
        if id >= texts.len() {
            texts.resize(id + 1, None);
        }
        texts[id] = Some(token.content.clone());
    }
    if texts.len() > n_vocab {
        return Err(too_many(path, texts.len() - 1, n_vocab));
    }
    texts.resize(n_vocab, None);
    let mut tokens = Vec::with_capacity(n_vocab);
    let mut kinds = Vec::with_capacity(n_vocab);
    let (chars, mut warnings) = (ByteChars::new(), Vec::new());
    for (id, text) in texts.into_iter().enumerate() {
        let (token, kind) = match (text, added.get(&(id as u32))) {
            (None, _) => (padding_token(id), TokenKind::Unused),
            (Some(text), Some(added)) => {
                let decoded = decoded(json, added, &chars);
                if decoded.contains(char::REPLACEMENT_CHARACTER) && decoded != text {
                    warnings.push(lossy(path, id, &text, &decoded));
                }
                added_token(&decoded, added.special)
            }
            (Some(text), None) => (text, TokenKind::Normal),
        };
        tokens.push(token);
        kinds.push(kind);
    }
    Ok(Vocabulary {
        tokens,
        kinds,
        scheme: Scheme::Merges(json.model.merges.iter().map(merge_text).collect()),
        pre: pre_name(path, bytes, json, pre_tokenizer)?,
        add_space_prefix: None,
        asked_space_prefix: None,
        space_prefix: SpacePrefix::default(),
        special: SpecialTokens::default(),
        warnings,
    })
}

/// The text that an added token has in GGUF. One that is not normalized is decoded, for llama.cpp's converter encodes
/// and decodes it (`conversion/base.py`, `get_vocab_base`), and the tokenizers library decodes what is added too.
fn decoded(json: &TokenizerJson, added: &AddedToken, chars: &ByteChars) -> String {
    let byte_level = json.decoder.get("type").and_then(Value::as_str) == Some("ByteLevel");
    match byte_level && !added.is_normalized() {
        true => chars.text(&added.content),
        false => added.content.clone(),
    }
}

fn lossy(path: &Path, id: usize, text: &str, decoded: &str) -> String {
    format!(
        "{}: the added token {id}, '{text}', is decoded to '{decoded}', as transformers and llama.cpp's converter do; \
         declare it as normalized if texts have it as it is spelled",
        path.display()
    )
}

fn pre_name(
    path: &Path,
    bytes: &[u8],
    json: &TokenizerJson,
    asked: Option<&str>,
) -> Result<String> {
    let Some(name) = asked else { return pretokenizer_name::pre_tokenizer(path, bytes, json) };
    if pretokenizer::names().contains(&name) || pretokenizer_name::is_known(name) {
        return Ok(name.to_string());
    }
    let known = pretokenizer::names().join(", ");
    Err(Error::Usage(format!("--pre-tokenizer: '{name}' is not known; known are {known}")))
}

/// Every token that the files add, by id: those of tokenizer.json, then what tokenizer_config.json
/// adds to them or calls special by name.
fn added_tokens(
    json: &TokenizerJson,
    files: &TokenizerFiles,
    vocab: &[Option<String>],
) -> Result<BTreeMap<u32, AddedToken>> {
    let mut added = BTreeMap::new();
    for token in json.added_tokens.iter().cloned().chain(files.config_added_tokens()?) {
        added.insert(token.id, token);
    }
    let named: HashSet<&str> = files.named_specials().into_iter().collect();
    for (id, text) in vocab.iter().enumerate() {
        let (id, Some(text)) = (id as u32, text) else { continue };
        if named.contains(text.as_str()) {
            let token = AddedToken { special: true, ..AddedToken::plain(id, text) };
            added.entry(id).or_insert(token);
        }
    }
    Ok(added)
}

/// A merge as GGUF spells it: two parts with a space between, and spaces inside parts as byte-level
/// vocabularies write them.
fn merge_text(merge: &Merge) -> String {
    match merge {
        Merge::Text(text) => text.clone(),
        Merge::Pair(left, right) => {
            format!("{} {}", left.replace(' ', "\u{120}"), right.replace(' ', "\u{120}"))
        }
    }
}
