//! SCE: select the elements in which the models differ most, weigh the models by what is left of their
//! differences from the base, erase elements against the majority sign.
//!
//! Of the elements whose variance over the models is not zero the `select_topk` with the largest are kept
//! (`S`); a model's weight is its mean squared difference over the sum of them (`C`); elements whose sign
//! is not that of the sum are left out and the rest divided by the sum of their weights (`E`).
//! "FuseChat: knowledge fusion of chat models", Wan et al. 2024, <https://arxiv.org/abs/2408.07990>.
//! Details as in mergekit's `merge_methods/sce.py`, 0.1.5.

use super::MergeMethod;
use crate::base::error::Result;
use crate::merge::chunks::{CHUNK, Job, MergedTensor};
use crate::merge::consensus;
use crate::merge::select::{ElementScores, TopSelection};
use crate::merge::sums;
use crate::merge::task_vectors::INT8_MASK;
use crate::recipe::{BaseRule, MethodSpec, ParamDefault, ParamSpec};

pub(super) struct Sce;

static SPEC: MethodSpec = MethodSpec {
    name: "sce",
    reference: "https://arxiv.org/abs/2408.07990",
    base: BaseRule::Required,
    lone_source_is_copied: true,
    params: &[
        ParamSpec::tensor("select_topk", ParamDefault::Value(1.0)).within(0.0, 1.0),
        INT8_MASK,
    ],
    ..MethodSpec::PLAIN
};

/// Sums of mean squares smaller than this give all models the same weight.
const SMALLEST_SUM: f64 = 1e-6;
/// Sums of weights are at least this where they are divided by.
const SMALLEST_DIVISOR: f32 = 1e-6;

impl MergeMethod for Sce {
    fn spec(&self) -> &'static MethodSpec {
        &SPEC
    }

    fn combine(&self, job: &Job<'_>) -> Result<MergedTensor> {
        let differences = Differences { job, tuned: job.tuned(), kept: select(job)? };
        let weights = differences.weights()?;
        job.map_at(CHUNK, |start, inputs, out| {
            differences.take(start, inputs);
            let vectors: Vec<&[f32]> =
                differences.tuned.iter().map(|&at| inputs[at].as_slice()).collect();
            let mut total = Vec::new();
            consensus::total(&vectors, &mut total);
            let mut divisors = vec![0f32; out.len()];
            for (vector, &weight) in vectors.iter().zip(&weights) {
                let elements = out.iter_mut().zip(&mut divisors).zip(*vector).zip(&total);
                for (((y, divisor), &x), &total) in elements {
                    let weight = if consensus::agrees(x, total) { weight } else { 0.0 };
                    *y += x * weight;
                    *divisor += weight;
                }
            }
            for ((y, divisor), base) in out.iter_mut().zip(&divisors).zip(&inputs[job.base()]) {
                *y = base + *y / divisor.max(SMALLEST_DIVISOR);
            }
        })
    }
}

/// The models' differences from the base where they are selected.
struct Differences<'a> {
    job: &'a Job<'a>,
    tuned: Vec<usize>,
    /// `None` for all.
    kept: Option<TopSelection>,
}

impl Differences<'_> {
    /// Puts the differences of the chunk at `start` in the place of the models' values.
    fn take(&self, start: usize, inputs: &mut [Vec<f32>]) {
        let base = self.job.base();
        let base_values = std::mem::take(&mut inputs[base]);
        for &at in &self.tuned {
            sums::subtract(&mut inputs[at], &base_values);
        }
        inputs[base] = base_values;
        let Some(kept) = &self.kept else { return };
        let mut scores = vec![0f32; inputs[base].len()];
        let mut mask = Vec::new();
        let vectors = self.tuned.iter().map(|&at| inputs[at].as_slice()).collect::<Vec<_>>();
        variances(&vectors, &mut scores);
        kept.mask(start, &scores, &mut mask);
        for &at in &self.tuned {
            for (x, &kept) in inputs[at].iter_mut().zip(&mask) {
                *x = if kept { *x } else { 0.0 };
            }
        }
    }

    /// The models' weights: shares of the mean squares.
    fn weights(&self) -> Result<Vec<f32>> {
        let partials = self.job.each(&self.job.all(), CHUNK, |start, inputs| {
            self.take(start, inputs);
            let square = |&at: &usize| sums::dot(&inputs[at], &inputs[at]);
            self.tuned.iter().map(square).collect::<Vec<f64>>()
        })?;
        let mut squares = vec![0f64; self.tuned.len()];
        for partial in partials {
            squares.iter_mut().zip(partial).for_each(|(sum, value)| *sum += value);
        }
        let elements = self.job.info.elements() as f64;
        let sum = squares.iter().sum::<f64>() / elements;
        let weight = |square: &f64| {
            if sum < SMALLEST_SUM { 1.0 / squares.len() as f64 } else { square / elements / sum }
        };
        Ok(squares.iter().map(|square| weight(square) as f32).collect())
    }
}

/// The elements with the largest variances.
fn select(job: &Job<'_>) -> Result<Option<TopSelection>> {
    let topk = job.plan.params.need("select_topk");
    if topk >= 1.0 {
        return Ok(None);
    }
    let tuned = job.tuned();
    let mut which = tuned.clone();
    which.push(job.base());
    let score = |_: usize, inputs: &[Vec<f32>], scores: &mut [f32]| {
        let (base, models) = inputs.split_last().expect("the base is there");
        let offset = |values: &Vec<f32>| {
            let mut values = values.clone();
            sums::subtract(&mut values, base);
            values
        };
        let offsets: Vec<Vec<f32>> = models.iter().map(offset).collect();
        variances(&offsets.iter().map(Vec::as_slice).collect::<Vec<_>>(), scores);
    };
    let nonzero: u64 = job
        .each(&which, CHUNK, |start, inputs| {
            let mut scores = vec![0f32; inputs[0].len()];
            score(start, inputs, &mut scores);
            scores.iter().filter(|&&v| v != 0.0).count() as u64
        })?
        .into_iter()
        .sum();
    let wanted = (nonzero as f64 * topk) as usize;
    let scores = ElementScores { which: &which, step: CHUNK, score: &score };
    Ok(scores.largest(job, &[wanted])?.pop())
}

/// The variance of each element over the vectors.
fn variances(vectors: &[&[f32]], out: &mut [f32]) {
    let count = vectors.len().max(1) as f32;
    let mut means = Vec::new();
    consensus::total(vectors, &mut means);
    means.iter_mut().for_each(|mean| *mean /= count);
    out.fill(0.0);
    for vector in vectors {
        for ((y, x), mean) in out.iter_mut().zip(*vector).zip(&means) {
            *y += (x - mean) * (x - mean);
        }
    }
    out.iter_mut().for_each(|y| *y /= count);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::methods::testing::{Case, close};

    fn run(topk: f64, models: &[&[f32]]) -> Vec<f32> {
        let zeros = vec![0.0; models[0].len()];
        let inputs: Vec<&[f32]> =
            std::iter::once(zeros.as_slice()).chain(models.iter().copied()).collect();
        Case::new(&inputs).base(0).params(&[("select_topk", topk)]).merge(&Sce)
    }

    /// By hand: mean squares 5 and 4.5 give weights 10/19 and 9/19; the signs of the first column
    /// agree, in the second the sum is negative.
    #[test]
    fn weights_are_shares_of_the_squares_and_signs_must_agree() {
        let merged = run(1.0, &[&[3.0, 1.0], &[0.0, -3.0]]);
        close(&merged, &[3.0, -3.0]);
        let merged = run(1.0, &[&[1.0, 3.0], &[3.0, 0.0]]);
        close(&merged, &[(10.0 + 27.0) / 19.0, 3.0]);
    }

    #[test]
    fn selection_counts_only_elements_that_vary() {
        // Variances 0, 1, 4 and 0: half of the two that vary is one.
        close(&run(0.5, &[&[1.0, 2.0, 4.0, 1.0], &[1.0, 0.0, 0.0, 1.0]]), &[0.0, 0.0, 4.0, 0.0]);
        close(&run(0.0, &[&[1.0, 2.0], &[1.0, 0.0]]), &[0.0, 0.0]);
        close(&run(0.4, &[&[1.0, 2.0], &[1.0, 0.0]]), &[0.0, 0.0]);
        close(&run(0.5, &[&[0.0, 0.0], &[0.0, 0.0]]), &[0.0, 0.0]);
        close(&run(0.5, &[&[7.0]]), &[0.0]);
    }
}
