//! `embeddings`, `final_norm` and `head`: ends of the stack that are merged apart from its slices.
//!
//! A stack takes its embedding from the models of the first slice, final norm and head from those of the
//! last; all other members lose theirs. Each of these keys holds a small merge of its own, with its own
//! method, models, base model and parameters, that is used for the whole stack instead. The peer has no
//! such keys; its authors put slices of zero layers at both ends, which gives the same tensors.
//!
//! An end is read into a [`RecipeDocument`] like a recipe with `models`, so that the checks of recipes are the
//! checks of ends. It takes no parameter and no base model from the recipe around it, whose method may
//! mean something else by them.

use super::diagnostics::Diagnostics;
use super::inputs::{StackInputs, whole_models};
use super::params::ClauseValue;
use super::schema::{Mapping, RecipeDocument, list, model_ref, settings, text};
use super::yaml::{Located, Node, Pos, YamlValue};
use crate::recipe::place::StackPlace;

/// One end and the merge that makes it.
#[derive(Debug)]
pub(crate) struct End {
    pub place: StackPlace,
    /// Its inputs are [`StackInputs::Models`] or nothing.
    pub document: RecipeDocument,
}

const KEYS: [(&str, StackPlace); 3] = [
    ("embeddings", StackPlace::Embedding),
    ("final_norm", StackPlace::FinalNorm),
    ("head", StackPlace::Head),
];

const REMEDY: &str =
    "write '{merge_method: linear, models: [{model: NAME, parameters: {...}}, ...]}'";

/// The ends that a recipe says directly, and where it says `head: tied`.
pub(crate) fn read(map: &Mapping<'_>, problems: &mut Diagnostics) -> (Vec<End>, Option<Pos>) {
    let mut ends = Vec::new();
    let mut tied = None;
    for (name, place) in KEYS {
        let Some((key, node)) = map.given(name) else {
            continue;
        };
        if place == StackPlace::Head && node.value == YamlValue::Str("tied".to_string()) {
            tied = Some(node.pos);
        } else if let Some(document) = merge(key, node, problems) {
            ends.push(End { place, document });
        }
    }
    (ends, tied)
}

fn merge(key: &Located<String>, node: &Node, problems: &mut Diagnostics) -> Option<RecipeDocument> {
    const KEYS: &[&str] = &["merge_method", "models", "sources", "base_model", "parameters"];
    let map = Mapping::read(node, &format!("'{}'", key.value), REMEDY, KEYS, problems)?;
    if map.lacks("merge_method") {
        let message = format!("'{}' has no 'merge_method'", key.value);
        problems.error(key.pos, message, "add 'merge_method: linear', or another method");
    }
    let inputs = match (map.given("models"), map.given("sources")) {
        (Some(_), Some((second, _))) => {
            let message = "both 'models' and 'sources' are given, which mean the same here";
            problems.error(second.pos, message, "keep one of them");
            StackInputs::None
        }
        (Some((models, list)), None) | (None, Some((models, list))) => {
            sources(models, list, problems)
        }
        (None, None) => {
            problems.error(key.pos, format!("'{}' has no 'models'", key.value), REMEDY);
            StackInputs::None
        }
    };
    Some(RecipeDocument {
        pos: key.pos,
        name: None,
        method: map.get("merge_method").and_then(|n| text(n, "merge_method", problems)),
        base_model: map.get("base_model").and_then(|n| model_ref(n, problems)),
        dtype: None,
        out_dtype: None,
        tokenizer: None,
        chat_template: None,
        // Drawn from the recipe's.
        seed: None,
        inputs,
        module_parameters: Vec::new(),
        parameters: settings(map.get("parameters"), problems),
        ends: Vec::new(),
        tied_head: None,
    })
}

fn sources(key: &Located<String>, node: &Node, problems: &mut Diagnostics) -> StackInputs {
    let items = list(node, &key.value, "a list of '- model: NAME'", problems);
    if items.is_empty() && matches!(node.value, YamlValue::Seq(_)) {
        problems.error(key.pos, format!("'{}' is empty", key.value), "list the models to merge");
    }
    StackInputs::Models(whole_models(key, items, &["model", "parameters"], problems))
}

/// Warns of gradients, which have no layers to run over here.
pub(crate) fn warn_of_gradients(end: &End, problems: &mut Diagnostics) {
    let slices = end.document.inputs.slices();
    let sources = slices.iter().flat_map(|slice| &slice.sources).map(|source| &source.parameters);
    let clauses = sources
        .chain([&end.document.parameters])
        .flatten()
        .flat_map(|(_, setting)| &setting.clauses)
        .filter(|clause| matches!(&clause.given, ClauseValue::Numbers(values) if values.len() > 1));
    for clause in clauses {
        let message = "a gradient has no layers to run over here: only its first number counts";
        problems.warn(clause.pos, message, "write that number alone");
    }
}
