//! DARE: of each difference from the base every element is kept with the probability `density`, what is
//! kept is scaled up for what is lost, and the weighted sum is added to the base.
//!
//! "Language models are Super Mario", Yu et al. 2023, <https://arxiv.org/abs/2311.03099>, which scales by
//! `1 / density`: `rescale: density`. The default, `rescale: l1`, restores the sum of magnitudes, as
//! mergekit does (`sparsify.py`, `bernoulli`, 0.1.5); see [`crate::merge::task_vectors`].

use super::MergeMethod;
use crate::base::error::Result;
use crate::merge::chunks::{Job, MergedTensor};
use crate::merge::sparsify::Sparsify;
use crate::merge::task_vectors::{self as family, TaskVectorRule};
use crate::recipe::MethodSpec;

pub(super) struct DareLinear;

static SPEC: MethodSpec = MethodSpec {
    name: "dare_linear",
    reference: "https://arxiv.org/abs/2311.03099",
    params: &[
        family::WEIGHT,
        family::DENSITY,
        family::normalize(false),
        family::rescale(true),
        family::LAMBDA,
        family::INT8_MASK,
    ],
    random: true,
    ..family::PLAIN
};

const RULE: TaskVectorRule = TaskVectorRule { sparsify: Sparsify::Random, consensus: false };

impl MergeMethod for DareLinear {
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

    /// By hand, for a seed that keeps the first two of four.
    #[test]
    fn what_is_kept_makes_up_for_what_is_lost() {
        let inputs: [&[f32]; 2] = [&[0.0; 4], &[1.0, -2.0, 3.0, -4.0]];
        let run = |seed: u64, rescale: f64| {
            let case = Case::new(&inputs).base(0).seed(seed).each("weight", &[0.0, 1.0]);
            let case = case.each("density", &[1.0, 0.5]);
            case.params(&[("rescale", rescale), ("lambda", 1.0)]).merge(&DareLinear)
        };
        let first_two = |&seed: &u64| run(seed, 0.0) == [1.0, -2.0, 0.0, 0.0];
        let seed = (0..1000).find(first_two).expect("one seed in sixteen does");
        close(&run(seed, 1.0), &[10.0 / 3.0, -20.0 / 3.0, 0.0, 0.0]);
        close(&run(seed, 2.0), &[2.0, -4.0, 0.0, 0.0]);
    }

    /// The first draws for seed 42, computed in Python from the definition in [`crate::merge::random`]:
    /// they must never change, or recipes would give other models.
    #[test]
    fn draws_stay_what_they_are() {
        let inputs: [&[f32]; 2] = [&[0.0; 16], &[1.0; 16]];
        let case = Case::new(&inputs).base(0).seed(42).each("weight", &[0.0, 1.0]);
        let case = case.each("density", &[1.0, 0.5]).params(&[("rescale", 0.0), ("lambda", 1.0)]);
        let kept: String =
            case.merge(&DareLinear).iter().map(|&x| if x == 0.0 { '0' } else { '1' }).collect();
        assert_eq!(kept, "1010000100100001");
    }
}
