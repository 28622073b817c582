//! RAM+, tensor by tensor: as [`super::ram`], with what a model alone has changed made larger the more of
//! its changes it shares: times `1 + r * rho`, `rho` being the number of shared changes over that of
//! unique ones in the tensor, at most `alpha`.
//!
//! <https://arxiv.org/abs/2601.13572>; details as in mergekit's `merge_methods/ram.py`, 0.1.5.

use super::{MergeMethod, ram};
use crate::base::error::Result;
use crate::merge::chunks::{CHUNK, Job, MergedTensor};
use crate::recipe::{BaseRule, MethodSpec, ParamDefault, ParamSpec};

pub(super) struct RamPlusTl;

static SPEC: MethodSpec = MethodSpec {
    name: "ramplus_tl",
    reference: "https://arxiv.org/abs/2601.13572",
    base: BaseRule::Required,
    lone_source_is_copied: true,
    params: &[
        ram::EPSILON,
        ParamSpec::tensor("r", ParamDefault::Value(0.1)).usually(0.0, f64::INFINITY),
        ParamSpec::tensor("alpha", ParamDefault::Value(0.2)).within(0.0, f64::INFINITY),
    ],
    ..MethodSpec::PLAIN
};

impl MergeMethod for RamPlusTl {
    fn spec(&self) -> &'static MethodSpec {
        &SPEC
    }

    fn combine(&self, job: &Job<'_>) -> Result<MergedTensor> {
        let tuned = job.tuned();
        let params = &job.plan.params;
        let (r, alpha) = (params.need("r"), params.need("alpha"));
        let partials = job.each(&job.all(), CHUNK, |_, inputs| {
            let counts = ram::contributions(job, &tuned, inputs);
            let of_model = |&at: &usize| {
                let mut shared_unique = [0u64; 2];
                for (d, &count) in inputs[at].iter().zip(&counts).filter(|(d, _)| **d != 0.0) {
                    debug_assert!(d.is_finite());
                    shared_unique[usize::from(count == 1.0)] += 1;
                }
                shared_unique
            };
            tuned.iter().map(of_model).collect::<Vec<_>>()
        })?;
        let mut counts = vec![[0u64; 2]; tuned.len()];
        for (count, partial) in partials.iter().flat_map(|p| p.iter().enumerate()) {
            (0..2).for_each(|i| counts[count][i] += partial[i]);
        }
        let factor = |&[shared, unique]: &[u64; 2]| {
            // Without unique changes the factor has nothing to act on.
            let rho = if unique == 0 { 0.0 } else { shared as f64 / unique as f64 };
            (1.0 + r * rho.min(alpha)) as f32
        };
        ram::combine(job, &counts.iter().map(factor).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::methods::testing::{Case, close};

    /// The first model has one shared and two unique changes, the second one and one.
    #[test]
    fn unique_changes_grow_with_the_share_of_shared_ones() {
        let inputs: [&[f32]; 3] =
            [&[0.0; 5], &[4.0, 2.0, 1.0, 0.0, 0.0], &[2.0, 0.0, 0.0, 1.0, 0.0]];
        let run = |r: f64, alpha: f64| {
            let params = [("epsilon", 1e-5), ("r", r), ("alpha", alpha)];
            Case::new(&inputs).base(0).params(&params).merge(&RamPlusTl)
        };
        close(&run(0.1, 0.2), &[3.0, 2.04, 1.02, 1.02, 0.0]);
        close(&run(0.1, 2.0), &[3.0, 2.1, 1.05, 1.1, 0.0]);
        close(&run(0.0, 0.2), &[3.0, 2.0, 1.0, 1.0, 0.0]);
    }
}
