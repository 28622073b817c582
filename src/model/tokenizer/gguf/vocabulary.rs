//! A vocabulary as GGUF stores it: tokens, kinds, scores or merges, special tokens.
//!
//! Order of the keys: llama.cpp `conversion/base.py`, October 2026.

use super::special::SpecialTokens;
use super::token::TokenKind;
use crate::formats::gguf::{Array, Metadata, Value};

/// How text becomes tokens of a vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scheme {
    /// GGUF's `llama`: the best score is joined first. One score for each token.
    Scores(Vec<f32>),
    /// GGUF's `gpt2`: merges, best first, as pairs with a space between.
    Merges(Vec<String>),
}

/// The vocabulary of a checkpoint, ready to be written as metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct Vocabulary {
    pub(crate) tokens: Vec<String>,
    pub(crate) kinds: Vec<TokenKind>,
    pub(crate) scheme: Scheme,
    /// `tokenizer.ggml.pre`.
    pub(crate) pre: String,
    /// What the tokenizer itself says; readers assume a prefix.
    pub(crate) add_space_prefix: Option<bool>,
    /// What tokenizer_config.json says.
    pub(crate) asked_space_prefix: Option<bool>,
    pub(crate) space_prefix: SpacePrefix,
    pub(crate) special: SpecialTokens,
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

    /// Writes the `tokenizer.*` keys, in llama.cpp's order.
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
