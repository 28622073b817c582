//! The dialect: which keys a recipe may have and what their values must be.
//!
//! Turns YAML documents into [`RecipeDocument`]s, reporting every unknown key and wrong type on the way and
//! carrying on. Whether names, ranges and numbers make sense together is not decided here but in
//! [`crate::recipe::plan::stage`], which knows the members.
//!
//! The dialect is mergekit's (`config.py`, June 2026; multi-document recipes: `scripts/multimerge.py`),
//! except that nothing is dropped silently.

use super::diagnostics::Diagnostics;
use super::ends::{self, End};
use super::inputs;
pub(crate) use super::inputs::{LayerRange, Slice, SourceEntry, StackInputs};
use super::mergekit_keys;
use super::model_ref::ModelRef;
use super::params::{ClauseValue, ParamClause, ParamSetting, ParamSettings};
use super::tokenizer::{self, ChatTemplateChoice, TokenizerSpec};
use super::yaml::{self, Located, Node, Pos, YamlValue};
use crate::base::dtype::DType;
use crate::base::spelling::nearest;

/// One document: a stage.
#[derive(Debug)]
pub(crate) struct RecipeDocument {
    /// The first key.
    pub pos: Pos,
    pub name: Option<Located<String>>,
    pub method: Option<Located<String>>,
    pub base_model: Option<Located<ModelRef>>,
    pub dtype: Option<Located<DType>>,
    pub out_dtype: Option<Located<DType>>,
    pub tokenizer: Option<TokenizerSpec>,
    pub chat_template: Option<Located<ChatTemplateChoice>>,
    /// What random methods draw from.
    pub seed: Option<Seed>,
    pub inputs: StackInputs,
    /// Of the module, between those of a slice and the recipe's.
    pub module_parameters: ParamSettings,
    pub parameters: ParamSettings,
    /// Ends of the stack that are merged apart from the slices.
    pub ends: Vec<End>,
    /// `head: tied`: the embedding is the head too.
    pub tied_head: Option<Pos>,
}

/// A seed, and who gives it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seed {
    /// The recipe, at this place.
    Recipe(Located<u64>),
    /// The command line.
    Option(u64),
}

impl Seed {
    pub(crate) fn value(&self) -> u64 {
        match self {
            Seed::Recipe(seed) => seed.value,
            Seed::Option(seed) => *seed,
        }
    }
}

const DOCUMENT_KEYS: &[&str] = &[
    "name",
    "merge_method",
    "base_model",
    "models",
    "slices",
    "modules",
    "embeddings",
    "final_norm",
    "head",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
    "seed",
    "random_seed",
];

/// Reads one document. Always yields something, so that later checks can go on; errors are in
/// `problems`.
pub(crate) fn document(
    node: &Node,
    text: &str,
    problems: &mut Diagnostics,
) -> Option<RecipeDocument> {
    let remedy = "a recipe is a mapping with 'merge_method' and 'models' or 'slices'";
    let node = &mergekit_keys::without(&without_anchor_holders(node, text), problems);
    let map = Mapping::read(node, "a recipe", remedy, DOCUMENT_KEYS, problems)?;
    let parameters = settings(map.get("parameters"), problems);
    let (inputs, module_parameters) = inputs::read(&map, problems);
    let (ends, tied_head) = ends::read(&map, problems);
    let document = RecipeDocument {
        pos: node.pos,
        name: map.get("name").and_then(|n| self::text(n, "name", problems)),
        method: map.get("merge_method").and_then(|n| self::text(n, "merge_method", problems)),
        base_model: map.get("base_model").and_then(|n| model_ref(n, problems)),
        dtype: map.get("dtype").and_then(|n| dtype(n, problems)),
        out_dtype: map.get("out_dtype").and_then(|n| dtype(n, problems)),
        tokenizer: tokenizer::tokenizer(&map, problems),
        chat_template: tokenizer::chat_template(&map, problems),
        seed: seed(&map, problems),
        inputs,
        module_parameters,
        parameters,
        ends,
        tied_head,
    };
    if map.lacks("merge_method") {
        let remedy = "add 'merge_method: passthrough' (or linear, slerp, task_arithmetic)";
        problems.error(node.pos, "'merge_method' is missing", remedy);
    }
    Some(document)
}

/// `node` without entries that only hold something for aliases to repeat (`factor: &factor 0.7`), as many
/// recipes have them under names of their own, often one name again and again.
fn without_anchor_holders(node: &Node, text: &str) -> Node {
    let YamlValue::Map(entries) = &node.value else { return node.clone() };
    let holds = |key: &Located<String>| {
        let known = DOCUMENT_KEYS.contains(&key.value.as_str());
        !known
            && !mergekit_keys::keys().any(|own| own == key.value)
            && yaml::is_anchored(text, key.pos)
    };
    let kept = entries.iter().filter(|(key, _)| !holds(key)).cloned().collect();
    Node::new(YamlValue::Map(kept), node.pos)
}

/// The text of a scalar: numbers and booleans are taken as they are spelled, for a stage may be called 7.
pub(crate) fn scalar_text(kind: &YamlValue) -> Option<String> {
    match kind {
        YamlValue::Str(s) => Some(s.clone()),
        YamlValue::Int(n) => Some(n.to_string()),
        YamlValue::Float(x) => Some(x.to_string()),
        YamlValue::Bool(b) => Some(b.to_string()),
        _ => None,
    }
}

pub(crate) fn text(node: &Node, key: &str, problems: &mut Diagnostics) -> Option<Located<String>> {
    match scalar_text(&node.value) {
        Some(text) if !text.trim().is_empty() => {
            Some(Located::new(text.trim().to_string(), node.pos))
        }
        _ => {
            let message = format!("'{key}' is {}, not a name", node.value.describe());
            problems.error(node.pos, message, format!("write '{key}: NAME'"));
            None
        }
    }
}

pub(crate) fn model_ref(node: &Node, problems: &mut Diagnostics) -> Option<Located<ModelRef>> {
    let remedy = "write a folder or a name such as 'org/model', or {model: {path: ...}}";
    if !matches!(node.value, YamlValue::Map(_)) {
        return short_ref(node, remedy, problems).map(|model| Located::new(model, node.pos));
    }
    let keys = &["model", "lora", "override_architecture"];
    let map = Mapping::read(node, "a model reference", remedy, keys, problems)?;
    if let Some((key, _)) = map.given("override_architecture") {
        let message = "'override_architecture' in a model reference is not supported";
        problems.error(key.pos, message, "set 'architectures' in the model's config.json");
    }
    let mut model = located(map.get("model")?, remedy, problems)?;
    if let Some(adapter) = map.get("lora").filter(|adapter| adapter.value != YamlValue::Null) {
        let remedy = "write 'lora: FOLDER' or 'lora: {path: ...}'";
        let lora = located(adapter, remedy, problems)?;
        if model.lora.is_some() || lora.lora.is_some() {
            let message = "more than one adapter for a model";
            problems.error(adapter.pos, message, "merge one of them in a stage of its own");
            return None;
        }
        model.lora = Some(Box::new(lora));
    }
    Some(Located::new(model, node.pos))
}

/// A path and a revision, in the short form or as a mapping.
fn located(node: &Node, remedy: &str, problems: &mut Diagnostics) -> Option<ModelRef> {
    if !matches!(node.value, YamlValue::Map(_)) {
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

/// `seed`, or mergekit's `random_seed`.
fn seed(map: &Mapping<'_>, problems: &mut Diagnostics) -> Option<Seed> {
    let mut read = |key: &str| number_from_0(key, map.get(key)?, problems);
    let (own, other) = (read("seed"), read("random_seed"));
    if let (Some(own), Some(other)) = (own, other)
        && own.value != other.value
    {
        let message =
            format!("'random_seed' is {} and 'seed' {}, which counts", other.value, own.value);
        problems.warn(other.pos, message, "remove one of them");
    }
    own.or(other).map(Seed::Recipe)
}

fn number_from_0(key: &str, node: &Node, problems: &mut Diagnostics) -> Option<Located<u64>> {
    let seed = match &node.value {
        YamlValue::Int(n) => u64::try_from(*n).ok(),
        YamlValue::Str(text) => text.trim().parse().ok(),
        _ => None,
    };
    if seed.is_none() {
        let message = format!("'{key}' is {}, not a whole number", node.value.describe());
        problems.error(node.pos, message, format!("write a number from 0 on, as '{key}: 42'"));
    }
    seed.map(|seed| Located::new(seed, node.pos))
}

/// PyTorch's names, as in recipes and config.json.
fn dtype(node: &Node, problems: &mut Diagnostics) -> Option<Located<DType>> {
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
    dtype.map(|dtype| Located::new(dtype, node.pos))
}

pub(crate) fn settings(node: Option<&Node>, problems: &mut Diagnostics) -> ParamSettings {
    let Some(node) = node else { return Vec::new() };
    let YamlValue::Map(entries) = &node.value else {
        let message = format!("'parameters' is {}, not a mapping", node.value.describe());
        problems.error(node.pos, message, "write 'parameters: {weight: 0.5}'");
        return Vec::new();
    };
    let mut settings = ParamSettings::new();
    for (key, value) in last_of_each(entries, problems) {
        let clauses = clauses(&key.value, value, problems).unwrap_or_default();
        settings.push((key.clone(), ParamSetting { pos: value.pos, clauses }));
    }
    settings
}

/// A scalar, a gradient, a clause, or a list of clauses.
fn clauses(name: &str, node: &Node, problems: &mut Diagnostics) -> Option<Vec<ParamClause>> {
    Some(match &node.value {
        YamlValue::Map(_) => vec![clause(name, node, problems)?],
        YamlValue::Seq(items)
            if items.iter().any(|item| matches!(item.value, YamlValue::Map(_))) =>
        {
            let clauses: Vec<_> =
                items.iter().filter_map(|item| clause(name, item, problems)).collect();
            if clauses.len() != items.len() {
                return None;
            }
            clauses
        }
        _ => vec![ParamClause { pos: node.pos, filter: None, given: given(name, node, problems)? }],
    })
}

fn clause(name: &str, node: &Node, problems: &mut Diagnostics) -> Option<ParamClause> {
    let remedy = "write '{filter: mlp, value: 0.5}', or '{value: 0.5}' for all other tensors";
    let what = format!("an entry of '{name}'");
    let map = Mapping::read(node, &what, remedy, &["filter", "value"], problems)?;
    let Some(value) = map.get("value") else {
        problems.error(node.pos, format!("{what} has no 'value'"), remedy);
        return None;
    };
    let filter = map.get("filter").and_then(|n| scalar_text(&n.value)).filter(|f| f != "*");
    Some(ParamClause { pos: node.pos, filter, given: given(name, value, problems)? })
}

/// Numbers, or a single text that is none: whether that means something, the method decides.
fn given(name: &str, node: &Node, problems: &mut Diagnostics) -> Option<ClauseValue> {
    match &node.value {
        YamlValue::Str(text) if number(&node.value).is_none() => {
            Some(ClauseValue::Word(text.trim().to_string()))
        }
        _ => numbers(name, node, problems).map(ClauseValue::Numbers),
    }
}

/// What to write where numbers are due.
pub(crate) const NUMBERS: &str = "give a finite number, a list of numbers (a gradient over the \
                                  layers), or a list of {filter, value}";

fn numbers(name: &str, node: &Node, problems: &mut Diagnostics) -> Option<Vec<f64>> {
    let items = match &node.value {
        YamlValue::Seq(items) => items.as_slice(),
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
                problems.error(item.pos, message, NUMBERS);
            }
        }
    }
    (values.len() == items.len()).then_some(values)
}

/// Numbers may be quoted; flags are 0 and 1, and YAML 1.1, in which recipes in the wild are written, has
/// `yes` and `on` for true.
fn number(kind: &YamlValue) -> Option<f64> {
    let value = match kind {
        YamlValue::Bool(b) => f64::from(u8::from(*b)),
        YamlValue::Int(n) => *n as f64,
        YamlValue::Float(x) => *x,
        YamlValue::Str(s) => match s.trim() {
            "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => 1.0,
            "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => 0.0,
            text => text.parse().ok()?,
        },
        _ => return None,
    };
    value.is_finite().then_some(value)
}

pub(crate) fn list<'a>(
    node: &'a Node,
    key: &str,
    shape: &str,
    problems: &mut Diagnostics,
) -> &'a [Node] {
    match &node.value {
        YamlValue::Seq(items) => items,
        other => {
            let message = format!("'{key}' is {}, not a list", other.describe());
            problems.error(node.pos, message, format!("write {shape}"));
            &[]
        }
    }
}

/// Of each key the last entry, as mergekit's YAML library takes it, with a warning for the others.
pub(crate) fn last_of_each<'a>(
    entries: &'a [(Located<String>, Node)],
    problems: &mut Diagnostics,
) -> Vec<&'a (Located<String>, Node)> {
    let mut kept: Vec<&(Located<String>, Node)> = Vec::with_capacity(entries.len());
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
pub(crate) struct Mapping<'a> {
    pub pos: Pos,
    pub entries: Vec<&'a (Located<String>, Node)>,
    /// The keys that it may have.
    known: &'static [&'static str],
}

impl<'a> Mapping<'a> {
    pub(crate) fn read(
        node: &'a Node,
        what: &str,
        remedy: &str,
        known: &'static [&'static str],
        problems: &mut Diagnostics,
    ) -> Option<Mapping<'a>> {
        let YamlValue::Map(entries) = &node.value else {
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
        Some(Mapping { pos: node.pos, entries, known })
    }

    /// Key and value of `name`; one that is null counts as missing, as in mergekit.
    pub(crate) fn given(&self, name: &str) -> Option<(&'a Located<String>, &'a Node)> {
        let mut entries = self.entries.iter().map(|(key, node)| (key, node));
        entries.find(|(key, node)| key.value == name && node.value != YamlValue::Null)
    }

    /// Whether there is no `name`, nor a key that was reported as a slip for it.
    pub(crate) fn lacks(&self, name: &str) -> bool {
        let slip = |key: &Located<String>| {
            !self.known.contains(&key.value.as_str())
                && nearest(&key.value, self.known.iter().copied()) == Some(name)
        };
        self.get(name).is_none() && !self.entries.iter().any(|(key, _)| slip(key))
    }

    /// The value of `name`; one that is null counts as missing.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Node> {
        self.given(name).map(|(_, node)| node)
    }
}
