//! Slices of a stage, with their members opened and their layer ranges checked.

use super::merge_plan::{Input, Place};
use super::planner::Planner;
use crate::recipe::method::{BaseRule, MethodSpec};
use crate::recipe::syntax::ends::End;
use crate::recipe::syntax::model_ref::ModelRef;
use crate::recipe::syntax::params::Settings;
use crate::recipe::syntax::schema::{Document, Inputs, Range, Slice, Source};
use crate::recipe::syntax::yaml::{At, Pos};

/// One source of a slice, resolved.
pub(crate) struct Part<'d> {
    pub input: Input,
    /// Where the recipe names the model.
    pub pos: Pos,
    /// First layer.
    pub start: usize,
    pub settings: &'d Settings,
}

/// A slice, resolved: every source gives `layers` layers from its start on. An end that is merged apart
/// is a slice of no layers with a method and a document of its own.
pub(crate) struct Parts<'d> {
    pub pos: Pos,
    pub spec: &'static MethodSpec,
    /// The recipe, or the end's merge: where parameters are looked up last.
    pub document: &'d Document,
    pub list: Vec<Part<'d>>,
    pub layers: usize,
    pub settings: &'d Settings,
    /// Which of `list` is the base model.
    pub base: Option<usize>,
}

static NO_SETTINGS: Settings = Vec::new();

/// The slices of `document`; `None` in the place of each that has an error, all of which are reported.
pub(crate) fn resolve<'d>(
    planner: &mut Planner<'_>,
    document: &'d Document,
    spec: &'static MethodSpec,
) -> Vec<Option<Parts<'d>>> {
    match &document.inputs {
        Inputs::None => Vec::new(),
        Inputs::Models(slice) => vec![whole_models(planner, document, slice, spec)],
        Inputs::Slices(slices) => {
            let resolved: Vec<_> =
                slices.iter().map(|slice| ranges(planner, document, slice, spec)).collect();
            warn_of_empty(planner, document, &resolved);
            resolved
        }
    }
}

/// The models of an end that is merged apart, resolved.
pub(crate) fn resolve_end<'d>(
    planner: &mut Planner<'_>,
    end: &'d End,
    spec: &'static MethodSpec,
) -> Option<Parts<'d>> {
    match &end.document.inputs {
        Inputs::Models(slice) => models(planner, &end.document, slice, spec),
        Inputs::Slices(_) | Inputs::None => None,
    }
}

/// Looks for the models of `document`; with `check_ranges` for faults of their layer ranges too, which
/// [`resolve`] finds where the method is known.
pub(crate) fn look_up(planner: &mut Planner<'_>, document: &Document, check_ranges: bool) {
    if let Some(base) = &document.base_model {
        planner.input(base);
    }
    let ranged = check_ranges && matches!(document.inputs, Inputs::Slices(_));
    for source in document.inputs.slices().iter().flat_map(|slice| &slice.sources) {
        let input = planner.input(&source.model);
        if ranged {
            checked_range(planner, source, input);
        }
    }
}

/// `models`: one slice over all layers.
fn whole_models<'d>(
    planner: &mut Planner<'_>,
    document: &'d Document,
    slice: &'d Slice,
    spec: &'static MethodSpec,
) -> Option<Parts<'d>> {
    let mut parts = models(planner, document, slice, spec)?;
    let first = parts.list.first()?;
    let mut ok = true;
    parts.layers = planner.view(first.input).hyper.n_layer;
    for part in &parts.list[1..] {
        let own = planner.view(part.input).hyper.n_layer;
        if own != parts.layers {
            let message = format!(
                "'{}' has {own} layers, '{}' has {}",
                planner.label(part.input),
                planner.label(first.input),
                parts.layers
            );
            let remedy = "use 'slices' with a 'layer_range' for each model";
            planner.problems.error(part.pos, message, remedy);
            ok = false;
        }
    }
    // Recipes in the wild give ranges here too, where the peer does not read them.
    for (source, part) in slice.sources.iter().zip(&parts.list) {
        let own = planner.view(part.input).hyper.n_layer;
        if let Range::Given(range) = &source.range
            && range.value != (0, own)
        {
            let message = format!("'models' takes all {own} layers of '{}'", source.model.value);
            let remedy = "use 'slices' for a part of them, or remove the range";
            planner.problems.error(range.pos, message, remedy);
            ok = false;
        }
    }
    ok.then_some(parts)
}

/// The models of `slice`, without layers. A base model that the method needs is added at the end, as the
/// peer does.
fn models<'d>(
    planner: &mut Planner<'_>,
    document: &'d Document,
    slice: &'d Slice,
    spec: &'static MethodSpec,
) -> Option<Parts<'d>> {
    let mut ok = true;
    let mut list = Vec::new();
    for source in &slice.sources {
        ok &= source.range != Range::Bad;
        match planner.input(&source.model) {
            Some(input) => list.push(part(source, input, 0)),
            None => ok = false,
        }
    }
    let mut base = None;
    let mut count = slice.sources.len();
    if let Some(reference) = &document.base_model {
        let listed = position_of(&slice.sources, &reference.value);
        if spec.base != BaseRule::DonorOnly && listed.is_none() {
            match planner.input(reference) {
                Some(input) => {
                    let (pos, settings) = (reference.pos, &NO_SETTINGS);
                    list.push(Part { input, pos, start: 0, settings });
                }
                None => ok = false,
            }
            base = Some(count);
            count += 1;
        } else {
            base = listed;
        }
    }
    ok &= check_count(planner, spec, slice.pos, count, base).is_some();
    ok &= require_base(planner, document, spec, slice, count, base).is_some();
    let (pos, settings) = (slice.pos, &slice.parameters);
    ok.then_some(Parts { pos, spec, document, list, layers: 0, settings, base })
}

/// One of `slices`: given ranges of equal length.
fn ranges<'d>(
    planner: &mut Planner<'_>,
    document: &'d Document,
    slice: &'d Slice,
    spec: &'static MethodSpec,
) -> Option<Parts<'d>> {
    let reference = slice.base_model.as_ref().or(document.base_model.as_ref());
    let base = reference.and_then(|r| position_of(&slice.sources, &r.value));
    let mut ok = check_count(planner, spec, slice.pos, slice.sources.len(), base).is_some();
    let mut list = Vec::new();
    let mut layers: Option<(usize, &Source)> = None;
    for source in &slice.sources {
        let input = planner.input(&source.model);
        let range = checked_range(planner, source, input);
        let (Some(input), Some((start, end))) = (input, range) else {
            ok = false;
            continue;
        };
        let own = end - start;
        match layers {
            Some((count, first)) if count != own => {
                let message = format!(
                    "the sources of a slice must have equally many layers: '{}' gives {own}, '{}' {count}",
                    source.model.value, first.model.value
                );
                planner.problems.error(source.pos, message, "make the layer ranges equally long");
                ok = false;
            }
            Some(_) => {}
            None => layers = Some((own, source)),
        }
        list.push(part(source, input, start));
    }
    ok &= require_base(planner, document, spec, slice, slice.sources.len(), base).is_some();
    let (layers, _) = layers?;
    let (pos, settings) = (slice.pos, &slice.parameters);
    ok.then_some(Parts { pos, spec, document, list, layers, settings, base })
}

fn part<'d>(source: &'d Source, input: Input, start: usize) -> Part<'d> {
    Part { input, pos: source.model.pos, start, settings: &source.parameters }
}

fn position_of(sources: &[Source], reference: &ModelRef) -> Option<usize> {
    sources.iter().position(|source| source.model.value == *reference)
}

/// First layer and the one after the last, if they are a range of the model's layers.
fn checked_range(
    planner: &mut Planner<'_>,
    source: &Source,
    input: Option<Input>,
) -> Option<(usize, usize)> {
    let count = input.map(|input| planner.view(input).hyper.n_layer);
    let model = &source.model.value;
    let At { value: (start, end), pos } = match &source.range {
        Range::Given(range) => range,
        Range::Bad => return None,
        Range::All => {
            let remedy = match count {
                Some(n) => format!("add 'layer_range: [0, {n}]' for all layers of '{model}'"),
                None => "add 'layer_range: [FIRST, END]'".to_string(),
            };
            planner.problems.error(source.pos, "the source has no 'layer_range'", remedy);
            return None;
        }
    };
    if start > end {
        let message = format!("layer_range [{start}, {end}] runs backwards");
        let remedy = format!("write [{end}, {start}]: first layer, then the one after the last");
        planner.problems.error(*pos, message, remedy);
        return None;
    }
    if let Some(count) = count
        && *end > count
    {
        let message =
            format!("layer_range [{start}, {end}] goes beyond the {count} layers of '{model}'");
        let remedy =
            format!("the end is the layer after the last, so {count} is the greatest possible");
        planner.problems.error(*pos, message, remedy);
        return None;
    }
    Some((*start, *end))
}

/// Whether the method takes `sources` models, the one at `base` among them.
fn check_count(
    planner: &mut Planner<'_>,
    spec: &MethodSpec,
    pos: Pos,
    sources: usize,
    base: Option<usize>,
) -> Option<()> {
    let apart = spec.base == BaseRule::Optional && base.is_some();
    let count = sources - usize::from(apart);
    if spec.sources.contains(&count) || (sources == 1 && spec.lone_source_is_copied) {
        return Some(());
    }
    if sources == 0 {
        return None; // An empty list of sources has been reported, or its entries have.
    }
    let (low, high) = (*spec.sources.start(), *spec.sources.end());
    let takes = match (low, high) {
        (1, 1) => "1 model".to_string(),
        (low, high) if low == high => format!("{low} models"),
        (low, usize::MAX) => format!("{low} or more models"),
        (low, high) => format!("{low} to {high} models"),
    };
    let message = format!("merge_method '{}' takes {takes} at a time, here are {count}", spec.name);
    let remedy = if high == 1 {
        "give each slice one source; use another method to combine models"
    } else if spec.base == BaseRule::Optional {
        "change the list, or the method; the 'base_model' does not count, listed or not"
    } else {
        "change the list, or the method; a 'base_model' that is not listed counts as a model too"
    };
    planner.problems.error(pos, message, remedy);
    None
}

fn require_base(
    planner: &mut Planner<'_>,
    document: &Document,
    spec: &MethodSpec,
    slice: &Slice,
    count: usize,
    base: Option<usize>,
) -> Option<()> {
    let copied = count == 1 && spec.lone_source_is_copied;
    if spec.base == BaseRule::Optional
        && base.is_none()
        && let Some(reference) = slice.base_model.as_ref().or(document.base_model.as_ref())
    {
        let message = format!(
            "the base model '{}' is no source of this slice, so '{}' does without it here",
            reference.value, spec.name
        );
        let remedy = "add it to the sources with a 'layer_range' if it shall count";
        planner.problems.warn(slice.pos, message, remedy);
    }
    if spec.base != BaseRule::Required || base.is_some() || copied || count == 0 {
        return Some(());
    }
    match slice.base_model.as_ref().or(document.base_model.as_ref()) {
        Some(reference) => {
            let message = format!(
                "merge_method '{}' needs the base model '{}' among the sources of this slice",
                spec.name, reference.value
            );
            let remedy = format!(
                "add '- {{model: {}, layer_range: [FIRST, END]}}' to the sources",
                reference.value
            );
            planner.problems.error(slice.pos, message, remedy);
        }
        None => {
            let pos = document.method.as_ref().map_or(document.pos, |method| method.pos);
            let message = format!("merge_method '{}' needs a 'base_model'", spec.name);
            planner.problems.error(pos, message, "add 'base_model: NAME'");
        }
    }
    None
}

fn warn_of_empty(planner: &mut Planner<'_>, document: &Document, slices: &[Option<Parts<'_>>]) {
    let given = |place: Place| document.ends.iter().any(|end| end.place == place);
    let last = slices.len().saturating_sub(1);
    for (index, slice) in slices.iter().enumerate() {
        let Some(slice) = slice.as_ref().filter(|slice| slice.layers == 0) else { continue };
        let gives_embedding = index == 0 && !given(Place::Embedding);
        let head = !given(Place::Head) && document.tied_head.is_none();
        let gives_rest = index == last && (head || !given(Place::FinalNorm));
        if !gives_embedding && !gives_rest {
            let message = "a slice without layers has no effect here: only the first gives the \
                           embedding, only the last the final norm and head, unless the recipe \
                           merges those apart";
            planner.problems.warn(
                slice.pos,
                message,
                "remove it, or move it to the start or the end",
            );
        }
    }
}
