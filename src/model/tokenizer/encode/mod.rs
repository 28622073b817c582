//! Text to token ids and back, from the `tokenizer.*` metadata of a model.
//!
//! [`Tokenizer`] cuts special tokens out of a text and encodes the rest by merges (`bpe`, after the
//! `pretokenizer` has cut words) or by scores (`spm`); [`Detokenizer`] turns ids into text.

mod bpe;
mod detokenize;
pub(super) mod pretokenizer;
mod spm;
mod tokenizer;
mod turns;

pub(super) use detokenize::ByteChars;
pub use detokenize::{Detokenizer, Role};
pub use tokenizer::Tokenizer;
pub use turns::{TextSequence, in_turns};
