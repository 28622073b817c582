//! The dialect: which keys a recipe may have and what their values must be.
//!
//! Turns YAML documents into [`Document`]s, reporting every unknown key and wrong type on the way and
//! carrying on. Whether names, ranges and numbers make sense together is not decided here but in
//! [`super::build`], which knows the members.
//!
//! The dialect is mergekit's (`config.py`, June 2026; multi-document recipes: `scripts/multimerge.py`),
//! except that nothing is dropped silently.

use super::diagnostics::{Diagnostics, nearest};
use super::params::{Clause, Setting, Settings};
use super::reference::ModelRef;
use super::yaml::{At, Kind, Node, Pos};
use crate::dtype::DType;

/// One document: a stage.
#[derive(Debug)]
pub struct Document {
    /// The first key.
    pub pos: Pos,
    pub name: Option<At<String>>,
    pub method: Option<At<String>>,
    pub base_model: Option<At<ModelRef>>,
    pub dtype: Option<At<DType>>,
    pub out_dtype: Option<At<DType>>,
    pub tokenizer_source: Option<TokenizerSource>,
    pub inputs: Inputs,
    pub parameters: Settings,
}

/// Where the tokenizer comes from, if not from the donor of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenizerSource {
    /// `base`: the base model.
    Base(Pos),
    Model(At<ModelRef>),
}

/// What a stage is made of.
#[derive(Debug)]
pub enum Inputs {
    /// `models`: all layers of each.
    Models(Slice),
    Slices(Vec<Slice>),
    /// Missing or unusable, and reported.
    None,
}

/// An output slice: the same number of layers of every source, combined.
#[derive(Debug)]
pub struct Slice {
    pub pos: Pos,
    pub sources: Vec<Source>,
    pub base_model: Option<At<ModelRef>>,
    pub parameters: Settings,
}

#[derive(Clone, Debug)]
pub struct Source {
    pub pos: Pos,
    pub model: At<ModelRef>,
    pub range: Range,
    pub parameters: Settings,
}

/// The layers of a source.
#[derive(Clone, Debug, PartialEq)]
pub enum Range {
    /// First layer and the one after the last.
    Given(At<(usize, usize)>),
    /// No `layer_range`: right in `models`, an error in `slices`.
    All,
    /// Unusable, and reported.
    Bad,
}

const DOCUMENT_KEYS: &[&str] = &[
    "name",
    "merge_method",
    "base_model",
    "models",
    "slices",
    "modules",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
];

/// Reads one document. Always yields something, so that later checks can go on; errors are in
/// `problems`.
pub fn document(node: &Node, problems: &mut Diagnostics) -> Option<Document> {
    let remedy = "a recipe is a mapping with 'merge_method' and 'models' or 'slices'";
    let map = Mapping::read(node, "a recipe", remedy, DOCUMENT_KEYS, problems)?;
    refuse_unsupported(&map, problems);
    let parameters = settings(map.get("parameters"), problems);
    let document = Document {
        pos: node.pos,
        name: map.get("name").and_then(|n| text(n, "name", problems)),
        method: map.get("merge_method").and_then(|n| text(n, "merge_method", problems)),
        base_model: map.get("base_model").and_then(|n| model_ref(n, problems)),
        dtype: map.get("dtype").and_then(|n| dtype(n, problems)),
        out_dtype: map.get("out_dtype").and_then(|n| dtype(n, problems)),
        tokenizer_source: tokenizer_source(&map, problems),
        inputs: inputs(&map, problems),
        parameters,
    };
    if map.get("merge_method").is_none() {
        let remedy = "add 'merge_method: passthrough' (or linear, slerp, task_arithmetic)";
        problems.error(node.pos, "'merge_method' is missing", remedy);
    }
    Some(document)
}

fn refuse_unsupported(map: &Mapping, problems: &mut Diagnostics) {
    if let Some((key, _)) = map.entry("modules") {
        let remedy =
            "text models have one module: write its 'slices' or 'models' at the top instead";
        problems.error(key.pos, "'modules' is not supported yet", remedy);
    }
    if let Some((key, _)) = map.entry("chat_template") {
        let remedy = "remove it: the chat template of the tokenizer's donor is kept as it is";
        problems.error(key.pos, "'chat_template' is not supported yet", remedy);
    }
}

fn inputs(map: &Mapping, problems: &mut Diagnostics) -> Inputs {
    match (map.entry("models"), map.entry("slices")) {
        (Some(_), Some((key, _))) => {
            let remedy = "keep one of them: 'models' for whole models, 'slices' for layer ranges";
            problems.error(key.pos, "both 'models' and 'slices' are given", remedy);
            Inputs::None
        }
        (Some((key, node)), None) => {
            let items = list(node, "models", "a list of '- model: NAME'", problems);
            let sources: Vec<Source> =
                items.iter().filter_map(|item| source(item, false, problems)).collect();
            if sources.is_empty() && items.is_empty() {
                problems.error(key.pos, "'models' is empty", "list the models to merge");
            }
            let slice = Slice { pos: key.pos, sources, base_model: None, parameters: Vec::new() };
            Inputs::Models(slice)
        }
        (None, Some((key, node))) => {
            let items = list(node, "slices", "a list of '- sources: [...]'", problems);
            if items.is_empty() {
                problems.error(key.pos, "'slices' is empty", "list the slices of the stack");
            }
            Inputs::Slices(items.iter().filter_map(|item| slice(item, problems)).collect())
        }
        (None, None) => {
            if map.entry("modules").is_none() {
                let remedy = "add 'models' (whole models) or 'slices' (layer ranges)";
                problems.error(map.pos, "neither 'models' nor 'slices' is given", remedy);
            }
            Inputs::None
        }
    }
}

fn slice(node: &Node, problems: &mut Diagnostics) -> Option<Slice> {
    const KEYS: &[&str] = &["sources", "base_model", "parameters", "residual_weight"];
    let remedy = "write '- sources: [{model: NAME, layer_range: [FIRST, END]}]'";
    let map = Mapping::read(node, "a slice", remedy, KEYS, problems)?;
    if let Some((key, _)) = map.entry("residual_weight") {
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
        sources: items.iter().filter_map(|item| source(item, true, problems)).collect(),
        base_model: map.get("base_model").and_then(|n| model_ref(n, problems)),
        parameters: settings(map.get("parameters"), problems),
    })
}

fn source(node: &Node, in_slice: bool, problems: &mut Diagnostics) -> Option<Source> {
    const IN_SLICE: &[&str] = &["model", "layer_range", "parameters"];
    const IN_MODELS: &[&str] = &["model", "parameters"];
    let keys = if in_slice { IN_SLICE } else { IN_MODELS };
    let remedy = "write 'model: NAME', with 'parameters' beside it where needed";
    let map = Mapping::read(node, "a source", remedy, keys, problems)?;
    let Some(model_node) = map.get("model") else {
        problems.error(node.pos, "the source has no 'model'", remedy);
        return None;
    };
    Some(Source {
        pos: node.pos,
        model: model_ref(model_node, problems)?,
        range: map.get("layer_range").map_or(Range::All, |n| layer_range(n, problems)),
        parameters: settings(map.get("parameters"), problems),
    })
}

fn layer_range(node: &Node, problems: &mut Diagnostics) -> Range {
    let ends: Option<Vec<usize>> = match &node.value {
        Kind::Seq(items) if items.len() == 2 => items.iter().map(layer_number).collect(),
        _ => None,
    };
    let Some([start, end]) = ends.as_deref() else {
        let message = format!("'layer_range' is {}, not two layer numbers", node.value.describe());
        let remedy = "write [FIRST, END]: layers FIRST up to and without END, counted from 0";
        problems.error(node.pos, message, remedy);
        return Range::Bad;
    };
    Range::Given(At::new((*start, *end), node.pos))
}

fn layer_number(node: &Node) -> Option<usize> {
    match &node.value {
        Kind::Int(n) => usize::try_from(*n).ok(),
        Kind::Float(x) if x.fract() == 0.0 && (0.0..1e6).contains(x) => Some(*x as usize),
        Kind::Str(s) => s.trim().parse().ok(),
        _ => None,
    }
}

fn tokenizer_source(map: &Mapping, problems: &mut Diagnostics) -> Option<TokenizerSource> {
    if let (Some((key, _)), Some(_)) = (map.entry("tokenizer"), map.entry("tokenizer_source")) {
        let remedy = "keep one of them";
        problems.error(key.pos, "both 'tokenizer' and 'tokenizer_source' are given", remedy);
        return None;
    }
    if let Some(node) = map.get("tokenizer_source") {
        return tokenizer_name(node, problems);
    }
    let node = map.get("tokenizer")?;
    const KEYS: &[&str] = &["source", "tokens", "pad_to_multiple_of"];
    let remedy = "write 'tokenizer: {source: base}' or name a model";
    let inner = Mapping::read(node, "'tokenizer'", remedy, KEYS, problems)?;
    for unsupported in ["tokens", "pad_to_multiple_of"] {
        if let Some((key, _)) = inner.entry(unsupported) {
            let message = format!("'tokenizer: {unsupported}' is not supported yet");
            problems.error(key.pos, message, "remove it: the vocabulary is taken over unchanged");
        }
    }
    tokenizer_name(inner.get("source")?, problems)
}

fn tokenizer_name(node: &Node, problems: &mut Diagnostics) -> Option<TokenizerSource> {
    match &node.value {
        Kind::Str(s) if s == "union" => {
            let remedy = "use 'base' or name the model whose tokenizer the result shall have";
            problems.error(node.pos, "the union of vocabularies is not supported yet", remedy);
            None
        }
        Kind::Str(s) if s == "base" => Some(TokenizerSource::Base(node.pos)),
        _ => model_ref(node, problems).map(TokenizerSource::Model),
    }
}

/// The text of a scalar: numbers and booleans are taken as they are spelled, for a stage may be called 7.
fn scalar_text(kind: &Kind) -> Option<String> {
    match kind {
        Kind::Str(s) => Some(s.clone()),
        Kind::Int(n) => Some(n.to_string()),
        Kind::Float(x) => Some(x.to_string()),
        Kind::Bool(b) => Some(b.to_string()),
        _ => None,
    }
}

fn text(node: &Node, key: &str, problems: &mut Diagnostics) -> Option<At<String>> {
    match scalar_text(&node.value) {
        Some(text) if !text.trim().is_empty() => Some(At::new(text.trim().to_string(), node.pos)),
        _ => {
            let message = format!("'{key}' is {}, not a name", node.value.describe());
            problems.error(node.pos, message, format!("write '{key}: NAME'"));
            None
        }
    }
}

fn model_ref(node: &Node, problems: &mut Diagnostics) -> Option<At<ModelRef>> {
    let remedy = "write a folder or a name such as 'org/model', or {model: {path: ...}}";
    if !matches!(node.value, Kind::Map(_)) {
        return short_ref(node, remedy, problems).map(|model| At::new(model, node.pos));
    }
    let keys = &["model", "lora", "override_architecture"];
    let map = Mapping::read(node, "a model reference", remedy, keys, problems)?;
    if let Some((key, value)) = map.entry("override_architecture")
        && value.value != Kind::Null
    {
        let message = "'override_architecture' in a model reference is not supported";
        problems.error(key.pos, message, "set 'architectures' in the model's config.json");
    }
    let mut model = located(map.get("model")?, remedy, problems)?;
    if let Some(adapter) = map.get("lora").filter(|adapter| adapter.value != Kind::Null) {
        let remedy = "write 'lora: FOLDER' or 'lora: {path: ...}'";
        let lora = located(adapter, remedy, problems)?;
        if model.lora.is_some() || lora.lora.is_some() {
            let message = "more than one adapter for a model";
            problems.error(adapter.pos, message, "merge one of them in a stage of its own");
            return None;
        }
        model.lora = Some(Box::new(lora));
    }
    Some(At::new(model, node.pos))
}

/// A path and a revision, in the short form or as a mapping.
fn located(node: &Node, remedy: &str, problems: &mut Diagnostics) -> Option<ModelRef> {
    if !matches!(node.value, Kind::Map(_)) {
        return short_ref(node, remedy, problems);
    }
    let map = Mapping::read(node, "a model reference", remedy, &["path", "revision"], problems)?;
    let path = map.get("path").and_then(|n| text(n, "path", problems))?;
    let revision = map.get("revision").and_then(|n| scalar_text(&n.value));
    Some(ModelRef::new(path.value, revision))
}

fn short_ref(node: &Node, remedy: &str, problems: &mut Diagnostics) -> Option<ModelRef> {
    match ModelRef::parse(&scalar_text(&node.value).unwrap_or_default()) {
        Ok(model) => Some(model),
        Err(message) => {
            problems.error(node.pos, message, remedy);
            None
        }
    }
}

/// PyTorch's names, as in recipes and config.json.
fn dtype(node: &Node, problems: &mut Diagnostics) -> Option<At<DType>> {
    let name = scalar_text(&node.value).unwrap_or_default();
    let dtype = match name.strip_prefix("torch.").unwrap_or(&name) {
        "float32" => Some(DType::F32),
        "float16" => Some(DType::F16),
        "bfloat16" => Some(DType::BF16),
        _ => None,
    };
    if dtype.is_none() {
        let message = format!("unknown dtype: {}", node.value.describe());
        problems.error(node.pos, message, "use float32, float16 or bfloat16");
    }
    dtype.map(|dtype| At::new(dtype, node.pos))
}

fn settings(node: Option<&Node>, problems: &mut Diagnostics) -> Settings {
    let Some(node) = node else { return Vec::new() };
    let Kind::Map(entries) = &node.value else {
        let message = format!("'parameters' is {}, not a mapping", node.value.describe());
        problems.error(node.pos, message, "write 'parameters: {weight: 0.5}'");
        return Vec::new();
    };
    let mut settings = Settings::new();
    for (key, value) in last_of_each(entries, problems) {
        if let Some(setting) = setting(&key.value, value, problems) {
            settings.push((key.clone(), setting));
        }
    }
    settings
}

/// A scalar, a gradient, a clause, or a list of clauses.
fn setting(name: &str, node: &Node, problems: &mut Diagnostics) -> Option<Setting> {
    let clauses = match &node.value {
        Kind::Map(_) => vec![clause(name, node, problems)?],
        Kind::Seq(items) if items.iter().any(|item| matches!(item.value, Kind::Map(_))) => {
            let clauses: Vec<_> =
                items.iter().filter_map(|item| clause(name, item, problems)).collect();
            if clauses.len() != items.len() {
                return None;
            }
            clauses
        }
        _ => vec![Clause { pos: node.pos, filter: None, values: numbers(name, node, problems)? }],
    };
    Some(Setting { pos: node.pos, clauses })
}

fn clause(name: &str, node: &Node, problems: &mut Diagnostics) -> Option<Clause> {
    let remedy = "write '{filter: mlp, value: 0.5}', or '{value: 0.5}' for all other tensors";
    let what = format!("an entry of '{name}'");
    let map = Mapping::read(node, &what, remedy, &["filter", "value"], problems)?;
    let Some(value) = map.get("value") else {
        problems.error(node.pos, format!("{what} has no 'value'"), remedy);
        return None;
    };
    let filter = map.get("filter").and_then(|n| scalar_text(&n.value)).filter(|f| f != "*");
    Some(Clause { pos: node.pos, filter, values: numbers(name, value, problems)? })
}

fn numbers(name: &str, node: &Node, problems: &mut Diagnostics) -> Option<Vec<f64>> {
    let items = match &node.value {
        Kind::Seq(items) => items.as_slice(),
        _ => std::slice::from_ref(node),
    };
    if items.is_empty() {
        problems.error(node.pos, format!("'{name}' is an empty list"), "give one number or more");
        return None;
    }
    let mut values = Vec::with_capacity(items.len());
    for item in items {
        match number(&item.value) {
            Some(x) => values.push(x),
            None => {
                let message = format!("'{name}' is {}, not a number", item.value.describe());
                let remedy = "give a finite number, a list of numbers (a gradient over the layers), \
                              or a list of {filter, value}";
                problems.error(item.pos, message, remedy);
            }
        }
    }
    (values.len() == items.len()).then_some(values)
}

/// Numbers may be quoted; flags are 0 and 1, and YAML 1.1, in which recipes in the wild are written, has
/// `yes` and `on` for true.
fn number(kind: &Kind) -> Option<f64> {
    let value = match kind {
        Kind::Bool(b) => f64::from(u8::from(*b)),
        Kind::Int(n) => *n as f64,
        Kind::Float(x) => *x,
        Kind::Str(s) => match s.trim() {
            "yes" | "Yes" | "YES" | "on" | "On" | "ON" => 1.0,
            "no" | "No" | "NO" | "off" | "Off" | "OFF" => 0.0,
            text => text.parse().ok()?,
        },
        _ => return None,
    };
    value.is_finite().then_some(value)
}

fn list<'a>(node: &'a Node, key: &str, shape: &str, problems: &mut Diagnostics) -> &'a [Node] {
    match &node.value {
        Kind::Seq(items) => items,
        other => {
            let message = format!("'{key}' is {}, not a list", other.describe());
            problems.error(node.pos, message, format!("write {shape}"));
            &[]
        }
    }
}

/// Of each key the last entry, as the peer's YAML library has it, with a warning for the others.
fn last_of_each<'a>(
    entries: &'a [(At<String>, Node)],
    problems: &mut Diagnostics,
) -> Vec<&'a (At<String>, Node)> {
    let mut kept: Vec<&(At<String>, Node)> = Vec::with_capacity(entries.len());
    for entry in entries {
        let Some(earlier) = kept.iter_mut().find(|e| e.0.value == entry.0.value) else {
            kept.push(entry);
            continue;
        };
        let message = format!(
            "'{}' is given twice; the one at line {} counts, this one is ignored",
            entry.0.value, entry.0.pos.line
        );
        problems.warn(earlier.0.pos, message, "remove one of them");
        *earlier = entry;
    }
    kept
}

/// A mapping whose keys have been checked.
struct Mapping<'a> {
    pos: Pos,
    entries: Vec<&'a (At<String>, Node)>,
}

impl<'a> Mapping<'a> {
    fn read(
        node: &'a Node,
        what: &str,
        remedy: &str,
        known: &[&str],
        problems: &mut Diagnostics,
    ) -> Option<Mapping<'a>> {
        let Kind::Map(entries) = &node.value else {
            problems.error(node.pos, format!("{what} is {}", node.value.describe()), remedy);
            return None;
        };
        let entries = last_of_each(entries, problems);
        for (key, _) in &entries {
            if !known.contains(&key.value.as_str()) {
                let message = format!("unknown key '{}' in {what}", key.value);
                let remedy = match nearest(&key.value, known.iter().copied()) {
                    Some(near) => format!("did you mean '{near}'?"),
                    None => format!("known keys are {}", known.join(", ")),
                };
                problems.error(key.pos, message, remedy);
            }
        }
        Some(Mapping { pos: node.pos, entries })
    }

    fn entry(&self, name: &str) -> Option<(&'a At<String>, &'a Node)> {
        let found = self.entries.iter().find(|(key, _)| key.value == name);
        found.map(|(key, node)| (key, node))
    }

    /// The value of `name`; one that is null counts as missing.
    fn get(&self, name: &str) -> Option<&'a Node> {
        self.entry(name).map(|(_, node)| node).filter(|node| node.value != Kind::Null)
    }
}
