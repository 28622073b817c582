//! Model Breadcrumbs with the sign consensus of TIES: differences are sparsified as in `breadcrumbs`, then
//! the elements whose sign is that of the weighted sum are added.
//!
//! "Model Breadcrumbs: scaling multi-task model merging with sparse masks", Davari and Belilovsky 2023,
//! <https://arxiv.org/abs/2312.06795>. As in mergekit's `generalized_task_arithmetic.py`, 0.1.5; see
//! [`crate::merge::task_vectors`].

use super::MergeMethod;
use crate::base::error::Result;
use crate::merge::chunks::{Job, MergedTensor};
use crate::merge::sparsify::Sparsify;
use crate::merge::task_vectors::{self as family, TaskVectorRule};
use crate::recipe::MethodSpec;

pub(super) struct BreadcrumbsTies;

static SPEC: MethodSpec = MethodSpec {
    name: "breadcrumbs_ties",
    reference: "https://arxiv.org/abs/2312.06795",
    params: &[
        family::WEIGHT,
        family::DENSITY,
        family::GAMMA,
        family::normalize(false),
        family::rescale(false),
        family::LAMBDA,
        family::INT8_MASK,
    ],
    ..family::PLAIN
};

const RULE: TaskVectorRule =
    TaskVectorRule { sparsify: Sparsify::SmallestAndOutliers, consensus: true };

impl MergeMethod for BreadcrumbsTies {
    fn spec(&self) -> &'static MethodSpec {
        &SPEC
    }

    fn combine(&self, job: &Job<'_>) -> Result<MergedTensor> {
        family::combine(job, RULE)
    }
}
