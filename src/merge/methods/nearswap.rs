//! NearSwap: takes over the other model's elements where they are near the base's, and moves towards them
//! by `t` at the most where they are not: `w b + (1 - w) a` with `w = t / |a - b|`, clamped to 0..=1.
//!
//! <https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001>; details as in mergekit's
//! `merge_methods/nearswap.py`, 0.1.5.

use super::MergeMethod;
use crate::base::error::Result;
use crate::merge::chunks::{Job, MergedTensor};
use crate::recipe::{BaseRule, MethodSpec, ParamDefault, ParamSpec};

pub(super) struct NearSwap;

static SPEC: MethodSpec = MethodSpec {
    name: "nearswap",
    reference: "https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    base: BaseRule::Required,
    sources: 2..=2,
    lone_source_is_copied: true,
    params: &[ParamSpec::tensor("t", ParamDefault::Required).usually(0.0, f64::INFINITY)],
    ..MethodSpec::PLAIN
};

/// Distances smaller than this count as this.
const SMALLEST_DISTANCE: f32 = 1e-6;

impl MergeMethod for NearSwap {
    fn spec(&self) -> &'static MethodSpec {
        &SPEC
    }

    fn combine(&self, job: &Job<'_>) -> Result<MergedTensor> {
        let base = job.base();
        let other = 1 - base;
        let t = job.plan.params.need("t") as f32;
        job.map(|inputs, out| {
            for ((y, a), b) in out.iter_mut().zip(&inputs[base]).zip(&inputs[other]) {
                let w = (t / (a - b).abs().max(SMALLEST_DISTANCE)).clamp(0.0, 1.0);
                *y = w * b + (1.0 - w) * a;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::methods::testing::{Case, close};

    #[test]
    fn what_is_near_is_swapped_and_the_rest_moves_by_t() {
        let (a, b): ([f32; 4], [f32; 4]) = ([0.0; 4], [0.25, 0.5, 1.0, 2.0]);
        let run = |t: f64| Case::new(&[&a, &b]).base(0).params(&[("t", t)]).merge(&NearSwap);
        close(&run(0.5), &[0.25, 0.5, 0.5, 0.5]);
        close(&run(0.0), &[0.0; 4]);
        close(&run(9.0), &b.map(f64::from));
        let equal = Case::new(&[&b, &b]).base(1).params(&[("t", 0.1)]).merge(&NearSwap);
        close(&equal, &b.map(f64::from));
    }
}
