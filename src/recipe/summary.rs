//! The plan as plain data, for tables and JSON: stages, members, and what makes each layer.

use super::diagnostics::Diagnostic;
use super::method::{Default, MethodSpec};
use super::output_config::torch_name;
use super::plan::{Donor, Input, MergePlan, Place, Stage, TensorPlan, Values, table_bytes};
use super::yaml::Pos;
use serde::Serialize;
use std::path::PathBuf;

/// A whole plan.
#[derive(Clone, Debug, Serialize)]
pub struct PlanSummary {
    pub recipe: PathBuf,
    pub members: Vec<MemberSummary>,
    /// In the order of evaluation; the last is the output.
    pub stages: Vec<StageSummary>,
    /// Of the output.
    pub parameters: u64,
    /// Bytes of the output's weights.
    pub bytes: u64,
    /// Bytes held while the costliest single tensor is computed; see [`MergePlan::peak_tensor_bytes`].
    pub peak_tensor_bytes: u64,
    pub warnings: Vec<Diagnostic>,
}

#[derive(Clone, Debug, Serialize)]
pub struct MemberSummary {
    /// As the recipe names it.
    pub reference: String,
    /// Where the recipe first names it.
    pub pos: Pos,
    /// Folder or other origin of the weights.
    pub origin: String,
    /// `LlamaForCausalLM` for example.
    pub class: String,
    pub layers: usize,
    pub vocabulary: usize,
    pub parameters: u64,
    pub bytes: u64,
    /// Whether the output takes its configuration, its tokenizer from here.
    pub config_donor: bool,
    pub tokenizer_donor: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct StageSummary {
    /// `output` where the recipe gives no name.
    pub name: String,
    pub method: &'static str,
    pub dtype: Option<&'static str>,
    pub out_dtype: Option<&'static str>,
    /// Of methods that draw at random.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    pub config_donor: DonorSummary,
    pub tokenizer_donor: DonorSummary,
    pub embedding: EndRow,
    pub layers: Vec<LayerRow>,
    pub final_norm: EndRow,
    /// Without sources if the head is tied to the embedding.
    pub head: EndRow,
    pub parameters: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct DonorSummary {
    pub member: String,
    pub reason: String,
}

/// One output layer.
#[derive(Clone, Debug, Serialize)]
pub struct LayerRow {
    pub layer: usize,
    /// Number of the slice in its stage, from 0.
    pub slice: usize,
    pub sources: Vec<SourceCell>,
    /// Parameters of the combination (`t`, `normalize`).
    pub params: Vec<ParamCell>,
}

/// An end of the stack: embedding, final norm or head.
#[derive(Clone, Debug, Serialize)]
pub struct EndRow {
    pub sources: Vec<SourceCell>,
    /// Parameters of the combination, as in [`LayerRow::params`].
    pub params: Vec<ParamCell>,
}

/// A model that goes into a layer or an end of the stack.
#[derive(Clone, Debug, Serialize)]
pub struct SourceCell {
    pub from: String,
    /// Whether `from` is a stage of the recipe and not a member.
    pub is_stage: bool,
    /// The layer there; none for embedding, norm and head.
    pub layer: Option<usize>,
    pub is_base: bool,
    /// Parameters of the source (`weight`, `scale`).
    pub params: Vec<ParamCell>,
}

/// A parameter over the tensors of one layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ParamCell {
    pub name: &'static str,
    /// Equal unless filters give tensors of the layer different values.
    pub min: f64,
    pub max: f64,
    /// The word that recipes may write for the value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub word: Option<&'static str>,
    /// Whether this is what the method takes when the recipe says nothing.
    pub is_default: bool,
    /// The values by filter where they differ, in the order of the tensors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub by_filter: Vec<FilterValue>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FilterValue {
    /// None for the entry that takes all other tensors.
    pub filter: Option<String>,
    pub value: f64,
}

impl MergePlan {
    /// The plan as plain data.
    pub fn summary(&self) -> PlanSummary {
        let output = self.output();
        let members = self.members.iter().enumerate().map(|(index, member)| {
            let table = member.checkpoint.tensors.table();
            MemberSummary {
                reference: member.reference.to_string(),
                pos: member.pos,
                origin: member.checkpoint.tensors.origin().to_string(),
                class: member.checkpoint.config.architecture().unwrap_or_default().to_string(),
                layers: member.hyper.n_layer,
                vocabulary: member.hyper.n_vocab,
                parameters: table.infos().iter().map(|info| info.elements() as u64).sum(),
                bytes: table_bytes(table),
                config_donor: output.config_donor.member == index,
                tokenizer_donor: output.tokenizer_donor.member == index,
            }
        });
        PlanSummary {
            recipe: self.path.clone(),
            members: members.collect(),
            stages: self.stages.iter().map(|stage| self.stage_summary(stage)).collect(),
            parameters: self.parameters(),
            bytes: self.bytes(),
            peak_tensor_bytes: self.peak_tensor_bytes(),
            warnings: self.warnings.clone(),
        }
    }

    fn stage_summary(&self, stage: &Stage) -> StageSummary {
        let at = |place: Place| -> Vec<&TensorPlan> {
            stage.tensors.iter().filter(|plan| plan.place == place).collect()
        };
        let row = |layer: usize| {
            let tensors = at(Place::Layer(layer));
            let params: Vec<&Values> = tensors.iter().map(|plan| &plan.params).collect();
            let params = cells(stage.method, &params);
            let (slice, sources) = (stage.slice_of_layer[layer], self.sources(stage, &tensors));
            LayerRow { layer, slice, sources, params }
        };
        let end = |place: Place| -> EndRow {
            let tensors = at(place);
            let params: Vec<&Values> = tensors.iter().map(|plan| &plan.params).collect();
            EndRow { sources: self.sources(stage, &tensors), params: cells(stage.method, &params) }
        };
        StageSummary {
            name: stage.label(),
            method: stage.method.name,
            dtype: stage.dtype.map(torch_name),
            out_dtype: stage.out_dtype.map(torch_name),
            seed: stage.method.random.then_some(stage.seed),
            config_donor: self.donor_summary(&stage.config_donor),
            tokenizer_donor: self.donor_summary(&stage.tokenizer_donor),
            embedding: end(Place::Embedding),
            layers: (0..stage.slice_of_layer.len()).map(row).collect(),
            final_norm: end(Place::FinalNorm),
            head: end(Place::Head),
            parameters: stage.table.infos().iter().map(|info| info.elements() as u64).sum(),
            bytes: table_bytes(&stage.table),
        }
    }

    fn donor_summary(&self, donor: &Donor) -> DonorSummary {
        let member = self.members[donor.member].reference.to_string();
        DonorSummary { member, reason: donor.reason.clone() }
    }

    /// The sources of tensors that stand in the same place and so have the same sources.
    fn sources(&self, stage: &Stage, tensors: &[&TensorPlan]) -> Vec<SourceCell> {
        let Some(first) = tensors.first() else { return Vec::new() };
        let cell = |at: usize| {
            let values: Vec<&Values> = tensors.iter().map(|plan| &plan.inputs[at].params).collect();
            SourceCell {
                from: self.label(first.inputs[at].from),
                is_stage: matches!(first.inputs[at].from, Input::Stage(_)),
                layer: first.inputs[at].layer,
                is_base: first.base == Some(at),
                params: cells(stage.method, &values),
            }
        };
        (0..first.inputs.len()).map(cell).collect()
    }
}

/// One cell for each parameter of `method` that any of the tensors has.
fn cells(method: &MethodSpec, tensors: &[&Values]) -> Vec<ParamCell> {
    let mut cells: Vec<ParamCell> = Vec::new();
    for value in tensors.iter().flat_map(|values| &values.0) {
        let given = FilterValue { filter: value.filter.clone(), value: value.value };
        match cells.iter_mut().find(|cell| cell.name == value.name) {
            None => cells.push(ParamCell {
                name: value.name,
                min: value.value,
                max: value.value,
                word: None,
                is_default: false,
                by_filter: vec![given],
            }),
            Some(cell) => {
                cell.min = cell.min.min(value.value);
                cell.max = cell.max.max(value.value);
                if !cell.by_filter.contains(&given) {
                    cell.by_filter.push(given);
                }
            }
        }
    }
    for cell in &mut cells {
        if cell.min == cell.max {
            cell.by_filter.clear();
            let spec = method.param(cell.name);
            cell.is_default = spec.map(|p| p.default) == Some(Default::Value(cell.min));
            cell.word = spec.and_then(|param| param.word_of(cell.min));
        }
    }
    cells
}
