//! Resuming quantized files at whole tensors.
//!
//! A pass with a [`TensorJournal`] writes every file under its hidden name ([`SplitWriter::reopen`]) and
//! hashes what it writes. Now and then it brings the files to the disk and hands the hashes of whole
//! tensors to the journal. A later pass verifies the recorded tensors against the files and makes the
//! rest. Not here: where journals are stored (`journals`, and the state of a build).

use super::groups::{Group, groups};
use super::importance::Importance;
use super::plan::QuantPlan;
use crate::base::error::Result;
use crate::base::progress::{Progress, Unit, check_interrupted};
use crate::base::resume::Pace;
use crate::base::sync::lock;
use crate::formats::gguf::{GgufModel, SplitWriter};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_128;

/// Hashes of a file's whole tensors by name. Each is XXH3 (128 bits), in hexadecimal, of the hashes of the
/// tensor's groups of rows. They detect damage, not forgery.
pub type TensorHashes = BTreeMap<String, String>;

/// Records which tensors of a pass's outputs are whole.
pub trait TensorJournal: Sync {
    /// Returns the time of work between two savings; longer where saving takes long.
    fn every(&self) -> Duration;

    /// Returns what an earlier pass has recorded for output number `output`.
    fn earlier(&self, output: usize) -> TensorHashes;

    /// Records the tensors that are whole and on the disk, for each output.
    ///
    /// # Errors
    /// If the record cannot be written.
    fn save(&self, whole: &[TensorHashes]) -> Result<()>;
}

/// Which tensors of one file are whole.
pub(super) struct TensorProgress {
    tensors: Vec<TensorState>,
}

#[derive(Default)]
struct TensorState {
    /// Set once the tensor is whole.
    hash: OnceLock<String>,
    /// First row and hash of each group that has been written.
    groups: Mutex<Vec<(u64, u128)>>,
}

impl TensorProgress {
    pub(super) fn new(tensors: usize) -> TensorProgress {
        TensorProgress { tensors: (0..tensors).map(|_| TensorState::default()).collect() }
    }

    /// Whether tensor `index` is whole.
    pub(super) fn has(&self, index: usize) -> bool {
        self.tensors[index].hash.get().is_some()
    }

    /// Adds the hash of the group of tensor `index` that begins with row `first_row`.
    pub(super) fn add(&self, index: usize, first_row: usize, hash: u128) {
        lock(&self.tensors[index].groups).push((first_row as u64, hash));
    }

    /// All groups of tensor `index` have been written.
    pub(super) fn finish(&self, index: usize) {
        let tensor = &self.tensors[index];
        let groups = std::mem::take(&mut *lock(&tensor.groups));
        tensor.hash.get_or_init(|| combined(groups));
    }

    /// Returns the hashes of the tensors that are whole.
    fn hashes(&self, plan: &QuantPlan) -> TensorHashes {
        let whole = plan.tensors.iter().zip(&self.tensors);
        whole
            .filter_map(|(planned, state)| {
                Some((planned.info.name.clone(), state.hash.get()?.clone()))
            })
            .collect()
    }
}

/// Returns the hash of a group's bytes.
pub(super) fn hash(bytes: &[u8]) -> u128 {
    xxh3_128(bytes)
}

fn combined(mut groups: Vec<(u64, u128)>) -> String {
    groups.sort_unstable();
    let bytes: Vec<u8> = groups
        .iter()
        .flat_map(|(row, hash)| row.to_le_bytes().into_iter().chain(hash.to_le_bytes()))
        .collect();
    format!("{:032x}", xxh3_128(&bytes))
}

/// A file that an earlier pass may have begun.
pub(super) struct Begun<'a> {
    pub plan: &'a QuantPlan,
    pub writer: &'a SplitWriter,
    pub whole: &'a TensorProgress,
    /// For each tensor, whether its file is the one that the earlier pass wrote.
    pub there: Vec<bool>,
    /// What the earlier pass has recorded.
    pub earlier: TensorHashes,
}

/// Verifies the tensors that an earlier pass has recorded, and takes those as written that are as
/// recorded.
pub(super) fn verify(
    files: &[Begun<'_>],
    model: &GgufModel,
    importance: Option<&Importance>,
    progress: &dyn Progress,
) -> Result<()> {
    let recorded = files.iter().flat_map(|file| {
        let named = file.plan.tensors.iter().enumerate();
        named.filter_map(move |(index, planned)| {
            let hash = file.earlier.get(&planned.info.name).filter(|_| file.there[index])?;
            Some((file, index, hash))
        })
    });
    let recorded: Vec<_> = recorded.collect();
    if recorded.is_empty() {
        return Ok(());
    }
    let bytes = |index: usize, file: &Begun<'_>| {
        file.plan.tensors[index].info.bytes().map_or(0, |bytes| bytes as u64)
    };
    let total = recorded.iter().map(|(file, index, _)| bytes(*index, file)).sum();
    progress.begin("verify", total, Unit::Bytes);
    let order: Vec<usize> = files[0].plan.order().collect();
    recorded.par_iter().try_for_each(|(file, index, expected)| {
        check_interrupted()?;
        let info = &file.plan.tensors[*index].info;
        let groups = groups(model, order[*index], importance);
        if hash_of(file, *index, &groups)? == **expected {
            file.writer.mark_written(*index);
            // Names are unique, so this is the only one that sets it.
            let _ = file.whole.tensors[*index].hash.set((*expected).clone());
        } else {
            let path = file.writer.paths()[0].display();
            let name = &info.name;
            progress.warn(&format!("{path}: '{name}' is not as it was written; it is made again"));
        }
        progress.advance(bytes(*index, file));
        Ok(())
    })?;
    progress.end();
    Ok(())
}

/// Returns the hash of tensor `index` as it is in the file.
fn hash_of(file: &Begun<'_>, index: usize, groups: &[Group]) -> Result<String> {
    let info = &file.plan.tensors[index].info;
    let row_bytes = info.dtype.row_bytes(info.row_len()).unwrap_or(0);
    let mut bytes = Vec::new();
    let mut hashes = Vec::with_capacity(groups.len());
    for group in groups {
        bytes.resize(group.rows * row_bytes, 0);
        file.writer.read_part(index, (group.first_row * row_bytes) as u64, &mut bytes)?;
        hashes.push((group.first_row as u64, hash(&bytes)));
    }
    Ok(combined(hashes))
}

/// Saves the progress of a pass.
pub(super) struct Saver<'a> {
    journal: &'a dyn TensorJournal,
    files: Vec<(&'a QuantPlan, &'a SplitWriter, &'a TensorProgress)>,
    /// Number of tensors that became whole since the last saving.
    unsaved: AtomicUsize,
    pace: Pace,
}

impl<'a> Saver<'a> {
    pub(super) fn new(
        journal: &'a dyn TensorJournal,
        files: Vec<(&'a QuantPlan, &'a SplitWriter, &'a TensorProgress)>,
    ) -> Saver<'a> {
        let pace = Pace::new(journal.every());
        Saver { journal, files, unsaved: AtomicUsize::new(0), pace }
    }

    /// Records that tensor `index` is written to all files.
    pub(super) fn finished(&self, index: usize) {
        self.files.iter().for_each(|(_, _, whole)| whole.finish(index));
        self.unsaved.fetch_add(1, Ordering::Relaxed);
    }

    /// Saves if the interval has passed.
    pub(super) fn save_if_due(&self) -> Result<()> {
        if self.pace.is_due() { self.save() } else { Ok(()) }
    }

    /// Saves if a tensor became whole since the last time.
    pub(super) fn save(&self) -> Result<()> {
        if self.unsaved.swap(0, Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let started = Instant::now();
        // The tensors listed here have been written, and reach the disk before they are recorded.
        let hashes: Vec<_> = self.files.iter().map(|(plan, _, whole)| whole.hashes(plan)).collect();
        self.files.par_iter().try_for_each(|(_, writer, _)| writer.sync())?;
        self.journal.save(&hashes)?;
        self.pace.saved(started);
        Ok(())
    }
}
