//! The model that a split one was before it was split.
//!
//! Without the `split.` keys a joined model is byte for byte what was split, where that was written as
//! llama.cpp writes files. llama.cpp `tools/gguf-split` (`--merge`, October 2026) keeps them, with a `split.count`
//! of 0 at the end.

use super::names::SPLIT_COUNT;
use crate::base::error::{Error, Result};
use crate::formats::gguf::file::{GgufFile, open};
use crate::formats::gguf::metadata::Value;
use crate::formats::gguf::model::GgufModel;
use std::path::Path;

/// Opens the split model that `path` is any shard of; one that is number 1 of 1 counts. With `keep_keys` its
/// metadata are those that gguf-split gives a merged file.
///
/// # Errors
/// A file that is no shard, and those of [`open`].
pub fn joined(path: &Path, keep_keys: bool) -> Result<GgufModel> {
    let file = GgufFile::open(path)?;
    if file.header().metadata.u64(SPLIT_COUNT).unwrap_or(0) == 0 {
        let detail = "is no shard of a split model: it has no split.count above 0";
        return Err(Error::format(path, detail));
    }
    let mut model = open(path)?;
    if keep_keys {
        let files = model.tensors.files().unwrap_or_default();
        let first = files.first().map_or(path, |first| first.as_path());
        model.metadata = GgufFile::open(first)?.header().metadata.clone();
        model.metadata.remove_if(|key| key == SPLIT_COUNT);
        model.metadata.set(SPLIT_COUNT, Value::U16(0));
    }
    Ok(model)
}
