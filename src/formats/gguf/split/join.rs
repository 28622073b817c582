//! Joining the shards of a split model.
//!
//! Without the `split.` keys the joined model equals the original byte for byte, if that was laid
//! out as llama.cpp does. llama.cpp's `gguf-split --merge` (October 2026) keeps the keys, with a
//! `split.count` of 0 at the end.

use super::names::SPLIT_COUNT;
use crate::base::error::{Error, Result};
use crate::formats::gguf::file::{GgufFile, open};
use crate::formats::gguf::metadata::Value;
use crate::formats::gguf::model::GgufModel;
use std::path::Path;

/// Opens the split model of which `path` is any shard, including a single shard 1 of 1. With
/// `keep_keys`, the metadata are those of a file that gguf-split merged.
///
/// # Errors
/// A file that is not a shard; the errors of [`open`].
pub fn joined(path: &Path, keep_keys: bool) -> Result<GgufModel> {
    let file = GgufFile::open(path)?;
    if file.header().metadata.u64(SPLIT_COUNT).unwrap_or(0) == 0 {
        let detail = "is not a shard of a split model: it has no split.count above 0";
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
