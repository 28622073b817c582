//! DELLA: elements of each difference from the base are kept with a probability that grows with their rank
//! in the row, from `density - epsilon` to `density + epsilon`; then those whose sign is that of the
//! weighted sum are added.
//!
//! "DELLA-Merging: reducing interference in model merging through magnitude-based sampling", Deep,
//! Bhardwaj and Poria 2024, <https://arxiv.org/abs/2406.11617>, which divides each kept element by its
//! probability: `rescale: density`. The default, `rescale: l1`, restores the sum of magnitudes, as
//! mergekit does (`sparsify.py`, `della_magprune`, 0.1.5); see [`crate::merge::task_vectors`].

use super::MergeMethod;
use crate::base::error::Result;
use crate::merge::chunks::{Job, MergedTensor};
use crate::merge::sparsify::Sparsify;
use crate::merge::task_vectors::{self as family, TaskVectorRule};
use crate::recipe::MethodSpec;

pub(super) struct Della;

static SPEC: MethodSpec = MethodSpec {
    name: "della",
    reference: "https://arxiv.org/abs/2406.11617",
    params: &[
        family::WEIGHT,
        family::DENSITY,
        family::EPSILON,
        family::normalize(true),
        family::rescale(true),
        family::LAMBDA,
        family::INT8_MASK,
    ],
    random: true,
    check_source: Some(family::check_probabilities),
    ..family::PLAIN
};

const RULE: TaskVectorRule = TaskVectorRule { sparsify: Sparsify::RandomByRank, consensus: true };

impl MergeMethod for Della {
    fn spec(&self) -> &'static MethodSpec {
        &SPEC
    }

    fn combine(&self, job: &Job<'_>) -> Result<MergedTensor> {
        family::combine(job, RULE)
    }
}
