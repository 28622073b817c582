//! The model classes of Hugging Face transformers that this program knows, and what their configurations leave out.
//!
//! Source of the sizes: transformers 5.24, `models/*/configuration_*.py`.

use super::Architecture;
use crate::base::error::{Error, Result};
use crate::formats::checkpoint::Config;

/// A model class of transformers.
#[derive(Debug)]
pub(super) struct Class {
    /// The name in `architectures` of config.json.
    pub name: &'static str,
    /// `model_type` of its configuration.
    pub model_type: &'static str,
    /// Counts that hold where config.json lacks the key.
    pub(super) defaults: &'static [(&'static str, usize)],
}

#[rustfmt::skip]
static CLASSES: &[Class] = &[
    Class { name: "LlamaForCausalLM", model_type: "llama", defaults: &[("hidden_size", 4096), ("intermediate_size", 11008), ("num_hidden_layers", 32), ("num_attention_heads", 32), ("vocab_size", 32000)] },
    Class { name: "MistralForCausalLM", model_type: "mistral", defaults: &[("hidden_size", 4096), ("intermediate_size", 14336), ("num_hidden_layers", 32), ("num_attention_heads", 32), ("num_key_value_heads", 8), ("vocab_size", 32000), ("max_position_embeddings", 131_072)] },
    Class { name: "MixtralForCausalLM", model_type: "mixtral", defaults: &[("hidden_size", 4096), ("intermediate_size", 14336), ("num_hidden_layers", 32), ("num_attention_heads", 32), ("num_key_value_heads", 8), ("vocab_size", 32000)] },
    Class { name: "Qwen2ForCausalLM", model_type: "qwen2", defaults: &[("hidden_size", 4096), ("intermediate_size", 22016), ("num_hidden_layers", 32), ("num_attention_heads", 32), ("num_key_value_heads", 32), ("vocab_size", 151_936)] },
    Class { name: "Qwen3ForCausalLM", model_type: "qwen3", defaults: &[("hidden_size", 4096), ("intermediate_size", 22016), ("num_hidden_layers", 32), ("num_attention_heads", 32), ("num_key_value_heads", 32), ("vocab_size", 151_936)] },
    Class { name: "Qwen3MoeForCausalLM", model_type: "qwen3_moe", defaults: &[("hidden_size", 2048), ("intermediate_size", 6144), ("num_hidden_layers", 24), ("num_attention_heads", 32), ("num_key_value_heads", 4), ("vocab_size", 151_936)] },
    Class { name: "Gemma2ForCausalLM", model_type: "gemma2", defaults: &[("hidden_size", 2304), ("intermediate_size", 9216), ("num_hidden_layers", 26), ("num_attention_heads", 8), ("num_key_value_heads", 4), ("vocab_size", 256_000)] },
    Class { name: "Gemma3ForCausalLM", model_type: "gemma3_text", defaults: &[("hidden_size", 2304), ("intermediate_size", 9216), ("num_hidden_layers", 26), ("num_attention_heads", 8), ("num_key_value_heads", 4), ("vocab_size", 262_208), ("sliding_window", 4096)] },
    Class { name: "Phi3ForCausalLM", model_type: "phi3", defaults: &[("hidden_size", 3072), ("intermediate_size", 8192), ("num_hidden_layers", 32), ("num_attention_heads", 32), ("vocab_size", 32064)] },
    Class { name: "GraniteForCausalLM", model_type: "granite", defaults: &[("hidden_size", 4096), ("intermediate_size", 11008), ("num_hidden_layers", 32), ("num_attention_heads", 32), ("vocab_size", 32000)] },
];

impl Class {
    /// The class of `config`, its architecture, and a sentence where `architectures` and `model_type` contradict each
    /// other. As in transformers, `model_type` decides where it is known.
    ///
    /// # Errors
    /// Neither key names a known class.
    pub(super) fn of(
        config: &Config,
    ) -> Result<(&'static Class, &'static Architecture, Option<String>)> {
        let origin = config.origin();
        let listed =
            config.get("architectures").and_then(|list| list.as_array()?.first()?.as_str());
        let model_type = config.str("model_type");
        let find = |fits: &dyn Fn(&Class) -> bool| CLASSES.iter().find(|class| fits(class));
        let by_name = listed.and_then(|name| find(&|class| class.name == name));
        let by_type = model_type.and_then(|kind| find(&|class| class.model_type == kind));
        let arch = |class: &Class| Architecture::for_hf_class(origin, class.name);
        let (class, note) = match (by_name, by_type) {
            (Some(class), Some(other)) => match std::ptr::eq(arch(class)?, arch(other)?) {
                true => (other, None),
                false => (other, Some("are different architectures")),
            },
            (Some(class), None) => (class, None),
            (None, Some(class)) => (class, listed.map(|_| "do not both name a known class")),
            (None, None) => {
                let Some(name) = listed else {
                    let detail =
                        "'architectures' is missing, and 'model_type' names no known class";
                    return Err(Error::model(origin, detail));
                };
                return Err(Architecture::for_hf_class(origin, name).err().unwrap_or_else(|| {
                    Error::model(origin, format!("unknown architecture '{name}'"))
                }));
            }
        };
        let warning = note.map(|note| {
            format!(
                "{origin}: 'architectures' [{}] and 'model_type' {} {note}; the model is read as {}",
                listed.unwrap_or_default(),
                model_type.unwrap_or_default(),
                class.name
            )
        });
        Ok((class, arch(class)?, warning))
    }

    /// The class whose configurations have this `model_type`.
    pub(super) fn of_model_type(model_type: &str) -> Option<&'static Class> {
        CLASSES.iter().find(|class| class.model_type == model_type)
    }

    /// The count that holds where a configuration of this class lacks `key`.
    pub(super) fn default(&self, key: &str) -> Option<usize> {
        self.defaults.iter().find(|(name, _)| *name == key).map(|(_, count)| *count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ALL;
    use super::*;

    fn class(text: &str) -> Result<(&'static str, Option<String>)> {
        let config = Config::parse("test", text).unwrap();
        Class::of(&config).map(|(class, _, warning)| (class.name, warning))
    }

    #[test]
    fn every_class_of_an_architecture_is_listed() {
        for arch in ALL {
            for name in arch.hf_classes {
                let (found, warning) =
                    class(&format!(r#"{{"architectures": ["{name}"]}}"#)).unwrap();
                assert_eq!((found, warning), (*name, None));
            }
            let of_type = class(&format!(r#"{{"model_type": "{}"}}"#, arch.model_type)).unwrap();
            assert_eq!(of_type.0, arch.hf_classes[0]);
        }
    }

    #[test]
    fn model_type_decides_and_a_contradiction_is_named() {
        let null = r#"{"architectures": null, "model_type": "mistral"}"#;
        assert_eq!(class(null).unwrap(), ("MistralForCausalLM", None));
        let alike = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "mistral"}"#;
        assert_eq!(class(alike).unwrap(), ("MistralForCausalLM", None));
        let other = r#"{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen3"}"#;
        let (name, warning) = class(other).unwrap();
        assert_eq!(name, "Qwen3ForCausalLM");
        let warning = warning.unwrap();
        assert!(warning.contains("Qwen2ForCausalLM") && warning.contains("qwen3"), "{warning}");
        let own = r#"{"architectures": ["MyLlama"], "model_type": "llama"}"#;
        assert!(class(own).unwrap().1.unwrap().contains("MyLlama"));
        assert!(class(r#"{"architectures": ["MyLlama"], "model_type": "mine"}"#).is_err());
        assert!(class("{}").unwrap_err().to_string().contains("'architectures' is missing"));
    }
}
