//! A whole model to one file or several, tensors as they are.

use super::model::GgufModel;
use super::split::{Shards, SplitWriter};
use crate::base::error::Result;
use crate::base::progress::{Progress, Unit, check_interrupted};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Tensors in flight. Threads of their own rather than rayon's, whose workers begin another tensor
/// while they wait for the parts of one, so that memory would have no bound.
const IN_FLIGHT: usize = 3;

/// Writes `model` to `path`, a few tensors at a time, and returns the file's size in bytes. The file
/// appears under its name when it is whole.
///
/// # Errors
/// Whatever reading a tensor fails with, and output that cannot be written; of several, the one of the
/// first tensor.
pub fn write(model: &GgufModel, path: &Path, force: bool, progress: &dyn Progress) -> Result<u64> {
    let shards = Shards::single(model.tensors.table().infos().len());
    write_shards(model, path, &shards, force, progress).map(|(_, bytes)| bytes)
}

/// [`write()`] to the files that `shards` says, whose names are made from `path`; returns the files and their
/// size together. They appear under their names when all are whole.
///
/// # Errors
/// As [`write()`].
///
/// # Panics
/// If `shards` was made for another number of tensors.
pub fn write_shards(
    model: &GgufModel,
    path: &Path,
    shards: &Shards,
    force: bool,
    progress: &dyn Progress,
) -> Result<(Vec<PathBuf>, u64)> {
    let infos = model.tensors.table().infos();
    let writer = SplitWriter::create(path, force, &model.metadata, infos.to_vec(), shards)?;
    let total = infos.iter().map(|t| t.bytes().unwrap_or(0) as u64).sum();
    progress.begin("write", total, Unit::Bytes);
    let next = AtomicUsize::new(0);
    let work = || -> (usize, Result<()>) {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(info) = infos.get(index) else { return (index, Ok(())) };
            progress.detail(&info.name);
            let copied = copy(model, index, &writer);
            if copied.is_err() {
                // The others finish the tensor they are at and find nothing more.
                next.fetch_max(infos.len(), Ordering::Relaxed);
                return (index, copied);
            }
            progress.advance(info.bytes().unwrap_or(0) as u64);
        }
    };
    let mut outcomes: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..IN_FLIGHT).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|t| t.join().expect("a copying thread panicked")).collect()
    });
    outcomes.sort_by_key(|outcome| outcome.0);
    outcomes.into_iter().try_for_each(|outcome| outcome.1)?;
    progress.end();
    let (paths, bytes) = (writer.paths().to_vec(), writer.total_bytes());
    writer.finish()?;
    Ok((paths, bytes))
}

/// Writes one tensor, piece by piece.
fn copy(model: &GgufModel, index: usize, writer: &SplitWriter) -> Result<()> {
    let mut offset = 0;
    for piece in 0..model.tensors.pieces(index) {
        check_interrupted()?;
        let data = model.tensors.read_piece(index, piece)?;
        writer.write_part(index, offset, &data.bytes)?;
        offset += data.bytes.len() as u64;
    }
    Ok(())
}
