//! The family of methods that add task vectors, the differences of tuned models from their base:
//! `base + lambda * sum(w sparse(x - base))`.
//!
//! What they differ in is how the vectors are sparsified, whether signs must agree, and defaults; a
//! method's file says which. The sum is divided by the sum of the weights with `normalize`: of those
//! whose elements agree under sign consensus, else of all. After mergekit's
//! `merge_methods/generalized_task_arithmetic.py`, 0.1.5.

use super::chunks::{CHUNK, Job, MergedTensor, step_of_rows};
use super::consensus;
use super::sparsify::{RESCALE_WORDS, SparseTaskVector, Sparsify};
use super::sums;
use crate::base::error::Result;
use crate::recipe::{BaseRule, MethodSpec, ParamConflict, ParamDefault, ParamSpec, ParamValues};

/// What a method of the family does.
#[derive(Clone, Copy, Debug)]
pub(super) struct TaskVectorRule {
    pub sparsify: Sparsify,
    /// Whether elements whose sign is not that of the sum are left out.
    pub consensus: bool,
}

/// Sums of weights smaller than this are not divided by.
const SMALLEST_SUM: f32 = 1e-8;

/// What the specifications of the family have in common.
pub(super) const PLAIN: MethodSpec = MethodSpec { base: BaseRule::Required, ..MethodSpec::PLAIN };

pub(super) const WEIGHT: ParamSpec = ParamSpec::source("weight", ParamDefault::Required);
pub(super) const DENSITY: ParamSpec =
    ParamSpec::source("density", ParamDefault::Value(1.0)).within(0.0, 1.0);
pub(super) const GAMMA: ParamSpec =
    ParamSpec::source("gamma", ParamDefault::Value(0.01)).within(0.0, 1.0);
pub(super) const EPSILON: ParamSpec =
    ParamSpec::source("epsilon", ParamDefault::Value(0.15)).within(0.0, 1.0);
pub(super) const LAMBDA: ParamSpec = ParamSpec::tensor("lambda", ParamDefault::Value(1.0));
/// The peer's choice of a type for its masks in memory.
pub(super) const INT8_MASK: ParamSpec = ParamSpec::silent("int8_mask");

/// `normalize` with its default.
pub(super) const fn normalize(default: bool) -> ParamSpec {
    ParamSpec::tensor("normalize", ParamDefault::Value(default as u8 as f64))
}

/// `rescale` with its default.
pub(super) const fn rescale(default: bool) -> ParamSpec {
    ParamSpec::tensor("rescale", ParamDefault::Value(default as u8 as f64))
        .within(0.0, 2.0)
        .words(RESCALE_WORDS)
}

/// Keeping by rank needs probabilities between 0 and 1; at densities of 0 and 1 nothing is drawn.
pub(super) fn check_probabilities(values: &ParamValues) -> std::result::Result<(), ParamConflict> {
    let (density, epsilon) = (values.need("density"), values.need("epsilon"));
    let drawn = density > 0.0 && density < 1.0;
    if !drawn || (density - epsilon > 0.0 && density + epsilon < 1.0) {
        return Ok(());
    }
    Err(ParamConflict {
        message: "'density' less or plus 'epsilon' is not between 0 and 1 (epsilon is 0.15 if not \
                  given)",
        remedy: "give a smaller 'epsilon', or a 'density' farther from 0 and 1",
    })
}

/// The merged tensor.
pub(super) fn combine(job: &Job<'_>, rule: TaskVectorRule) -> Result<MergedTensor> {
    let base = job.base();
    let tuned = job.tuned();
    let step = match rule.sparsify {
        Sparsify::RandomByRank => step_of_rows(job.row()),
        _ => CHUNK,
    };
    let sparse: Vec<SparseTaskVector> = tuned
        .iter()
        .map(|&at| SparseTaskVector::decide(job, rule.sparsify, at, step))
        .collect::<Result<_>>()?;
    let weight = |&at: &usize| job.plan.inputs[at].params.need("weight") as f32;
    let weights: Vec<f32> = tuned.iter().map(weight).collect();
    let sum: f32 = weights.iter().sum();
    let normalize = job.plan.params.flag("normalize");
    let divisor = if normalize && sum.abs() >= SMALLEST_SUM { sum } else { 1.0 };
    let lambda = job.plan.params.need("lambda") as f32;
    job.map_at(step, |start, inputs, out| {
        let base_values = std::mem::take(&mut inputs[base]);
        for ((&at, sparse), &weight) in tuned.iter().zip(&sparse).zip(&weights) {
            let delta = &mut inputs[at];
            sums::subtract(delta, &base_values);
            sparse.apply(start, delta);
            delta.iter_mut().for_each(|d| *d *= weight);
        }
        if rule.consensus {
            let deltas: Vec<&[f32]> = tuned.iter().map(|&at| inputs[at].as_slice()).collect();
            consensus::mix(&deltas, &weights, normalize, out);
        } else {
            for &at in &tuned {
                out.iter_mut().zip(&inputs[at]).for_each(|(y, d)| *y += d);
            }
            out.iter_mut().for_each(|y| *y /= divisor);
        }
        for (y, base) in out.iter_mut().zip(&base_values) {
            *y = base + *y * lambda;
        }
        inputs[base] = base_values;
    })
}
