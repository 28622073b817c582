//! The slices of a stage, with their models found and their layer ranges checked.

use super::merge_plan::PlanInput;
use super::models::Models;
use crate::recipe::method::{BaseRule, MethodSpec};
use crate::recipe::place::StackPlace;
use crate::recipe::syntax::diagnostics::Diagnostics;
use crate::recipe::syntax::ends::End;
use crate::recipe::syntax::model_ref::ModelRef;
use crate::recipe::syntax::params::ParamSettings;
use crate::recipe::syntax::schema::{LayerRange, RecipeDocument, Slice, SourceEntry, StackInputs};
use crate::recipe::syntax::yaml::{Located, Pos};

/// A source of a [`ResolvedSlice`].
pub(super) struct SliceSource<'d> {
    pub input: PlanInput,
    /// Where the recipe names the model.
    pub pos: Pos,
    /// The first layer that the source provides.
    pub start: usize,
    pub settings: &'d ParamSettings,
}

/// A slice whose models are known: every source provides `layers` layers, beginning at its `start`.
/// An end that is merged separately is a slice without layers, with its own method and document.
pub(super) struct ResolvedSlice<'d> {
    pub pos: Pos,
    pub spec: &'static MethodSpec,
    /// The stage, or the merge of an end.
    pub document: &'d RecipeDocument,
    pub sources: Vec<SliceSource<'d>>,
    pub layers: usize,
    pub settings: &'d ParamSettings,
    /// Index of the base model in `sources`.
    pub base: Option<usize>,
}

impl<'d> ResolvedSlice<'d> {
    /// The widest places where parameters may be set: those of the module, then those of the stage.
    pub(super) fn document_settings(&self) -> [&'d ParamSettings; 2] {
        [&self.document.module_parameters, &self.document.parameters]
    }
}

static NO_SETTINGS: ParamSettings = Vec::new();

/// Resolves the slices of `document`; `None` in place of each slice with an error, all of which are
/// reported.
pub(super) fn resolve<'d>(
    models: &Models<'_>,
    document: &'d RecipeDocument,
    spec: &'static MethodSpec,
    problems: &mut Diagnostics,
) -> Vec<Option<ResolvedSlice<'d>>> {
    match &document.inputs {
        StackInputs::None => Vec::new(),
        StackInputs::Models(slice) => vec![whole_models(models, document, slice, spec, problems)],
        StackInputs::Slices(slices) => {
            let resolved: Vec<_> = (slices.iter())
                .map(|slice| layer_ranges(models, document, slice, spec, problems))
                .collect();
            warn_of_empty(document, &resolved, problems);
            resolved
        }
    }
}

/// Resolves the models of an end that is merged separately.
pub(super) fn resolve_end<'d>(
    models: &Models<'_>,
    end: &'d End,
    spec: &'static MethodSpec,
    problems: &mut Diagnostics,
) -> Option<ResolvedSlice<'d>> {
    match &end.document.inputs {
        StackInputs::Models(slice) => without_layers(models, &end.document, slice, spec, problems),
        StackInputs::Slices(_) | StackInputs::None => None,
    }
}

/// Reports wrong layer ranges of a stage whose method is unknown, so that [`resolve`] cannot.
pub(super) fn check_ranges(
    models: &Models<'_>,
    document: &RecipeDocument,
    problems: &mut Diagnostics,
) {
    if let StackInputs::Slices(slices) = &document.inputs {
        for source in slices.iter().flat_map(|slice| &slice.sources) {
            checked_range(models, source, problems);
        }
    }
}

/// Resolves `models`: one slice over all layers.
fn whole_models<'d>(
    models: &Models<'_>,
    document: &'d RecipeDocument,
    slice: &'d Slice,
    spec: &'static MethodSpec,
    problems: &mut Diagnostics,
) -> Option<ResolvedSlice<'d>> {
    let mut resolved = without_layers(models, document, slice, spec, problems)?;
    let first = resolved.sources.first()?;
    let layers_of = |source: &SliceSource<'_>| models.view(source.input).hyper.n_layer;
    let mut ok = true;
    resolved.layers = layers_of(first);
    for source in &resolved.sources[1..] {
        let layers = layers_of(source);
        if layers != resolved.layers {
            let message = format!(
                "'{}' has {layers} layers, '{}' has {}",
                models.label(source.input),
                models.label(first.input),
                resolved.layers
            );
            let remedy = "use 'slices' with a 'layer_range' for each model";
            problems.error(source.pos, message, remedy);
            ok = false;
        }
    }
    // Some recipes give ranges here, where mergekit does not read them.
    for (entry, source) in slice.sources.iter().zip(&resolved.sources) {
        let layers = layers_of(source);
        if let LayerRange::Given(range) = &entry.range
            && range.value != (0, layers)
        {
            let message = format!("'models' takes all {layers} layers of '{}'", entry.model.value);
            let remedy = "use 'slices' to select layers, or remove the range";
            problems.error(range.pos, message, remedy);
            ok = false;
        }
    }
    ok.then_some(resolved)
}

/// Resolves the models of `slice` without their layers. A base model that the method needs is added
/// at the end, as in mergekit.
fn without_layers<'d>(
    models: &Models<'_>,
    document: &'d RecipeDocument,
    slice: &'d Slice,
    spec: &'static MethodSpec,
    problems: &mut Diagnostics,
) -> Option<ResolvedSlice<'d>> {
    let mut ok = true;
    let mut sources = Vec::new();
    for entry in &slice.sources {
        ok &= entry.range != LayerRange::Bad;
        match models.find(&entry.model.value) {
            Some(input) => sources.push(slice_source(entry, input, 0)),
            None => ok = false,
        }
    }
    let mut base = None;
    let mut count = slice.sources.len();
    if let Some(reference) = &document.base_model {
        let listed = position_of(&slice.sources, &reference.value);
        if spec.base != BaseRule::DonorOnly && listed.is_none() {
            match models.find(&reference.value) {
                Some(input) => {
                    let (pos, settings) = (reference.pos, &NO_SETTINGS);
                    sources.push(SliceSource { input, pos, start: 0, settings });
                }
                None => ok = false,
            }
            base = Some(count);
            count += 1;
        } else {
            base = listed;
        }
    }
    ok &= check_count(spec, slice.pos, count, base, problems);
    ok &= check_base(document, spec, slice, count, base, problems);
    let (pos, settings) = (slice.pos, &slice.parameters);
    ok.then_some(ResolvedSlice { pos, spec, document, sources, layers: 0, settings, base })
}

/// Resolves one of `slices`, whose layer ranges must be equally long.
fn layer_ranges<'d>(
    models: &Models<'_>,
    document: &'d RecipeDocument,
    slice: &'d Slice,
    spec: &'static MethodSpec,
    problems: &mut Diagnostics,
) -> Option<ResolvedSlice<'d>> {
    let reference = slice.base_model.as_ref().or(document.base_model.as_ref());
    let base = reference.and_then(|r| position_of(&slice.sources, &r.value));
    let mut ok = check_count(spec, slice.pos, slice.sources.len(), base, problems);
    let mut sources = Vec::new();
    let mut layers: Option<(usize, &SourceEntry)> = None;
    for entry in &slice.sources {
        let input = models.find(&entry.model.value);
        let range = checked_range(models, entry, problems);
        let (Some(input), Some((start, end))) = (input, range) else {
            ok = false;
            continue;
        };
        let own = end - start;
        match layers {
            Some((count, first)) if count != own => {
                let message = format!(
                    "the sources of a slice must have the same number of layers: '{}' gives {own}, \
                     '{}' gives {count}",
                    entry.model.value, first.model.value
                );
                problems.error(entry.pos, message, "make the layer ranges equally long");
                ok = false;
            }
            Some(_) => {}
            None => layers = Some((own, entry)),
        }
        sources.push(slice_source(entry, input, start));
    }
    ok &= check_base(document, spec, slice, slice.sources.len(), base, problems);
    let (layers, _) = layers?;
    let (pos, settings) = (slice.pos, &slice.parameters);
    ok.then_some(ResolvedSlice { pos, spec, document, sources, layers, settings, base })
}

fn slice_source<'d>(entry: &'d SourceEntry, input: PlanInput, start: usize) -> SliceSource<'d> {
    SliceSource { input, pos: entry.model.pos, start, settings: &entry.parameters }
}

fn position_of(sources: &[SourceEntry], reference: &ModelRef) -> Option<usize> {
    sources.iter().position(|source| source.model.value == *reference)
}

/// The first layer and the one after the last; `None` unless they are a range of the model's layers,
/// as far as the model is known.
fn checked_range(
    models: &Models<'_>,
    source: &SourceEntry,
    problems: &mut Diagnostics,
) -> Option<(usize, usize)> {
    let model = &source.model.value;
    let count = models.find(model).map(|input| models.view(input).hyper.n_layer);
    let Located { value: (start, end), pos } = match &source.range {
        LayerRange::Given(range) => range,
        LayerRange::Bad => return None,
        LayerRange::All => {
            let remedy = match count {
                Some(n) => format!("add 'layer_range: [0, {n}]' for all layers of '{model}'"),
                None => "add 'layer_range: [FIRST, END]'".to_string(),
            };
            problems.error(source.pos, "the source has no 'layer_range'", remedy);
            return None;
        }
    };
    if start > end {
        let message = format!("layer_range [{start}, {end}] runs backwards");
        let remedy = format!("write [{end}, {start}]: first layer, then the one after the last");
        problems.error(*pos, message, remedy);
        return None;
    }
    if let Some(count) = count
        && *end > count
    {
        let message =
            format!("layer_range [{start}, {end}] goes beyond the {count} layers of '{model}'");
        let remedy = format!("the end is the layer after the last: it can be at most {count}");
        problems.error(*pos, message, remedy);
        return None;
    }
    Some((*start, *end))
}

/// Whether the method accepts `sources` models, including the base model at `base`.
fn check_count(
    spec: &MethodSpec,
    pos: Pos,
    sources: usize,
    base: Option<usize>,
    problems: &mut Diagnostics,
) -> bool {
    let separate_base = spec.base == BaseRule::Optional && base.is_some();
    let count = sources - usize::from(separate_base);
    if spec.sources.contains(&count) || (sources == 1 && spec.lone_source_is_copied) {
        return true;
    }
    if sources == 0 {
        return false; // The empty list or its entries have been reported.
    }
    let accepted = match (*spec.sources.start(), *spec.sources.end()) {
        (1, 1) => "1 model".to_string(),
        (low, high) if low == high => format!("{low} models"),
        (low, usize::MAX) => format!("{low} or more models"),
        (low, high) => format!("{low} to {high} models"),
    };
    let message = format!("merge_method '{}' takes {accepted}, not {count}", spec.name);
    let remedy = if *spec.sources.end() == 1 {
        "give each slice one source; use another method to combine models"
    } else if spec.base == BaseRule::Optional {
        "change the list or the method; the 'base_model' does not count, even if it is listed"
    } else {
        "change the list or the method; a 'base_model' counts as a model, even if it is not listed"
    };
    problems.error(pos, message, remedy);
    false
}

/// Whether a base model that the method requires is there. Warns of a base model that an optional
/// rule does not use.
fn check_base(
    document: &RecipeDocument,
    spec: &MethodSpec,
    slice: &Slice,
    count: usize,
    base: Option<usize>,
    problems: &mut Diagnostics,
) -> bool {
    let reference = slice.base_model.as_ref().or(document.base_model.as_ref());
    if let (BaseRule::Optional, None, Some(reference)) = (spec.base, base, reference) {
        let message = format!(
            "the base model '{}' is not a source of this slice, so '{}' does not use it here",
            reference.value, spec.name
        );
        let remedy = "to use it, add it to the sources with a 'layer_range'";
        problems.warn(slice.pos, message, remedy);
    }
    let is_copy = count == 1 && spec.lone_source_is_copied;
    if spec.base != BaseRule::Required || base.is_some() || is_copy || count == 0 {
        return true;
    }
    match reference {
        Some(reference) => {
            let message = format!(
                "merge_method '{}' needs the base model '{}' among the sources of this slice",
                spec.name, reference.value
            );
            let remedy = format!(
                "add '- {{model: {}, layer_range: [FIRST, END]}}' to the sources",
                reference.value
            );
            problems.error(slice.pos, message, remedy);
        }
        None => {
            let pos = document.method.as_ref().map_or(document.pos, |method| method.pos);
            let message = format!("merge_method '{}' needs a 'base_model'", spec.name);
            problems.error(pos, message, "add 'base_model: NAME'");
        }
    }
    false
}

/// Warns of slices without layers that provide no end of the stack either.
fn warn_of_empty(
    document: &RecipeDocument,
    slices: &[Option<ResolvedSlice<'_>>],
    problems: &mut Diagnostics,
) {
    let is_separate = |place: StackPlace| document.ends.iter().any(|end| end.place == place);
    let last = slices.len().saturating_sub(1);
    for (index, slice) in slices.iter().enumerate() {
        let Some(slice) = slice.as_ref().filter(|slice| slice.layers == 0) else { continue };
        let gives_embedding = index == 0 && !is_separate(StackPlace::Embedding);
        let head = !is_separate(StackPlace::Head) && document.tied_head.is_none();
        let gives_rest = index == last && (head || !is_separate(StackPlace::FinalNorm));
        if !gives_embedding && !gives_rest {
            let message = "a slice without layers has no effect here: the first slice gives the \
                           embedding and the last the final norm and head, unless the recipe merges \
                           these separately";
            let remedy = "remove it, or move it to the start or the end";
            problems.warn(slice.pos, message, remedy);
        }
    }
}
