//! Token ids to text.
//!
//! Built from the same metadata as [`super::Tokenizer`]. What a token stands for is bytes, not characters: a
//! character may be spread over several tokens.

use super::bpe::byte_chars;
use super::tokenizer::ALWAYS_CONTROL;
use crate::base::error::{Error, Result};
use crate::formats::gguf::{Metadata, bytes_of_text};
use crate::model::tokenizer::SPACE_MARK;
use crate::model::tokenizer::gguf::{TokenKind, token_kinds};

/// What becomes of a token in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It stands for bytes of the text.
    Text,
    /// It structures what is around the text: beginnings and ends of sequences, turns of a chat.
    Control,
    /// It stands for nothing: unknown text, unused rows of the embedding.
    Nothing,
}

/// Turns the ids of a model into text.
pub struct Detokenizer {
    tokens: Vec<(Role, Vec<u8>)>,
    /// The text of a sequence begins with a space that is not part of it.
    space_prefix: bool,
}

impl Detokenizer {
    /// Reads the `tokenizer.ggml.*` keys; `origin` names the file in errors.
    ///
    /// # Errors
    /// If keys are missing or contradict each other, or the kind of tokenizer is not known.
    pub fn from_metadata(origin: &str, metadata: &Metadata) -> Result<Detokenizer> {
        let fail = |detail: &str| Error::model(origin, detail);
        let model = metadata.str("tokenizer.ggml.model");
        let byte_level = match model {
            Some("gpt2") => true,
            Some("llama") => false,
            _ => {
                return Err(fail(
                    "no tokenizer, or one that is not known; known are gpt2 and llama",
                ));
            }
        };
        let texts = metadata
            .strings("tokenizer.ggml.tokens")
            .ok_or_else(|| fail("metadata key 'tokenizer.ggml.tokens' is missing"))?;
        let kinds = token_kinds(origin, metadata, texts.len())?;
        let bytes_of = ByteChars::new();
        let token = |(text, kind): (&String, TokenKind)| {
            let bytes = match kind {
                TokenKind::UserDefined => bytes_of_text(text).into_owned(),
                TokenKind::Byte => byte(text).map_or_else(Vec::new, |byte| vec![byte]),
                _ if byte_level => bytes_of.decode(text),
                _ => bytes_of_text(&text.replace(SPACE_MARK, " ")).into_owned(),
            };
            (role(text, kind, &bytes), bytes)
        };
        let prefix = metadata.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true);
        Ok(Detokenizer {
            tokens: texts.iter().zip(kinds).map(token).collect(),
            space_prefix: prefix && !byte_level,
        })
    }

    /// Number of tokens.
    pub fn n_vocab(&self) -> usize {
        self.tokens.len()
    }

    /// What becomes of token `id`; ids beyond the vocabulary stand for nothing.
    pub fn role(&self, id: u32) -> Role {
        self.tokens.get(id as usize).map_or(Role::Nothing, |(role, _)| *role)
    }

    /// The text of a sequence: of its text tokens, without bytes that form no characters.
    pub fn text(&self, ids: &[u32]) -> String {
        let mut bytes = Vec::new();
        for &id in ids {
            if let Some((Role::Text, token)) = self.tokens.get(id as usize) {
                bytes.extend_from_slice(token);
            }
        }
        let text: String = bytes.utf8_chunks().map(|chunk| chunk.valid()).collect();
        match text.strip_prefix(' ') {
            Some(rest) if self.space_prefix => rest.to_string(),
            _ => text,
        }
    }
}

fn role(text: &str, kind: TokenKind, bytes: &[u8]) -> Role {
    match kind {
        TokenKind::Control => Role::Control,
        _ if ALWAYS_CONTROL.contains(&text) => Role::Control,
        TokenKind::Normal | TokenKind::UserDefined | TokenKind::Byte if !bytes.is_empty() => {
            Role::Text
        }
        _ => Role::Nothing,
    }
}

/// The byte that `<0x0A>` stands for.
fn byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(digits, 16).ok()
}

/// The way back from the stand-ins of byte-level vocabularies.
pub(crate) struct ByteChars(Vec<(char, u8)>);

impl ByteChars {
    pub(crate) fn new() -> ByteChars {
        let mut pairs: Vec<(char, u8)> = byte_chars().into_iter().zip(0..=255).collect();
        pairs.sort();
        ByteChars(pairs)
    }

    /// Bytes of `text`; where a character stands in for none, the text is itself, as in the tokenizers library.
    pub(crate) fn decode(&self, text: &str) -> Vec<u8> {
        let byte = |char: char| {
            let at = self.0.binary_search_by_key(&char, |pair| pair.0).ok()?;
            Some(self.0[at].1)
        };
        let bytes: Option<Vec<u8>> = text.chars().map(byte).collect();
        bytes.unwrap_or_else(|| bytes_of_text(text).into_owned())
    }

    /// The text of a token, with U+FFFD for what is no UTF-8.
    pub(crate) fn text(&self, token: &str) -> String {
        String::from_utf8_lossy(&self.decode(token)).into_owned()
    }
}
