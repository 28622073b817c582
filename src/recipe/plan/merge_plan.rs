//! The validated plan of a merge: every output tensor, its inputs and the parameters that apply.
//!
//! A [`MergePlan`] exists only for a recipe without errors: all names are resolved to indices, all
//! shapes agree, all parameters are evaluated. What remains is arithmetic ([`crate::merge`]) or showing
//! it ([`crate::recipe::view::summary`]).

use super::rows::RowArrangement;
use super::vocabulary::MergedVocabulary;
use crate::base::dtype::DType;
use crate::formats::checkpoint::{Checkpoint, Config, SideFile};
use crate::formats::source::{TensorInfo, TensorTable};
use crate::model::arch::{Architecture, HyperParams};
use crate::recipe::method::{MethodSpec, ParamValues};
use crate::recipe::place::StackPlace;
use crate::recipe::syntax::build_settings::BuildSettings;
use crate::recipe::syntax::diagnostics::Diagnostic;
use crate::recipe::syntax::model_ref::ModelRef;
use crate::recipe::syntax::yaml::Pos;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A recipe, resolved.
pub struct MergePlan {
    /// The recipe's file.
    pub path: PathBuf,
    /// Its text, which travels with the merged model.
    pub text: String,
    /// What the text says of the merge: all but comments, layout and settings of a build.
    pub meaning: String,
    /// In the order in which the recipe first names them.
    pub members: Vec<Member>,
    /// The stages that the output needs, each after the stages it uses; the last one is the output.
    pub stages: Vec<MergeStage>,
    /// The files beside the weights of the result.
    pub side_files: Vec<SideFile>,
    /// What the recipe says of the files to build.
    pub settings: BuildSettings,
    /// In the order of the text.
    pub warnings: Vec<Diagnostic>,
}

/// A model that exists before the merge.
pub struct Member {
    pub reference: ModelRef,
    /// Where the recipe first names it.
    pub pos: Pos,
    pub checkpoint: Checkpoint,
    pub arch: &'static Architecture,
    pub hyper: HyperParams,
}

/// What a tensor can come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlanInput {
    /// An index into [`MergePlan::members`].
    Member(usize),
    /// An index into [`MergePlan::stages`].
    Stage(usize),
}

/// Where the result's configuration or tokenizer comes from.
#[derive(Clone, Debug)]
pub struct Donor {
    /// An index into [`MergePlan::members`].
    pub member: usize,
    /// Why this one, for the user.
    pub reason: String,
}

/// One merge of the recipe.
pub struct MergeStage {
    pub name: Option<String>,
    /// Of the layers, and of each end that `ends` does not name.
    pub method: &'static MethodSpec,
    /// Methods of the ends that the recipe merges apart from the slices; see [`MergeStage::method_at`].
    pub ends: Vec<(StackPlace, &'static MethodSpec)>,
    /// As the recipe gives them. The result is rounded once, to `out_dtype`, else to `dtype`, else to
    /// the type that the inputs share.
    pub dtype: Option<DType>,
    pub out_dtype: Option<DType>,
    /// What random methods draw from; 0 if the recipe gives none.
    pub seed: u64,
    pub config_donor: Donor,
    pub tokenizer_donor: Donor,
    /// The donor's, with the layer count, element type and tied head of this stage.
    pub config: Config,
    pub arch: &'static Architecture,
    pub hyper: HyperParams,
    /// Output tensors in the order embedding, layers, final norm, head.
    pub table: TensorTable,
    /// How each tensor of the table is made, index by index.
    pub tensors: Vec<TensorPlan>,
    /// For each output layer, the number of the slice it belongs to.
    pub slice_of_layer: Vec<usize>,
    /// The result's tokens, where they are not those of the tokenizer's member as it is.
    pub vocabulary: Option<MergedVocabulary>,
    /// Tensors of the table whose inputs have other rows than the result, and how they get them.
    pub arranged: BTreeMap<usize, RowArrangement>,
    /// The chat template, where it is not that of the tokenizer's member.
    pub chat_template: Option<String>,
}

/// How one tensor is made.
#[derive(Clone, Debug)]
pub struct TensorPlan {
    pub place: StackPlace,
    /// In the recipe's order, the base model where it stands or last.
    pub inputs: Vec<TensorInput>,
    /// Which input is the base model's.
    pub base: Option<usize>,
    /// Values of the method's tensor-scoped parameters.
    pub params: ParamValues,
}

/// A tensor that goes into another.
#[derive(Clone, Debug)]
pub struct TensorInput {
    pub from: PlanInput,
    /// Index in the table of tensors of `from`.
    pub index: usize,
    /// The layer it belongs to there.
    pub layer: Option<usize>,
    /// Values of the method's source-scoped parameters.
    pub params: ParamValues,
}

impl MergePlan {
    /// The stage that is the result.
    pub fn output(&self) -> &MergeStage {
        self.stages.last().expect("a plan has a stage")
    }

    /// What the recipe calls `input`.
    pub fn label(&self, input: PlanInput) -> String {
        match input {
            PlanInput::Member(m) => self.members[m].reference.to_string(),
            PlanInput::Stage(s) => self.stages[s].label(),
        }
    }

    /// The tensors of `input`.
    pub fn table_of(&self, input: PlanInput) -> &TensorTable {
        match input {
            PlanInput::Member(m) => self.members[m].checkpoint.tensors.table(),
            PlanInput::Stage(s) => &self.stages[s].table,
        }
    }

    /// The tensors of the result: names, shapes and types, without touching a weight.
    pub fn tensors(&self) -> &TensorTable {
        &self.output().table
    }

    /// Parameters of the result.
    pub fn parameters(&self) -> u64 {
        self.tensors().infos().iter().map(|info| info.elements() as u64).sum()
    }

    /// Bytes of the result's weights.
    pub fn bytes(&self) -> u64 {
        table_bytes(self.tensors())
    }

    /// An upper bound of the bytes that computing one output tensor holds at a time.
    pub fn peak_tensor_bytes(&self) -> u64 {
        self.working_bytes().into_iter().max().unwrap_or(0)
    }

    /// An upper bound of the bytes that computing each output tensor holds: the result, the values of
    /// earlier stages, and what members compute; other members' weights are mapped, not held.
    pub fn working_bytes(&self) -> Vec<u64> {
        // Stages come after those they use, so each finds its inputs' figures.
        let mut held: Vec<Vec<u64>> = Vec::with_capacity(self.stages.len());
        for stage in &self.stages {
            let tensors = stage.tensors.iter().zip(stage.table.infos());
            let peaks = tensors.enumerate().map(|(index, (plan, info))| {
                let (mut kept, mut peak) = (0u64, 0u64);
                let arranged = stage.arranged.get(&index);
                let rows_from = arranged.map_or(&[][..], |arranged| &arranged.sources).iter();
                let inputs = plan.inputs.iter().map(|input| (input.from, input.index));
                for (from, index) in inputs.chain(rows_from.copied()) {
                    match from {
                        PlanInput::Stage(s) => {
                            peak = peak.max(kept + held[s][index]);
                            kept += info_bytes(&self.stages[s].table.infos()[index]);
                        }
                        // Most are mapped; adapters and quantized files are computed.
                        PlanInput::Member(m) => {
                            kept += self.members[m].checkpoint.tensors.working_bytes(index);
                        }
                    }
                }
                kept += arranged.map_or(0, |arranged| arranged.bytes(info.row_len()));
                peak.max(kept + info_bytes(info))
            });
            held.push(peaks.collect());
        }
        held.pop().unwrap_or_default()
    }
}

fn info_bytes(info: &TensorInfo) -> u64 {
    info.bytes().unwrap_or(0) as u64
}

/// Bytes of all tensors of `table`.
pub(crate) fn table_bytes(table: &TensorTable) -> u64 {
    table.infos().iter().map(info_bytes).sum()
}

impl MergeStage {
    /// Whether any of its methods draws at random.
    pub fn is_random(&self) -> bool {
        self.method.random || self.ends.iter().any(|(_, method)| method.random)
    }

    /// The stage's name; the last document often has none.
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| "output".to_string())
    }

    /// The method that makes the tensors at `place`.
    pub fn method_at(&self, place: StackPlace) -> &'static MethodSpec {
        let end = self.ends.iter().find(|(end, _)| *end == place);
        end.map_or(self.method, |(_, method)| method)
    }
}
