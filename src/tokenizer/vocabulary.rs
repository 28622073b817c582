//! A GGUF vocabulary, as it stands in metadata: tokens, kinds, scores or merges, special tokens.

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
