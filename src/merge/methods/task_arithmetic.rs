//! Task arithmetic: `base + lambda * sum(w (x - base))`, the sum divided by `sum(w)` with `normalize`.
//!
//! "Editing models with task arithmetic", Ilharco et al. 2022, <https://arxiv.org/abs/2212.04089>.

use super::Method;
use crate::error::Result;
use crate::merge::chunks::Job;
use crate::recipe::{BaseRule, MethodSpec, ParamDefault, ParamSpec};

pub struct TaskArithmetic;

static SPEC: MethodSpec = MethodSpec {
    name: "task_arithmetic",
    reference: "https://arxiv.org/abs/2212.04089",
    base: BaseRule::Required,
    sources: 1..=usize::MAX,
    lone_source_is_copied: false,
    params: &[
        ParamSpec::source("weight", ParamDefault::Required),
        ParamSpec::tensor("normalize", ParamDefault::Value(0.0)),
        ParamSpec::tensor("lambda", ParamDefault::Value(1.0)),
        ParamSpec::ignored("density"),
        ParamSpec::ignored("int8_mask"),
        ParamSpec::ignored("rescale"),
    ],
    normalized_by: None,
};

/// Sums of weights smaller than this are not divided by (mergekit
/// `generalized_task_arithmetic.py`, June 2026).
const SMALLEST_SUM: f32 = 1e-8;

impl Method for TaskArithmetic {
    fn spec(&self) -> &'static MethodSpec {
        &SPEC
    }

    fn combine(&self, job: &Job) -> Result<Vec<u8>> {
        let base = job.plan.base.expect("the plan has a base for a method that requires one");
        let tuned: Vec<(usize, f32)> = job
            .plan
            .inputs
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != base)
            .map(|(at, input)| (at, input.params.need("weight") as f32))
            .collect();
        let sum: f32 = tuned.iter().map(|(_, weight)| weight).sum();
        let normalize = job.plan.params.flag("normalize") && sum.abs() >= SMALLEST_SUM;
        let divisor = if normalize { sum } else { 1.0 };
        let lambda = job.plan.params.need("lambda") as f32;
        job.map(|inputs, out| {
            for &(at, weight) in &tuned {
                for ((y, x), base) in out.iter_mut().zip(&inputs[at]).zip(&inputs[base]) {
                    *y += (x - base) * weight;
                }
            }
            for (y, base) in out.iter_mut().zip(&inputs[base]) {
                *y = base + *y / divisor * lambda;
            }
        })
    }
}
