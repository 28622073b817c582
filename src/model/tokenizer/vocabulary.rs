//! A checkpoint's tokenizer as a GGUF vocabulary: tokens, kinds, scores or merges, special tokens.
//!
//! Which file counts, in the peer's order: `tokenizer.model` (SentencePiece), else a `tokenizer.json`
//! that is SentencePiece in disguise (BPE with byte fallback), else a byte-level `tokenizer.json`.
//! Source of the rules: llama.cpp `conversion/llama.py` and `conversion/base.py`, October 2026.

use super::ChatTemplates;
use super::files::TokenizerFiles;
use super::special::SpecialTokens;
use super::{hf_bpe, hf_spm, sentencepiece};
use crate::base::error::{Error, Result};
use crate::formats::checkpoint::Checkpoint;
use crate::formats::gguf::{Array, Metadata, Value};

/// What a token is, in `tokenizer.ggml.token_type`.
/// Numbers: llama.cpp `include/llama.h` (`enum llama_token_type`), October 2026.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    Undefined = 0,
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

impl TokenKind {
    /// The kind with `number`; numbers that mean nothing are [`TokenKind::Undefined`].
    pub fn from_number(number: i32) -> TokenKind {
        use TokenKind::*;
        let kinds = [Normal, Unknown, Control, UserDefined, Unused, Byte];
        kinds.into_iter().find(|kind| *kind as i32 == number).unwrap_or(Undefined)
    }
}

/// How text becomes tokens of a vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scheme {
    /// GGUF's `llama`: the best score is joined first. One score for each token.
    Scores(Vec<f32>),
    /// GGUF's `gpt2`: merges, best first, as pairs with a space between.
    Merges(Vec<String>),
}

/// The vocabulary of a checkpoint, ready to be written as metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct Vocabulary {
    pub(super) tokens: Vec<String>,
    pub(super) kinds: Vec<TokenKind>,
    pub(super) scheme: Scheme,
    /// `tokenizer.ggml.pre`.
    pub(super) pre: String,
    /// What the tokenizer itself says; readers assume a prefix.
    pub(super) add_space_prefix: Option<bool>,
    /// What tokenizer_config.json says.
    pub(super) asked_space_prefix: Option<bool>,
    pub(super) space_prefix: SpacePrefix,
    pub(super) special: SpecialTokens,
    /// What was decided one way or another, for the user: a sentence each.
    pub warnings: Vec<String>,
}

/// Who says whether a space is put before a text, `tokenizer.ggml.add_space_prefix`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpacePrefix {
    /// `add_prefix_space` of tokenizer_config.json, else the tokenizer.
    #[default]
    Config,
    /// The tokenizer.
    Tokenizer,
    /// Nobody: there is none. The key comes last.
    Never,
}

impl Vocabulary {
    /// Reads the tokenizer files beside the weights. The vocabulary gets `n_vocab` tokens, the rows of
    /// the embedding, with `[PAD<id>]` where the files have none. `pre_tokenizer` overrides what would
    /// be recognised.
    ///
    /// # Errors
    /// If there is no tokenizer, if it has more than `n_vocab` tokens, or if its kind or its
    /// pre-tokenizer is not known.
    pub fn from_checkpoint(
        checkpoint: &Checkpoint,
        n_vocab: usize,
        pre_tokenizer: Option<&str>,
    ) -> Result<Vocabulary> {
        let files = TokenizerFiles::read(checkpoint)?;
        let mut vocabulary = if let Some((path, bytes)) = &files.sentencepiece {
            sentencepiece::vocabulary(path, bytes, &files, n_vocab)?
        } else if let Some((path, bytes, json)) = &files.json {
            if hf_spm::is_sentencepiece(json) {
                hf_spm::vocabulary(path, json, &files, n_vocab)?
            } else {
                hf_bpe::vocabulary(path, bytes, json, &files, n_vocab, pre_tokenizer)?
            }
        } else {
            let detail = "the checkpoint has no tokenizer: neither tokenizer.model nor tokenizer.json nor \
                          vocab.json with merges.txt lies beside the weights";
            return Err(Error::model(checkpoint.config.origin(), detail));
        };
        let asked = files.config.as_ref().and_then(|config| config.bool("add_prefix_space"));
        vocabulary.asked_space_prefix = asked;
        vocabulary.special = SpecialTokens::read(&files, &checkpoint.config, n_vocab);
        vocabulary.special.chat_templates = ChatTemplates::of_checkpoint(checkpoint)?;
        Ok(vocabulary)
    }

    /// The same vocabulary, where `rule` says whether a space is put before a text.
    pub fn with_space_prefix(self, rule: SpacePrefix) -> Vocabulary {
        Vocabulary { space_prefix: rule, ..self }
    }

    /// What the files contradict each other in, a sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.special.chat_templates.warnings
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Writes the `tokenizer.*` keys, in the peer's order.
    pub fn write_to(self, metadata: &mut Metadata) {
        let add = match self.space_prefix {
            SpacePrefix::Config => self.asked_space_prefix.or(self.add_space_prefix),
            SpacePrefix::Tokenizer => self.add_space_prefix,
            SpacePrefix::Never => None,
        };
        if let Some(add) = add {
            metadata.set("tokenizer.ggml.add_space_prefix", add);
        }
        let (model, scores, merges) = match self.scheme {
            Scheme::Scores(scores) => ("llama", Some(scores), None),
            Scheme::Merges(merges) => ("gpt2", None, Some(merges)),
        };
        let kinds = self.kinds.iter().map(|&kind| kind as i32).collect();
        metadata.set("tokenizer.ggml.model", model);
        metadata.set("tokenizer.ggml.pre", self.pre);
        metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(self.tokens)));
        if let Some(scores) = scores {
            metadata.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
        }
        metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds)));
        if let Some(merges) = merges {
            metadata.set("tokenizer.ggml.merges", Value::Array(Array::String(merges)));
        }
        self.special.write_to(metadata);
        if self.space_prefix == SpacePrefix::Never {
            metadata.set("tokenizer.ggml.add_space_prefix", false);
        }
    }
}

/// Whether a token that is not marked special is one by its looks.
/// Source: llama.cpp `conversion/base.py` (`does_token_look_special`), October 2026.
fn looks_special(text: &str) -> bool {
    let within = |start: &str, end: &str| text.starts_with(start) && text.ends_with(end);
    matches!(text, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || within("<|", "|>")
        || within("<\u{ff5c}", "\u{ff5c}>")
        || within("<unused", ">")
}

/// Text and kind of an added token. User-defined ones spell spaces as spaces.
pub(super) fn added_token(text: &str, special: bool) -> (String, TokenKind) {
    if special || looks_special(text) {
        (text.to_string(), TokenKind::Control)
    } else {
        (text.replace(super::SPACE_MARK, " "), TokenKind::UserDefined)
    }
}

/// The token that fills row `id` of an embedding that is larger than the vocabulary.
pub(super) fn padding_token(id: usize) -> String {
    format!("[PAD{id}]")
}
