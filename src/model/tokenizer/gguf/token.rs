//! The kinds of tokens in GGUF, and the texts that added and padding tokens have there.

use crate::model::tokenizer::SPACE_MARK;

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
pub(crate) fn added_token(text: &str, special: bool) -> (String, TokenKind) {
    if special || looks_special(text) {
        (text.to_string(), TokenKind::Control)
    } else {
        (text.replace(SPACE_MARK, " "), TokenKind::UserDefined)
    }
}

/// The token that fills row `id` of an embedding that is larger than the vocabulary.
pub(crate) fn padding_token(id: usize) -> String {
    format!("[PAD{id}]")
}
