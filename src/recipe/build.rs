//! Planning one stage: its tensors, their inputs and parameters, its configuration.

use super::diagnostics::nearest;
use super::method::{MethodSpec, PEER_METHODS, Scope};
use super::plan::{Donor, Input, Place, Stage, TensorInput, TensorPlan, Values};
use super::planner::{Planner, View};
use super::rows::Arranged;
use super::schema::Document;
use super::slices::{self, Part, Parts};
use super::tokenizer_spec::TokenizerSource;
use super::values::{self, Ask};
use super::vocabulary::{self, Resolved, Vocabulary};
use super::yaml::Pos;
use super::{chat, compat, output_config, rows};
use crate::arch::{Architecture, Role, TensorDecl};
use crate::dtype::DType;
use crate::source::{TensorInfo, TensorTable};
use std::collections::BTreeMap;

/// Plans the stage that `document` describes; `None` if it has errors.
pub(super) fn stage(planner: &mut Planner, document: &Document, is_final: bool) -> Option<Stage> {
    let spec = method(planner, document);
    // All models are looked for first, so that what is missing is told whatever else is wrong.
    if let Some(base) = &document.base_model {
        planner.input(base);
    }
    slices::look_up(planner, document, spec.is_none());
    let spec = spec?;
    values::check_names(planner, document, spec);
    let slices = slices::resolve(planner, document, spec)?;
    let layers: usize = slices.iter().map(|slice| slice.layers).sum();
    let first = slices.first()?;
    if is_final && layers == 0 {
        planner.problems.error(first.pos, "the output has no layers", "add a slice with layers");
        return None;
    }
    let donors = donors(planner, document, first)?;
    if !compat::check(planner, &slices, donors.config.0) {
        return None;
    }
    let vocabulary = vocabulary::resolve(planner, document, &slices, &donors);
    let chat_template = chat::resolve(planner, document, &slices, &donors).ok();
    let vocabulary = vocabulary.ok()?;
    let mut builder = Builder {
        arch: planner.view(first.list[0].input).arch,
        planner,
        document,
        spec,
        rows: vocabulary.as_ref().map(|resolved| resolved.vocabulary.rows),
        tensors: Vec::new(),
        flaws: BTreeMap::new(),
        ok: true,
    };
    builder.all(&slices);
    builder.report_flaws();
    let Builder { tensors, ok, .. } = builder;
    if !ok || !compat::check_optional(planner, &slices, &tensors) {
        return None;
    }
    let names: Vec<&str> = tensors.iter().map(|(info, _)| info.name.as_str()).collect();
    values::warn_of_dead_filters(planner, document, spec, &names);
    compat::warn_of_zero_weights(planner, &slices, &tensors);
    if vocabulary.is_none() {
        compat::check_vocabulary(planner, document, &tensors, &donors)?;
    }
    let stage = finish(planner, document, spec, &slices, tensors, donors, vocabulary)?;
    Some(Stage { chat_template: chat_template?, ..stage })
}

/// How the rows of embedding and head come to the vocabulary that the recipe asks for.
fn arrange(
    planner: &mut Planner,
    document: &Document,
    resolved: &Resolved,
    tensors: &[(TensorInfo, TensorPlan)],
) -> BTreeMap<usize, Arranged> {
    let mut all = BTreeMap::new();
    for (index, (info, plan)) in tensors.iter().enumerate() {
        if !matches!(plan.place, Place::Embedding | Place::Head) {
            continue;
        }
        let Some((arranged, nowhere)) = rows::arrange(planner, resolved, plan) else { continue };
        if nowhere > 0 {
            let message = format!(
                "{nowhere} tokens are in no model's vocabulary: their rows of '{}' are 0",
                info.name
            );
            let remedy = "give them a source under 'tokenizer: tokens:', or train them";
            let pos = document.tokenizer.as_ref().map_or(document.pos, |spec| spec.pos);
            planner.problems.warn(pos, message, remedy);
        }
        all.insert(index, arranged);
    }
    all
}

/// Puts together what has been found sound.
fn finish(
    planner: &mut Planner,
    document: &Document,
    spec: &'static MethodSpec,
    slices: &[Parts],
    tensors: Vec<(TensorInfo, TensorPlan)>,
    mut donors: Donors,
    resolved: Option<Resolved>,
) -> Option<Stage> {
    let slice_of_layer: Vec<usize> = slices
        .iter()
        .enumerate()
        .flat_map(|(index, slice)| std::iter::repeat_n(index, slice.layers))
        .collect();
    let layers = slice_of_layer.len();
    let tied = !tensors.iter().any(|(_, plan)| plan.place == Place::Head);
    let vocabulary = resolved.as_ref().map(|resolved| resolved.vocabulary.rows);
    let outcome = output_config::Outcome { tensors: &tensors, layers, tied, vocabulary };
    let config = output_config::make(planner, &donors, &outcome);
    let arranged = match &resolved {
        Some(resolved) => arrange(planner, document, resolved, &tensors),
        None => BTreeMap::new(),
    };
    if let Some(n) = resolved.as_ref().map(|resolved| resolved.appended).filter(|&n| n > 0) {
        donors.tokenizer.1.reason.push_str(&format!("; {n} tokens added to its own"));
    }
    let vocabulary = match resolved {
        Some(resolved) => Some(resolved.vocabulary),
        None => inherited(planner, donors.tokenizer.0),
    };
    let view = planner.view(donors.config.0);
    let (arch, mut hyper) = (view.arch, view.hyper.clone());
    let vocab = tensors.first().map(|(info, _)| info.shape[0])?;
    (hyper.n_layer, hyper.n_vocab, hyper.tied) = (layers, vocab, tied);
    let (infos, tensors): (Vec<_>, Vec<_>) = tensors.into_iter().unzip();
    let name = document.name.as_ref().map(|name| name.value.clone());
    let table = TensorTable::new(name.as_deref().unwrap_or("output"), infos).map_err(|e| {
        planner.problems.error(document.pos, e.to_string(), "choose models of a usable size");
    });
    let table = table.ok()?;
    Some(Stage {
        name,
        method: spec,
        dtype: document.dtype.as_ref().map(|d| d.value),
        out_dtype: document.out_dtype.as_ref().map(|d| d.value),
        config_donor: donors.config.1,
        tokenizer_donor: donors.tokenizer.1,
        config,
        arch,
        hyper,
        table,
        tensors,
        slice_of_layer,
        vocabulary,
        arranged,
        chat_template: None,
    })
}

/// The vocabulary of a stage that the tokenizer is taken from.
fn inherited(planner: &Planner, tokenizer: Input) -> Option<Vocabulary> {
    match tokenizer {
        Input::Stage(s) => planner.stages[s].vocabulary.clone(),
        Input::Member(_) => None,
    }
}

fn method(planner: &mut Planner, document: &Document) -> Option<&'static MethodSpec> {
    let method = document.method.as_ref()?;
    if let Some(spec) = planner.methods.iter().find(|spec| spec.name == method.value) {
        return Some(spec);
    }
    let known: Vec<&str> = planner.methods.iter().map(|spec| spec.name).collect();
    let list = known.join(", ");
    if PEER_METHODS.contains(&method.value.as_str()) {
        let message = format!("merge_method '{}' is not implemented yet", method.value);
        planner.problems.error(method.pos, message, format!("implemented are {list}"));
    } else {
        let message = format!("unknown merge_method '{}'", method.value);
        let remedy = match nearest(&method.value, known.iter().copied()) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("known are {list}"),
        };
        planner.problems.error(method.pos, message, remedy);
    }
    None
}

/// The inputs that give configuration and tokenizer, each with the member it goes back to.
pub(super) struct Donors {
    pub config: (Input, Donor),
    /// Where the recipe names it.
    pub config_pos: Pos,
    pub tokenizer: (Input, Donor),
}

/// `base_model`, else the first source; for the tokenizer a model named as its source goes before.
fn donors(planner: &mut Planner, document: &Document, first: &Parts) -> Option<Donors> {
    let (input, why, config_pos) = match &document.base_model {
        Some(base) => (planner.input(base)?, "base_model", base.pos),
        None => first.list.first().map(|part| (part.input, "first source", part.pos))?,
    };
    let label = document.name.as_ref().map_or("the output", |name| &name.value);
    let config = donor(planner, input, &format!("{why} of {label}"), |stage| &stage.config_donor);
    let source = document.tokenizer.as_ref().map(|spec| &spec.source);
    let (from, why) = match source {
        None => (input, format!("{why} of {label}")),
        Some(TokenizerSource::Union) => (input, format!("union, begun with the {why} of {label}")),
        Some(TokenizerSource::Model(model)) => {
            (planner.input(model)?, "tokenizer_source".to_string())
        }
        Some(TokenizerSource::Base(_)) if document.base_model.is_some() => {
            (input, "tokenizer_source: base".to_string())
        }
        Some(TokenizerSource::Base(pos)) => {
            let message = "the tokenizer shall be that of the base model, but there is none";
            planner.problems.error(*pos, message, "add 'base_model: NAME', or name a model here");
            return None;
        }
    };
    let tokenizer = donor(planner, from, &why, |stage| &stage.tokenizer_donor);
    Some(Donors { config: (input, config), config_pos, tokenizer: (from, tokenizer) })
}

/// The member behind `input`.
fn donor(planner: &Planner, input: Input, why: &str, of: fn(&Stage) -> &Donor) -> Donor {
    match input {
        Input::Member(member) => Donor { member, reason: why.to_string() },
        Input::Stage(stage) => {
            let behind = of(&planner.stages[stage]);
            Donor { member: behind.member, reason: format!("{why}, there {}", behind.reason) }
        }
    }
}

/// What is wrong with a member's tensors, gathered so that it is said once.
#[derive(Default)]
struct Flaws {
    missing: Vec<String>,
    unusable: Vec<String>,
}

struct Builder<'b, 'a, 'd> {
    planner: &'b mut Planner<'a>,
    document: &'d Document,
    spec: &'static MethodSpec,
    arch: &'static Architecture,
    /// Rows of embedding and head, where they are not their inputs'.
    rows: Option<usize>,
    tensors: Vec<(TensorInfo, TensorPlan)>,
    flaws: BTreeMap<Input, Flaws>,
    ok: bool,
}

/// A tensor of an input: its index and whether it is the embedding in the place of a tied head.
struct Found {
    index: usize,
    stands_in: bool,
}

impl<'d> Builder<'_, '_, 'd> {
    /// Embedding of the first slice, layers of all, final norm and head of the last.
    fn all(&mut self, slices: &[Parts<'d>]) {
        let (Some(first), Some(last)) = (slices.first(), slices.last()) else { return };
        for decl in self.arch.with_role(Role::Embedding) {
            self.tensor(decl, first, Place::Embedding, 0, 0.0);
        }
        let mut layer = 0;
        for slice in slices {
            for offset in 0..slice.layers {
                let t = super::params::position(offset, slice.layers);
                for decl in self.arch.with_role(Role::Layer) {
                    self.tensor(decl, slice, Place::Layer(layer), offset, t);
                }
                layer += 1;
            }
        }
        for decl in self.arch.with_role(Role::FinalNorm) {
            self.tensor(decl, last, Place::FinalNorm, 0, 0.0);
        }
        for decl in self.arch.with_role(Role::Head) {
            if self.needs_head(decl, first, last) {
                self.tensor(decl, last, Place::Head, 0, 0.0);
            }
        }
    }

    /// Whether the output has a head of its own: if any model of the last slice has one, or if they
    /// are tied to embeddings that are not the output's.
    fn needs_head(&mut self, decl: &TensorDecl, first: &Parts, last: &Parts) -> bool {
        let view = |part: &Part| self.planner.view(part.input);
        if last.list.iter().any(|part| find(&view(part), decl, 0).is_some_and(|f| !f.stands_in)) {
            return true;
        }
        let inputs = |slice: &Parts| slice.list.iter().map(|part| part.input).collect::<Vec<_>>();
        if inputs(first) == inputs(last) {
            return false;
        }
        let message = "the models of the last slice have no head of their own, and the embedding \
                       comes from other models: the output gets a head made of their embeddings";
        let remedy = "use the same models in the first and last slice to keep the head tied";
        self.planner.problems.warn(last.pos, message, remedy);
        true
    }

    /// Plans the tensor `decl` of layer `offset` of `slice`, at gradient position `t`.
    fn tensor(
        &mut self,
        decl: &TensorDecl,
        slice: &Parts<'d>,
        place: Place,
        offset: usize,
        t: f64,
    ) {
        let found: Vec<Option<Found>> = slice
            .list
            .iter()
            .map(|part| find(&self.planner.view(part.input), decl, part.start + offset))
            .collect();
        if decl.optional && decl.role != Role::Head && found.iter().all(Option::is_none) {
            return;
        }
        let inputs = self.inputs(decl, slice, offset, t, found);
        let layer = if let Place::Layer(layer) = place { layer } else { 0 };
        let name = decl.hf_name(layer);
        let params = self.tensor_params(slice, &name, t);
        let (Some(inputs), Some(params)) = (inputs, params) else {
            self.ok = false;
            return;
        };
        let plan = TensorPlan { place, inputs, base: slice.base, params };
        self.check_sum(&plan, slice);
        if let Some(info) = self.info(name, &plan, slice) {
            self.tensors.push((info, plan));
        }
    }

    /// The inputs of a tensor with their parameters; `None` if any has a flaw, all of which are noted.
    fn inputs(
        &mut self,
        decl: &TensorDecl,
        slice: &Parts<'d>,
        offset: usize,
        t: f64,
        found: Vec<Option<Found>>,
    ) -> Option<Vec<TensorInput>> {
        let mut inputs = Vec::with_capacity(found.len());
        for (at, (part, found)) in slice.list.iter().zip(found).enumerate() {
            let layer = part.start + offset;
            let name = decl.hf_name(layer);
            let Some(found) = found else {
                self.flaws.entry(part.input).or_default().missing.push(name);
                continue;
            };
            self.check_tensor(part.input, &found, decl);
            let whose = format!("source '{}'", self.planner.label(part.input));
            let ask = Ask {
                scope: Scope::Source,
                tensor: &name,
                t,
                is_base: slice.base == Some(at),
                pos: part.pos,
                whose: &whose,
            };
            let places = [part.settings, slice.settings, &self.document.parameters];
            if let Some(params) = values::evaluate(self.planner, self.spec, &places, &ask) {
                let layer = (decl.role == Role::Layer).then_some(layer);
                inputs.push(TensorInput { from: part.input, index: found.index, layer, params });
            }
        }
        (inputs.len() == slice.list.len()).then_some(inputs)
    }

    /// Values of the parameters that all inputs of a tensor share.
    fn tensor_params(&mut self, slice: &Parts<'d>, name: &str, t: f64) -> Option<Values> {
        if slice.list.len() == 1 && self.spec.lone_source_is_copied {
            return Some(Values::default()); // Nothing is combined, so nothing is asked for.
        }
        let ask = Ask {
            scope: Scope::Tensor,
            tensor: name,
            t,
            is_base: false,
            pos: self.document.method.as_ref().map_or(self.document.pos, |method| method.pos),
            whose: "the merge",
        };
        let places = [slice.settings, &self.document.parameters];
        values::evaluate(self.planner, self.spec, &places, &ask)
    }

    /// The output's name, shape and type; inputs of different shapes are an error.
    fn info(&mut self, name: String, plan: &TensorPlan, slice: &Parts) -> Option<TensorInfo> {
        let infos: Vec<TensorInfo> = plan
            .inputs
            .iter()
            .map(|input| self.planner.view(input.from).table.infos()[input.index].clone())
            .collect();
        let first = &infos[0];
        let over_tokens = matches!(plan.place, Place::Embedding | Place::Head);
        let rows = self.rows.filter(|_| over_tokens);
        // Rows that will be arranged need not be equally many.
        let compared = |info: &TensorInfo| info.shape[usize::from(rows.is_some())..].to_vec();
        for (info, part) in infos.iter().zip(&slice.list).skip(1) {
            if compared(info) != compared(first) {
                let message = format!(
                    "'{}' of '{}' has shape {:?}, that of '{}' has {:?}",
                    info.name,
                    self.planner.label(part.input),
                    info.shape,
                    self.planner.label(slice.list[0].input),
                    first.shape
                );
                let remedy = if over_tokens {
                    "models that are combined must have the same vocabulary, unless the recipe says \
                     what the result's shall be: add 'tokenizer: {source: union}', 'base' or a model"
                } else {
                    "models that are combined must have the same sizes"
                };
                self.planner.problems.error(part.pos, message, remedy);
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

    /// A sum of weights that is to be divided by must not be zero.
    fn check_sum(&mut self, plan: &TensorPlan, slice: &Parts) {
        let Some(flag) = self.spec.normalized_by else { return };
        let weights = plan.inputs.iter().filter_map(|input| input.params.get("weight"));
        let sum: f64 = weights.sum();
        if plan.params.flag(flag) && sum.abs() < 1e-8 {
            let message =
                "the weights of some tensors add up to 0, and the result is divided by that";
            let remedy = format!("change the weights, or set '{flag}: false'");
            self.planner.problems.error(slice.pos, message, remedy);
            self.ok = false;
        }
    }

    /// A member's tensor must have the shape its config.json says, and hold floats.
    fn check_tensor(&mut self, from: Input, found: &Found, decl: &TensorDecl) {
        let View { hyper, table, .. } = self.planner.view(from);
        let info = &table.infos()[found.index];
        let expected = decl.shape(hyper);
        let flaw = if info.shape != expected {
            format!("'{}' has shape {:?}, config.json says {expected:?}", info.name, info.shape)
        } else if !info.dtype.is_float() {
            format!("'{}' has type {}; F32, F16 and BF16 can be merged", info.name, info.dtype)
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
            let Input::Member(member) = input else { continue };
            let label = self.planner.label(input);
            let pos = self.planner.members[member].pos;
            let more = |list: &[String]| match list.len() {
                1 => String::new(),
                n => format!(" and {} more", n - 1),
            };
            if let Some(first) = flaws.missing.first() {
                let message =
                    format!("model '{label}' lacks the tensor '{first}'{}", more(&flaws.missing));
                let remedy = "the folder is incomplete or of another architecture: get it again";
                self.planner.problems.error(pos, message, remedy);
            }
            if let Some(first) = flaws.unusable.first() {
                let message = format!("model '{label}': {first}{}", more(&flaws.unusable));
                let remedy = "config.json and weights do not belong together: get the model again";
                self.planner.problems.error(pos, message, remedy);
            }
        }
    }
}

/// The tensor of `view` that `decl` means in its layer `layer`. A tied head is the embedding, whether
/// or not a copy of it is stored.
fn find(view: &View, decl: &TensorDecl, layer: usize) -> Option<Found> {
    if decl.role == Role::Head && view.hyper.tied {
        let embedding = view.arch.with_role(Role::Embedding).next()?;
        let index = view.table.find(embedding.hf)?;
        return Some(Found { index, stands_in: true });
    }
    let index = view.table.find(&decl.hf_name(layer))?;
    Some(Found { index, stands_in: false })
}
