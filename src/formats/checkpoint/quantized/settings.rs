//! How a folder says that its weights are quantized: `quantization_config` in config.json, or
//! elsewhere.

use crate::base::error::Result;
use crate::formats::checkpoint::Config;
use serde_json::{Map, Value};
use std::path::Path;

/// Where configurations keep it, newest first; compressed-tensors before 0.5 wrote the second.
const KEYS: [&str; 2] = ["quantization_config", "compression_config"];
/// ModelOpt's own file, which counts where config.json is silent.
const MODELOPT_FILE: &str = "hf_quant_config.json";
/// Lists of module names: long, and the tensors that are there say it better.
const LISTS: [&str; 4] = ["ignore", "modules_to_not_convert", "exclude_modules", "ignored_layers"];

/// A quantization method and its options, as the folder has them.
#[derive(Clone, Debug)]
pub(super) struct QuantSettings {
    /// `quant_method`, in lower case: `fp8`, `compressed-tensors`, `gptq`.
    pub method: String,
    pub options: Map<String, Value>,
}

impl QuantSettings {
    /// Takes the settings out of `config`, which then describes plain weights; reads ModelOpt's
    /// file in `dir` where there are none. `None` if the folder says nothing of quantization.
    pub(super) fn take(config: &mut Config, dir: &Path) -> Result<Option<QuantSettings>> {
        let mut found = None;
        for key in KEYS {
            if let Some(Value::Object(options)) = config.get(key) {
                found = found.or_else(|| Some(options.clone()));
            }
            config.remove(key);
        }
        // Of models for text and images.
        if let Some(Value::Object(text)) = config.get("text_config") {
            let mut text = text.clone();
            let removed: Vec<Value> =
                KEYS.iter().filter_map(|key| text.shift_remove(*key)).collect();
            if !removed.is_empty() {
                config.set("text_config", text);
            }
            let mut objects = removed.into_iter().filter_map(|value| match value {
                Value::Object(options) => Some(options),
                _ => None,
            });
            found = found.or_else(|| objects.next());
        }
        let beside = dir.join(MODELOPT_FILE);
        match found {
            Some(options) => Ok(QuantSettings::of(options)),
            None if beside.is_file() => {
                Ok(QuantSettings::of_modelopt(Config::read(&beside)?.map()))
            }
            None => Ok(None),
        }
    }

    fn of(options: Map<String, Value>) -> Option<QuantSettings> {
        let text = |key: &str| options.get(key).and_then(Value::as_str);
        let method = match text("quant_method") {
            Some(method) => method.to_ascii_lowercase(),
            // Written before the key existed: bitsandbytes, Mistral, and compressed-tensors.
            None if options.contains_key("load_in_4bit") => "bitsandbytes".to_string(),
            None if options.contains_key("qformat_weight") => "fp8".to_string(),
            None if options.contains_key("quant_algo") => "modelopt".to_string(),
            None if options.contains_key("config_groups") => "compressed-tensors".to_string(),
            None if text("format") == Some("dense") => return None,
            None if options.is_empty() => return None,
            None => "unnamed".to_string(),
        };
        Some(QuantSettings { method, options })
    }

    fn of_modelopt(file: &Map<String, Value>) -> Option<QuantSettings> {
        let options = file.get("quantization")?.as_object()?.clone();
        let producer = file.get("producer").and_then(|p| p.get("name")).and_then(Value::as_str);
        let method = producer.unwrap_or("modelopt").to_ascii_lowercase();
        Some(QuantSettings { method, options })
    }

    /// The text of an option.
    pub(super) fn str(&self, key: &str) -> Option<&str> {
        self.options.get(key)?.as_str()
    }

    /// A list of sizes, such as `weight_block_size`.
    pub(super) fn sizes(&self, key: &str) -> Option<Vec<usize>> {
        sizes(self.options.get(key)?)
    }

    /// The method with its options, for errors: `gptq (bits 5, group_size 128)`.
    pub(super) fn describe(&self) -> String {
        let shown = |(key, value): (&String, &Value)| {
            let listed = key == "quant_method" || LISTS.contains(&key.as_str());
            let value = match value {
                _ if listed => return None,
                Value::Null => return None,
                Value::String(text) => text.clone(),
                Value::Object(map) => format!("{{{} entries}}", map.len()),
                value => value.to_string(),
            };
            Some(format!("{key} {}", value.chars().take(60).collect::<String>()))
        };
        let options: Vec<String> = self.options.iter().filter_map(shown).take(12).collect();
        match options.is_empty() {
            true => format!("'{}'", self.method),
            false => format!("'{}' ({})", self.method, options.join(", ")),
        }
    }
}

/// A list of positive sizes in JSON.
pub(super) fn sizes(value: &Value) -> Option<Vec<usize>> {
    let size = |value: &Value| value.as_u64().filter(|&n| n > 0).and_then(|n| n.try_into().ok());
    value.as_array()?.iter().map(size).collect()
}
