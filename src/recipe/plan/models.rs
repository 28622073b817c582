//! The models that a recipe uses: members that have been opened and stages that have been planned.
//!
//! [`Models::open`] reports a model that cannot be used once, at its first use. After that,
//! [`Models::find`] answers without changing anything, so that planning a stage only reads.

use super::merge_plan::{Member, MergeStage, PlanInput};
use crate::base::spelling::nearest;
use crate::formats::checkpoint::Config;
use crate::formats::source::TensorTable;
use crate::model::arch::{Architecture, Description, HyperParams};
use crate::recipe::members::MemberLookup;
use crate::recipe::syntax::diagnostics::Diagnostics;
use crate::recipe::syntax::model_ref::ModelRef;
use crate::recipe::syntax::yaml::Located;
use std::collections::BTreeMap;

/// All models that documents may refer to.
pub(super) struct Models<'a> {
    lookup: &'a dyn MemberLookup,
    pub members: Vec<Member>,
    pub stages: Vec<MergeStage>,
    /// Members opened before; `None` for those that could not be opened.
    opened: BTreeMap<ModelRef, Option<usize>>,
    /// Stages by name; `None` until the stage is planned, and forever if it has errors.
    stage_of_name: BTreeMap<String, Option<usize>>,
}

/// The properties that planning needs of a member or a stage.
#[derive(Clone, Copy)]
pub(super) struct ModelView<'p> {
    pub arch: &'static Architecture,
    pub hyper: &'p HyperParams,
    pub config: &'p Config,
    pub table: &'p TensorTable,
}

impl<'a> Models<'a> {
    /// No models yet; `stage_names` are the names of all stages of the recipe.
    pub(super) fn new(
        lookup: &'a dyn MemberLookup,
        stage_names: impl Iterator<Item = String>,
    ) -> Models<'a> {
        Models {
            lookup,
            members: Vec::new(),
            stages: Vec::new(),
            opened: BTreeMap::new(),
            stage_of_name: stage_names.map(|name| (name, None)).collect(),
        }
    }

    /// Adds a planned stage.
    pub(super) fn add_stage(&mut self, stage: MergeStage) {
        if let Some(name) = &stage.name {
            self.stage_of_name.insert(name.clone(), Some(self.stages.len()));
        }
        self.stages.push(stage);
    }

    /// Opens the member that `reference` names, unless it names a stage or was opened before.
    pub(super) fn open(&mut self, reference: &Located<ModelRef>, problems: &mut Diagnostics) {
        let model = &reference.value;
        if self.stage_of_name.contains_key(&model.path) {
            if let Some(lora) = &model.lora {
                let message =
                    format!("adapter '{lora}' cannot be merged into the stage '{}'", model.path);
                let remedy = "merge it into a model that the stage uses";
                problems.error(reference.pos, message, remedy);
                return;
            }
            if model.may_be_stage() {
                return;
            }
        }
        if self.opened.contains_key(model) {
            return;
        }
        let index = self.open_member(reference, problems).map(|member| {
            self.members.push(member);
            self.members.len() - 1
        });
        self.opened.insert(model.clone(), index);
    }

    /// The member or stage that `reference` names; `None` if it cannot be used, which [`Models::open`]
    /// or the planning of the stage has reported.
    pub(super) fn find(&self, reference: &ModelRef) -> Option<PlanInput> {
        if reference.may_be_stage()
            && let Some(stage) = self.stage_of_name.get(&reference.path)
        {
            return stage.map(PlanInput::Stage);
        }
        self.opened.get(reference).copied().flatten().map(PlanInput::Member)
    }

    /// Whether members have shapes but no files, so that tokenizers cannot be read.
    pub(super) fn shapes_only(&self) -> bool {
        self.lookup.shapes_only()
    }

    /// The configuration and tensors of `input`.
    pub(super) fn view(&self, input: PlanInput) -> ModelView<'_> {
        match input {
            PlanInput::Member(index) => {
                let Member { arch, hyper, checkpoint, .. } = &self.members[index];
                let (config, table) = (&checkpoint.config, checkpoint.tensors.table());
                ModelView { arch, hyper, config, table }
            }
            PlanInput::Stage(index) => {
                let MergeStage { arch, hyper, config, table, .. } = &self.stages[index];
                ModelView { arch, hyper, config, table }
            }
        }
    }

    /// The name of `input` in messages.
    pub(super) fn label(&self, input: PlanInput) -> String {
        match input {
            PlanInput::Member(index) => self.members[index].reference.to_string(),
            PlanInput::Stage(index) => self.stages[index].label(),
        }
    }

    fn open_member(
        &self,
        reference: &Located<ModelRef>,
        problems: &mut Diagnostics,
    ) -> Option<Member> {
        let (model, pos) = (&reference.value, reference.pos);
        let checkpoint = match self.lookup.open(model) {
            Ok(checkpoint) => checkpoint,
            Err(mut error) => {
                let stages = self.stage_of_name.keys().map(String::as_str);
                if let Some(stage) = nearest(&model.path, stages) {
                    error.remedy = format!("did you mean the stage '{stage}'? Or {}", error.remedy);
                }
                problems.error(pos, error.message, error.remedy);
                return None;
            }
        };
        let Description { arch, hyper, warnings } = match Description::of_checkpoint(&checkpoint) {
            Ok(description) => description,
            Err(e) => {
                let message = format!("model '{model}' cannot be used: {e}");
                problems.error(pos, message, "choose a model with a supported architecture");
                return None;
            }
        };
        let member = Member { reference: model.clone(), pos, checkpoint, arch, hyper };
        warn_of_unused_tensors(&member, problems);
        for warning in member.checkpoint.warnings.iter().chain(&warnings) {
            problems.warn(pos, format!("model '{model}': {warning}"), "");
        }
        Some(member)
    }
}

/// Warns of tensors that the member's architecture does not use.
fn warn_of_unused_tensors(member: &Member, problems: &mut Diagnostics) {
    let Member { arch, hyper, .. } = member;
    let unused = |name: &str| match arch.match_hf(name) {
        Some((decl, layer)) => {
            let beyond = decl.expert_in(name).is_some_and(|expert| expert >= decl.copies(hyper));
            beyond || layer.is_some_and(|layer| layer >= hyper.n_layer)
        }
        None => !arch.ignores(name),
    };
    let infos = member.checkpoint.tensors.table().infos().iter();
    let names: Vec<&str> =
        infos.map(|info| info.name.as_str()).filter(|name| unused(name)).collect();
    if let Some(first) = names.first() {
        let message = format!(
            "model '{}' has {} tensors that architecture {} does not use, such as '{first}'; they \
             are skipped",
            member.reference,
            names.len(),
            arch.gguf_name
        );
        let remedy = "check that the weights and config.json belong to the same model";
        problems.warn(member.pos, message, remedy);
    }
}
