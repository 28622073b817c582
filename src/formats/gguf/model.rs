//! [`GgufModel`], the form in which conversion, quantization and the forward pass take a model.

use super::metadata::Metadata;
use crate::base::error::{Error, Result};
use crate::formats::source::TensorSource;
use std::sync::Arc;

/// A model in GGUF terms: GGUF names, shapes and metadata. The tensors are read from a file or
/// computed when they are read.
#[derive(Clone)]
pub struct GgufModel {
    /// The metadata, without the keys that number shards.
    pub metadata: Metadata,
    /// The tensors, under GGUF names.
    pub tensors: Arc<dyn TensorSource>,
    /// Warnings of the conversion for the user, a sentence each; empty for a model read from a
    /// file.
    pub warnings: Vec<String>,
}

impl GgufModel {
    /// The origin of the tensors, which names the model in errors.
    pub fn origin(&self) -> &str {
        self.tensors.origin()
    }

    /// The value of `general.architecture`.
    ///
    /// # Errors
    /// A model without that key.
    pub fn architecture(&self) -> Result<&str> {
        self.metadata.str("general.architecture").ok_or_else(|| {
            Error::model(self.origin(), "'general.architecture' is missing: no model file")
        })
    }
}
