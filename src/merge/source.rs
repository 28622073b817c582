//! [`MergeSource`]: the tensors of a plan's output, each computed when it is read.

use super::chunks::{Job, JobInput};
use super::{methods, rows};
use crate::error::Result;
use crate::recipe::{Arranged, Input, MergePlan, Row, TensorInput, TensorPlan};
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
        let mut inputs = self.inputs(plan, stage_plan.arranged.get(&index))?;
        let method = methods::find(stage_plan.method);
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
        let job = Job { plan, inputs: &inputs, info, origin: &origin };
        let bytes = match method.copies(plan) {
            Some(copied) => job.map(|inputs, out| out.copy_from_slice(&inputs[copied]))?,
            None => method.combine(&job)?,
        };
        Ok(TensorData { dtype: info.dtype, shape: info.shape.clone(), bytes: Cow::Owned(bytes) })
    }

    /// The inputs of a tensor, those that need it brought to the rows of the result.
    fn inputs(&self, plan: &TensorPlan, arranged: Option<&Arranged>) -> Result<Vec<JobInput<'_>>> {
        let Some(arranged) = arranged else {
            return plan.inputs.iter().map(|i| self.input(i.from, i.index)).collect();
        };
        let sources = arranged.sources.iter().map(|&(from, index)| self.input(from, index));
        let sources = sources.collect::<Result<Vec<_>>>()?;
        let arranged_input = |(input, rows): (&TensorInput, &Option<Vec<Row>>)| {
            let Some(rows) = rows else { return self.input(input.from, input.index) };
            let info = &self.plan.table_of(input.from).infos()[input.index];
            let data = rows::gather(arranged, rows, &sources, info.row_len())?;
            let origin = format!("{}, by the result's tokens", self.plan.label(input.from));
            // Values were checked where they came from.
            Ok(JobInput { data, origin, tensor: info.name.clone(), check: false })
        };
        plan.inputs.iter().zip(&arranged.inputs).map(arranged_input).collect()
    }

    /// Tensor `index` of `from`.
    fn input(&self, from: Input, index: usize) -> Result<JobInput<'_>> {
        let tensor = self.plan.table_of(from).infos()[index].name.clone();
        Ok(match from {
            Input::Member(m) => {
                let member = &self.plan.members[m];
                let source = &member.checkpoint.tensors;
                let origin = format!("member '{}' ({})", member.reference, source.origin());
                JobInput { data: source.read(index)?, origin, tensor, check: true }
            }
            Input::Stage(s) => {
                let origin = format!("stage '{}'", self.plan.stages[s].label());
                JobInput { data: self.compute(s, index)?, origin, tensor, check: false }
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
