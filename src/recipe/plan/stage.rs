//! Planning one stage: its slices, its tensors, its configuration and its tokenizer.
//!
//! Each step reports its problems and continues with what is usable, so that one run shows all
//! problems of a stage. The tensors are planned in [`super::tensors`].

use super::donors::{self, Donors};
use super::merge_plan::{MergeStage, PlanInput, TensorPlan};
use super::models::Models;
use super::param_values::{self, UsedClauses};
use super::rows::RowArrangement;
use super::slices::{self, ResolvedSlice};
use super::tensors::TensorPlanner;
use super::vocabulary::{self, MergedVocabulary, ResolvedVocabulary, TokenLists};
use super::{chat, compat, output_config, rows};
use crate::base::spelling::nearest;
use crate::formats::source::{TensorInfo, TensorTable};
use crate::recipe::method::MethodSpec;
use crate::recipe::place::StackPlace;
use crate::recipe::syntax::diagnostics::Diagnostics;
use crate::recipe::syntax::ends;
use crate::recipe::syntax::schema::{RecipeDocument, Seed};
use std::collections::BTreeMap;

/// Opens the members that `document` names, in the order in which the plan lists them.
pub(super) fn open_models(
    models: &mut Models<'_>,
    document: &RecipeDocument,
    problems: &mut Diagnostics,
) {
    let ends = document.ends.iter().map(|end| &end.document);
    for document in std::iter::once(document).chain(ends) {
        let sources = document.inputs.slices().iter().flat_map(|slice| &slice.sources);
        let models_of = sources.map(|source| &source.model);
        document.base_model.iter().chain(models_of).for_each(|model| models.open(model, problems));
    }
    let tokenizer = document.tokenizer.iter().flat_map(|tokenizer| tokenizer.references());
    tokenizer.for_each(|model| models.open(model, problems));
}

/// The slices of a stage and the ends that are merged separately from them.
pub(super) struct ResolvedStack<'d> {
    pub slices: Vec<ResolvedSlice<'d>>,
    pub ends: Vec<(StackPlace, ResolvedSlice<'d>)>,
}

impl<'d> ResolvedStack<'d> {
    fn all(&self) -> impl Iterator<Item = &ResolvedSlice<'d>> {
        self.slices.iter().chain(self.ends.iter().map(|(_, slice)| slice))
    }

    /// The end at `place`, if it is merged separately.
    pub(super) fn end(&self, place: StackPlace) -> Option<&ResolvedSlice<'d>> {
        self.ends.iter().find(|(end, _)| *end == place).map(|(_, slice)| slice)
    }
}

/// Plans stages one after the other.
pub(super) struct StagePlanner<'a> {
    methods: &'a [&'static MethodSpec],
    used_clauses: UsedClauses,
    token_lists: TokenLists,
}

impl<'a> StagePlanner<'a> {
    /// A planner for recipes with these merge methods.
    pub(super) fn new(methods: &'a [&'static MethodSpec]) -> StagePlanner<'a> {
        let (used_clauses, token_lists) = Default::default();
        StagePlanner { methods, used_clauses, token_lists }
    }

    /// Plans the stage that `document` describes, whose models are open; `None` if it has errors.
    pub(super) fn plan(
        &mut self,
        models: &Models<'_>,
        document: &RecipeDocument,
        is_output: bool,
        problems: &mut Diagnostics,
    ) -> Option<MergeStage> {
        let spec = self.method(document, problems);
        let (stack, complete) = self.resolve(models, document, spec, problems);
        let (Some(spec), true) = (spec, complete) else {
            self.check_usable_slices(models, document, &stack, problems);
            return None;
        };
        let layers: usize = stack.slices.iter().map(|slice| slice.layers).sum();
        if is_output && layers == 0 {
            let pos = stack.slices.first()?.pos;
            problems.error(pos, "the output has no layers", "add a slice with layers");
            return None;
        }
        self.plan_stack(models, document, spec, &stack, problems)
    }

    /// The method that `document` names.
    fn method(
        &self,
        document: &RecipeDocument,
        problems: &mut Diagnostics,
    ) -> Option<&'static MethodSpec> {
        let method = document.method.as_ref()?;
        if let Some(spec) = self.methods.iter().find(|spec| spec.name == method.value) {
            return Some(spec);
        }
        let known: Vec<&str> = self.methods.iter().map(|spec| spec.name).collect();
        let message = format!("unknown merge_method '{}'", method.value);
        let remedy = match nearest(&method.value, known.iter().copied()) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("known methods are {}", known.join(", ")),
        };
        problems.error(method.pos, message, remedy);
        None
    }

    /// The slices and ends of `document` that have no errors, and whether these are all.
    fn resolve<'d>(
        &self,
        models: &Models<'_>,
        document: &'d RecipeDocument,
        spec: Option<&'static MethodSpec>,
        problems: &mut Diagnostics,
    ) -> (ResolvedStack<'d>, bool) {
        let slices = match spec {
            Some(spec) => {
                param_values::check_names(self.methods, document, spec, problems);
                slices::resolve(models, document, spec, problems)
            }
            None => {
                slices::check_ranges(models, document, problems);
                Vec::new()
            }
        };
        let mut ends = Vec::with_capacity(document.ends.len());
        for end in &document.ends {
            let spec = self.method(&end.document, problems);
            ends.push(spec.and_then(|spec| {
                param_values::check_names(self.methods, &end.document, spec, problems);
                ends::warn_of_gradients(end, problems);
                Some((end.place, slices::resolve_end(models, end, spec, problems)?))
            }));
        }
        let complete = slices.iter().all(Option::is_some) && ends.iter().all(Option::is_some);
        let (slices, ends) = (slices.into_iter().flatten(), ends.into_iter().flatten());
        (ResolvedStack { slices: slices.collect(), ends: ends.collect() }, complete)
    }

    /// Reports further problems of a stage that cannot be planned as a whole.
    fn check_usable_slices(
        &mut self,
        models: &Models<'_>,
        document: &RecipeDocument,
        stack: &ResolvedStack<'_>,
        problems: &mut Diagnostics,
    ) {
        let slices: Vec<_> = stack.all().collect();
        let Some(first) = slices.first().and_then(|slice| slice.sources.first()) else { return };
        let arch = models.view(first.input).arch;
        if compat::check(models, &slices, None, problems) {
            let used = &mut self.used_clauses;
            let mut planner = TensorPlanner::new(models, problems, used, document, arch);
            planner.plan_usable(stack);
            planner.finish();
        }
    }

    /// Plans a stage all of whose slices and ends are usable.
    fn plan_stack(
        &mut self,
        models: &Models<'_>,
        document: &RecipeDocument,
        spec: &'static MethodSpec,
        stack: &ResolvedStack<'_>,
        problems: &mut Diagnostics,
    ) -> Option<MergeStage> {
        let first = stack.slices.first()?;
        let donors = donors::find(models, document, first, problems)?;
        let slices: Vec<&ResolvedSlice<'_>> = stack.all().collect();
        let config_donor = Some((donors.config.0, donors.config_pos));
        if !compat::check(models, &slices, config_donor, problems) {
            return None;
        }
        let lists = &mut self.token_lists;
        let vocabulary = vocabulary::resolve(models, document, &slices, &donors, lists, problems);
        let chat_template = chat::resolve(models, document, &slices, &donors, problems).ok();
        let vocabulary = vocabulary.ok()?;
        let arch = models.view(first.sources[0].input).arch;
        let mut planner =
            TensorPlanner::new(models, problems, &mut self.used_clauses, document, arch);
        planner.rows = vocabulary.as_ref().map(|resolved| resolved.vocabulary.rows);
        planner.plan_all(stack);
        let tensors = planner.finish()?;
        if !compat::check_optional(&stack.slices, &tensors, problems) {
            return None;
        }
        self.warn_of_unused(models, document, spec, stack, &tensors, problems);
        if vocabulary.is_none() {
            compat::check_vocabulary(models, document, &tensors, &donors, problems)?;
        }
        let parts = PlannedParts { document, spec, stack, tensors, donors, vocabulary };
        let stage = parts.into_stage(models, problems)?;
        Some(MergeStage { chat_template: chat_template?, ..stage })
    }

    /// Warns of filters that match nothing and of sources without weight.
    fn warn_of_unused(
        &self,
        models: &Models<'_>,
        document: &RecipeDocument,
        spec: &MethodSpec,
        stack: &ResolvedStack<'_>,
        tensors: &[(TensorInfo, TensorPlan)],
        problems: &mut Diagnostics,
    ) {
        let names = |included: &dyn Fn(StackPlace) -> bool| -> Vec<&str> {
            let tensors = tensors.iter().filter(|(_, plan)| included(plan.place));
            tensors.map(|(info, _)| info.name.as_str()).collect()
        };
        let used = &self.used_clauses;
        let of_slices = names(&|place| stack.end(place).is_none());
        param_values::warn_of_unused_filters(document, spec, &of_slices, used, problems);
        for (end, slice) in &stack.ends {
            let of_end = names(&|place| place == *end);
            let (document, spec) = (slice.document, slice.spec);
            param_values::warn_of_unused_filters(document, spec, &of_end, used, problems);
        }
        compat::warn_of_zero_weights(models, &stack.all().collect::<Vec<_>>(), tensors, problems);
    }
}

/// Everything that has been found for a stage without errors.
struct PlannedParts<'s, 'd> {
    document: &'s RecipeDocument,
    spec: &'static MethodSpec,
    stack: &'s ResolvedStack<'d>,
    tensors: Vec<(TensorInfo, TensorPlan)>,
    donors: Donors,
    vocabulary: Option<ResolvedVocabulary>,
}

impl PlannedParts<'_, '_> {
    /// The stage, without its chat template.
    fn into_stage(self, models: &Models<'_>, problems: &mut Diagnostics) -> Option<MergeStage> {
        let PlannedParts { document, spec, stack, tensors, mut donors, vocabulary } = self;
        let slice_of_layer: Vec<usize> = (stack.slices.iter().enumerate())
            .flat_map(|(index, slice)| std::iter::repeat_n(index, slice.layers))
            .collect();
        let layers = slice_of_layer.len();
        let tied = !tensors.iter().any(|(_, plan)| plan.place == StackPlace::Head);
        let rows = vocabulary.as_ref().map(|resolved| resolved.vocabulary.rows);
        let outcome = output_config::MergeOutcome { tensors: &tensors, layers, tied, rows };
        let config = output_config::make(models, &donors, &outcome, problems);
        let arranged = match &vocabulary {
            Some(resolved) => arrange(models, document, resolved, &tensors, problems),
            None => BTreeMap::new(),
        };
        if let Some(resolved) = vocabulary.as_ref().filter(|resolved| resolved.appended > 0) {
            let added = format!("; {} tokens added", resolved.appended);
            donors.tokenizer.1.reason.push_str(&added);
        }
        let vocabulary = match vocabulary {
            Some(resolved) => Some(resolved.vocabulary),
            None => inherited_vocabulary(models, donors.tokenizer.0),
        };
        let view = models.view(donors.config.0);
        let (arch, mut hyper) = (view.arch, view.hyper.clone());
        let n_vocab = tensors.first().map(|(info, _)| info.shape[0])?;
        (hyper.n_layer, hyper.n_vocab, hyper.tied) = (layers, n_vocab, tied);
        let (infos, tensors): (Vec<_>, Vec<_>) = tensors.into_iter().unzip();
        let name = document.name.as_ref().map(|name| name.value.clone());
        let table = TensorTable::new(name.as_deref().unwrap_or("output"), infos).map_err(|e| {
            problems.error(document.pos, e.to_string(), "choose models of a usable size");
        });
        Some(MergeStage {
            name,
            method: spec,
            ends: stack.ends.iter().map(|(place, slice)| (*place, slice.spec)).collect(),
            dtype: document.dtype.as_ref().map(|d| d.value),
            out_dtype: document.out_dtype.as_ref().map(|d| d.value),
            seed: document.seed.as_ref().map_or(0, Seed::value),
            config_donor: donors.config.1,
            tokenizer_donor: donors.tokenizer.1,
            config,
            arch,
            hyper,
            table: table.ok()?,
            tensors,
            slice_of_layer,
            vocabulary,
            arranged,
            chat_template: None,
        })
    }
}

/// For each tensor with one row per token whose inputs have other rows: where its rows come from.
fn arrange(
    models: &Models<'_>,
    document: &RecipeDocument,
    resolved: &ResolvedVocabulary,
    tensors: &[(TensorInfo, TensorPlan)],
    problems: &mut Diagnostics,
) -> BTreeMap<usize, RowArrangement> {
    let mut all = BTreeMap::new();
    for (index, (info, plan)) in tensors.iter().enumerate() {
        if !matches!(plan.place, StackPlace::Embedding | StackPlace::Head) {
            continue;
        }
        let Some((arrangement, zeros)) = rows::arrange(models, resolved, plan) else { continue };
        if zeros > 0 {
            let message = format!(
                "{zeros} tokens are in no model's vocabulary: their rows of '{}' are 0",
                info.name
            );
            let remedy = "give them a source under 'tokenizer: tokens:', or train them";
            let pos = document.tokenizer.as_ref().map_or(document.pos, |spec| spec.pos);
            problems.warn(pos, message, remedy);
        }
        all.insert(index, arrangement);
    }
    all
}

/// The vocabulary of the stage that the tokenizer is taken from.
fn inherited_vocabulary(models: &Models<'_>, tokenizer: PlanInput) -> Option<MergedVocabulary> {
    match tokenizer {
        PlanInput::Stage(index) => models.stages[index].vocabulary.clone(),
        PlanInput::Member(_) => None,
    }
}
