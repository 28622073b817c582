//! The text models of multimodal checkpoints: read as if they were alone, with a sentence about what is left out.

use crate::support::golden_models::{checkpoint, converted, golden, write_folder};
use crate::support::program::Place;
use crate::support::tiny_llama::digest;
use aqueduct::base::dtype::DType;
use aqueduct::formats::checkpoint::{Checkpoint, Config};
use aqueduct::formats::source::{MemorySource, TensorData, TensorInfo};
use aqueduct::model::arch::declared_form;
use aqueduct::model::convert::OutputType;
use serde_json::{Value, json};
use std::sync::Arc;

/// The configuration of a multimodal model whose text model is `text`'s.
fn whole(kind: &str, text: &Value) -> Value {
    let class = match kind {
        "gemma3" => "Gemma3ForConditionalGeneration",
        _ => "Mistral3ForConditionalGeneration",
    };
    let mut text = text.clone();
    text.as_object_mut().unwrap().shift_remove("architectures");
    json!({"architectures": [class], "model_type": kind, "text_config": text, "vision_config": {"hidden_size": 8},
        "mm_tokens_per_image": 4})
}

/// `model` under the names of a multimodal model: `body` before the layers, `head` before the output head; and with two
/// tensors of a vision tower.
fn wrapped(model: Checkpoint, config: &Value, [body, head]: [&str; 2]) -> Checkpoint {
    let mut tensors = Vec::new();
    for (index, info) in model.tensors.table().infos().iter().enumerate() {
        let name = match info.name.strip_prefix("model.") {
            Some(rest) => format!("{body}{rest}"),
            None => format!("{head}{}", info.name),
        };
        let data = model.tensors.read(index).unwrap().bytes.into_owned();
        tensors.push((TensorInfo { name, ..info.clone() }, data));
    }
    for name in ["vision_tower.post_layernorm.weight", "multi_modal_projector.linear.weight"] {
        let data = TensorData::from_f32(vec![2], &[1.0, 2.0]).bytes.into_owned();
        tensors.push((TensorInfo::new(name, vec![2], DType::F32), data));
    }
    let config = Config::parse("m/config.json", &config.to_string()).unwrap();
    let tensors = Arc::new(MemorySource::new("m", tensors).unwrap());
    declared_form(Checkpoint { config, tensors, ..model }).unwrap()
}

#[test]
fn text_models_convert_as_if_they_were_alone() {
    let saved = ["language_model.model.", "language_model."];
    let raw = ["model.language_model.", ""];
    for (name, kind, prefixes) in [
        ("gemma3", "gemma3", saved),
        ("gemma3", "gemma3", raw),
        ("gemma3-layers", "gemma3", saved),
        ("llama", "mistral3", saved),
        ("llama", "mistral3", raw),
        ("llama-yarn", "mistral3", raw),
    ] {
        let golden = golden(name);
        let mut text = golden["config"].clone();
        if kind == "mistral3" {
            text["model_type"] = "mistral".into();
        }
        let model = wrapped(checkpoint(name, &golden, 0), &whole(kind, &text), prefixes);
        let warnings = model.warnings.join("\n");
        for part in ["ForConditionalGeneration", "2 other tensors", "vision_tower", "text model"] {
            assert!(warnings.contains(part), "{part} is not in: {warnings}");
        }
        let alone = converted(&checkpoint(name, &golden, 0), OutputType::F16);
        let model = converted(&model, OutputType::F16);
        let keys = |model: &aqueduct::formats::gguf::GgufModel| {
            model.metadata.iter().map(|(k, v)| format!("{k} {v:?}")).collect::<Vec<_>>()
        };
        // llama.cpp's converter makes these of the text model: see `architectures`.
        let keep = |key: &String| !key.contains("sliding_window_pattern");
        assert_eq!(
            keys(&model).into_iter().filter(keep).collect::<Vec<_>>(),
            keys(&alone).into_iter().filter(keep).collect::<Vec<_>>()
        );
        let tensors = |model: &aqueduct::formats::gguf::GgufModel| {
            let infos = model.tensors.table().infos().to_vec();
            let digests = (0..infos.len()).map(|i| digest(&model.tensors.read(i).unwrap().bytes));
            (digests.collect::<Vec<_>>(), infos)
        };
        assert!(tensors(&model) == tensors(&alone), "{name}");
    }
}

#[test]
fn merges_of_text_models_are_text_models() {
    let (place, golden) = (Place::new(), golden("gemma3"));
    for (folder, salt) in [("a", 0), ("b", 77)] {
        write_folder(&place, folder, &golden, salt);
    }
    let config = whole("gemma3", &golden["config"]).to_string();
    std::fs::write(place.path("a/config.json"), config).unwrap();
    let recipe = "merge_method: slerp\nbase_model: a\nparameters: {t: 0.5}\ndtype: float32\n\
                  models: [{model: a}, {model: b}]\n";
    std::fs::write(place.path("recipe.yml"), recipe).unwrap();
    let ran = place.ok("merge recipe.yml -o folder");
    assert!(ran.stderr.contains("what is written is that alone"), "{}", ran.stderr);
    let config = Config::read(&place.path("folder/config.json")).unwrap();
    assert_eq!(config.architecture().unwrap(), "Gemma3ForCausalLM");
    assert!(config.get("text_config").is_none() && config.get("vision_config").is_none());
    place.ok("convert folder -o out.gguf");
    let stderr = place.ok("convert a -o a.gguf").stderr;
    assert!(stderr.contains("Gemma3ForConditionalGeneration"), "{stderr}");
}
