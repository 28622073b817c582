//! A checkpoint's tokenizer as a GGUF vocabulary.
//!
//! The file is chosen in llama.cpp's order: `tokenizer.model` (SentencePiece), else a `tokenizer.json` that
//! holds a SentencePiece model (BPE with byte fallback), else a byte-level `tokenizer.json`.
//! Source of the rules: llama.cpp `conversion/llama.py` and `conversion/base.py`, October 2026.

use super::files::TokenizerFiles;
use super::{bpe, sentencepiece, sentencepiece_json, special};
use crate::base::error::{Error, Result};
use crate::formats::checkpoint::Checkpoint;
use crate::model::tokenizer::ChatTemplates;
use crate::model::tokenizer::gguf::Vocabulary;

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
            if sentencepiece_json::is_sentencepiece(json) {
                sentencepiece_json::vocabulary(path, json, &files, n_vocab)?
            } else {
                bpe::vocabulary(path, bytes, json, &files, n_vocab, pre_tokenizer)?
            }
        } else {
            let detail = "the checkpoint has no tokenizer: neither tokenizer.model nor tokenizer.json nor \
                          vocab.json with merges.txt lies beside the weights";
            return Err(Error::model(checkpoint.config.origin(), detail));
        };
        let asked = files.config.as_ref().and_then(|config| config.bool("add_prefix_space"));
        vocabulary.asked_space_prefix = asked;
        vocabulary.special = special::read(&files, &checkpoint.config, n_vocab);
        vocabulary.special.chat_templates = ChatTemplates::of_checkpoint(checkpoint)?;
        Ok(vocabulary)
    }
}
