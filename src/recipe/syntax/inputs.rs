//! `models`, `slices` and `modules`: what a stage is made of.
//!
//! Part of the dialect's reading ([`super::schema`]); whether models and ranges fit together is decided in
//! [`crate::recipe::plan::slices`].

use super::diagnostics::Diagnostics;
use super::model_ref::ModelRef;
use super::params::ParamSettings;
use super::schema::{Mapping, list, model_ref, settings};
use super::yaml::{Located, Node, Pos, YamlValue};

/// What a stage is made of.
#[derive(Debug)]
pub(crate) enum StackInputs {
    /// `models`: all layers of each.
    Models(Slice),
    Slices(Vec<Slice>),
    /// Missing or unusable, and reported.
    None,
}

impl StackInputs {
    /// The slices; `models` are one.
    pub(crate) fn slices(&self) -> &[Slice] {
        match self {
            StackInputs::Models(slice) => std::slice::from_ref(slice),
            StackInputs::Slices(slices) => slices,
            StackInputs::None => &[],
        }
    }
}

/// An output slice: the same number of layers of every source, combined.
#[derive(Debug)]
pub(crate) struct Slice {
    pub pos: Pos,
    pub sources: Vec<SourceEntry>,
    pub base_model: Option<Located<ModelRef>>,
    pub parameters: ParamSettings,
}

#[derive(Clone, Debug)]
pub(crate) struct SourceEntry {
    pub pos: Pos,
    pub model: Located<ModelRef>,
    pub range: LayerRange,
    pub parameters: ParamSettings,
}

/// The layers of a source.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LayerRange {
    /// First layer and the one after the last.
    Given(Located<(usize, usize)>),
    /// No `layer_range`: usual in `models`, an error in `slices`.
    All,
    /// Unusable, and reported.
    Bad,
}

/// What the recipe is made of, and the parameters of its module.
pub(crate) fn read(map: &Mapping<'_>, problems: &mut Diagnostics) -> (StackInputs, ParamSettings) {
    let mut given: Vec<_> =
        ["models", "slices", "modules"].iter().filter_map(|k| map.given(k)).collect();
    // As in mergekit, an empty list beside another is as good as none.
    let is_empty = |node: &Node| matches!(&node.value, YamlValue::Seq(items) if items.is_empty());
    if given.iter().any(|(_, node)| !is_empty(node)) {
        given.retain(|(_, node)| !is_empty(node));
    }
    match given.as_slice() {
        [] => {
            let remedy = "add 'models' (whole models) or 'slices' (layer ranges)";
            problems.error(map.pos, "neither 'models' nor 'slices' is given", remedy);
            (StackInputs::None, Vec::new())
        }
        [(key, node)] if key.value == "models" => (models(key, node, problems), Vec::new()),
        [(key, node)] if key.value == "slices" => (slices(key, node, problems), Vec::new()),
        [(key, node)] => modules(key, node, problems),
        [(first, _), (key, _), ..] => {
            let message = format!("both '{}' and '{}' are given", first.value, key.value);
            let remedy = "keep one of them: 'models' for whole models, 'slices' for layer ranges";
            problems.error(key.pos, message, remedy);
            (StackInputs::None, Vec::new())
        }
    }
}

fn models(key: &Located<String>, node: &Node, problems: &mut Diagnostics) -> StackInputs {
    let items = list(node, &key.value, "a list of '- model: NAME'", problems);
    if items.is_empty() && matches!(node.value, YamlValue::Seq(_)) {
        problems.error(key.pos, format!("'{}' is empty", key.value), "list the models to merge");
    }
    StackInputs::Models(whole_models(key, items, KEYS_OF_SOURCE, problems))
}

/// A slice without layer ranges: `items` are models, each with `keys` at the most.
pub(crate) fn whole_models(
    key: &Located<String>,
    items: &[Node],
    keys: &'static [&'static str],
    problems: &mut Diagnostics,
) -> Slice {
    let sources = items.iter().filter_map(|item| source(item, keys, problems)).collect();
    Slice { pos: key.pos, sources, base_model: None, parameters: Vec::new() }
}

fn slices(key: &Located<String>, node: &Node, problems: &mut Diagnostics) -> StackInputs {
    let items = list(node, "slices", "a list of '- sources: [...]'", problems);
    if items.is_empty() && matches!(node.value, YamlValue::Seq(_)) {
        problems.error(key.pos, "'slices' is empty", "list the slices of the stack");
    }
    StackInputs::Slices(items.iter().filter_map(|item| slice(item, problems)).collect())
}

/// `modules: {default: {slices or models, parameters}}`. Models of several modules (vision towers and the
/// like) have other names there; the architectures here have one module, which mergekit names `default`
/// (mergekit `architecture/json_definitions.py`).
fn modules(
    key: &Located<String>,
    node: &Node,
    problems: &mut Diagnostics,
) -> (StackInputs, ParamSettings) {
    const NONE: (StackInputs, ParamSettings) = (StackInputs::None, Vec::new());
    let remedy = "write 'modules: {default: {slices: [...]}}', or 'slices' alone";
    let what = "'modules'";
    let Some(map) = Mapping::read(node, what, remedy, &["default"], problems) else { return NONE };
    let Some((name, module)) = map.given("default") else {
        if map.entries.is_empty() {
            problems.error(key.pos, "'modules' is empty", remedy);
        }
        return NONE;
    };
    let keys = &["slices", "models", "parameters"];
    let Some(map) = Mapping::read(module, "a module", remedy, keys, problems) else { return NONE };
    let parameters = settings(map.get("parameters"), problems);
    let inputs = match (map.given("models"), map.given("slices")) {
        (Some((key, node)), None) => models(key, node, problems),
        (None, Some((key, node))) => slices(key, node, problems),
        (Some(_), Some((key, _))) => {
            let remedy = "keep one of them: 'models' for whole models, 'slices' for layer ranges";
            problems.error(key.pos, "both 'models' and 'slices' are given", remedy);
            StackInputs::None
        }
        (None, None) => {
            let message = "the module has neither 'models' nor 'slices'";
            problems.error(name.pos, message, remedy);
            StackInputs::None
        }
    };
    (inputs, parameters)
}

fn slice(node: &Node, problems: &mut Diagnostics) -> Option<Slice> {
    const KEYS: &[&str] = &["sources", "base_model", "parameters", "residual_weight"];
    let remedy = "write '- sources: [{model: NAME, layer_range: [FIRST, END]}]'";
    let map = Mapping::read(node, "a slice", remedy, KEYS, problems)?;
    if let Some((key, _)) = map.given("residual_weight") {
        problems.warn(
            key.pos,
            "'residual_weight' has no effect (nor has it in mergekit)",
            "remove it",
        );
    }
    let Some(sources_node) = map.get("sources") else {
        problems.error(node.pos, "the slice has no 'sources'", remedy);
        return None;
    };
    let items = list(sources_node, "sources", "a list of models with layer ranges", problems);
    if items.is_empty() {
        problems.error(sources_node.pos, "'sources' is empty", remedy);
    }
    Some(Slice {
        pos: node.pos,
        sources: items.iter().filter_map(|item| source(item, KEYS_OF_SOURCE, problems)).collect(),
        base_model: map.get("base_model").and_then(|n| model_ref(n, problems)),
        parameters: settings(map.get("parameters"), problems),
    })
}

const KEYS_OF_SOURCE: &[&str] = &["model", "layer_range", "parameters"];

fn source(
    node: &Node,
    keys: &'static [&'static str],
    problems: &mut Diagnostics,
) -> Option<SourceEntry> {
    let remedy = "write 'model: NAME', with 'parameters' beside it where needed";
    let map = Mapping::read(node, "a source", remedy, keys, problems)?;
    let Some(model_node) = map.get("model") else {
        if map.lacks("model") {
            problems.error(node.pos, "the source has no 'model'", remedy);
        }
        return None;
    };
    Some(SourceEntry {
        pos: node.pos,
        model: model_ref(model_node, problems)?,
        range: map.get("layer_range").map_or(LayerRange::All, |n| layer_range(n, problems)),
        parameters: settings(map.get("parameters"), problems),
    })
}

fn layer_range(node: &Node, problems: &mut Diagnostics) -> LayerRange {
    let ends: Option<Vec<usize>> = match &node.value {
        YamlValue::Seq(items) if items.len() == 2 => items.iter().map(layer_number).collect(),
        _ => None,
    };
    let Some([start, end]) = ends.as_deref() else {
        let message = format!("'layer_range' is {}, not two layer numbers", node.value.describe());
        let remedy = "write [FIRST, END]: layers FIRST up to and without END, counted from 0";
        problems.error(node.pos, message, remedy);
        return LayerRange::Bad;
    };
    LayerRange::Given(Located::new((*start, *end), node.pos))
}

fn layer_number(node: &Node) -> Option<usize> {
    match &node.value {
        YamlValue::Int(n) => usize::try_from(*n).ok(),
        YamlValue::Float(x) if x.fract() == 0.0 && (0.0..1e6).contains(x) => Some(*x as usize),
        YamlValue::Str(s) => s.trim().parse().ok(),
        _ => None,
    }
}
