//! Model Breadcrumbs: of each difference from the base the `gamma` largest elements are dropped as
//! outliers, the `density` next are kept, and the weighted sum is added to the base.
//!
//! "Model Breadcrumbs: scaling multi-task model merging with sparse masks", Davari and Belilovsky 2023,
//! <https://arxiv.org/abs/2312.06795>. As in mergekit's `sparsify.py` (`magnitude_outliers`), 0.1.5;
//! earlier versions made the whole difference zero where `gamma n` is less than 1, which is not done here.
//! See [`crate::merge::task_vectors`].

use super::MergeMethod;
use crate::base::error::Result;
use crate::merge::chunks::{Job, MergedTensor};
use crate::merge::sparsify::Sparsify;
use crate::merge::task_vectors::{self as family, TaskVectorRule};
use crate::recipe::MethodSpec;

pub(super) struct Breadcrumbs;

static SPEC: MethodSpec = MethodSpec {
    name: "breadcrumbs",
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
    TaskVectorRule { sparsify: Sparsify::SmallestAndOutliers, consensus: false };

impl MergeMethod for Breadcrumbs {
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
    use crate::merge::methods::testing::Case;

    fn run(values: &[f32], density: f64, gamma: f64) -> Vec<f32> {
        let zeros = vec![0.0; values.len()];
        let case = Case::new(&[&zeros[..], values]).base(0).each("weight", &[0.0, 1.0]);
        let case = case.each("density", &[1.0, density]).each("gamma", &[0.0, gamma]);
        case.params(&[("lambda", 1.0)]).merge(&Breadcrumbs)
    }

    /// By hand: `int(gamma n)` are dropped from the top, and of the rest `int(density n)` kept.
    #[test]
    fn outliers_and_the_smallest_are_dropped() {
        let values = [5.0, -1.0, 3.0, -10.0, 2.0, 4.0, 0.5, -7.0, 6.0, 8.0];
        let kept = [5.0, 0.0, 0.0, 0.0, 0.0, 4.0, 0.0, -7.0, 6.0, 0.0];
        assert_eq!(run(&values, 0.4, 0.2), kept);
        // No outliers at all: mergekit's older versions would have dropped everything.
        let kept = [0.0, 0.0, 0.0, -10.0, 0.0, 0.0, 0.0, 0.0, 0.0, 8.0];
        assert_eq!(run(&values, 0.2, 0.05), kept);
        // Too many outliers for the density: fewer are dropped.
        let kept = [5.0, -1.0, 3.0, 0.0, 2.0, 4.0, 0.5, -7.0, 6.0, 8.0];
        assert_eq!(run(&values, 0.9, 0.5), kept);
        assert_eq!(run(&values, 1.0, 0.5), values);
        assert_eq!(run(&values, 0.0, 0.5), [0.0; 10]);
        assert_eq!(run(&[3.0], 0.5, 0.5), [3.0]);
    }
}
