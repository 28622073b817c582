//! Writing a model to one GGUF file or to several shards.

use super::shards::{Shards, shard_paths};
use crate::base::error::Result;
use crate::formats::gguf::metadata::Metadata;
use crate::formats::gguf::writer::GgufWriter;
use crate::formats::source::TensorInfo;
use std::path::{Path, PathBuf};

/// A model being written to one file or several; they appear under their names when all are whole.
pub struct SplitWriter {
    files: Vec<GgufWriter>,
    paths: Vec<PathBuf>,
    /// File, and place in it, of each tensor.
    places: Vec<(usize, usize)>,
}

impl SplitWriter {
    /// Begins to write `tensors` to `path`, or to `STEM-00001-of-0000N.gguf` and so on beside it where
    /// `shards` has several files. Fails as [`GgufWriter::create`] does.
    ///
    /// # Panics
    /// If `shards` was made for another number of tensors.
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

    /// As [`SplitWriter::create`], under hidden names that a later run finds again, for [`SplitWriter::seal`]. Tells for
    /// each tensor whether an earlier run has begun just the file that it is in, see [`GgufWriter::reopen`].
    ///
    /// # Panics
    /// If `shards` was made for another number of tensors.
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

    /// [`GgufWriter::mark_written`] for tensor `index` of all.
    pub fn mark_written(&self, index: usize) {
        let (file, place) = self.places[index];
        self.files[file].mark_written(place);
    }

    /// [`GgufWriter::read_part`] for tensor `index` of all.
    pub fn read_part(&self, index: usize, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let (file, place) = self.places[index];
        self.files[file].read_part(place, offset, bytes)
    }

    /// [`GgufWriter::sync`] for all files.
    pub fn sync(&self) -> Result<()> {
        self.files.iter().try_for_each(GgufWriter::sync)
    }

    /// [`GgufWriter::seal`] for all files.
    pub fn seal(self) -> Result<()> {
        self.files.into_iter().try_for_each(GgufWriter::seal)
    }

    /// Gives the files their names, the first one last: without it, nothing reads the others.
    pub fn finish(self) -> Result<()> {
        self.files.into_iter().rev().try_for_each(GgufWriter::finish)
    }
}
