//! Planning the tensors of one stage: inputs, parameters, shapes and types.

use super::merge_plan::{PlanInput, TensorInput, TensorPlan};
use super::models::{ModelView, Models};
use super::param_values::{self, ParamQuery, UsedClauses};
use super::slices::{ResolvedSlice, SliceSource};
use super::stage::ResolvedStack;
use crate::base::dtype::DType;
use crate::formats::source::TensorInfo;
use crate::model::arch::{Architecture, Role, TensorDecl};
use crate::recipe::method::{BaseRule, ParamScope, ParamValues};
use crate::recipe::place::StackPlace;
use crate::recipe::syntax::diagnostics::Diagnostics;
use crate::recipe::syntax::params;
use crate::recipe::syntax::schema::RecipeDocument;
use std::collections::BTreeMap;

/// A weight sum with a smaller magnitude counts as zero.
const SMALLEST_SUM: f64 = 1e-8;

/// Plans the tensors of a stage, in the order embedding, layers, final norm, head.
pub(super) struct TensorPlanner<'p, 'm> {
    models: &'p Models<'m>,
    problems: &'p mut Diagnostics,
    used_clauses: &'p mut UsedClauses,
    document: &'p RecipeDocument,
    arch: &'static Architecture,
    /// Rows of embedding and head, where the recipe changes the vocabulary.
    pub rows: Option<usize>,
    tensors: Vec<(TensorInfo, TensorPlan)>,
    flaws: BTreeMap<PlanInput, TensorFlaws>,
    ok: bool,
}

/// The unusable tensors of a member, collected so that they are reported in one message.
#[derive(Default)]
struct TensorFlaws {
    missing: Vec<String>,
    unusable: Vec<String>,
}

/// A tensor of an input.
struct FoundTensor {
    /// Index in the input's table.
    index: usize,
    /// Whether this is the embedding, used in place of a head that is tied to it.
    is_tied: bool,
}

/// A tensor in one layer of a slice.
#[derive(Clone, Copy)]
struct SlicePosition<'a> {
    decl: &'a TensorDecl,
    /// Index of the expert; 0 for tensors that experts do not have.
    expert: usize,
    place: StackPlace,
    /// Layer within the slice.
    offset: usize,
    /// Gradient position, from 0 to 1.
    t: f64,
}

impl SlicePosition<'_> {
    /// The tensor's name in layer `layer` of a model.
    fn name(&self, layer: usize) -> String {
        self.decl.hf_name_of(layer, self.expert)
    }
}

impl<'p, 'm> TensorPlanner<'p, 'm> {
    pub(super) fn new(
        models: &'p Models<'m>,
        problems: &'p mut Diagnostics,
        used_clauses: &'p mut UsedClauses,
        document: &'p RecipeDocument,
        arch: &'static Architecture,
    ) -> TensorPlanner<'p, 'm> {
        TensorPlanner {
            models,
            problems,
            used_clauses,
            document,
            arch,
            rows: None,
            tensors: Vec::new(),
            flaws: BTreeMap::new(),
            ok: true,
        }
    }

    /// Plans all tensors of `stack`. An end that is not merged separately comes from the first slice
    /// (embedding) or the last one (final norm and head).
    pub(super) fn plan_all(&mut self, stack: &ResolvedStack<'_>) {
        let (Some(first), Some(last)) = (stack.slices.first(), stack.slices.last()) else { return };
        self.plan_end(stack.end(StackPlace::Embedding).unwrap_or(first), StackPlace::Embedding);
        self.plan_layers(&stack.slices);
        self.plan_end(stack.end(StackPlace::FinalNorm).unwrap_or(last), StackPlace::FinalNorm);
        if self.needs_head(stack, first, last) {
            self.plan_end(stack.end(StackPlace::Head).unwrap_or(last), StackPlace::Head);
        }
    }

    /// Plans the layers and separate ends of a stack that has errors elsewhere.
    pub(super) fn plan_usable(&mut self, stack: &ResolvedStack<'_>) {
        self.plan_layers(&stack.slices);
        stack.ends.iter().for_each(|(place, slice)| self.plan_end(slice, *place));
    }

    /// Reports missing and unusable tensors and returns the planned ones; `None` after an error.
    pub(super) fn finish(mut self) -> Option<Vec<(TensorInfo, TensorPlan)>> {
        self.report_flaws();
        self.ok.then_some(self.tensors)
    }

    fn plan_layers(&mut self, slices: &[ResolvedSlice<'_>]) {
        let mut layer = 0;
        for slice in slices {
            let first = slice.sources.first();
            let hyper = first.map(|source| self.models.view(source.input).hyper);
            for offset in 0..slice.layers {
                let t = params::position(offset, slice.layers);
                let place = StackPlace::Layer(layer);
                for decl in self.arch.with_role(Role::Layer) {
                    for expert in 0..hyper.map_or(0, |hyper| decl.copies(hyper)) {
                        self.plan_tensor(slice, SlicePosition { decl, expert, place, offset, t });
                    }
                }
                layer += 1;
            }
        }
    }

    fn plan_end(&mut self, slice: &ResolvedSlice<'_>, place: StackPlace) {
        let role = match place {
            StackPlace::Embedding => Role::Embedding,
            StackPlace::Layer(_) => Role::Layer,
            StackPlace::FinalNorm => Role::FinalNorm,
            StackPlace::Head => Role::Head,
        };
        for decl in self.arch.with_role(role) {
            self.plan_tensor(slice, SlicePosition { decl, expert: 0, place, offset: 0, t: 0.0 });
        }
    }

    /// Whether the output has a head that is not tied to its embedding: if the recipe merges one, if
    /// any model of the last slice has one, or if their tied embeddings are not the output's.
    fn needs_head(
        &mut self,
        stack: &ResolvedStack<'_>,
        first: &ResolvedSlice<'_>,
        last: &ResolvedSlice<'_>,
    ) -> bool {
        let heads: Vec<&TensorDecl> = self.arch.with_role(Role::Head).collect();
        if heads.is_empty() {
            self.reject_separate_head(stack, last);
            return false;
        }
        let has_head = |source: &&SliceSource<'_>| {
            let view = self.models.view(source.input);
            heads.iter().any(|decl| find(&view, decl, 0, 0).is_some_and(|found| !found.is_tied))
        };
        let with_head = last.sources.iter().find(has_head);
        if let Some(pos) = self.document.tied_head {
            if let Some(source) = with_head {
                let label = self.models.label(source.input);
                let message = format!("'head: tied' drops the output head of '{label}'");
                let remedy = "to keep a head, give 'head' a merge instead";
                self.problems.warn(pos, message, remedy);
            }
            return false;
        }
        if stack.end(StackPlace::Head).is_some() || with_head.is_some() {
            return true;
        }
        let inputs = |slice: &ResolvedSlice<'_>| -> Vec<PlanInput> {
            slice.sources.iter().map(|source| source.input).collect()
        };
        let separate = stack.end(StackPlace::Embedding).is_some();
        if !separate && inputs(first) == inputs(last) {
            return false;
        }
        let message = "the models of the last slice have no output head, and the output's embedding \
                       is not theirs alone: a head is made from their embeddings";
        let remedy = if separate {
            "write 'head: tied' to use the output's embedding, or give 'head' a merge"
        } else {
            "use the same models in the first and last slice to keep the head tied"
        };
        self.problems.warn(last.pos, message, remedy);
        true
    }

    /// Reports a merge of heads in an architecture whose head is always the embedding.
    fn reject_separate_head(&mut self, stack: &ResolvedStack<'_>, last: &ResolvedSlice<'_>) {
        if stack.end(StackPlace::Head).is_some() {
            let message = format!(
                "models of architecture {} always use the embedding as output head",
                self.arch.gguf_name
            );
            let remedy = "remove 'head', or write 'head: tied'";
            self.problems.error(last.pos, message, remedy);
            self.ok = false;
        }
    }

    fn plan_tensor(&mut self, slice: &ResolvedSlice<'_>, at: SlicePosition<'_>) {
        let SlicePosition { decl, expert, place, offset, t } = at;
        let found: Vec<Option<FoundTensor>> = slice
            .sources
            .iter()
            .map(|source| {
                find(&self.models.view(source.input), decl, expert, source.start + offset)
            })
            .collect();
        if decl.optional && decl.role != Role::Head && found.iter().all(Option::is_none) {
            return;
        }
        let inputs = self.plan_inputs(slice, at, found);
        let name = at.name(if let StackPlace::Layer(layer) = place { layer } else { 0 });
        let params = self.tensor_params(slice, &name, t);
        let (Some(inputs), Some(params)) = (inputs, params) else {
            self.ok = false;
            return;
        };
        let plan = TensorPlan { place, inputs, base: slice.base, params };
        self.check_weight_sum(&plan, slice);
        if let Some(info) = self.output_info(name, &plan, slice) {
            self.tensors.push((info, plan));
        }
    }

    /// The inputs of a tensor with their parameters; `None` if an input is missing.
    fn plan_inputs(
        &mut self,
        slice: &ResolvedSlice<'_>,
        at: SlicePosition<'_>,
        found: Vec<Option<FoundTensor>>,
    ) -> Option<Vec<TensorInput>> {
        let mut inputs = Vec::with_capacity(found.len());
        for (number, (source, found)) in slice.sources.iter().zip(found).enumerate() {
            let layer = source.start + at.offset;
            let name = at.name(layer);
            let Some(found) = found else {
                self.flaws.entry(source.input).or_default().missing.push(name);
                continue;
            };
            self.check_tensor(source.input, &found, at.decl);
            let is_base = slice.base == Some(number);
            if let Some(params) = self.source_params(slice, source, &name, at.t, is_base) {
                let layer = (at.decl.role == Role::Layer).then_some(layer);
                let (from, index) = (source.input, found.index);
                inputs.push(TensorInput { from, index, layer, params });
            }
        }
        (inputs.len() == slice.sources.len()).then_some(inputs)
    }

    /// Values of the parameters that `source` has for itself, for its tensor `name`.
    fn source_params(
        &mut self,
        slice: &ResolvedSlice<'_>,
        source: &SliceSource<'_>,
        name: &str,
        t: f64,
        is_base: bool,
    ) -> Option<ParamValues> {
        let owner = format!(" for source '{}'", self.models.label(source.input));
        let (scope, pos) = (ParamScope::Source, source.pos);
        let query = ParamQuery { scope, tensor: name, t, is_base, pos, owner: &owner };
        let wide = slice.document_settings();
        let places = [source.settings, slice.settings, wide[0], wide[1]];
        let (spec, used) = (slice.spec, &mut *self.used_clauses);
        let params = param_values::evaluate(spec, &places, &query, used, self.problems)?;
        if let (Some(check), false) = (spec.check_source, is_base)
            && let Err(conflict) = check(&params)
        {
            self.problems.error(pos, conflict.message, conflict.remedy);
            self.ok = false;
        }
        Some(params)
    }

    /// Values of the parameters that all inputs of the tensor `name` share.
    fn tensor_params(
        &mut self,
        slice: &ResolvedSlice<'_>,
        name: &str,
        t: f64,
    ) -> Option<ParamValues> {
        if slice.sources.len() == 1 && slice.spec.lone_source_is_copied {
            return Some(ParamValues::default()); // A copy needs no parameters.
        }
        let document = slice.document;
        let pos = document.method.as_ref().map_or(document.pos, |method| method.pos);
        let scope = ParamScope::Tensor;
        let query = ParamQuery { scope, tensor: name, t, is_base: false, pos, owner: "" };
        let wide = slice.document_settings();
        let places = [slice.settings, wide[0], wide[1]];
        param_values::evaluate(slice.spec, &places, &query, self.used_clauses, self.problems)
    }

    /// The output's name, shape and type; inputs of different shapes are an error.
    fn output_info(
        &mut self,
        name: String,
        plan: &TensorPlan,
        slice: &ResolvedSlice<'_>,
    ) -> Option<TensorInfo> {
        let models = self.models;
        let infos: Vec<&TensorInfo> = (plan.inputs.iter())
            .map(|input| &models.view(input.from).table.infos()[input.index])
            .collect();
        let first = infos[0];
        let has_token_rows = matches!(plan.place, StackPlace::Embedding | StackPlace::Head);
        let rows = self.rows.filter(|_| has_token_rows);
        // Rows are arranged later where the recipe changes the vocabulary.
        let compared = |info: &TensorInfo| info.shape[usize::from(rows.is_some())..].to_vec();
        for (info, source) in infos.iter().zip(&slice.sources).skip(1) {
            if compared(info) != compared(first) {
                let message = format!(
                    "'{}' has shape {:?} in '{}', but {:?} in '{}'",
                    info.name,
                    info.shape,
                    models.label(source.input),
                    first.shape,
                    models.label(slice.sources[0].input)
                );
                let remedy = if has_token_rows {
                    "choose models with the same vocabulary, or add 'tokenizer: {source: union}', \
                     'base' or a model to set the result's vocabulary"
                } else {
                    "choose models of the same sizes"
                };
                self.problems.error(source.pos, message, remedy);
                self.ok = false;
                return None;
            }
        }
        let shared = infos.iter().all(|info| info.dtype == first.dtype);
        let given = self.document.out_dtype.as_ref().or(self.document.dtype.as_ref());
        let dtype = match given {
            Some(dtype) => dtype.value,
            None if shared => first.dtype,
            None => DType::F32,
        };
        let mut shape = first.shape.clone();
        if let Some(rows) = rows {
            shape[0] = rows;
        }
        Some(TensorInfo::new(name, shape, dtype))
    }

    /// Reports weights that add up to zero where the result is divided by their sum.
    fn check_weight_sum(&mut self, plan: &TensorPlan, slice: &ResolvedSlice<'_>) {
        let Some(flag) = slice.spec.normalized_by else { return };
        let counts = |at: usize| slice.spec.base == BaseRule::DonorOnly || plan.base != Some(at);
        let inputs = plan.inputs.iter().enumerate().filter(|(at, _)| counts(*at));
        let sum: f64 = inputs.filter_map(|(_, input)| input.params.get("weight")).sum();
        if plan.params.flag(flag) && sum.abs() < SMALLEST_SUM {
            let message =
                "the weights of some tensors add up to 0, so the result cannot be normalized";
            let remedy = format!("change the weights, or set '{flag}: false'");
            self.problems.error(slice.pos, message, remedy);
            self.ok = false;
        }
    }

    /// Checks that a tensor has the shape that config.json implies, and that it holds floats.
    fn check_tensor(&mut self, from: PlanInput, found: &FoundTensor, decl: &TensorDecl) {
        let ModelView { hyper, table, .. } = self.models.view(from);
        let info = &table.infos()[found.index];
        let expected = decl.shape(hyper);
        let flaw = if info.shape != expected {
            format!("'{}' has shape {:?}, config.json says {expected:?}", info.name, info.shape)
        } else if !info.dtype.is_float() {
            format!("'{}' has type {}; only F32, F16 and BF16 can be merged", info.name, info.dtype)
        } else {
            return;
        };
        self.ok = false;
        let unusable = &mut self.flaws.entry(from).or_default().unusable;
        if !unusable.contains(&flaw) {
            unusable.push(flaw);
        }
    }

    fn report_flaws(&mut self) {
        for (input, flaws) in std::mem::take(&mut self.flaws) {
            let PlanInput::Member(member) = input else { continue };
            let label = self.models.label(input);
            let pos = self.models.members[member].pos;
            let more = |list: &[String]| match list.len() {
                1 => String::new(),
                n => format!(" and {} more", n - 1),
            };
            if let Some(first) = flaws.missing.first() {
                let message =
                    format!("model '{label}' lacks the tensor '{first}'{}", more(&flaws.missing));
                let remedy = "get the model again: it is incomplete or of another architecture";
                self.problems.error(pos, message, remedy);
            }
            if let Some(first) = flaws.unusable.first() {
                let message = format!("model '{label}': {first}{}", more(&flaws.unusable));
                let remedy = "get the model again: config.json and weights do not match";
                self.problems.error(pos, message, remedy);
            }
        }
    }
}

/// The tensor of `view` that `decl` means in its layer `layer`. The embedding is used in place of a
/// head that is tied to it.
fn find(
    view: &ModelView<'_>,
    decl: &TensorDecl,
    expert: usize,
    layer: usize,
) -> Option<FoundTensor> {
    if decl.role == Role::Head && view.hyper.tied {
        let embedding = view.arch.with_role(Role::Embedding).next()?;
        let index = view.table.find(embedding.hf)?;
        return Some(FoundTensor { index, is_tied: true });
    }
    let index = view.table.find(&decl.hf_name_of(layer, expert))?;
    Some(FoundTensor { index, is_tied: false })
}
