//! Linear: the weighted mean, `sum(w x) / sum(w)`, or the weighted sum without `normalize`.
//!
//! "Model soups", Wortsman et al. 2022, <https://arxiv.org/abs/2203.05482>.

use super::MergeMethod;
use crate::base::error::Result;
use crate::merge::chunks::{Job, MergedTensor};
use crate::recipe::{BaseRule, MethodSpec, ParamDefault, ParamSpec};

pub(super) struct Linear;

static SPEC: MethodSpec = MethodSpec {
    name: "linear",
    reference: "https://arxiv.org/abs/2203.05482",
    base: BaseRule::DonorOnly,
    sources: 1..=usize::MAX,
    lone_source_is_copied: false,
    params: &[
        ParamSpec::source("weight", ParamDefault::Required),
        ParamSpec::tensor("normalize", ParamDefault::Value(1.0)),
    ],
    normalized_by: Some("normalize"),
    ..MethodSpec::PLAIN
};

impl MergeMethod for Linear {
    fn spec(&self) -> &'static MethodSpec {
        &SPEC
    }

    fn combine(&self, job: &Job<'_>) -> Result<MergedTensor> {
        let weights: Vec<f32> =
            job.plan.inputs.iter().map(|input| input.params.need("weight") as f32).collect();
        let sum: f32 = weights.iter().sum();
        let divisor = if job.plan.params.flag("normalize") { sum } else { 1.0 };
        job.map(|inputs, out| {
            for (values, weight) in inputs.iter().zip(&weights) {
                for (y, x) in out.iter_mut().zip(values) {
                    *y += weight * x;
                }
            }
            out.iter_mut().for_each(|y| *y /= divisor);
        })
    }
}
