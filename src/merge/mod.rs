//! Merging: a tensor source computed from a [`MergePlan`].
//!
//! Nothing is merged before it is read: [`MergeSource`] computes one output tensor from its inputs, and
//! inputs that are stages of the same recipe are computed in turn, with nothing written in between. A
//! stage's values are rounded to its own type, as if they had been written and read back, so a recipe
//! in stages gives the same as its stages run one by one.
//!
//! Arithmetic is plain f32 over fixed chunks, sums in the order of the sources, reductions in f64 over
//! chunks in index order, and one rounding at the end: equal bytes at any number of threads.
//!
//! Embeddings and heads of members with other vocabularies are brought to the result's rows first (`rows`).
//!
//! Deliberately absent: caching. A stage that two tensors use is computed twice.

mod buffers;
mod chunks;
mod consensus;
mod fingerprints;
pub mod methods;
mod random;
mod rows;
mod select;
mod source;
mod sparsify;
mod sums;
mod task_vectors;

pub(crate) use fingerprints::describe;
pub use fingerprints::fingerprints;
pub use source::MergeSource;

use crate::base::error::Result;
use crate::formats::checkpoint::Checkpoint;
use crate::recipe::{self, MemberLookup, MergePlan};
use std::path::Path;
use std::sync::Arc;

/// Reads the recipe at `path` and plans it with every method this program has.
pub fn plan(path: &Path, lookup: &dyn MemberLookup) -> Result<MergePlan> {
    plan_seeded(path, lookup, None)
}

/// [`plan`] with `seed`, if one is given, in place of the recipe's own.
pub fn plan_seeded(path: &Path, lookup: &dyn MemberLookup, seed: Option<u64>) -> Result<MergePlan> {
    recipe::load(path, &methods::specs(), lookup, seed)
}

/// The merged model: everything that accepts a model folder accepts this. Takes a [`MergePlan`], or an
/// `Arc` of one where the caller goes on using it.
pub fn open(plan: impl Into<Arc<MergePlan>>) -> Checkpoint {
    let plan = plan.into();
    let file_stem = plan.path.file_stem();
    let name = plan.output().name.clone();
    let name = name
        .or(file_stem.map(|stem| stem.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "merge".to_string());
    let config = plan.output().config.clone();
    let side_files = plan.side_files.clone();
    let tensors = Arc::new(MergeSource::new(plan));
    Checkpoint { name, config, tensors, side_files, card: None, warnings: Vec::new() }
}
