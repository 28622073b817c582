//! A `tokenizer.json` that is SentencePiece in disguise: BPE over characters with byte fallback, as
//! LLaMA 1 and 2, Mistral 7B and Gemma ship it, where `tokenizer.model` is missing.
//!
//! Scores are those of SentencePiece's own BPE models, which count down in the order of the vocabulary: first what merges
//! make, by rank, then single characters. Where the order is another one they are the negative ranks of the merges, so
//! that the tokens come out as the tokenizer.json makes them. llama.cpp's converter writes -1000 for every token instead
//! (`gguf-py/gguf/vocab.py`, `LlamaHfVocab`), and the order of merges is lost.

use super::files::TokenizerFiles;
use super::tokenizer_json::{Merge, TokenizerJson};
use crate::base::error::{Error, Result};
use crate::model::tokenizer::gguf::{
    Scheme, SpacePrefix, SpecialTokens, TokenKind, Vocabulary, added_token, padding_token,
};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Score of tokens that were added to the model, and of ids without a token. Source: llama.cpp `conversion/base.py`
/// (`_create_vocab_sentencepiece`), October 2026.
const ADDED_SCORE: f32 = -1000.0;
const UNUSED_SCORE: f32 = -10000.0;

/// Whether `json` is of this kind.
pub(super) fn is_sentencepiece(json: &TokenizerJson) -> bool {
    let kind = |value: &Value| value.get("type").and_then(Value::as_str).map(str::to_string);
    json.model.kind.as_deref() == Some("BPE")
        && json.model.byte_fallback
        && kind(&json.decoder).as_deref() == Some("Sequence")
}

/// The vocabulary of `json`, padded to `n_vocab` tokens.
pub(super) fn vocabulary(
    path: &Path,
    json: &TokenizerJson,
    files: &TokenizerFiles,
    n_vocab: usize,
) -> Result<Vocabulary> {
    let mut texts = json.vocab(path)?;
    restore_tab(&mut texts);
    let mut scores = scores(json, &texts);
    let specials: HashSet<&str> = files.named_specials().into_iter().collect();
    let mut kinds = Vec::with_capacity(n_vocab);
    for text in &texts {
        let Some(text) = text else {
            kinds.push(TokenKind::Unused);
            continue;
        };
        kinds.push(if is_byte(text) {
            TokenKind::Byte
        } else if json.model.unk_token.as_ref() == Some(text) {
            TokenKind::Unknown
        } else if specials.contains(text.as_str()) {
            TokenKind::Control
        } else {
            TokenKind::Normal
        });
    }
    for added in json.added_tokens.iter().cloned().chain(files.config_added_tokens()?) {
        let id = added.id as usize;
        if id >= n_vocab {
            return Err(too_many(path, id, n_vocab));
        }
        if id >= texts.len() {
            texts.resize(id + 1, None);
            kinds.resize(id + 1, TokenKind::Unused);
            scores.resize(id + 1, UNUSED_SCORE);
        }
        scores[id] = ADDED_SCORE;
        let special = added.special || specials.contains(added.content.as_str());
        let (text, kind) = added_token(&added.content, special);
        (texts[id], kinds[id]) = (Some(text), kind);
    }
    if texts.len() > n_vocab {
        return Err(too_many(path, texts.len() - 1, n_vocab));
    }
    texts.resize(n_vocab, None);
    kinds.resize(n_vocab, TokenKind::Unused);
    scores.resize(n_vocab, UNUSED_SCORE);
    let token = |(id, text): (usize, Option<String>)| text.unwrap_or_else(|| padding_token(id));
    Ok(Vocabulary {
        tokens: texts.into_iter().enumerate().map(token).collect(),
        kinds,
        scheme: Scheme::Scores(scores),
        pre: "default".to_string(),
        add_space_prefix: (!prepends_space(json)).then_some(false),
        asked_space_prefix: None,
        space_prefix: SpacePrefix::default(),
        special: SpecialTokens::default(),
        warnings: Vec::new(),
    })
}

pub(super) fn too_many(path: &Path, id: usize, n_vocab: usize) -> Error {
    let detail = format!(
        "token id {id} is beyond the model's 'vocab_size' of {n_vocab}; tokenizer and weights do not \
         belong together"
    );
    Error::format(path, detail)
}

/// Puts the byte token of a tab back: transformers writes it as the tab itself, between the tokens of the bytes before and
/// after it (`GemmaConverter` in `convert_slow_tokenizer.py`).
fn restore_tab(texts: &mut [Option<String>]) {
    let is = |window: &[Option<String>], at: usize, text: &str| window[at].as_deref() == Some(text);
    let place = texts.windows(3).position(|window| {
        is(window, 0, "<0x08>") && is(window, 1, "\t") && is(window, 2, "<0x0A>")
    });
    if let Some(place) = place {
        texts[place + 1] = Some("<0x09>".to_string());
    }
}

/// The score of each token of the model, before added ones get theirs.
fn scores(json: &TokenizerJson, texts: &[Option<String>]) -> Vec<f32> {
    let ranks = ranks(json);
    let added: HashSet<usize> = json.added_tokens.iter().map(|token| token.id as usize).collect();
    let is_piece = |(id, text): &(usize, &Option<String>)| {
        !added.contains(id) && text.as_ref().is_some_and(|text| !is_byte(text))
    };
    let pieces: Vec<(usize, &str)> = (texts.iter().enumerate().filter(is_piece))
        .filter_map(|(id, text)| Some((id, text.as_deref()?)))
        .collect();
    // Below every merge; only tokens that no merge makes have it.
    let unmerged = json.model.merges.len() + 1;
    let rank = |text: &str| ranks.get(text).copied().unwrap_or(unmerged);
    let in_order = pieces.is_sorted_by_key(|(_, text)| rank(text));
    let score = |text: &Option<String>| if text.is_some() { 0.0 } else { UNUSED_SCORE };
    let mut scores: Vec<f32> = texts.iter().map(score).collect();
    for (place, (id, text)) in pieces.into_iter().enumerate() {
        scores[id] = -(if in_order { place } else { rank(text) } as f32);
    }
    scores
}

/// The rank of the first merge that makes each token.
fn ranks(json: &TokenizerJson) -> HashMap<String, usize> {
    let mut ranks = HashMap::with_capacity(json.model.merges.len());
    for (rank, merge) in json.model.merges.iter().enumerate() {
        let made = match merge {
            Merge::Pair(left, right) => format!("{left}{right}"),
            Merge::Text(text) => text.replacen(' ', "", 1),
        };
        ranks.entry(made).or_insert(rank);
    }
    ranks
}

/// `<0x0A>` and the like.
fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|d| d.len() == 2 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Whether a space is put before the text, by the normalizer or the pre-tokenizer.
fn prepends_space(json: &TokenizerJson) -> bool {
    fn any(value: &Value) -> bool {
        let nested =
            ["normalizers", "pretokenizers"].iter().filter_map(|k| value.get(k)?.as_array());
        match value.get("type").and_then(Value::as_str) {
            Some("Prepend") => true,
            Some("Metaspace") => {
                let old = value.get("add_prefix_space").and_then(Value::as_bool);
                let scheme = value.get("prepend_scheme").and_then(Value::as_str);
                scheme.map_or(old.unwrap_or(true), |scheme| scheme != "never")
            }
            _ => nested.flatten().any(any),
        }
    }
    any(&json.normalizer) || any(&json.pre_tokenizer)
}
