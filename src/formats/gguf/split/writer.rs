//! Writing a model to one GGUF file or to several shards.

use super::shards::{Shards, shard_paths};
use crate::base::error::Result;
use crate::formats::gguf::metadata::Metadata;
use crate::formats::gguf::writer::GgufWriter;
use crate::formats::source::TensorInfo;
use std::path::{Path, PathBuf};

/// A model that is being written to one file or several. The files appear under their names when
/// all are complete.
pub struct SplitWriter {
    files: Vec<GgufWriter>,
    paths: Vec<PathBuf>,
    /// For each tensor: its file, and its index within that file.
    places: Vec<(usize, usize)>,
}

impl SplitWriter {
    /// Begins to write `tensors` to the files of `shards`: `path`, or `STEM-00001-of-0000N.gguf`
    /// and so on in the same folder.
    ///
    /// # Errors
    /// Those of [`GgufWriter::create`].
    ///
    /// # Panics
    /// If `shards` is for another number of tensors.
    pub fn create(
        path: &Path,
        force: bool,
        metadata: &Metadata,
        tensors: Vec<TensorInfo>,
        shards: &Shards,
    ) -> Result<SplitWriter> {
        SplitWriter::open(path, metadata, tensors, shards, |path, own, group| {
            GgufWriter::create(path, force, own, group)
        })
    }

    /// Begins to write under hidden names that a later run finds again, to be completed by
    /// [`SplitWriter::seal`]. Also returns, for each tensor, whether an earlier run began its file;
    /// see [`GgufWriter::reopen`].
    ///
    /// # Errors
    /// Those of [`GgufWriter::create`].
    ///
    /// # Panics
    /// If `shards` is for another number of tensors.
    pub fn reopen(
        path: &Path,
        metadata: &Metadata,
        tensors: Vec<TensorInfo>,
        shards: &Shards,
    ) -> Result<(SplitWriter, Vec<bool>)> {
        let mut begun = Vec::new();
        let writer = SplitWriter::open(path, metadata, tensors, shards, |path, own, group| {
            let (file, there) = GgufWriter::reopen(path, own, group)?;
            begun.push(there);
            Ok(file)
        })?;
        let there = writer.places.iter().map(|&(file, _)| begun[file]).collect();
        Ok((writer, there))
    }

    fn open(
        path: &Path,
        metadata: &Metadata,
        tensors: Vec<TensorInfo>,
        shards: &Shards,
        mut open: impl FnMut(&Path, &Metadata, Vec<TensorInfo>) -> Result<GgufWriter>,
    ) -> Result<SplitWriter> {
        let paths = shard_paths(path, shards);
        let groups = shards.files(metadata, tensors);
        let places = groups.iter().enumerate();
        let places = places.flat_map(|(f, (_, group))| (0..group.len()).map(move |i| (f, i)));
        let places = places.collect();
        let mut files = Vec::with_capacity(paths.len());
        for ((own, group), path) in groups.into_iter().zip(&paths) {
            files.push(open(path, &own, group)?);
        }
        Ok(SplitWriter { files, paths, places })
    }

    /// The paths of the files, in order.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The total size of the files in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.layout().file_bytes()).sum()
    }

    /// Calls [`GgufWriter::write_part`] for tensor `index` of the model.
    ///
    /// # Errors
    /// Those of [`GgufWriter::write_part`].
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn write_part(&self, index: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let (file, place) = self.places[index];
        self.files[file].write_part(place, offset, bytes)
    }

    /// Calls [`GgufWriter::mark_written`] for tensor `index` of the model.
    pub fn mark_written(&self, index: usize) {
        let (file, place) = self.places[index];
        self.files[file].mark_written(place);
    }

    /// Calls [`GgufWriter::read_part`] for tensor `index` of the model.
    ///
    /// # Errors
    /// Those of [`GgufWriter::read_part`].
    pub fn read_part(&self, index: usize, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let (file, place) = self.places[index];
        self.files[file].read_part(place, offset, bytes)
    }

    /// Flushes everything written so far to the disk.
    ///
    /// # Errors
    /// Those of [`GgufWriter::sync`].
    pub fn sync(&self) -> Result<()> {
        self.files.iter().try_for_each(GgufWriter::sync)
    }

    /// Completes all files under their hidden names.
    ///
    /// # Errors
    /// Those of [`GgufWriter::seal`].
    pub fn seal(self) -> Result<()> {
        self.files.into_iter().try_for_each(GgufWriter::seal)
    }

    /// Completes all files and gives them their names. The first file comes last, because the
    /// others cannot be read without it.
    ///
    /// # Errors
    /// Those of [`GgufWriter::finish`].
    pub fn finish(self) -> Result<()> {
        self.files.into_iter().rev().try_for_each(GgufWriter::finish)
    }
}
