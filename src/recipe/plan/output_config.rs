//! The configuration of a stage's result.

use super::donors::Donors;
use super::merge_plan::{Place, TensorPlan};
use super::planner::Planner;
use super::side_files::take_token_ids;
use crate::base::dtype::DType;
use crate::base::error::Result;
use crate::formats::checkpoint::Config;
use crate::formats::source::TensorInfo;
use crate::model::arch::{Settings, reconcile, set_spellings};
use serde_json::Value;

/// PyTorch's name of a float type, as config.json and recipes have it.
pub fn torch_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    }
}

/// What the merge made of the model, as far as config.json tells it.
pub(crate) struct Outcome<'a> {
    pub tensors: &'a [(TensorInfo, TensorPlan)],
    pub layers: usize,
    pub tied: bool,
    /// Rows of the embedding, if the recipe says something of the tokenizer.
    pub vocabulary: Option<usize>,
}

/// The donor's configuration with what the merge changed: number of layers, element type, tied head,
/// vocabulary, and lists that have an entry for each layer. The architecture's class stays the donor's,
/// and with it constants such as `sliding_window`. Keys that contradict each other get the value that counts.
pub(crate) fn make(planner: &mut Planner<'_>, donors: &Donors, outcome: &Outcome<'_>) -> Config {
    let mut config = planner.view(donors.config.0).config.clone();
    layer_lists(planner, donors, outcome, &mut config);
    windows(planner, donors, outcome, &mut config);
    config.set("num_hidden_layers", outcome.layers);
    // The donor's name is not the merge's.
    config.remove("_name_or_path");
    if let Some((embedding, _)) = outcome.tensors.first() {
        set_spellings(&mut config, "torch_dtype", torch_name(embedding.dtype));
    }
    if config
        .bool("tie_word_embeddings")
        .unwrap_or(planner.view(donors.config.0).arch.defaults.tied)
        != outcome.tied
    {
        config.set("tie_word_embeddings", outcome.tied);
    }
    if let Some(rows) = outcome.vocabulary {
        config.set("vocab_size", rows);
        if donors.tokenizer.0 != donors.config.0 {
            take_token_ids(&mut config, planner.view(donors.tokenizer.0).config);
        }
    }
    if let Err(e) = name_class(&mut config).and_then(|()| reconcile(&mut config)) {
        planner.problems.error(donors.config_pos, e.to_string(), "mend its config.json");
    }
    config
}

/// Writes `architectures` where it is left out, for programs that go by it alone.
fn name_class(config: &mut Config) -> Result<()> {
    if config.get("architectures").is_none() {
        let class = Settings::of(config)?.class();
        config.set("architectures", vec![class]);
    }
    Ok(())
}

/// Writes `layer_types`, which tells the layers whose attention has a window, where they would not be the ones
/// that a reader expects at their places: a layer keeps the window it was trained with.
fn windows(planner: &Planner<'_>, donors: &Donors, outcome: &Outcome<'_>, config: &mut Config) {
    let view = planner.view(donors.config.0);
    if view.hyper.windowed.is_empty() || config.map().contains_key("layer_types") {
        return;
    }
    let mut windowed = vec![None; outcome.layers];
    for (_, plan) in outcome.tensors {
        if let (Place::Layer(out), Some(input)) = (plan.place, plan.inputs.first())
            && let Some(layer) = input.layer
        {
            windowed[out].get_or_insert(planner.view(input.from).hyper.is_windowed(layer));
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

/// Lists of other things, which may have as many entries as the model has layers.
fn is_no_layer_list(key: &str) -> bool {
    matches!(key, "architectures" | "suppress_tokens" | "begin_suppress_tokens")
        || ["_token_id", "_token_ids", "_tokens"].iter().any(|end| key.ends_with(end))
}

/// The entries of `config`'s list `key`, if it has one for each of its `layers` layers. A list under an
/// unknown key counts if it is as long: one layer is too little to tell.
fn layer_list<'c>(config: &'c Config, key: &str, layers: usize) -> Option<&'c Vec<Value>> {
    let known = LAYER_LISTS.contains(&key);
    let list = config.get(key)?.as_array()?;
    (list.len() == layers && (known || (layers > 1 && !is_no_layer_list(key)))).then_some(list)
}

/// Lets every list that has an entry for each layer follow the layers: an output layer keeps the entry of
/// the first model it is made of. Where a model has no such list, the key is left out.
fn layer_lists(
    planner: &mut Planner<'_>,
    donors: &Donors,
    outcome: &Outcome<'_>,
    config: &mut Config,
) {
    let view = planner.view(donors.config.0);
    let lists = |(key, _): (&String, &Value)| {
        layer_list(view.config, key, view.hyper.n_layer).map(|_| key.clone())
    };
    let keys: Vec<String> = view.config.map().iter().filter_map(lists).collect();
    for key in keys {
        match follow(planner, &key, outcome) {
            Ok(list) => config.set(&key, list),
            Err(label) => {
                config.remove(&key);
                let message = format!(
                    "'{key}' of config.json has an entry for each layer, but model '{label}' has no \
                     such list; it is left out"
                );
                let remedy =
                    "make a model without the list the 'base_model', or add it to config.json";
                planner.problems.warn(donors.config_pos, message, remedy);
            }
        }
    }
}

/// The entries of all output layers; the model that has none otherwise.
fn follow(
    planner: &Planner<'_>,
    key: &str,
    outcome: &Outcome<'_>,
) -> std::result::Result<Vec<Value>, String> {
    let mut entries = vec![Value::Null; outcome.layers];
    for (_, plan) in outcome.tensors {
        let (Place::Layer(out), Some(input)) = (plan.place, plan.inputs.first()) else { continue };
        let view = planner.view(input.from);
        let list = layer_list(view.config, key, view.hyper.n_layer);
        let entry = list.and_then(|list| list.get(input.layer?));
        entries[out] = entry.ok_or_else(|| planner.label(input.from))?.clone();
    }
    Ok(entries)
}
