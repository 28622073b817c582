//! DARE with the sign consensus of TIES: elements are dropped at random as in `dare_linear`, then those
//! whose sign is that of the weighted sum are added.
//!
//! "Language models are Super Mario", Yu et al. 2023, <https://arxiv.org/abs/2311.03099>. As in mergekit's
//! `generalized_task_arithmetic.py`, 0.1.5; see [`crate::merge::task_vectors`].

use super::MergeMethod;
use crate::base::error::Result;
use crate::merge::chunks::{Job, MergedTensor};
use crate::merge::sparsify::Sparsify;
use crate::merge::task_vectors::{self as family, TaskVectorRule};
use crate::recipe::MethodSpec;

pub(super) struct DareTies;

static SPEC: MethodSpec = MethodSpec {
    name: "dare_ties",
    reference: "https://arxiv.org/abs/2311.03099",
    params: &[
        family::WEIGHT,
        family::DENSITY,
        family::normalize(false),
        family::rescale(true),
        family::LAMBDA,
        family::INT8_MASK,
    ],
    random: true,
    ..family::PLAIN
};

const RULE: TaskVectorRule = TaskVectorRule { sparsify: Sparsify::Random, consensus: true };

impl MergeMethod for DareTies {
    fn spec(&self) -> &'static MethodSpec {
        &SPEC
    }

    fn combine(&self, job: &Job<'_>) -> Result<MergedTensor> {
        family::combine(job, RULE)
    }
}
