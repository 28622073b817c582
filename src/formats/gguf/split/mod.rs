//! Split models: one model in several GGUF files, as llama.cpp's gguf-split writes them.
//!
//! [`Shards`] decides which tensor goes into which file, [`SplitWriter`] writes the files, and
//! [`joined`] opens them as the model that was split.

mod join;
pub(crate) mod names;
mod shards;
mod writer;

pub use join::joined;
pub use names::{shard_name, without_shard};
pub use shards::{Shards, shard_paths};
pub use writer::SplitWriter;
