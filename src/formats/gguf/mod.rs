//! GGUF files: metadata, reading, writing and splitting.
//!
//! Every later stage works on a [`GgufModel`], read from a file by [`open`] or converted from a
//! checkpoint. [`GgufWriter`] writes version 3. Not here: big-endian files, version 1 and arrays of
//! arrays, which llama.cpp does not read either.

mod copy;
mod file;
mod folder;
mod header;
mod layout;
mod metadata;
mod model;
mod scales;
mod split;
mod strings;
mod writer;

pub use copy::{write, write_shards};
pub use file::{GgufFile, is_gguf, open};
pub use folder::only_model_in;
pub use header::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, GgufHeader, MAGIC};
pub use layout::GgufLayout;
pub use metadata::{Array, Metadata, Value};
pub use model::GgufModel;
pub use scales::{scale_tensor, scaled_weight, weight_scale};
pub use split::{Shards, SplitWriter, joined, shard_name, shard_paths, without_shard};
pub use strings::{
    bytes_of_text, escape_invalid_char, escape_invalid_utf8, is_utf8, text_of_bytes,
};
pub use writer::GgufWriter;
