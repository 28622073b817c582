//! [`MergeSource`]: the tensors of a plan's output, each computed when it is read.

use super::chunks::{Job, JobInput};
use super::methods;
use crate::error::Result;
use crate::recipe::{Input, MergePlan, TensorInput};
use crate::source::{TensorData, TensorSource, TensorTable};
use std::borrow::Cow;
use std::sync::Arc;

/// The output of a recipe as a source of tensors with Hugging Face names.
pub struct MergeSource {
    plan: Arc<MergePlan>,
    origin: String,
}

impl MergeSource {
    pub fn new(plan: Arc<MergePlan>) -> MergeSource {
        let origin = plan.path.display().to_string();
        MergeSource { plan, origin }
    }

    pub fn plan(&self) -> &MergePlan {
        &self.plan
    }

    /// Tensor `index` of stage `stage`, rounded to the stage's type.
    fn compute(&self, stage: usize, index: usize) -> Result<TensorData<'_>> {
        crate::progress::check_interrupted()?;
        let stage_plan = &self.plan.stages[stage];
        let (info, plan) = (&stage_plan.table.infos()[index], &stage_plan.tensors[index]);
        let mut inputs =
            plan.inputs.iter().map(|input| self.input(input)).collect::<Result<Vec<_>>>()?;
        let method = methods::find(stage_plan.method_at(plan.place));
        if let Some(copied) = method.copies(plan)
            && inputs[copied].data.dtype == info.dtype
        {
            let input = inputs.swap_remove(copied);
            input.check_finite(info.elements())?;
            return Ok(input.data);
        }
        let origin = match &stage_plan.name {
            Some(name) => format!("{}, stage '{name}'", self.origin),
            None => self.origin.clone(),
        };
        let job = Job { plan, inputs: &inputs, info, origin: &origin, seed: stage_plan.seed };
        let bytes = match method.copies(plan) {
            Some(copied) => job.map(|inputs, out| out.copy_from_slice(&inputs[copied]))?,
            None => method.combine(&job)?,
        };
        Ok(TensorData { dtype: info.dtype, shape: info.shape.clone(), bytes: Cow::Owned(bytes) })
    }

    fn input(&self, input: &TensorInput) -> Result<JobInput<'_>> {
        let tensor = self.plan.table_of(input.from).infos()[input.index].name.clone();
        let model = self.plan.label(input.from);
        Ok(match input.from {
            Input::Member(m) => {
                let member = &self.plan.members[m];
                let source = &member.checkpoint.tensors;
                let origin = format!("member '{}' ({})", member.reference, source.origin());
                JobInput { data: source.read(input.index)?, origin, tensor, model, check: true }
            }
            Input::Stage(s) => {
                let origin = format!("stage '{}'", self.plan.stages[s].label());
                let data = self.compute(s, input.index)?;
                JobInput { data, origin, tensor, model, check: false }
            }
        })
    }
}

impl TensorSource for MergeSource {
    fn origin(&self) -> &str {
        &self.origin
    }

    fn table(&self) -> &TensorTable {
        self.plan.tensors()
    }

    fn read(&self, index: usize) -> Result<TensorData<'_>> {
        self.compute(self.plan.stages.len() - 1, index)
    }
}
