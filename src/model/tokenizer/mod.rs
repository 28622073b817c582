//! Tokenizers and chat templates: of Hugging Face checkpoints, of GGUF metadata, and for encoding text.
//!
//! `hf` reads the tokenizer files of a checkpoint into a [`Vocabulary`] and writes such files; `gguf`
//! writes a vocabulary as `tokenizer.*` metadata; `encode` builds a [`Tokenizer`] from that metadata, so a
//! recipe, a folder and a GGUF file give the same ids for the same text. `chat` renders conversations.
//! Not here: WordPiece, Unigram and RWKV tokenizers, which no supported architecture uses.

mod chat;
mod encode;
mod gguf;
mod hf;

pub use chat::{ChatTemplate, ChatTemplates, Date, chat_template_names, named_chat_template};
pub use encode::{Detokenizer, Role, TextSequence, Tokenizer, in_turns};
pub use gguf::{SpacePrefix, TokenKind, Vocabulary};
pub use hf::{Change, TokenList, edited_files, is_tokenizer_file, restore};

/// U+2581, which SentencePiece writes for a space.
pub(crate) const SPACE_MARK: &str = "\u{2581}";

/// The largest tokenizer file that is read into memory, in bytes; known files are far smaller.
const MAX_FILE_BYTES: u64 = 512 << 20;

/// Special tokens as `tokenizer_config.json` and chat templates name them, and the keys of their ids.
const SPECIAL_TOKEN_KEYS: &[(&str, &str)] = &[
    ("bos_token", "tokenizer.ggml.bos_token_id"),
    ("eos_token", "tokenizer.ggml.eos_token_id"),
    ("unk_token", "tokenizer.ggml.unknown_token_id"),
    ("sep_token", "tokenizer.ggml.seperator_token_id"),
    ("pad_token", "tokenizer.ggml.padding_token_id"),
    ("mask_token", "tokenizer.ggml.mask_token_id"),
];
