//! `tokenizer.model`: a SentencePiece model as a vocabulary with scores.
//!
//! The message is declared by hand, with the fields that count here. Source of the field numbers:
//! SentencePiece `src/sentencepiece_model.proto`; of the rules: llama.cpp `conversion/base.py`
//! (`_create_vocab_sentencepiece`), October 2026.

use super::files::TokenizerFiles;
use crate::base::error::{Error, Result};
use crate::model::tokenizer::gguf::{
    Scheme, SpacePrefix, SpecialTokens, TokenKind, Vocabulary, added_token, padding_token,
};
use prost::Message;
use std::path::Path;

#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pub pieces: Vec<SentencePiece>,
    #[prost(message, optional, tag = "2")]
    pub trainer_spec: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    pub normalizer_spec: Option<NormalizerSpec>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SentencePiece {
    #[prost(string, optional, tag = "1")]
    pub piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    pub score: Option<f32>,
    /// Numbered like [`TokenKind`].
    #[prost(int32, optional, tag = "3")]
    pub kind: Option<i32>,
}

/// How the model was trained: what readers need of it. Not read here.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TrainerSpec {
    #[prost(int32, optional, tag = "3")]
    pub model_type: Option<i32>,
    #[prost(int32, optional, tag = "4")]
    pub vocab_size: Option<i32>,
    #[prost(bool, optional, tag = "35")]
    pub byte_fallback: Option<bool>,
    #[prost(int32, optional, tag = "40")]
    pub unk_id: Option<i32>,
    #[prost(int32, optional, tag = "41")]
    pub bos_id: Option<i32>,
    #[prost(int32, optional, tag = "42")]
    pub eos_id: Option<i32>,
    #[prost(int32, optional, tag = "43")]
    pub pad_id: Option<i32>,
    #[prost(string, optional, tag = "45")]
    pub unk_piece: Option<String>,
    #[prost(string, optional, tag = "46")]
    pub bos_piece: Option<String>,
    #[prost(string, optional, tag = "47")]
    pub eos_piece: Option<String>,
    #[prost(string, optional, tag = "48")]
    pub pad_piece: Option<String>,
}

impl TrainerSpec {
    /// Byte-pair encoding, as `model_type`.
    pub(super) const BPE: i32 = 2;
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NormalizerSpec {
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    #[prost(bool, optional, tag = "3")]
    pub add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    pub remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    pub escape_whitespaces: Option<bool>,
}

/// Score of rows that no file names.
const PADDING_SCORE: f32 = -10000.0;
/// Score of tokens that were added to the model.
const ADDED_SCORE: f32 = -1000.0;

/// The texts of the pieces, in the order of their ids.
pub(super) fn pieces(path: &Path, bytes: &[u8]) -> Result<Vec<String>> {
    let pieces = decode(path, bytes)?.pieces.into_iter();
    Ok(pieces.map(|piece| piece.piece.unwrap_or_default()).collect())
}

fn decode(path: &Path, bytes: &[u8]) -> Result<ModelProto> {
    let model = ModelProto::decode(bytes)
        .map_err(|e| Error::format(path, format!("not a SentencePiece model: {e}")))?;
    if model.pieces.is_empty() {
        return Err(Error::format(path, "a SentencePiece model without pieces"));
    }
    Ok(model)
}

/// The vocabulary of the SentencePiece model in `bytes`. Tokens with ids of `n_vocab` and above are
/// left out, as llama.cpp leaves them out: the model has no embedding for them.
pub(super) fn vocabulary(
    path: &Path,
    bytes: &[u8],
    files: &TokenizerFiles,
    n_vocab: usize,
) -> Result<Vocabulary> {
    let model = decode(path, bytes)?;
    let mut tokens: Vec<String> = (0..n_vocab).map(padding_token).collect();
    let mut scores = vec![PADDING_SCORE; n_vocab];
    let mut kinds = vec![TokenKind::Unused; n_vocab];
    for (id, piece) in model.pieces.into_iter().enumerate().take(n_vocab) {
        tokens[id] = piece.piece.unwrap_or_default();
        scores[id] = piece.score.unwrap_or_default();
        kinds[id] = match TokenKind::from_number(piece.kind.unwrap_or(1)) {
            // Only tokens that the other files add count as user-defined.
            TokenKind::UserDefined | TokenKind::Undefined => TokenKind::Normal,
            kind => kind,
        };
    }
    for (text, id) in &files.added_tokens {
        if let Some(id) = id.as_u64().map(|id| id as usize).filter(|&id| id < n_vocab) {
            (tokens[id], scores[id], kinds[id]) =
                (text.clone(), ADDED_SCORE, TokenKind::UserDefined);
        }
    }
    for added in files.config_added_tokens()? {
        let id = added.id as usize;
        if id < n_vocab {
            (tokens[id], kinds[id]) = added_token(&added.content, added.special);
            scores[id] = ADDED_SCORE;
        }
    }
    let dummy_prefix = model.normalizer_spec.and_then(|spec| spec.add_dummy_prefix).unwrap_or(true);
    Ok(Vocabulary {
        tokens,
        kinds,
        scheme: Scheme::Scores(scores),
        pre: "default".to_string(),
        // Readers assume the prefix, so only its absence needs saying.
        add_space_prefix: (!dummy_prefix).then_some(false),
        asked_space_prefix: None,
        space_prefix: SpacePrefix::default(),
        special: SpecialTokens::default(),
        warnings: Vec::new(),
    })
}
