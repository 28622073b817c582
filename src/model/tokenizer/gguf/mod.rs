//! The `tokenizer.*` metadata of a GGUF file: a [`Vocabulary`] writes them, the readers here read them.

mod keys;
mod special;
mod token;
mod vocabulary;

pub(super) use keys::{scores, token_kinds};
pub(super) use special::SpecialTokens;
pub use token::TokenKind;
pub(super) use token::{added_token, padding_token};
pub(super) use vocabulary::Scheme;
pub use vocabulary::{SpacePrefix, Vocabulary};
