//! DELLA without sign consensus: differences are sparsified as in `della`, and their weighted sum is added
//! to the base.
//!
//! "DELLA-Merging: reducing interference in model merging through magnitude-based sampling", Deep,
//! Bhardwaj and Poria 2024, <https://arxiv.org/abs/2406.11617>. As in mergekit's
//! `generalized_task_arithmetic.py`, 0.1.5; see [`crate::merge::task_vectors`].

use super::MergeMethod;
use crate::base::error::Result;
use crate::merge::chunks::{Job, MergedTensor};
use crate::merge::sparsify::Sparsify;
use crate::merge::task_vectors::{self as family, TaskVectorRule};
use crate::recipe::MethodSpec;

pub(super) struct DellaLinear;

static SPEC: MethodSpec = MethodSpec {
    name: "della_linear",
    reference: "https://arxiv.org/abs/2406.11617",
    params: &[
        family::WEIGHT,
        family::DENSITY,
        family::EPSILON,
        family::normalize(false),
        family::rescale(true),
        family::LAMBDA,
        family::INT8_MASK,
    ],
    random: true,
    check_source: Some(family::check_probabilities),
    ..family::PLAIN
};

const RULE: TaskVectorRule = TaskVectorRule { sparsify: Sparsify::RandomByRank, consensus: false };

impl MergeMethod for DellaLinear {
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
    use crate::merge::methods::testing::{Case, noise};

    fn run(values: &[f32], shape: &[usize], density: f64, epsilon: f64, rescale: f64) -> Vec<f32> {
        let zeros = vec![0.0; values.len()];
        let case = Case::new(&[&zeros[..], values]).shape(shape).base(0);
        let case = case.each("weight", &[0.0, 1.0]).each("density", &[1.0, density]);
        let case = case.each("epsilon", &[0.0, epsilon]);
        case.params(&[("rescale", rescale), ("lambda", 1.0)]).merge(&DellaLinear)
    }

    /// The share kept is the density, and grows with the rank within the row: among the lower and the
    /// upper half of each row it is a quarter of 2 epsilon off.
    #[test]
    fn larger_elements_are_kept_more_often() {
        let (rows, width) = (400, 500);
        let mut values = noise(5, rows * width);
        // Rows of different sizes: ranks are within the row.
        for (at, row) in values.chunks_mut(width).enumerate() {
            row.iter_mut().for_each(|v| *v *= 1.0 + at as f32);
        }
        let kept = run(&values, &[rows, width], 0.6, 0.3, 0.0);
        let (mut low, mut high) = (0, 0);
        for (row, kept) in values.chunks(width).zip(kept.chunks(width)) {
            let mut sorted: Vec<f32> = row.iter().map(|v| v.abs()).collect();
            sorted.sort_by(f32::total_cmp);
            for (value, kept) in row.iter().zip(kept).filter(|(_, kept)| **kept != 0.0) {
                assert_eq!(value, kept);
                *(if value.abs() < sorted[width / 2] { &mut low } else { &mut high }) += 1;
            }
        }
        let half = (rows * width / 2) as f64;
        assert!((f64::from(low) / half - 0.45).abs() < 0.01, "{low}");
        assert!((f64::from(high) / half - 0.75).abs() < 0.01, "{high}");
    }

    #[test]
    fn rescaling_restores_the_sum_or_the_mean() {
        let values: Vec<f32> = noise(6, 60_000).iter().map(|v| v + 2.0).collect();
        let sum = |values: &[f32]| values.iter().map(|&v| f64::from(v)).sum::<f64>();
        let whole = sum(&values);
        let l1 = sum(&run(&values, &[60, 1000], 0.5, 0.2, 1.0));
        assert!((l1 / whole - 1.0).abs() < 1e-5, "{l1} {whole}");
        // Each element over its probability: right on average only.
        let unbiased = sum(&run(&values, &[60, 1000], 0.5, 0.2, 2.0));
        assert!((unbiased / whole - 1.0).abs() < 0.03, "{unbiased} {whole}");
        assert!((unbiased / whole - 1.0).abs() > 1e-6);
        let none = sum(&run(&values, &[60, 1000], 0.5, 0.2, 0.0));
        assert!((none / whole - 0.5).abs() < 0.05, "{none} {whole}");
    }
}
