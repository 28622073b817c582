//! Files that outlive an interruption: which of their tensors are whole, by hashes.
//!
//! A pass that keeps its work writes every file under its hidden name ([`SplitWriter::reopen`]) and hashes what it
//! writes. Every so often it brings the files to the disk and hands the hashes of the tensors that are whole to its
//! caller, who writes them down. A later pass verifies what was written down against the files and makes the rest.
//! Deliberately absent: where the hashes are written, and whether they still belong to the output that is wanted,
//! which `pipeline` knows.

use super::groups::{Group, groups};
use super::importance::Importance;
use super::plan::QuantPlan;
use crate::base::error::Result;
use crate::base::output::Pace;
use crate::base::progress::{Progress, Unit, check_interrupted};
use crate::base::sync::lock;
use crate::formats::gguf::{GgufModel, SplitWriter};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_128;

/// Hashes of whole tensors of a file, by name; each is XXH3 (128 bits) in hexadecimal of the hashes of the tensor's
/// groups of rows. Against damage, not against forgery.
pub type TensorHashes = BTreeMap<String, String>;

/// How a pass keeps its work.
pub struct Keeping<'a> {
    /// For each output, what an earlier pass has handed to `save`.
    pub earlier: Vec<TensorHashes>,
    /// How long to work between one saving and the next; longer where saving takes long.
    pub every: Duration,
    /// Writes down what is on the disk, for each output.
    pub save: &'a (dyn Fn(&[TensorHashes]) -> Result<()> + Sync),
}

/// The tensors of one file, as a pass that keeps its work sees them.
pub(super) struct Kept {
    tensors: Vec<KeptTensor>,
}

#[derive(Default)]
struct KeptTensor {
    /// Once it is whole.
    hash: OnceLock<String>,
    /// First row and hash of each group that was written.
    groups: Mutex<Vec<(u64, u128)>>,
}

impl Kept {
    pub(super) fn new(tensors: usize) -> Kept {
        Kept { tensors: (0..tensors).map(|_| KeptTensor::default()).collect() }
    }

    /// Whether tensor `index` is whole.
    pub(super) fn has(&self, index: usize) -> bool {
        self.tensors[index].hash.get().is_some()
    }

    /// Takes the hash of the group of tensor `index` that begins with row `first_row`.
    pub(super) fn add(&self, index: usize, first_row: usize, hash: u128) {
        lock(&self.tensors[index].groups).push((first_row as u64, hash));
    }

    /// All groups of tensor `index` have been written.
    pub(super) fn finish(&self, index: usize) {
        let tensor = &self.tensors[index];
        let groups = std::mem::take(&mut *lock(&tensor.groups));
        tensor.hash.get_or_init(|| combined(groups));
    }

    /// The tensors that are whole.
    fn hashes(&self, plan: &QuantPlan) -> TensorHashes {
        let whole = plan.tensors.iter().zip(&self.tensors);
        whole
            .filter_map(|(planned, kept)| {
                Some((planned.info.name.clone(), kept.hash.get()?.clone()))
            })
            .collect()
    }
}

/// The hash of what one group became.
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

/// A file that an earlier pass may have begun, with what of it may be kept.
pub(super) struct Begun<'a> {
    pub plan: &'a QuantPlan,
    pub writer: &'a SplitWriter,
    pub kept: &'a Kept,
    /// For each tensor whether its file is the one that the earlier pass wrote.
    pub there: Vec<bool>,
    pub earlier: &'a TensorHashes,
}

/// Looks at the tensors that earlier passes have made whole, and keeps those that are as they were written.
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
            // Nobody else sets it: names are unique.
            let _ = file.kept.tensors[*index].hash.set((*expected).clone());
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

/// The hash of tensor `index` as it is in the file.
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

/// Saves on the way.
pub(super) struct Saver<'a, 'f> {
    keeping: &'a Keeping<'a>,
    files: Vec<(&'f QuantPlan, &'f SplitWriter, &'f Kept)>,
    /// Tensors finished since the last saving.
    news: AtomicUsize,
    pace: Pace,
}

impl<'a, 'f> Saver<'a, 'f> {
    pub(super) fn new(
        keeping: &'a Keeping<'a>,
        files: Vec<(&'f QuantPlan, &'f SplitWriter, &'f Kept)>,
    ) -> Saver<'a, 'f> {
        let pace = Pace::new(keeping.every);
        Saver { keeping, files, news: AtomicUsize::new(0), pace }
    }

    /// Tensor `index` of all files is written.
    pub(super) fn finished(&self, index: usize) {
        self.files.iter().for_each(|(_, _, kept)| kept.finish(index));
        self.news.fetch_add(1, Ordering::Relaxed);
    }

    /// Saves if it is time to.
    pub(super) fn save_if_due(&self) -> Result<()> {
        if self.pace.is_due() { self.save() } else { Ok(()) }
    }

    /// Saves if there is anything new.
    pub(super) fn save(&self) -> Result<()> {
        if self.news.swap(0, Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let started = Instant::now();
        // What is taken down here has been written, and reaches the disk before it is told.
        let hashes: Vec<_> = self.files.iter().map(|(plan, _, kept)| kept.hashes(plan)).collect();
        self.files.par_iter().try_for_each(|(_, writer, _)| writer.sync())?;
        (self.keeping.save)(&hashes)?;
        self.pace.saved(started);
        Ok(())
    }
}
