//! The tokenizer files of Hugging Face checkpoints: read, edited for a merge, and restored from GGUF metadata.
//!
//! `vocabulary` makes a GGUF vocabulary of them by one of three readers (`sentencepiece`, `sentencepiece_json`,
//! `bpe`); [`TokenList`] lists their tokens by id, for merges of models whose vocabularies differ.

mod bpe;
mod edit;
mod files;
mod known_hashes;
mod pretokenizer_name;
mod restore;
mod sentencepiece;
mod sentencepiece_json;
mod special;
mod token_list;
mod tokenizer_json;
mod vocab_merges;
mod vocabulary;

pub use edit::{Change, edited_files, is_tokenizer_file};
pub use restore::restore;
pub use token_list::TokenList;
