//! A model over several GGUF files: which tensor goes where, and a writer that hides it.
//!
//! Names and keys are those of llama.cpp `tools/gguf-split` and `src/llama-quant.cpp` (October 2026): the
//! first file has the model's metadata, every file the three `split.` keys. Files are filled in the
//! order of the tensors, as gguf-split fills them.

use super::file::shard_name;
use super::{GgufWriter, Metadata, Value};
use crate::error::{Error, Result};
use crate::source::TensorInfo;
use std::path::{Path, PathBuf};

/// Most files of a model: their numbers have five digits, and `split.count` is a u16.
const MAX_FILES: usize = u16::MAX as usize;

/// A model being written to one file or several; they appear under their names when all are whole.
pub struct SplitWriter {
    files: Vec<GgufWriter>,
    paths: Vec<PathBuf>,
    /// File, and place in it, of each tensor.
    places: Vec<(usize, usize)>,
}

impl SplitWriter {
    /// Begins to write `tensors` to `path`, or to `STEM-00001-of-0000N.gguf` and so on beside it where their
    /// data take more than `max_bytes` a file. A tensor is never divided. Fails as
    /// [`GgufWriter::create`] does, and if there would be more than 65535 files.
    pub fn create(
        path: &Path,
        force: bool,
        metadata: &Metadata,
        tensors: Vec<TensorInfo>,
        max_bytes: Option<u64>,
    ) -> Result<SplitWriter> {
        let groups = divide(tensors, max_bytes);
        let (count, total) = (groups.len(), groups.iter().map(Vec::len).sum::<usize>());
        if count > MAX_FILES {
            let detail = format!("would be {count} files; allow larger ones");
            return Err(Error::Usage(format!("{}: {detail}", path.display())));
        }
        let paths = paths(path, count);
        let places = groups.iter().enumerate();
        let places = places.flat_map(|(f, group)| (0..group.len()).map(move |i| (f, i))).collect();
        let mut files = Vec::with_capacity(count);
        for (no, (group, path)) in groups.into_iter().zip(&paths).enumerate() {
            let mut own = if no == 0 { metadata.clone() } else { Metadata::new() };
            if count > 1 {
                own.set("split.no", Value::U16(no as u16));
                own.set("split.count", Value::U16(count as u16));
                own.set("split.tensors.count", Value::I32(total as i32));
            }
            files.push(GgufWriter::create(path, force, &own, group)?);
        }
        Ok(SplitWriter { files, paths, places })
    }

    /// The files, in order.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Size of all files in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.layout().file_bytes()).sum()
    }

    /// [`GgufWriter::write_part`] for tensor `index` of all.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn write_part(&self, index: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let (file, place) = self.places[index];
        self.files[file].write_part(place, offset, bytes)
    }

    /// Gives the files their names, the first one last: without it, nothing reads the others.
    pub fn finish(self) -> Result<()> {
        self.files.into_iter().rev().try_for_each(GgufWriter::finish)
    }
}

/// The tensors by file. Sizes count with the padding that follows each tensor.
fn divide(tensors: Vec<TensorInfo>, max_bytes: Option<u64>) -> Vec<Vec<TensorInfo>> {
    let mut groups = vec![Vec::new()];
    let mut filled = 0u64;
    for info in tensors {
        let bytes = info.bytes().unwrap_or(0) as u64;
        let bytes = bytes.next_multiple_of(super::DEFAULT_ALIGNMENT);
        if max_bytes.is_some_and(|max| filled > 0 && filled.saturating_add(bytes) > max) {
            groups.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        groups.last_mut().expect("there is always a file").push(info);
    }
    groups
}

/// `path` itself, or the names of `count` files.
fn paths(path: &Path, count: usize) -> Vec<PathBuf> {
    if count == 1 {
        return vec![path.to_path_buf()];
    }
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = name.strip_suffix(".gguf").unwrap_or(&name);
    (0..count as u64).map(|no| path.with_file_name(shard_name(stem, no, count as u64))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;

    fn tensors(lengths: &[usize]) -> Vec<TensorInfo> {
        let info = |(i, &n): (usize, &usize)| TensorInfo::new(format!("t{i}"), vec![n], DType::F32);
        lengths.iter().enumerate().map(info).collect()
    }

    #[test]
    fn files_are_filled_in_order_and_tensors_stay_whole() {
        let sizes = |max| -> Vec<usize> {
            divide(tensors(&[8, 8, 64, 1, 8]), max).iter().map(Vec::len).collect()
        };
        // With padding: 32, 32, 256, 32 and 32 bytes.
        assert_eq!(sizes(None), [5]);
        assert_eq!(sizes(Some(64)), [2, 1, 2]);
        assert_eq!(sizes(Some(63)), [1, 1, 1, 1, 1]);
        assert_eq!(sizes(Some(384)), [5]);
    }

    #[test]
    fn several_files_are_numbered() {
        let two = paths(Path::new("d/m-Q4_0.gguf"), 2);
        assert_eq!(two[1], Path::new("d/m-Q4_0-00002-of-00002.gguf"));
        assert_eq!(paths(Path::new("m.gguf"), 1), [Path::new("m.gguf")]);
    }
}
