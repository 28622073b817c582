//! Writing a whole model to one GGUF file or several shards, with its tensors unchanged.

use super::model::GgufModel;
use super::split::{Shards, SplitWriter};
use crate::base::error::Result;
use crate::base::progress::{Progress, Unit, check_interrupted};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of tensors in flight, each on a thread of its own. Rayon's workers would begin
/// another tensor while they wait for the parts of one, without a bound on memory.
const IN_FLIGHT: usize = 3;

/// Writes `model` to `path`, a few tensors at a time, and returns the size of the file in bytes.
/// The file appears under its name when it is complete.
///
/// # Errors
/// Errors of reading and writing; if several tensors fail, the error of the first one.
pub fn write(model: &GgufModel, path: &Path, force: bool, progress: &dyn Progress) -> Result<u64> {
    let shards = Shards::single(model.tensors.table().infos().len());
    write_shards(model, path, &shards, force, progress).map(|(_, bytes)| bytes)
}

/// Writes `model` to the files of `shards`, whose names derive from `path`
/// ([`super::shard_paths`]), and returns the paths and the total size in bytes. The files appear
/// under their names when all are complete.
///
/// # Errors
/// Those of [`write()`].
///
/// # Panics
/// If `shards` is for another number of tensors.
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
                // The other threads finish their tensor and find no further one.
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

/// Copies tensor `index`, piece by piece.
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
