//! Planning one stage: its tensors, their inputs and parameters, its configuration.

use super::donors::{self, Donors};
use super::merge_plan::{Input, Place, Stage, TensorInput, TensorPlan, Values};
use super::planner::{Planner, View};
use super::rows::Arranged;
use super::slices::{self, Part, Parts};
use super::values::{self, Ask};
use super::vocabulary::{self, Resolved, Vocabulary};
use super::{chat, compat, output_config, rows};
use crate::base::dtype::DType;
use crate::base::spelling::nearest;
use crate::formats::source::{TensorInfo, TensorTable};
use crate::model::arch::{Architecture, Role, TensorDecl};
use crate::recipe::method::{BaseRule, MethodSpec, Scope};
use crate::recipe::syntax::ends;
use crate::recipe::syntax::schema::{Document, Seed};
use std::collections::BTreeMap;

/// Plans the stage that `document` describes; `None` if it has errors.
pub(crate) fn stage(
    planner: &mut Planner<'_>,
    document: &Document,
    is_final: bool,
) -> Option<Stage> {
    let spec = method(planner, document);
    let ends: Vec<_> =
        document.ends.iter().map(|end| (end, method(planner, &end.document))).collect();
    // All models are looked for first, so that what is missing is told whatever else is wrong.
    slices::look_up(planner, document, spec.is_none());
    ends.iter().for_each(|(end, _)| slices::look_up(planner, &end.document, false));
    let mut whole = spec.is_some();
    let slices = match spec {
        Some(spec) => {
            values::check_names(planner, document, spec);
            slices::resolve(planner, document, spec)
        }
        None => Vec::new(),
    };
    let ends: Vec<_> = ends
        .into_iter()
        .map(|(end, spec)| {
            let spec = spec?;
            values::check_names(planner, &end.document, spec);
            ends::warn_of_gradients(planner, end);
            Some((end.place, slices::resolve_end(planner, end, spec)?))
        })
        .collect();
    whole &= slices.iter().all(Option::is_some) && ends.iter().all(Option::is_some);
    let stack = Stack {
        slices: slices.into_iter().flatten().collect(),
        ends: ends.into_iter().flatten().collect(),
    };
    if whole {
        let layers: usize = stack.slices.iter().map(|slice| slice.layers).sum();
        if is_final && layers == 0 {
            let pos = stack.slices.first()?.pos;
            planner.problems.error(pos, "the output has no layers", "add a slice with layers");
            return None;
        }
        return plan_whole(planner, document, spec?, &stack);
    }
    // Something is wrong already: the sound slices are looked at for what else is.
    let first = stack.all().next()?.list.first()?;
    let arch = planner.view(first.input).arch;
    if compat::check(planner, &stack.all().collect::<Vec<_>>(), None) {
        let mut builder = Builder::new(planner, document, arch);
        builder.sound_parts(&stack);
        builder.report_flaws();
    }
    None
}

/// The slices of a stage and the ends that are merged apart from them.
struct Stack<'d> {
    slices: Vec<Parts<'d>>,
    ends: Vec<(Place, Parts<'d>)>,
}

impl<'d> Stack<'d> {
    fn all(&self) -> impl Iterator<Item = &Parts<'d>> {
        self.slices.iter().chain(self.ends.iter().map(|(_, parts)| parts))
    }

    /// The end at `place`, if it is merged apart.
    fn end(&self, place: Place) -> Option<&Parts<'d>> {
        self.ends.iter().find(|(end, _)| *end == place).map(|(_, parts)| parts)
    }
}

/// Plans a stage all of whose slices and ends are sound.
fn plan_whole(
    planner: &mut Planner<'_>,
    document: &Document,
    spec: &'static MethodSpec,
    stack: &Stack<'_>,
) -> Option<Stage> {
    let first = stack.slices.first()?;
    let donors = donors::find(planner, document, first)?;
    let parts: Vec<&Parts<'_>> = stack.all().collect();
    if !compat::check(planner, &parts, Some((donors.config.0, donors.config_pos))) {
        return None;
    }
    let vocabulary = vocabulary::resolve(planner, document, &parts, &donors);
    let chat_template = chat::resolve(planner, document, &parts, &donors).ok();
    let vocabulary = vocabulary.ok()?;
    let arch = planner.view(first.list[0].input).arch;
    let mut builder = Builder::new(planner, document, arch);
    builder.rows = vocabulary.as_ref().map(|resolved| resolved.vocabulary.rows);
    builder.all(stack);
    builder.report_flaws();
    let Builder { tensors, ok, .. } = builder;
    if !ok || !compat::check_optional(planner, &stack.slices, &tensors) {
        return None;
    }
    let names = |wanted: &dyn Fn(Place) -> bool| -> Vec<&str> {
        let wanted = tensors.iter().filter(|(_, plan)| wanted(plan.place));
        wanted.map(|(info, _)| info.name.as_str()).collect()
    };
    let own = names(&|place| stack.end(place).is_none());
    values::warn_of_dead_filters(planner, document, spec, &own);
    for (end, parts) in &stack.ends {
        let own = names(&|place| place == *end);
        values::warn_of_dead_filters(planner, parts.document, parts.spec, &own);
    }
    compat::warn_of_zero_weights(planner, &parts, &tensors);
    if vocabulary.is_none() {
        compat::check_vocabulary(planner, document, &tensors, &donors)?;
    }
    let stage = finish(planner, document, spec, stack, tensors, donors, vocabulary)?;
    Some(Stage { chat_template: chat_template?, ..stage })
}

/// How the rows of embedding and head come to the vocabulary that the recipe asks for.
fn arrange(
    planner: &mut Planner<'_>,
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
    planner: &mut Planner<'_>,
    document: &Document,
    spec: &'static MethodSpec,
    stack: &Stack<'_>,
    tensors: Vec<(TensorInfo, TensorPlan)>,
    mut donors: Donors,
    resolved: Option<Resolved>,
) -> Option<Stage> {
    let slices = stack.slices.iter();
    let slice_of_layer: Vec<usize> = slices
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
        ends: stack.ends.iter().map(|(place, parts)| (*place, parts.spec)).collect(),
        dtype: document.dtype.as_ref().map(|d| d.value),
        out_dtype: document.out_dtype.as_ref().map(|d| d.value),
        seed: document.seed.as_ref().map_or(0, Seed::value),
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
fn inherited(planner: &Planner<'_>, tokenizer: Input) -> Option<Vocabulary> {
    match tokenizer {
        Input::Stage(s) => planner.stages[s].vocabulary.clone(),
        Input::Member(_) => None,
    }
}

fn method(planner: &mut Planner<'_>, document: &Document) -> Option<&'static MethodSpec> {
    let method = document.method.as_ref()?;
    if let Some(spec) = planner.methods.iter().find(|spec| spec.name == method.value) {
        return Some(spec);
    }
    let known: Vec<&str> = planner.methods.iter().map(|spec| spec.name).collect();
    let list = known.join(", ");
    let message = format!("unknown merge_method '{}'", method.value);
    let remedy = match nearest(&method.value, known.iter().copied()) {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("known are {list}"),
    };
    planner.problems.error(method.pos, message, remedy);
    None
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

impl<'b, 'a, 'd> Builder<'b, 'a, 'd> {
    fn new(
        planner: &'b mut Planner<'a>,
        document: &'d Document,
        arch: &'static Architecture,
    ) -> Builder<'b, 'a, 'd> {
        let (tensors, flaws) = (Vec::new(), BTreeMap::new());
        Builder { planner, document, arch, rows: None, tensors, flaws, ok: true }
    }

    /// Embedding, layers, final norm and head. Ends that are not merged apart come from the first slice
    /// (embedding) and the last one.
    fn all(&mut self, stack: &Stack<'d>) {
        let (Some(first), Some(last)) = (stack.slices.first(), stack.slices.last()) else { return };
        self.end(stack.end(Place::Embedding).unwrap_or(first), Place::Embedding);
        self.layers(&stack.slices);
        self.end(stack.end(Place::FinalNorm).unwrap_or(last), Place::FinalNorm);
        if self.needs_head(stack, first, last) {
            self.end(stack.end(Place::Head).unwrap_or(last), Place::Head);
        }
    }

    /// Layers and ends of what is sound in a stage that is not.
    fn sound_parts(&mut self, stack: &Stack<'d>) {
        self.layers(&stack.slices);
        stack.ends.iter().for_each(|(place, parts)| self.end(parts, *place));
    }

    fn layers(&mut self, slices: &[Parts<'d>]) {
        let mut layer = 0;
        for slice in slices {
            for offset in 0..slice.layers {
                let t = crate::recipe::syntax::params::position(offset, slice.layers);
                for decl in self.arch.with_role(Role::Layer) {
                    let hyper = slice.list.first().map(|part| self.planner.view(part.input).hyper);
                    for expert in 0..hyper.map_or(0, |hyper| decl.copies(hyper)) {
                        self.tensor((decl, expert), slice, Place::Layer(layer), offset, t);
                    }
                }
                layer += 1;
            }
        }
    }

    fn end(&mut self, parts: &Parts<'d>, place: Place) {
        let role = match place {
            Place::Embedding => Role::Embedding,
            Place::Layer(_) => Role::Layer,
            Place::FinalNorm => Role::FinalNorm,
            Place::Head => Role::Head,
        };
        for decl in self.arch.with_role(role) {
            self.tensor((decl, 0), parts, place, 0, 0.0);
        }
    }

    /// Whether the output has a head of its own: if the recipe merges one, if any model of the last slice
    /// has one, or if they are tied to embeddings that are not the output's.
    fn needs_head(&mut self, stack: &Stack<'_>, first: &Parts<'_>, last: &Parts<'_>) -> bool {
        let heads: Vec<&TensorDecl> = self.arch.with_role(Role::Head).collect();
        if heads.is_empty() {
            return self.always_tied(stack, last);
        }
        let has_own = |part: &&Part<'_>| {
            let view = self.planner.view(part.input);
            heads.iter().any(|decl| find(&view, (decl, 0), 0).is_some_and(|f| !f.stands_in))
        };
        let own = last.list.iter().find(has_own);
        if let Some(pos) = self.document.tied_head {
            if let Some(part) = own {
                let label = self.planner.label(part.input);
                let message = format!("'head: tied' leaves out the head of '{label}'");
                self.planner.problems.warn(
                    pos,
                    message,
                    "give 'head' a merge if that is not meant",
                );
            }
            return false;
        }
        if stack.end(Place::Head).is_some() || own.is_some() {
            return true;
        }
        let inputs =
            |slice: &Parts<'_>| slice.list.iter().map(|part| part.input).collect::<Vec<_>>();
        let apart = stack.end(Place::Embedding).is_some();
        if !apart && inputs(first) == inputs(last) {
            return false;
        }
        let message = "the models of the last slice have no head of their own, and the embedding \
                       is not theirs alone: the output gets a head made of their embeddings";
        let remedy = if apart {
            "write 'head: tied' to use the output's embedding, or give 'head' a merge of its own"
        } else {
            "use the same models in the first and last slice to keep the head tied"
        };
        self.planner.problems.warn(last.pos, message, remedy);
        true
    }

    /// No head, in an architecture whose head is always the embedding; a recipe that merges one is wrong.
    fn always_tied(&mut self, stack: &Stack<'_>, last: &Parts<'_>) -> bool {
        if stack.end(Place::Head).is_some() {
            let message = format!(
                "models of architecture {} have no head but their embedding",
                self.arch.gguf_name
            );
            self.planner.problems.error(
                last.pos,
                message,
                "leave out 'head', or write 'head: tied'",
            );
            self.ok = false;
        }
        false
    }

    /// Plans the tensor `decl` (of an expert, if there are any) of layer `offset` of `slice`, at gradient
    /// position `t`.
    fn tensor(
        &mut self,
        (decl, expert): (&TensorDecl, usize),
        slice: &Parts<'d>,
        place: Place,
        offset: usize,
        t: f64,
    ) {
        let found: Vec<Option<Found>> = slice
            .list
            .iter()
            .map(|part| find(&self.planner.view(part.input), (decl, expert), part.start + offset))
            .collect();
        if decl.optional && decl.role != Role::Head && found.iter().all(Option::is_none) {
            return;
        }
        let inputs = self.inputs((decl, expert), slice, offset, t, found);
        let layer = if let Place::Layer(layer) = place { layer } else { 0 };
        let name = decl.hf_name_of(layer, expert);
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
        (decl, expert): (&TensorDecl, usize),
        slice: &Parts<'d>,
        offset: usize,
        t: f64,
        found: Vec<Option<Found>>,
    ) -> Option<Vec<TensorInput>> {
        let mut inputs = Vec::with_capacity(found.len());
        for (at, (part, found)) in slice.list.iter().zip(found).enumerate() {
            let layer = part.start + offset;
            let name = decl.hf_name_of(layer, expert);
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
            let document = slice.document;
            let wide = [&document.module_parameters, &document.parameters];
            let places = [part.settings, slice.settings, wide[0], wide[1]];
            if let Some(params) = values::evaluate(self.planner, slice.spec, &places, &ask) {
                if let (Some(check), false) = (slice.spec.check_source, ask.is_base)
                    && let Err(misfit) = check(&params)
                {
                    self.planner.problems.error(part.pos, misfit.message, misfit.remedy);
                    self.ok = false;
                }
                let layer = (decl.role == Role::Layer).then_some(layer);
                inputs.push(TensorInput { from: part.input, index: found.index, layer, params });
            }
        }
        (inputs.len() == slice.list.len()).then_some(inputs)
    }

    /// Values of the parameters that all inputs of a tensor share.
    fn tensor_params(&mut self, slice: &Parts<'d>, name: &str, t: f64) -> Option<Values> {
        if slice.list.len() == 1 && slice.spec.lone_source_is_copied {
            return Some(Values::default()); // Nothing is combined, so nothing is asked for.
        }
        let document = slice.document;
        let ask = Ask {
            scope: Scope::Tensor,
            tensor: name,
            t,
            is_base: false,
            pos: document.method.as_ref().map_or(document.pos, |method| method.pos),
            whose: "the merge",
        };
        let places = [slice.settings, &document.module_parameters, &document.parameters];
        values::evaluate(self.planner, slice.spec, &places, &ask)
    }

    /// The output's name, shape and type; inputs of different shapes are an error.
    fn info(&mut self, name: String, plan: &TensorPlan, slice: &Parts<'_>) -> Option<TensorInfo> {
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
    fn check_sum(&mut self, plan: &TensorPlan, slice: &Parts<'_>) {
        let Some(flag) = slice.spec.normalized_by else { return };
        let counts = |at: usize| slice.spec.base == BaseRule::DonorOnly || plan.base != Some(at);
        let inputs = plan.inputs.iter().enumerate().filter(|(at, _)| counts(*at));
        let sum: f64 = inputs.filter_map(|(_, input)| input.params.get("weight")).sum();
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

/// The tensor of `view` that `decl`, of that expert, means in its layer `layer`. The embedding
/// stands in for a head that is not stored.
fn find(view: &View<'_>, (decl, expert): (&TensorDecl, usize), layer: usize) -> Option<Found> {
    if decl.role == Role::Head && view.hyper.tied {
        let embedding = view.arch.with_role(Role::Embedding).next()?;
        let index = view.table.find(embedding.hf)?;
        return Some(Found { index, stands_in: true });
    }
    let index = view.table.find(&decl.hf_name_of(layer, expert))?;
    Some(Found { index, stands_in: false })
}
