//! TIES: of each difference from the base the `density` largest elements are kept, then those whose sign
//! is that of the weighted sum are added, and divided by the sum of their weights with `normalize`.
//!
//! "TIES-Merging: resolving interference when merging models", Yadav et al. 2023,
//! <https://arxiv.org/abs/2306.01708>. As in mergekit's `generalized_task_arithmetic.py` and
//! `sparsify.py` (`magnitude`), 0.1.5; see [`crate::merge::task_vectors`].

use super::MergeMethod;
use crate::base::error::Result;
use crate::merge::chunks::{Job, MergedTensor};
use crate::merge::sparsify::Sparsify;
use crate::merge::task_vectors::{self as family, TaskVectorRule};
use crate::recipe::MethodSpec;

pub(super) struct Ties;

static SPEC: MethodSpec = MethodSpec {
    name: "ties",
    reference: "https://arxiv.org/abs/2306.01708",
    params: &[
        family::WEIGHT,
        family::DENSITY,
        family::normalize(true),
        family::rescale(false),
        family::LAMBDA,
        family::INT8_MASK,
    ],
    ..family::PLAIN
};

const RULE: TaskVectorRule = TaskVectorRule { sparsify: Sparsify::Smallest, consensus: true };

impl MergeMethod for Ties {
    fn spec(&self) -> &'static MethodSpec {
        &SPEC
    }

    fn combine(&self, job: &Job<'_>) -> Result<MergedTensor> {
        family::combine(job, RULE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::methods::testing::{Case, close};

    /// By hand: two of five are kept of each, and the fourth of the second is against the sum.
    #[test]
    fn the_largest_are_kept_and_signs_must_agree() {
        let inputs: [&[f32]; 3] =
            [&[0.0; 5], &[0.5, -0.2, 0.1, 0.4, -0.3], &[-0.4, 0.3, 0.1, 0.2, 0.6]];
        let run = |normalize: f64| {
            let case = Case::new(&inputs).base(0).each("weight", &[0.0, 1.0, 0.5]);
            let case = case.each("density", &[1.0, 0.5, 0.5]);
            case.params(&[("normalize", normalize), ("lambda", 1.0)]).merge(&Ties)
        };
        close(&run(1.0), &[0.5, 0.0, 0.0, 0.4, 0.6]);
        close(&run(0.0), &[0.5, 0.0, 0.0, 0.4, 0.3]);
    }
}
