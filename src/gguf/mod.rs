//! GGUF files: values, reading, writing, splits.
//!
//! With [`crate::checkpoint`] and the imatrix file module, the only code that knows byte layouts of
//! files. [`GgufModel`] is what every later stage works on, whether it came from a file or was
//! converted on the fly.

mod value;

pub use value::{Array, Metadata, Value};

use crate::source::TensorSource;
use std::sync::Arc;

/// A model in GGUF terms: GGUF names, shapes and metadata. The tensors may live in a file or be
/// computed when they are read.
#[derive(Clone)]
pub struct GgufModel {
    pub metadata: Metadata,
    pub tensors: Arc<dyn TensorSource>,
}
