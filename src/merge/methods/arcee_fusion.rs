//! Arcee Fusion: takes over the other model's elements that matter most, and leaves the rest to the base.
//!
//! An element's importance is its distance from the base times the Kullback-Leibler divergence of its
//! row, softmax against softmax, the other model's first; taken over are those from `median + 1.5 (q3 -
//! q1)` of the importances on, with quartiles at the index `int(q (n - 1))` of the sorted ones.
//! <https://arcee.ai>; details as in mergekit's `merge_methods/arcee_fusion.py`, 0.1.5, which samples a
//! million elements of larger tensors at random where all are counted here. Divergences are f64.

use super::MergeMethod;
use crate::base::error::Result;
use crate::merge::chunks::{Job, MergedTensor, step_of_rows};
use crate::merge::select::ElementScores;
use crate::recipe::{BaseRule, MethodSpec};

pub(super) struct ArceeFusion;

static SPEC: MethodSpec = MethodSpec {
    name: "arcee_fusion",
    reference: "https://arcee.ai",
    base: BaseRule::Required,
    sources: 2..=2,
    lone_source_is_copied: true,
    ..MethodSpec::PLAIN
};

/// Added to probabilities, so that none is zero.
const EPS: f64 = 1e-8;

impl MergeMethod for ArceeFusion {
    fn spec(&self) -> &'static MethodSpec {
        &SPEC
    }

    fn combine(&self, job: &Job<'_>) -> Result<MergedTensor> {
        let base = job.base();
        let other = 1 - base;
        let row = job.row().max(1);
        let step = step_of_rows(row);
        let all = job.all();
        let divergences: Vec<f32> = job
            .each(&all, step, |_, inputs| {
                let rows = inputs[other].chunks(row).zip(inputs[base].chunks(row));
                rows.map(|(p, q)| divergence(p, q) as f32).collect::<Vec<f32>>()
            })?
            .concat();
        let score = |start: usize, inputs: &[Vec<f32>], scores: &mut [f32]| {
            let rows = scores.chunks_mut(row).zip(&divergences[start / row..]);
            let pairs = inputs[base].chunks(row).zip(inputs[other].chunks(row));
            for ((scores, divergence), (a, b)) in rows.zip(pairs) {
                for ((score, a), b) in scores.iter_mut().zip(a).zip(b) {
                    *score = (b - a).abs() * divergence;
                }
            }
        };
        let last = job.info.elements().saturating_sub(1);
        let ranks = [last / 4, last / 2, (0.75 * last as f64) as usize];
        let quartiles =
            ElementScores { which: &all, step, score: &score }.ascending(job, &ranks)?;
        let threshold = quartiles[1] + 1.5 * (quartiles[2] - quartiles[0]);
        job.map_at(step, |start, inputs, out| {
            score(start, inputs, out);
            for ((y, a), b) in out.iter_mut().zip(&inputs[base]).zip(&inputs[other]) {
                *y = if *y >= threshold { a + (b - a) } else { *a };
            }
        })
    }
}

/// The Kullback-Leibler divergence of two rows' softmaxes.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let (p, q) = (softmax(p), softmax(q));
    p.iter().zip(&q).map(|(p, q)| (p + EPS) * ((p + EPS) / (q + EPS)).ln()).sum()
}

fn softmax(row: &[f32]) -> Vec<f64> {
    let greatest = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let powers: Vec<f64> = row.iter().map(|&x| (f64::from(x) - greatest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::methods::testing::{Case, close};

    fn run(a: &[f32], b: &[f32], shape: &[usize]) -> Vec<f32> {
        Case::new(&[a, b]).shape(shape).base(0).merge(&ArceeFusion)
    }

    /// Importances in the ratio of the differences 0.1, 0.1, 0.1, 0.2, 3: the quartiles are 0.1, 0.1 and
    /// 0.2, so the threshold is 0.25, and only the last is taken over.
    #[test]
    fn outliers_in_importance_are_taken_over() {
        let a = [0.0; 5];
        let b = [0.1, 0.1, 0.1, 0.2, 3.0];
        close(&run(&a, &b, &[5]), &[0.0, 0.0, 0.0, 0.0, 3.0]);
        assert_eq!(run(&a, &a, &[5]), a);
        close(&run(&[1.0], &[2.0], &[1]), &[2.0]);
    }

    /// A row moved as a whole keeps its softmax: its divergence is 0, and so is its importance.
    #[test]
    fn rows_are_weighed_by_their_divergence() {
        let a = [0.0; 8];
        let b = [5.0, 5.0, 5.0, 5.0, 0.0, 0.0, 0.0, 1.0];
        close(&run(&a, &b, &[2, 4])[4..], &[0.0, 0.0, 0.0, 1.0]);
        assert!(divergence(&[0.0, 1.0], &[0.0, 0.0]) > 0.0);
        assert_eq!(divergence(&[5.0, 5.0], &[0.0, 0.0]), 0.0);
    }
}
