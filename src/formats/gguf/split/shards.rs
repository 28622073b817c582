//! The division of a model into several GGUF files.
//!
//! Names and keys are those of llama.cpp's gguf-split and llama-quantize (`tools/gguf-split`,
//! `src/llama-quant.cpp`, October 2026): the first file has the model's metadata, and every file
//! has the three `split.` keys. The two programs differ in the order of the keys and in the
//! treatment of a model that fits into one file; see [`Shards::like_gguf_split`].

use super::names::{SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS, shard_name};
use crate::base::error::{Error, Result};
use crate::formats::gguf::header::DEFAULT_ALIGNMENT;
use crate::formats::gguf::layout::GgufLayout;
use crate::formats::gguf::metadata::{Metadata, Value};
use crate::formats::source::TensorInfo;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// The largest number of files of a model: `split.count` is a u16.
const MAX_FILES: usize = u16::MAX as usize;

/// The division of a model into files: the file of each tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shards {
    /// The file of each tensor, from 0, in ascending order.
    numbers: Vec<usize>,
    count: usize,
    like_gguf_split: bool,
}

impl Shards {
    /// One file for all `tensors` tensors.
    pub fn single(tensors: usize) -> Shards {
        Shards { numbers: vec![0; tensors], count: 1, like_gguf_split: false }
    }

    /// The smallest number of files with at most `max_bytes` bytes of data each, filled in the
    /// order of the tensors. Padding counts. A tensor is never divided, so a larger one has a file
    /// to itself.
    ///
    /// # Errors
    /// More than 65535 files; `origin` names the model.
    pub fn by_size<'a>(
        origin: &str,
        tensors: impl Iterator<Item = &'a TensorInfo>,
        max_bytes: u64,
    ) -> Result<Shards> {
        let (mut number, mut filled) = (0, 0u64);
        let numbers = tensors.map(|info| {
            let bytes = info.bytes().unwrap_or(0) as u64;
            let bytes = bytes.next_multiple_of(DEFAULT_ALIGNMENT);
            if filled > 0 && filled.saturating_add(bytes) > max_bytes {
                (number, filled) = (number + 1, 0);
            }
            filled += bytes;
            number
        });
        Shards::new(origin, numbers.collect())
    }

    /// The smallest number of files with at most `max` of the `tensors` tensors each.
    ///
    /// # Errors
    /// Those of [`Shards::by_size`].
    pub fn by_count(origin: &str, tensors: usize, max: NonZeroUsize) -> Result<Shards> {
        Shards::new(origin, (0..tensors).map(|index| index / max).collect())
    }

    /// Adds a first file with the metadata and no tensors.
    ///
    /// # Errors
    /// Those of [`Shards::by_size`].
    pub fn after_metadata(self, origin: &str) -> Result<Shards> {
        let numbers = self.numbers.into_iter().map(|number| number + 1);
        let like_gguf_split = self.like_gguf_split;
        Ok(Shards { like_gguf_split, ..Shards::new(origin, numbers.collect())? })
    }

    /// Follows gguf-split rather than llama-quantize: the key `split.count` comes last, and a model
    /// in one file gets the name and keys of shard 1 of 1.
    pub fn like_gguf_split(self) -> Shards {
        Shards { like_gguf_split: true, ..self }
    }

    /// Whether names and keys number the files.
    fn is_split(&self) -> bool {
        self.count > 1 || self.like_gguf_split
    }

    /// Preserves the division of another model, in which tensor i was in file `numbers[i]` (from
    /// 0). Files that have become empty are dropped, except the first one, which has the metadata.
    /// (llama.cpp drops empty files at the end and fails if one is between others.)
    ///
    /// # Errors
    /// Those of [`Shards::by_size`].
    ///
    /// # Panics
    /// If a number is less than the one before it.
    pub fn preserving(origin: &str, numbers: &[usize]) -> Result<Shards> {
        assert!(numbers.is_sorted(), "tensors are not in the order of their shards");
        let (mut number, mut last) = (0, 0);
        let renumbered = numbers.iter().map(|&old| {
            if old != last {
                (number, last) = (number + 1, old);
            }
            number
        });
        Shards::new(origin, renumbered.collect())
    }

    fn new(origin: &str, numbers: Vec<usize>) -> Result<Shards> {
        let count = numbers.last().map_or(1, |last| last + 1);
        if count > MAX_FILES {
            let detail = format!("would be {count} files, more than {MAX_FILES}");
            return Err(Error::Usage(format!("{origin}: {detail}; allow larger ones")));
        }
        Ok(Shards { numbers, count, like_gguf_split: false })
    }

    /// The number of files.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The number, from 0, of the file that holds tensor `index`.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn number(&self, index: usize) -> usize {
        self.numbers[index]
    }

    /// The layout of each file.
    ///
    /// # Errors
    /// Those of [`GgufLayout::new`].
    ///
    /// # Panics
    /// If the number of `tensors` differs from that of this division.
    pub fn layouts(
        &self,
        origin: &str,
        metadata: &Metadata,
        tensors: Vec<TensorInfo>,
    ) -> Result<Vec<GgufLayout>> {
        let files = self.files(metadata, tensors);
        files.iter().map(|(metadata, group)| GgufLayout::new(origin, metadata, group)).collect()
    }

    /// The metadata and tensors of each file.
    pub(super) fn files(
        &self,
        metadata: &Metadata,
        tensors: Vec<TensorInfo>,
    ) -> Vec<(Metadata, Vec<TensorInfo>)> {
        assert_eq!(
            tensors.len(),
            self.numbers.len(),
            "the division is for another number of tensors"
        );
        let total = tensors.len();
        let mut files: Vec<_> = (0..self.count).map(|_| (Metadata::new(), Vec::new())).collect();
        files[0].0 = metadata.clone();
        if self.is_split() {
            for (no, (own, _)) in files.iter_mut().enumerate() {
                // The keys come last, even if they were set before.
                own.remove_if(|key| [SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS].contains(&key));
                own.set(SPLIT_NO, Value::U16(no as u16));
                let count = (SPLIT_COUNT, Value::U16(self.count as u16));
                let tensors = (SPLIT_TENSORS, Value::I32(total as i32));
                let order = if self.like_gguf_split { [tensors, count] } else { [count, tensors] };
                order.into_iter().for_each(|(key, value)| own.set(key, value));
            }
        }
        for (info, &number) in tensors.into_iter().zip(&self.numbers) {
            files[number].1.push(info);
        }
        files
    }
}

/// The paths of the files of `shards`: `path` itself, or numbered names derived from it.
pub fn shard_paths(path: &Path, shards: &Shards) -> Vec<PathBuf> {
    if !shards.is_split() {
        return vec![path.to_path_buf()];
    }
    let count = shards.count;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = name.strip_suffix(".gguf").unwrap_or(&name);
    (0..count as u64).map(|no| path.with_file_name(shard_name(stem, no, count as u64))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::dtype::DType;

    fn tensors(lengths: &[usize]) -> Vec<TensorInfo> {
        let info = |(i, &n): (usize, &usize)| TensorInfo::new(format!("t{i}"), vec![n], DType::F32);
        lengths.iter().enumerate().map(info).collect()
    }

    #[test]
    fn files_are_filled_in_order_and_tensors_stay_whole() {
        let infos = tensors(&[8, 8, 64, 1, 8]);
        let numbers = |max| Shards::by_size("test", infos.iter(), max).unwrap().numbers;
        // With padding: 32, 32, 256, 32 and 32 bytes.
        assert_eq!(numbers(64), [0, 0, 1, 2, 2]);
        assert_eq!(numbers(63), [0, 1, 2, 3, 4]);
        assert_eq!(numbers(384), [0; 5]);
        assert_eq!(Shards::by_size("test", infos.iter(), 384).unwrap(), Shards::single(5));
        assert_eq!(Shards::by_size("test", [].iter(), 1).unwrap(), Shards::single(0));
    }

    #[test]
    fn files_are_filled_by_number_and_the_first_may_have_only_metadata() {
        let max = NonZeroUsize::new(2).unwrap();
        let shards = Shards::by_count("test", 5, max).unwrap();
        assert_eq!((&shards.numbers[..], shards.count()), (&[0, 0, 1, 1, 2][..], 3));
        let shards = shards.like_gguf_split().after_metadata("test").unwrap();
        assert_eq!((&shards.numbers[..], shards.count()), (&[1, 1, 2, 2, 3][..], 4));
        assert!(shards.like_gguf_split);
    }

    #[test]
    fn empty_files_are_dropped_except_the_first() {
        let preserved = |numbers: &[usize]| {
            let shards = Shards::preserving("test", numbers).unwrap();
            (shards.numbers.clone(), shards.count())
        };
        assert_eq!(preserved(&[0, 0, 1, 2]), (vec![0, 0, 1, 2], 3));
        assert_eq!(preserved(&[0, 2, 2, 5]), (vec![0, 1, 1, 2], 3));
        assert_eq!(preserved(&[1, 2]), (vec![1, 2], 3));
        assert_eq!(preserved(&[4, 4]), (vec![1, 1], 2));
        assert_eq!(preserved(&[]), (vec![], 1));
    }

    #[test]
    fn more_files_than_a_u16_can_count_are_refused() {
        let infos = tensors(&vec![1; MAX_FILES + 1]);
        let shards = |n: usize| Shards::by_size("m.gguf", infos[..n].iter(), 1);
        assert_eq!(shards(MAX_FILES).unwrap().count(), MAX_FILES);
        let error = shards(MAX_FILES + 1).unwrap_err();
        assert!(matches!(error, Error::Usage(_)));
        assert!(error.to_string().contains("m.gguf: would be 65536 files"), "{error}");
    }

    #[test]
    fn every_file_has_the_keys_of_a_split_at_its_end() {
        let mut metadata = Metadata::new();
        metadata.set("split.count", 7u32);
        metadata.set("a", 1u32);
        let keys = |metadata: &Metadata| -> Vec<String> {
            metadata.iter().map(|(key, _)| key.to_string()).collect()
        };
        let files = Shards::preserving("test", &[0, 1]).unwrap().files(&metadata, tensors(&[1, 1]));
        assert_eq!(keys(&files[0].0), ["a", SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS]);
        assert_eq!(keys(&files[1].0), [SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS]);
        assert_eq!(files[1].0.get(SPLIT_COUNT), Some(&Value::U16(2)));
        let like = Shards::single(2).like_gguf_split().files(&metadata, tensors(&[1, 1]));
        assert_eq!(keys(&like[0].0), ["a", SPLIT_NO, SPLIT_TENSORS, SPLIT_COUNT]);
        let one = Shards::single(2).files(&metadata, tensors(&[1, 1]));
        assert_eq!((one.len(), &one[0].0), (1, &metadata));
    }

    #[test]
    fn names_of_several_files_have_numbers() {
        let two =
            shard_paths(Path::new("d/m-Q4_0.gguf"), &Shards::preserving("test", &[0, 1]).unwrap());
        assert_eq!(two[1], Path::new("d/m-Q4_0-00002-of-00002.gguf"));
        assert_eq!(shard_paths(Path::new("m.gguf"), &Shards::single(3)), [Path::new("m.gguf")]);
        let alone = Shards::single(3).like_gguf_split();
        assert_eq!(shard_paths(Path::new("m.gguf"), &alone), [Path::new("m-00001-of-00001.gguf")]);
    }
}
