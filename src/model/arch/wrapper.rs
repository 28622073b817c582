//! Multimodal models: the configuration and the tensors of their text model.
//!
//! Such a checkpoint has the text model's configuration in `text_config`, its tensors under a prefix, and those of a
//! vision tower and a projector beside them. What is read here is the text model alone. Names: transformers 5.24
//! `conversion_mapping.py` and llama.cpp `conversion/base.py` (`filter_tensors`), October 2026.

use super::classes::Class;
use crate::base::error::Result;
use crate::formats::checkpoint::Config;
use serde_json::{Map, Value};

/// Keys under which the text model's configuration is.
const TEXT_CONFIGS: &[&str] = &["text_config", "llm_config"];

/// Keys of the whole that hold for the text model, whatever its own configuration has.
const SHARED: &[&str] = &[
    "torch_dtype",
    "dtype",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "transformers_version",
];

/// What its configuration is left out of, by the class of the whole, where it does not name its own `model_type`.
const MODEL_TYPES: &[(&str, &str)] = &[("gemma3", "gemma3_text"), ("mistral3", "mistral")];

/// Prefixes of the text model's tensors, and the plain ones.
const PREFIXES: &[(&str, &str)] = &[
    ("language_model.model.", "model."),
    ("model.language_model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("language_model.", ""),
];

/// Parts of the names of tensors that are not of the text model.
const OTHER_PARTS: &[&str] = &[
    "vision_",
    "vision.",
    "visual.",
    "audio_",
    "audio.",
    "projector.",
    "image_newline",
    "patch_embed",
    "patch_merger.",
];

/// The configuration of the text model in `config`, with what its class in transformers supplies; `None` where `config`
/// describes no multimodal model whose text model is of a known class. `has_head` says whether it stores an output head.
///
/// # Errors
/// What results is not readable.
pub(super) fn text_config(config: &Config, has_head: bool) -> Result<Option<Config>> {
    let find = |key: &&str| config.get(key)?.as_object();
    let Some(text) = TEXT_CONFIGS.iter().find_map(find) else { return Ok(None) };
    let whole = config.str("model_type").unwrap_or_default();
    let known = MODEL_TYPES.iter().find(|(kind, _)| *kind == whole).map(|(_, of_text)| *of_text);
    let own = text.get("model_type").and_then(Value::as_str);
    let Some(class) = own.or(known).and_then(Class::of_model_type) else { return Ok(None) };
    let mut map = Map::new();
    map.insert("architectures".into(), vec![class.name].into());
    map.insert("model_type".into(), class.model_type.into());
    for (key, value) in text {
        map.entry(key).or_insert_with(|| value.clone());
    }
    for key in SHARED {
        if let Some(value) = config.get(key) {
            map.insert((*key).into(), value.clone());
        }
    }
    for (key, count) in class.defaults {
        map.entry(*key).or_insert_with(|| (*count).into());
    }
    // In transformers 5 the whole's key ties the head, in older versions the text model's.
    const TIED: &str = "tie_word_embeddings";
    let tied = config.bool(TIED).or(text.get(TIED).and_then(Value::as_bool)).unwrap_or(!has_head);
    map.insert(TIED.into(), tied.into());
    Config::parse(config.origin(), &Value::Object(map).to_string()).map(Some)
}

/// The plain name of the tensor `name` of a multimodal model; `None` if it is not of the text model.
pub(super) fn plain_name(name: &str) -> Option<String> {
    if OTHER_PARTS.iter().any(|part| name.contains(part)) {
        return None;
    }
    let plain = |(prefix, plain): &(&str, &str)| {
        name.strip_prefix(prefix).map(|rest| format!("{plain}{rest}"))
    };
    Some(PREFIXES.iter().find_map(plain).unwrap_or_else(|| name.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_text_model_are_plain() {
        for (name, plain) in [
            (
                "language_model.model.layers.0.mlp.up_proj.weight",
                Some("model.layers.0.mlp.up_proj.weight"),
            ),
            ("model.language_model.embed_tokens.weight", Some("model.embed_tokens.weight")),
            ("language_model.lm_head.weight", Some("lm_head.weight")),
            ("lm_head.weight", Some("lm_head.weight")),
            ("model.norm.weight", Some("model.norm.weight")),
            ("vision_tower.vision_model.post_layernorm.weight", None),
            ("model.vision_tower.patch_conv.weight", None),
            ("multi_modal_projector.linear_1.weight", None),
        ] {
            assert_eq!(plain_name(name).as_deref(), plain, "{name}");
        }
    }

    #[test]
    fn what_a_text_configuration_leaves_out_is_its_class_default() {
        let text = r#"{"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "dtype": "bfloat16",
            "eos_token_id": [1, 106], "text_config": {"hidden_size": 16, "rope_scaling": null}, "vision_config": {}}"#;
        let config = text_config(&Config::parse("test", text).unwrap(), false).unwrap().unwrap();
        assert_eq!(config.architecture().unwrap(), "Gemma3ForCausalLM");
        assert_eq!(
            (config.usize("hidden_size"), config.usize("vocab_size")),
            (Some(16), Some(262_208))
        );
        assert_eq!(
            (config.usize("num_attention_heads"), config.usize("sliding_window")),
            (Some(8), Some(4096))
        );
        assert_eq!(
            (config.str("dtype"), config.bool("tie_word_embeddings")),
            (Some("bfloat16"), Some(true))
        );
        assert!(config.get("vision_config").is_none() && config.get("eos_token_id").is_some());
        let other = r#"{"model_type": "llava", "text_config": {"model_type": "opt"}}"#;
        assert!(text_config(&Config::parse("test", other).unwrap(), false).unwrap().is_none());
        let plain = r#"{"model_type": "llama", "text_config": null}"#;
        assert!(text_config(&Config::parse("test", plain).unwrap(), false).unwrap().is_none());
    }
}
