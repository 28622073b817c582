//! GGUF files: values, reading, writing, splits.
//!
//! With [`crate::formats::checkpoint`] and the imatrix file module, the only code that knows byte layouts of
//! files. [`GgufModel`] is what every later stage works on, whether it came from a file ([`open`]) or
//! was converted on the fly. [`GgufWriter`] writes version 3. Deliberately absent: big-endian files,
//! version 1, arrays of arrays; llama.cpp reads none of them either.

mod copy;
mod file;
mod header;
mod join;
mod scales;
mod split;
mod text;
mod value;
mod write;

pub use copy::{write, write_shards};
pub use file::{GgufFile, is_gguf, only_model_in, open, shard_name, without_shard};
pub use header::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, Header, MAGIC};
pub use join::joined;
pub use scales::{scale_tensor, scaled_weight, weight_scale};
pub use split::{Shards, SplitWriter, shard_paths};
pub use text::{bytes_of_text, is_utf8, shown, shown_char, text_of_bytes};
pub use value::{Array, Metadata, Value};
pub use write::{GgufWriter, Layout};

use crate::formats::source::TensorSource;
use std::sync::Arc;

/// A model in GGUF terms: GGUF names, shapes and metadata. The tensors may live in a file or be
/// computed when they are read.
#[derive(Clone)]
pub struct GgufModel {
    pub metadata: Metadata,
    pub tensors: Arc<dyn TensorSource>,
    /// What conversion found and decided one way or another, for the user: a sentence each. Empty for a file.
    pub warnings: Vec<String>,
}
