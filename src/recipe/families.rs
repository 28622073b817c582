//! Shapes of well-known model families, found by name, so that a recipe can be planned before its
//! members are downloaded.
//!
//! The numbers are those of each family's public config.json. A fine-tune may have added tokens: then
//! the plan's vocabulary is a guess, which a folder with only the model's config.json corrects.

use crate::checkpoint::Config;
use serde_json::json;

/// A family: parts its name has (all of them, any one of each inner list), and its shape.
struct Family {
    name: &'static str,
    class: &'static str,
    parts: &'static [&'static [&'static str]],
    layers: usize,
    hidden: usize,
    feed_forward: usize,
    heads: usize,
    kv_heads: usize,
    vocabulary: usize,
    tied: bool,
}

/// Names that say a 7B model is of the Mistral 7B family.
const MISTRAL: &[&str] =
    &["mistral", "zephyr", "openchat", "neural-chat", "starling-lm", "westlake"];

#[rustfmt::skip]
const FAMILIES: &[Family] = &[
    Family { name: "SOLAR 10.7B", class: "LlamaForCausalLM", parts: &[&["10.7b", "11b"]], layers: 48, hidden: 4096, feed_forward: 14336, heads: 32, kv_heads: 8, vocabulary: 32000, tied: false },
    Family { name: "Mistral 7B", class: "MistralForCausalLM", parts: &[MISTRAL, &["7b"]], layers: 32, hidden: 4096, feed_forward: 14336, heads: 32, kv_heads: 8, vocabulary: 32000, tied: false },
    Family { name: "Llama 3.2 1B", class: "LlamaForCausalLM", parts: &[LLAMA3_2, &["1b"]], layers: 16, hidden: 2048, feed_forward: 8192, heads: 32, kv_heads: 8, vocabulary: 128256, tied: true },
    Family { name: "Llama 3.2 3B", class: "LlamaForCausalLM", parts: &[LLAMA3_2, &["3b"]], layers: 28, hidden: 3072, feed_forward: 8192, heads: 24, kv_heads: 8, vocabulary: 128256, tied: true },
    Family { name: "Llama 3 8B", class: "LlamaForCausalLM", parts: &[LLAMA3, &["8b"]], layers: 32, hidden: 4096, feed_forward: 14336, heads: 32, kv_heads: 8, vocabulary: 128256, tied: false },
    Family { name: "Llama 3 70B", class: "LlamaForCausalLM", parts: &[LLAMA3, &["70b"]], layers: 80, hidden: 8192, feed_forward: 28672, heads: 64, kv_heads: 8, vocabulary: 128256, tied: false },
    Family { name: "Llama 2 7B", class: "LlamaForCausalLM", parts: &[LLAMA2, &["7b"]], layers: 32, hidden: 4096, feed_forward: 11008, heads: 32, kv_heads: 32, vocabulary: 32000, tied: false },
    Family { name: "Llama 2 13B", class: "LlamaForCausalLM", parts: &[LLAMA2, &["13b"]], layers: 40, hidden: 5120, feed_forward: 13824, heads: 40, kv_heads: 40, vocabulary: 32000, tied: false },
    Family { name: "Llama 2 70B", class: "LlamaForCausalLM", parts: &[LLAMA2, &["70b"]], layers: 80, hidden: 8192, feed_forward: 28672, heads: 64, kv_heads: 8, vocabulary: 32000, tied: false },
    Family { name: "SmolLM2 135M", class: "LlamaForCausalLM", parts: &[&["smollm2"], &["135m"]], layers: 30, hidden: 576, feed_forward: 1536, heads: 9, kv_heads: 3, vocabulary: 49152, tied: true },
    Family { name: "SmolLM2 360M", class: "LlamaForCausalLM", parts: &[&["smollm2"], &["360m"]], layers: 32, hidden: 960, feed_forward: 2560, heads: 15, kv_heads: 5, vocabulary: 49152, tied: true },
    Family { name: "SmolLM2 1.7B", class: "LlamaForCausalLM", parts: &[&["smollm2"], &["1.7b"]], layers: 24, hidden: 2048, feed_forward: 8192, heads: 32, kv_heads: 32, vocabulary: 49152, tied: true },
];

const LLAMA3_2: &[&str] = &["llama-3.2", "llama3.2"];
const LLAMA3: &[&str] = &["llama-3", "llama3"];
const LLAMA2: &[&str] = &["llama-2", "llama2"];

/// Whether `part` occurs in `name` with no digit before it (`7b` is not part of `67b`).
fn occurs(name: &str, part: &str) -> bool {
    name.match_indices(part).any(|(at, _)| {
        let before = name[..at].chars().next_back();
        !before.is_some_and(|c| c.is_ascii_digit() || c == '.')
    })
}

/// The configuration that a model of this name most likely has.
pub fn config_for(name: &str) -> Option<Config> {
    let lower = name.to_lowercase();
    let family = FAMILIES.iter().find(|family| {
        family.parts.iter().all(|any| any.iter().any(|part| occurs(&lower, part)))
    })?;
    let value = json!({
        "architectures": [family.class],
        "model_type": if family.class == "MistralForCausalLM" { "mistral" } else { "llama" },
        "hidden_size": family.hidden,
        "intermediate_size": family.feed_forward,
        "num_hidden_layers": family.layers,
        "num_attention_heads": family.heads,
        "num_key_value_heads": family.kv_heads,
        "vocab_size": family.vocabulary,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": family.tied,
        "torch_dtype": "bfloat16",
    });
    let origin = format!("{name} (taken to be {})", family.name);
    Some(Config::parse(&origin, &value.to_string()).expect("the table makes valid JSON"))
}

/// The families' names, for messages.
pub fn names() -> Vec<&'static str> {
    FAMILIES.iter().map(|family| family.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_find_their_family() {
        let layers = |name: &str| config_for(name).map(|c| c.usize("num_hidden_layers").unwrap());
        assert_eq!(layers("mistralai/Mistral-7B-Instruct-v0.2"), Some(32));
        assert_eq!(layers("upstage/SOLAR-10.7B-Instruct-v1.0"), Some(48));
        assert_eq!(layers("Sao10K/Fimbulvetr-11B-v2"), Some(48));
        assert_eq!(layers("meta-llama/Llama-2-70b-hf"), Some(80));
        assert_eq!(layers("meta-llama/Meta-Llama-3.1-8B-Instruct"), Some(32));
        assert_eq!(layers("deepseek-ai/deepseek-llm-67b"), None);
        assert_eq!(layers("somebody/llama-2-17b"), None);
    }
}
