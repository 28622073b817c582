//! [`MergeSource`]: the tensors of a plan's output, each computed when it is read.
//!
//! What a method hands through unchanged is not computed: a reader gets the member's bytes, checked to
//! be numbers, and a writer gets them part by part.

use super::buffers;
use super::chunks::{Job, JobInput, MergedTensor};
use super::{methods, rows};
use crate::base::error::Result;
use crate::base::mmap;
use crate::formats::source::{PartSink, TensorData, TensorSource, TensorTable, send_parts};
use crate::recipe::{ArrangedRow, MergePlan, PlanInput, RowArrangement, TensorInput, TensorPlan};
use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

/// The output of a recipe as a source of tensors with Hugging Face names.
pub struct MergeSource {
    plan: Arc<MergePlan>,
    origin: String,
    /// For each tensor, see [`TensorSource::working_bytes`].
    working_bytes: Vec<u64>,
}

impl MergeSource {
    pub fn new(plan: Arc<MergePlan>) -> MergeSource {
        let origin = plan.path.display().to_string();
        let working_bytes = plan.working_bytes();
        MergeSource { plan, origin, working_bytes }
    }

    pub fn plan(&self) -> &MergePlan {
        &self.plan
    }

    fn output(&self) -> usize {
        self.plan.stages.len() - 1
    }

    /// The input that tensor `index` of stage `stage` equals, byte for byte.
    fn copied(&self, stage: usize, index: usize) -> Option<&TensorInput> {
        let stage = &self.plan.stages[stage];
        if stage.arranged.contains_key(&index) {
            return None; // Its rows are gathered.
        }
        let plan = &stage.tensors[index];
        let input = &plan.inputs[methods::find(stage.method_at(plan.place)).copies(plan)?];
        let (info, table) = (&stage.table.infos()[index], self.plan.table_of(input.from));
        let copied = &table.infos()[input.index];
        (copied.dtype == info.dtype && copied.bytes() == info.bytes()).then_some(input)
    }

    /// The tensor of a member that tensor `index` of stage `stage` equals, through however many stages.
    fn copied_member(&self, stage: usize, index: usize) -> Option<&TensorInput> {
        let mut input = self.copied(stage, index)?;
        while let PlanInput::Stage(stage) = input.from {
            input = self.copied(stage, input.index)?;
        }
        Some(input)
    }

    /// Tensor `index` of stage `stage`, rounded to the stage's type; `None` if it went to `sink`, which only
    /// methods that make it part by part do.
    fn compute(
        &self,
        stage: usize,
        index: usize,
        sink: Option<&PartSink<'_>>,
    ) -> Result<Option<TensorData<'_>>> {
        crate::base::progress::check_interrupted()?;
        let stage_plan = &self.plan.stages[stage];
        let (info, plan) = (&stage_plan.table.infos()[index], &stage_plan.tensors[index]);
        if let Some(copied) = self.copied(stage, index) {
            let input = self.input(copied.from, copied.index)?;
            input.data.check(&input.origin, info)?;
            input.check_finite(info.elements())?;
            return Ok(Some(input.data));
        }
        let inputs = self.inputs(plan, stage_plan.arranged.get(&index))?;
        let method = methods::find(stage_plan.method_at(plan.place));
        let origin = match &stage_plan.name {
            Some(name) => format!("{}, stage '{name}'", self.origin),
            None => self.origin.clone(),
        };
        let job = Job { plan, inputs: &inputs, info, origin: &origin, seed: stage_plan.seed, sink };
        let output = match method.copies(plan) {
            Some(copied) => job.map(|inputs, out| out.copy_from_slice(&inputs[copied]))?,
            None => method.combine(&job)?,
        };
        for input in inputs {
            mmap::release_pages(&input.data.bytes);
            if let Cow::Owned(bytes) = input.data.bytes {
                buffers::give_back(bytes);
            }
        }
        let MergedTensor::Whole(bytes) = output else { return Ok(None) };
        let bytes = Cow::Owned(bytes);
        Ok(Some(TensorData { dtype: info.dtype, shape: info.shape.clone(), bytes }))
    }

    /// Tensor `index` of stage `stage`, whole.
    fn whole(&self, stage: usize, index: usize) -> Result<TensorData<'_>> {
        Ok(self
            .compute(stage, index, None)?
            .expect("without a sink, methods return what they make"))
    }

    /// The inputs of a tensor, those that need it brought to the rows of the result.
    fn inputs(
        &self,
        plan: &TensorPlan,
        arranged: Option<&RowArrangement>,
    ) -> Result<Vec<JobInput<'_>>> {
        let Some(arranged) = arranged else {
            return plan.inputs.iter().map(|i| self.input(i.from, i.index)).collect();
        };
        let sources = arranged.sources.iter().map(|&(from, index)| self.input(from, index));
        let sources = sources.collect::<Result<Vec<_>>>()?;
        let arranged_input = |(input, rows): (&TensorInput, &Option<Vec<ArrangedRow>>)| {
            let Some(rows) = rows else { return self.input(input.from, input.index) };
            let info = &self.plan.table_of(input.from).infos()[input.index];
            let data = rows::gather(arranged, rows, &sources, info.row_len())?;
            let model = self.plan.label(input.from);
            let origin = format!("{model}, by the result's tokens");
            // Values were checked where they came from.
            Ok(JobInput { data, origin, tensor: info.name.clone(), model, check: false })
        };
        plan.inputs.iter().zip(&arranged.inputs).map(arranged_input).collect()
    }

    /// Tensor `index` of `from`.
    fn input(&self, from: PlanInput, index: usize) -> Result<JobInput<'_>> {
        let tensor = self.plan.table_of(from).infos()[index].name.clone();
        let model = self.plan.label(from);
        Ok(match from {
            PlanInput::Member(m) => {
                let member = &self.plan.members[m];
                let source = &member.checkpoint.tensors;
                let origin = format!("member '{}' ({})", member.reference, source.origin());
                let data = source.read(index)?;
                mmap::will_need(&data.bytes);
                JobInput { data, origin, tensor, model, check: true }
            }
            PlanInput::Stage(s) => {
                let origin = format!("stage '{}'", self.plan.stages[s].label());
                let data = self.whole(s, index)?;
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
        self.whole(self.output(), index)
    }

    fn stream(&self, index: usize, sink: &PartSink<'_>) -> Result<()> {
        let info = &self.table().infos()[index];
        match self.copied_member(self.output(), index).filter(|_| info.dtype.is_float()) {
            Some(copied) => {
                let input = self.input(copied.from, copied.index)?;
                input.data.check(&input.origin, info)?;
                send_parts(&input.data.bytes, &|offset, part| {
                    input.check_part(offset, part)?;
                    sink(offset, part)?;
                    mmap::release_pages(part);
                    Ok(())
                })
            }
            None => {
                let Some(data) = self.compute(self.output(), index, Some(sink))? else {
                    return Ok(());
                };
                send_parts(&data.bytes, sink)?;
                if let Cow::Owned(bytes) = data.bytes {
                    buffers::give_back(bytes);
                }
                Ok(())
            }
        }
    }

    fn working_bytes(&self, index: usize) -> u64 {
        let Some(copied) = self.copied_member(self.output(), index) else {
            return self.working_bytes[index];
        };
        match copied.from {
            PlanInput::Member(m) => {
                self.plan.members[m].checkpoint.tensors.working_bytes(copied.index)
            }
            PlanInput::Stage(_) => self.working_bytes[index],
        }
    }

    fn files(&self) -> Option<Vec<PathBuf>> {
        let files = self.plan.members.iter().map(|member| member.checkpoint.tensors.files());
        Some(files.collect::<Option<Vec<_>>>()?.concat())
    }
}
