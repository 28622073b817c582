//! The configuration of a stage's result.

use super::donors::Donors;
use super::merge_plan::TensorPlan;
use super::models::Models;
use super::side_files::take_token_ids;
use crate::base::dtype::DType;
use crate::base::error::Result;
use crate::formats::checkpoint::Config;
use crate::formats::source::TensorInfo;
use crate::model::arch::{Settings, reconcile, set_spellings};
use crate::recipe::place::StackPlace;
use crate::recipe::syntax::diagnostics::Diagnostics;
use serde_json::Value;

/// Returns PyTorch's name of a float type, as used in config.json and recipes.
pub fn torch_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    }
}

/// The properties of the merged model that config.json describes.
pub(super) struct MergeOutcome<'a> {
    pub tensors: &'a [(TensorInfo, TensorPlan)],
    pub layers: usize,
    /// Whether the head is tied to the embedding.
    pub tied: bool,
    /// Rows of the embedding, if the recipe sets the tokenizer.
    pub rows: Option<usize>,
}

/// Makes the configuration of the result: the donor's, with the number of layers, element type, tied
/// head, vocabulary and lists with one entry per layer of the result. The class and constants such as
/// `sliding_window` stay the donor's. Contradictory keys are reconciled.
pub(super) fn make(
    models: &Models<'_>,
    donors: &Donors,
    outcome: &MergeOutcome<'_>,
    problems: &mut Diagnostics,
) -> Config {
    let mut config = models.view(donors.config.0).config.clone();
    layer_lists(models, donors, outcome, &mut config, problems);
    windows(models, donors, outcome, &mut config);
    config.set("num_hidden_layers", outcome.layers);
    // This is the donor's name.
    config.remove("_name_or_path");
    if let Some((embedding, _)) = outcome.tensors.first() {
        set_spellings(&mut config, "torch_dtype", torch_name(embedding.dtype));
    }
    if config.bool("tie_word_embeddings").unwrap_or(models.view(donors.config.0).arch.defaults.tied)
        != outcome.tied
    {
        config.set("tie_word_embeddings", outcome.tied);
    }
    if let Some(rows) = outcome.rows {
        config.set("vocab_size", rows);
        if donors.tokenizer.0 != donors.config.0 {
            take_token_ids(&mut config, models.view(donors.tokenizer.0).config);
        }
    }
    if let Err(e) = name_class(&mut config).and_then(|()| reconcile(&mut config)) {
        problems.error(donors.config_pos, e.to_string(), "correct its config.json");
    }
    config
}

/// Writes `architectures` if it is missing, for programs that read no other key.
fn name_class(config: &mut Config) -> Result<()> {
    if config.get("architectures").is_none() {
        let class = Settings::of(config)?.class();
        config.set("architectures", vec![class]);
    }
    Ok(())
}

/// Writes `layer_types`, which says which layers have windowed attention, unless readers would assume
/// the same without it. A layer keeps the window it was trained with.
fn windows(models: &Models<'_>, donors: &Donors, outcome: &MergeOutcome<'_>, config: &mut Config) {
    let view = models.view(donors.config.0);
    if view.hyper.windowed.is_empty() || config.map().contains_key("layer_types") {
        return;
    }
    let mut windowed = vec![None; outcome.layers];
    for (_, plan) in outcome.tensors {
        if let (StackPlace::Layer(out), Some(input)) = (plan.place, plan.inputs.first())
            && let Some(layer) = input.layer
        {
            windowed[out].get_or_insert(models.view(input.from).hyper.is_windowed(layer));
        }
    }
    let expected = |layer: usize| view.arch.windowed_by_default(layer);
    let pattern = config.get("sliding_window_pattern").is_some();
    if pattern
        || windowed
            .iter()
            .enumerate()
            .any(|(layer, &is)| is.is_some_and(|is| is != expected(layer)))
    {
        let kind = |is: &Option<bool>| match is {
            Some(false) => "full_attention",
            _ => "sliding_attention",
        };
        config.set("layer_types", windowed.iter().map(kind).collect::<Vec<_>>());
    }
}

/// Keys of transformers' configurations whose lists have an entry for each layer.
const LAYER_LISTS: &[&str] = &[
    "layer_types",
    "layers_block_type",
    "mlp_layer_types",
    "no_rope_layers",
    "attention_layers",
    "sliding_window_layers",
];

/// Whether the list `key` has other entries than layers, although their number may be the same.
fn is_other_list(key: &str) -> bool {
    matches!(key, "architectures" | "suppress_tokens" | "begin_suppress_tokens")
        || ["_token_id", "_token_ids", "_tokens"].iter().any(|end| key.ends_with(end))
}

/// The list `key` of `config`, if it has an entry for each of its `layers` layers. A list under an
/// unknown key counts if it is as long, unless there is only one layer.
fn layer_list<'c>(config: &'c Config, key: &str, layers: usize) -> Option<&'c Vec<Value>> {
    let known = LAYER_LISTS.contains(&key);
    let list = config.get(key)?.as_array()?;
    (list.len() == layers && (known || (layers > 1 && !is_other_list(key)))).then_some(list)
}

/// Rearranges every list that has an entry for each layer: an output layer gets the entry of the first
/// model it is made of. If a model has no such list, the key is removed.
fn layer_lists(
    models: &Models<'_>,
    donors: &Donors,
    outcome: &MergeOutcome<'_>,
    config: &mut Config,
    problems: &mut Diagnostics,
) {
    let view = models.view(donors.config.0);
    let lists = |(key, _): (&String, &Value)| {
        layer_list(view.config, key, view.hyper.n_layer).map(|_| key.clone())
    };
    let keys: Vec<String> = view.config.map().iter().filter_map(lists).collect();
    for key in keys {
        match output_entries(models, &key, outcome) {
            Ok(list) => config.set(&key, list),
            Err(label) => {
                config.remove(&key);
                let message = format!(
                    "'{key}' of config.json has an entry for each layer, but model '{label}' has no \
                     such list; it is removed"
                );
                let remedy = "add the list to that model's config.json, or name a model without it as 'base_model'";
                problems.warn(donors.config_pos, message, remedy);
            }
        }
    }
}

/// The entries of all output layers, or the label of the model that has none.
fn output_entries(
    models: &Models<'_>,
    key: &str,
    outcome: &MergeOutcome<'_>,
) -> std::result::Result<Vec<Value>, String> {
    let mut entries = vec![Value::Null; outcome.layers];
    for (_, plan) in outcome.tensors {
        let (StackPlace::Layer(out), Some(input)) = (plan.place, plan.inputs.first()) else {
            continue;
        };
        let view = models.view(input.from);
        let list = layer_list(view.config, key, view.hyper.n_layer);
        let entry = list.and_then(|list| list.get(input.layer?));
        entries[out] = entry.ok_or_else(|| models.label(input.from))?.clone();
    }
    Ok(entries)
}
