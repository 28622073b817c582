//! The plan as plain data, for tables and JSON: stages, members, and what makes each layer.

use super::shares::{MemberShare, PlanShares, RowShares};
use crate::model::arch::Settings;
use crate::recipe::method::ParamValues;
use crate::recipe::method::{MethodSpec, ParamDefault};
use crate::recipe::place::StackPlace;
use crate::recipe::plan::merge_plan::{
    Donor, MergePlan, MergeStage, PlanInput, TensorPlan, table_bytes,
};
use crate::recipe::plan::output_config::torch_name;
use crate::recipe::syntax::diagnostics::Diagnostic;
use crate::recipe::syntax::yaml::Pos;
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
    /// What the weights are dequantized from, if they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<String>,
    /// Of the output's parameters, from 0 to 1.
    pub share: f64,
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
    /// What it is made of, down to the members, also those whose share is 0 here.
    pub made_of: Vec<MemberShare>,
    /// Number of weights.
    pub parameters: u64,
}

/// An end of the stack: embedding, final norm or head.
#[derive(Clone, Debug, Serialize)]
pub struct EndRow {
    pub method: &'static str,
    /// Whether the recipe merges this end apart from its slices (`embeddings`, `final_norm`, `head`).
    pub apart: bool,
    pub sources: Vec<SourceCell>,
    /// Parameters of the combination, as in [`LayerRow::params`].
    pub params: Vec<ParamCell>,
    /// As in [`LayerRow::made_of`].
    pub made_of: Vec<MemberShare>,
    /// Number of weights; 0 of a tied head.
    pub parameters: u64,
}

/// A model that goes into a layer or an end of the stack.
#[derive(Clone, Debug, Serialize)]
pub struct SourceCell {
    pub from: String,
    /// Whether `from` is a stage of the recipe and not a member.
    pub is_stage: bool,
    /// The index of `from` in [`PlanSummary::stages`] or [`PlanSummary::members`].
    pub index: usize,
    /// How much of the row it makes, from 0 to 1; a row's shares add up to 1.
    pub share: f64,
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
        let shares = PlanShares::of(self);
        let stages = self.stages.iter().enumerate();
        let stages: Vec<_> = stages.map(|(at, _)| self.stage_summary(at, &shares)).collect();
        let of_output = stages.last().map_or(Vec::new(), member_shares);
        let members = self.members.iter().enumerate().map(|(index, member)| {
            let table = member.checkpoint.tensors.table();
            MemberSummary {
                reference: member.reference.to_string(),
                pos: member.pos,
                origin: member.checkpoint.tensors.origin().to_string(),
                class: Settings::of(&member.checkpoint.config)
                    .map_or(String::new(), |settings| settings.class().to_string()),
                layers: member.hyper.n_layer,
                vocabulary: member.hyper.n_vocab,
                parameters: table.infos().iter().map(|info| info.elements() as u64).sum(),
                bytes: table_bytes(table),
                quantization: member.checkpoint.tensors.quantization().map(str::to_string),
                share: of_output.get(index).copied().unwrap_or(0.0),
                config_donor: output.config_donor.member == index,
                tokenizer_donor: output.tokenizer_donor.member == index,
            }
        });
        PlanSummary {
            recipe: self.path.clone(),
            members: members.collect(),
            stages,
            parameters: self.parameters(),
            bytes: self.bytes(),
            peak_tensor_bytes: self.peak_tensor_bytes(),
            warnings: self.warnings.clone(),
        }
    }

    /// An end of a stage; a tied head has no tensors.
    fn end_row(
        &self,
        stage: &MergeStage,
        place: StackPlace,
        tensors: &[&TensorPlan],
        shares: RowShares,
    ) -> EndRow {
        let method = stage.method_at(place);
        let params: Vec<&ParamValues> = tensors.iter().map(|plan| &plan.params).collect();
        EndRow {
            method: method.name,
            apart: stage.ends.iter().any(|(end, _)| *end == place),
            sources: self.sources(method, tensors, &shares.inputs),
            params: cells(method, &params),
            made_of: shares.members,
            parameters: shares.parameters,
        }
    }

    fn stage_summary(&self, index: usize, shares: &PlanShares) -> StageSummary {
        let stage = &self.stages[index];
        let at = |place: StackPlace| -> Vec<&TensorPlan> {
            stage.tensors.iter().filter(|plan| plan.place == place).collect()
        };
        let row = |layer: usize| {
            let place = StackPlace::Layer(layer);
            let (tensors, shares) = (at(place), shares.row(index, stage, place));
            let params: Vec<&ParamValues> = tensors.iter().map(|plan| &plan.params).collect();
            let params = cells(stage.method, &params);
            let slice = stage.slice_of_layer[layer];
            let sources = self.sources(stage.method, &tensors, &shares.inputs);
            let (made_of, parameters) = (shares.members, shares.parameters);
            LayerRow { layer, slice, sources, params, made_of, parameters }
        };
        let end = |place: StackPlace| {
            self.end_row(stage, place, &at(place), shares.row(index, stage, place))
        };
        StageSummary {
            name: stage.label(),
            method: stage.method.name,
            dtype: stage.dtype.map(torch_name),
            out_dtype: stage.out_dtype.map(torch_name),
            seed: stage.is_random().then_some(stage.seed),
            config_donor: self.donor_summary(&stage.config_donor),
            tokenizer_donor: self.donor_summary(&stage.tokenizer_donor),
            embedding: end(StackPlace::Embedding),
            layers: (0..stage.slice_of_layer.len()).map(row).collect(),
            final_norm: end(StackPlace::FinalNorm),
            head: end(StackPlace::Head),
            parameters: stage.table.infos().iter().map(|info| info.elements() as u64).sum(),
            bytes: table_bytes(&stage.table),
        }
    }

    fn donor_summary(&self, donor: &Donor) -> DonorSummary {
        let member = self.members[donor.member].reference.to_string();
        DonorSummary { member, reason: donor.reason.clone() }
    }

    /// The sources of tensors that stand in the same place and so have the same sources.
    fn sources(
        &self,
        method: &MethodSpec,
        tensors: &[&TensorPlan],
        shares: &[f64],
    ) -> Vec<SourceCell> {
        let Some(first) = tensors.first() else { return Vec::new() };
        let cell = |at: usize| {
            let values: Vec<&ParamValues> =
                tensors.iter().map(|plan| &plan.inputs[at].params).collect();
            let from = first.inputs[at].from;
            let (is_stage, index) = match from {
                PlanInput::Stage(index) => (true, index),
                PlanInput::Member(index) => (false, index),
            };
            SourceCell {
                from: self.label(from),
                is_stage,
                index,
                share: shares.get(at).copied().unwrap_or(0.0),
                layer: first.inputs[at].layer,
                is_base: first.base == Some(at),
                params: cells(method, &values),
            }
        };
        (0..first.inputs.len()).map(cell).collect()
    }
}

/// What each member gives to `stage`, by the number of weights; members after the last one that gives
/// something are left out.
fn member_shares(stage: &StageSummary) -> Vec<f64> {
    let ends = [&stage.embedding, &stage.final_norm, &stage.head];
    let ends = ends.map(|end| (&end.made_of, end.parameters));
    let rows = stage.layers.iter().map(|row| (&row.made_of, row.parameters));
    let mut sums = Vec::new();
    for (made_of, parameters) in rows.chain(ends) {
        for given in made_of {
            if sums.len() <= given.member {
                sums.resize(given.member + 1, 0.0);
            }
            sums[given.member] += given.share * parameters as f64;
        }
    }
    let total = stage.parameters.max(1) as f64;
    sums.into_iter().map(|sum: f64| sum / total).collect()
}

/// One cell for each parameter of `method` that any of the tensors has.
fn cells(method: &MethodSpec, tensors: &[&ParamValues]) -> Vec<ParamCell> {
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
            cell.is_default = spec.map(|p| p.default) == Some(ParamDefault::Value(cell.min));
            cell.word = spec.and_then(|param| param.word_of(cell.min));
        }
    }
    cells
}
