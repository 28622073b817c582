//! Task arithmetic: `base + lambda * sum(w (x - base))`, the sum divided by `sum(w)` with `normalize`.
//!
//! "Editing models with task arithmetic", Ilharco et al. 2022, <https://arxiv.org/abs/2212.04089>. As in
//! mergekit's `generalized_task_arithmetic.py`, 0.1.5; see [`crate::merge::task_vectors`].

use super::MergeMethod;
use crate::base::error::Result;
use crate::merge::chunks::{Job, MergedTensor};
use crate::merge::sparsify::Sparsify;
use crate::merge::task_vectors::{self as family, TaskVectorRule};
use crate::recipe::{MethodSpec, ParamSpec};

pub(super) struct TaskArithmetic;

static SPEC: MethodSpec = MethodSpec {
    name: "task_arithmetic",
    reference: "https://arxiv.org/abs/2212.04089",
    params: &[
        family::WEIGHT,
        family::normalize(false),
        family::LAMBDA,
        ParamSpec::ignored("density"),
        family::INT8_MASK,
        ParamSpec::ignored("rescale"),
    ],
    ..family::PLAIN
};

const RULE: TaskVectorRule = TaskVectorRule { sparsify: Sparsify::Never, consensus: false };

impl MergeMethod for TaskArithmetic {
    fn spec(&self) -> &'static MethodSpec {
        &SPEC
    }

    fn combine(&self, job: &Job<'_>) -> Result<MergedTensor> {
        family::combine(job, RULE)
    }
}
