//! Passthrough: one model's tensor, times `scale` if that is given. What stacks are made of.

use super::MergeMethod;
use crate::base::error::Result;
use crate::merge::chunks::{Job, MergedTensor};
use crate::recipe::{BaseRule, MethodSpec, ParamDefault, ParamSpec, TensorPlan};

pub(super) struct Passthrough;

static SPEC: MethodSpec = MethodSpec {
    name: "passthrough",
    reference: "https://github.com/arcee-ai/mergekit#passthrough",
    base: BaseRule::DonorOnly,
    sources: 1..=1,
    lone_source_is_copied: false,
    params: &[ParamSpec::source("scale", ParamDefault::Absent)],
    ..MethodSpec::PLAIN
};

impl MergeMethod for Passthrough {
    fn spec(&self) -> &'static MethodSpec {
        &SPEC
    }

    fn copies(&self, plan: &TensorPlan) -> Option<usize> {
        plan.inputs[0].params.get("scale").is_none_or(|scale| scale == 1.0).then_some(0)
    }

    fn combine(&self, job: &Job<'_>) -> Result<MergedTensor> {
        let scale = job.plan.inputs[0].params.get("scale").unwrap_or(1.0) as f32;
        job.map(|inputs, out| {
            for (y, x) in out.iter_mut().zip(&inputs[0]) {
                *y = x * scale;
            }
        })
    }
}
