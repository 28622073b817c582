//! Text to token ids, as `llama_tokenize` of llama.cpp makes them.
//!
//! A [`Tokenizer`] is always built from `tokenizer.*` metadata and never from the files of a checkpoint.

use super::bpe::BytePairEncoder;
use super::pretokenizer::PreTokenizer;
use super::spm::ScoreEncoder;
use crate::base::error::{Error, Result};
use crate::formats::gguf::Metadata;
use crate::model::tokenizer::SPACE_MARK;
use crate::model::tokenizer::gguf::{TokenKind, scores, token_kinds};

/// Texts that are control tokens whatever their recorded type says: they end a generation.
/// Source: llama.cpp `src/llama-vocab.cpp`, the list of end-of-generation tokens, October 2026.
pub(super) const ALWAYS_CONTROL: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    "[e~[",
];

/// A token that is cut out of the text before the rest is tokenized.
struct Special {
    text: String,
    id: u32,
    /// Recognised only when special tokens are parsed; user-defined ones always are.
    control: bool,
}

enum Encoder {
    BytePair { encoder: BytePairEncoder, split: PreTokenizer },
    Score { encoder: ScoreEncoder, space_prefix: bool },
}

/// A piece of text between special tokens, or one of them.
enum Fragment<'a> {
    Text(&'a str),
    Token(u32),
}

/// Turns text into the ids a model was trained on.
pub struct Tokenizer {
    encoder: Encoder,
    /// Longest first: a longer special token wins over a shorter one inside it.
    specials: Vec<Special>,
    n_vocab: usize,
    bos_id: Option<u32>,
    eos_id: Option<u32>,
    add_bos: bool,
    add_eos: bool,
}

impl Tokenizer {
    /// Builds the tokenizer that the `tokenizer.ggml.*` keys describe; `origin` names the file in
    /// errors.
    ///
    /// # Errors
    /// If keys are missing or contradict each other, or the tokenizer's kind or pre-tokenizer is not
    /// known.
    pub fn from_metadata(origin: &str, metadata: &Metadata) -> Result<Tokenizer> {
        let fail = |detail: String| Error::model(origin, detail);
        let model = metadata.str("tokenizer.ggml.model").ok_or_else(|| {
            fail(
                "metadata key 'tokenizer.ggml.model' is missing: no tokenizer in this model".into(),
            )
        })?;
        let tokens = metadata
            .strings("tokenizer.ggml.tokens")
            .ok_or_else(|| fail("metadata key 'tokenizer.ggml.tokens' is missing".into()))?;
        let n_vocab = u32::try_from(tokens.len()).map_err(|_| fail("too many tokens".into()))?;
        let kinds = token_kinds(origin, metadata, tokens.len())?;
        let (encoder, default_add_bos, default_ids) = match model {
            "gpt2" => {
                let split = PreTokenizer::named(origin, metadata.str("tokenizer.ggml.pre"))?;
                let merges = metadata.strings("tokenizer.ggml.merges").ok_or_else(|| {
                    fail("metadata key 'tokenizer.ggml.merges' is missing".into())
                })?;
                let encoder =
                    BytePairEncoder::new(origin, tokens, merges, split.whole_words_first())?;
                let add_bos = split.adds_bos();
                (Encoder::BytePair { encoder, split }, add_bos, (None, None))
            }
            "llama" => {
                let encoder = ScoreEncoder::new(origin, tokens, scores(origin, metadata)?, &kinds)?;
                let space_prefix = metadata.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true);
                (Encoder::Score { encoder, space_prefix }, true, (Some(1), Some(2)))
            }
            other => {
                let detail =
                    format!("tokenizer model '{other}' is not supported; known are gpt2 and llama");
                return Err(fail(detail));
            }
        };
        let id = |key: &str, default: Option<u32>| {
            let given = metadata.u64(key).and_then(|v| u32::try_from(v).ok());
            given.or(default).filter(|&id| id < n_vocab)
        };
        let tokenizer = Tokenizer {
            encoder,
            specials: specials(tokens, &kinds),
            n_vocab: tokens.len(),
            bos_id: id("tokenizer.ggml.bos_token_id", default_ids.0),
            eos_id: id("tokenizer.ggml.eos_token_id", default_ids.1),
            add_bos: metadata.bool("tokenizer.ggml.add_bos_token").unwrap_or(default_add_bos),
            add_eos: metadata.bool("tokenizer.ggml.add_eos_token").unwrap_or(false),
        };
        if tokenizer.add_bos && tokenizer.bos_id.is_none() {
            return Err(fail("the tokenizer adds a BOS token but names no usable one".into()));
        }
        if tokenizer.add_eos && tokenizer.eos_id.is_none() {
            return Err(fail("the tokenizer adds an EOS token but names no usable one".into()));
        }
        Ok(tokenizer)
    }

    /// The ids of `text`, without BOS and EOS. With `parse_special` control tokens that are spelled
    /// out in the text (`<|im_start|>`) become their id; otherwise only user-defined tokens do.
    ///
    /// # Errors
    /// If the vocabulary cannot express a byte of the text.
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>> {
        let fragments = self.fragments(text, parse_special);
        let mut ids = Vec::with_capacity(text.len() / 3);
        match &self.encoder {
            Encoder::BytePair { encoder, split } => {
                let mut session = encoder.session();
                for fragment in fragments {
                    match fragment {
                        Fragment::Token(id) => ids.push(id),
                        Fragment::Text(text) => {
                            split.for_each_word(text, |word| session.encode_word(word, &mut ids));
                        }
                    }
                }
            }
            Encoder::Score { encoder, space_prefix } => {
                let mut session = encoder.session();
                let mut after_special = true;
                for fragment in fragments {
                    match fragment {
                        Fragment::Token(id) => ids.push(id),
                        Fragment::Text(text) => {
                            let prefix =
                                if *space_prefix && after_special { SPACE_MARK } else { "" };
                            let text = format!("{prefix}{}", text.replace(' ', SPACE_MARK));
                            session.encode(&text, &mut ids)?;
                        }
                    }
                    after_special = matches!(fragment, Fragment::Token(_));
                }
            }
        }
        Ok(ids)
    }

    /// [`Tokenizer::encode`] with BOS before and EOS after, where the model has them added.
    pub fn encode_document(&self, text: &str, parse_special: bool) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        ids.extend(self.bos_id.filter(|_| self.add_bos));
        ids.extend(self.encode(text, parse_special)?);
        ids.extend(self.eos_id.filter(|_| self.add_eos));
        Ok(ids)
    }

    /// Number of tokens; every id is below it.
    pub fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    /// The token that begins a sequence, if the vocabulary names one.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    /// The token that ends a sequence, if the vocabulary names one.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos_id
    }

    /// Whether the model wants BOS before a text; [`Tokenizer::bos_id`] is then not `None`.
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether the model wants EOS after a text; [`Tokenizer::eos_id`] is then not `None`.
    pub fn add_eos(&self) -> bool {
        self.add_eos
    }

    /// Cuts the special tokens out of `text`: the longest first, each from left to right.
    fn fragments<'a>(&self, text: &'a str, parse_special: bool) -> Vec<Fragment<'a>> {
        if text.is_empty() {
            return Vec::new();
        }
        let mut fragments = vec![Fragment::Text(text)];
        for special in self.occurring(text, parse_special) {
            let mut next = Vec::with_capacity(fragments.len() + 2);
            for fragment in fragments {
                let Fragment::Text(text) = fragment else {
                    next.push(fragment);
                    continue;
                };
                let mut start = 0;
                for (at, _) in text.match_indices(special.text.as_str()) {
                    if at > start {
                        next.push(Fragment::Text(&text[start..at]));
                    }
                    next.push(Fragment::Token(special.id));
                    start = at + special.text.len();
                }
                if start < text.len() {
                    next.push(Fragment::Text(&text[start..]));
                }
            }
            fragments = next;
        }
        fragments
    }

    /// The special tokens that occur in `text` at all, longest first. One pass over the text: some
    /// vocabularies have thousands of them and calibration texts have megabytes.
    fn occurring(&self, text: &str, parse_special: bool) -> Vec<&Special> {
        let mut by_first_byte: Vec<Vec<usize>> = vec![Vec::new(); 256];
        for (index, special) in self.specials.iter().enumerate() {
            if parse_special || !special.control {
                by_first_byte[special.text.as_bytes()[0] as usize].push(index);
            }
        }
        let mut found = vec![false; self.specials.len()];
        let bytes = text.as_bytes();
        for (at, &byte) in bytes.iter().enumerate() {
            by_first_byte[byte as usize].retain(|&index| {
                let hit = bytes[at..].starts_with(self.specials[index].text.as_bytes());
                found[index] |= hit;
                !hit
            });
        }
        self.specials.iter().zip(found).filter_map(|(s, found)| found.then_some(s)).collect()
    }
}

/// The tokens that are cut out of texts, longest first (in bytes), equal lengths by id.
fn specials(tokens: &[String], kinds: &[TokenKind]) -> Vec<Special> {
    let mut specials: Vec<Special> = Vec::new();
    for (id, (text, kind)) in tokens.iter().zip(kinds).enumerate() {
        let control = matches!(kind, TokenKind::Control | TokenKind::Unknown)
            || ALWAYS_CONTROL.contains(&text.as_str());
        if !text.is_empty() && (control || *kind == TokenKind::UserDefined) {
            specials.push(Special { text: text.clone(), id: id as u32, control });
        }
    }
    specials.sort_by_key(|s| std::cmp::Reverse(s.text.len()));
    specials
}
