//! RAM, Reinforced Agent Merging: elements that one model alone has changed are taken over whole, those
//! that several have changed are averaged over them.
//!
//! Changed is what differs from the base by more than `epsilon`.
//! <https://arxiv.org/abs/2601.13572>; details as in mergekit's `merge_methods/ram.py`, 0.1.5.

use super::MergeMethod;
use crate::base::error::Result;
use crate::merge::chunks::{CHUNK, Job, MergedTensor};
use crate::merge::sums;
use crate::recipe::{BaseRule, MethodSpec, ParamDefault, ParamSpec};

pub(super) struct Ram;

static SPEC: MethodSpec = MethodSpec {
    name: "ram",
    reference: "https://arxiv.org/abs/2601.13572",
    base: BaseRule::Required,
    lone_source_is_copied: true,
    params: &[EPSILON],
    ..MethodSpec::PLAIN
};

/// From which difference on an element counts as changed.
pub(super) const EPSILON: ParamSpec =
    ParamSpec::tensor("epsilon", ParamDefault::Value(1e-5)).within(0.0, f64::INFINITY);

impl MergeMethod for Ram {
    fn spec(&self) -> &'static MethodSpec {
        &SPEC
    }

    fn combine(&self, job: &Job<'_>) -> Result<MergedTensor> {
        combine(job, &vec![1.0; job.tuned().len()])
    }
}

/// How many models have changed each element; makes differences of the models' values, zero where they
/// are too small to count.
pub(super) fn contributions(job: &Job<'_>, tuned: &[usize], inputs: &mut [Vec<f32>]) -> Vec<f32> {
    let epsilon = job.plan.params.need("epsilon") as f32;
    let base = job.base();
    let base_values = std::mem::take(&mut inputs[base]);
    let mut counts = vec![0f32; base_values.len()];
    for &at in tuned {
        sums::subtract(&mut inputs[at], &base_values);
        for (count, d) in counts.iter_mut().zip(&mut inputs[at]) {
            let changed = d.abs() > epsilon;
            *d = if changed { *d } else { 0.0 };
            *count += if changed { 1.0 } else { 0.0 };
        }
    }
    inputs[base] = base_values;
    counts
}

/// The merge, with a factor for each model on what it alone has changed.
pub(super) fn combine(job: &Job<'_>, unique: &[f32]) -> Result<MergedTensor> {
    let tuned = job.tuned();
    job.map_at(CHUNK, |_, inputs, out| {
        let counts = contributions(job, &tuned, inputs);
        for (&at, factor) in tuned.iter().zip(unique) {
            for ((y, d), count) in out.iter_mut().zip(&inputs[at]).zip(&counts) {
                *y += if *count > 1.0 { d / count } else { d * factor };
            }
        }
        out.iter_mut().zip(&inputs[job.base()]).for_each(|(y, base)| *y += base);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::methods::testing::{Case, close};

    #[test]
    fn unique_changes_are_whole_and_shared_ones_averaged() {
        let inputs: [&[f32]; 3] =
            [&[1.0, 1.0, 1.0, 1.0], &[2.0, 3.0, 1.0, 1.05], &[1.0, 7.0, 1.0, 5.0]];
        let run =
            |epsilon: f64| Case::new(&inputs).base(0).params(&[("epsilon", epsilon)]).merge(&Ram);
        close(&run(1e-5), &[2.0, 5.0, 1.0, 3.025]);
        close(&run(0.1), &[2.0, 5.0, 1.0, 5.0]);
    }
}
