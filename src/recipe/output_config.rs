//! The configuration of a stage's result.

use super::plan::{Input, Place, TensorPlan};
use super::planner::Planner;
use crate::checkpoint::Config;
use crate::dtype::DType;
use crate::source::TensorInfo;
use serde_json::Value;

/// PyTorch's name of a float type, as config.json and recipes have it.
pub fn torch_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    }
}

/// The donor's configuration with what the merge changed: number of layers, element type, tied head,
/// and lists that have an entry for each layer. The architecture's class stays the donor's, and with
/// it constants such as `sliding_window`.
pub(super) fn make(
    planner: &Planner,
    donor: Input,
    tensors: &[(TensorInfo, TensorPlan)],
    layers: usize,
    tied: bool,
) -> Config {
    let mut config = planner.view(donor).config.clone();
    if let Some(types) = layer_types(planner, tensors, layers) {
        config.set("layer_types", types);
    }
    config.set("num_hidden_layers", layers);
    // The donor's name is not the merge's.
    config.remove("_name_or_path");
    if let Some((embedding, _)) = tensors.first() {
        let keys = ["torch_dtype", "dtype"];
        let present: Vec<&str> =
            keys.into_iter().filter(|key| config.map().contains_key(*key)).collect();
        for key in if present.is_empty() { vec![keys[0]] } else { present } {
            config.set(key, torch_name(embedding.dtype));
        }
    }
    if config.bool("tie_word_embeddings").unwrap_or(false) != tied {
        config.set("tie_word_embeddings", tied);
    }
    config
}

/// `layer_types` names the kind of each layer's attention: every output layer keeps that of the first
/// model it is made of. `None` if the models have no such list.
fn layer_types(
    planner: &Planner,
    tensors: &[(TensorInfo, TensorPlan)],
    layers: usize,
) -> Option<Value> {
    let mut types = vec![Value::Null; layers];
    for (_, plan) in tensors {
        let (Place::Layer(out), Some(input)) = (plan.place, plan.inputs.first()) else { continue };
        let list = planner.view(input.from).config.get("layer_types")?.as_array()?;
        types[out] = list.get(input.layer?)?.clone();
    }
    (!types.is_empty() && !types.contains(&Value::Null)).then_some(Value::Array(types))
}
