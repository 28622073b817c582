//! Shapes of well-known model families, found by name, so that a recipe can be planned before its
//! members are downloaded.
//!
//! The numbers are those of each family's public config.json. A fine-tune may have added tokens: then
//! the plan's vocabulary is a guess, which a folder with only the model's config.json corrects.

use crate::formats::checkpoint::Config;
use crate::model::arch::Architecture;
use serde_json::json;

/// A family: parts its name has (all of them, any one of each inner list), and its shape.
struct ModelFamily {
    name: &'static str,
    class: &'static str,
    parts: &'static [&'static [&'static str]],
    layers: usize,
    hidden: usize,
    feed_forward: usize,
    heads: usize,
    kv_heads: usize,
    /// Where it is not `hidden / heads`.
    head_dim: Option<usize>,
    vocabulary: usize,
    tied: bool,
}

/// Names that say a 7B model is of the Mistral 7B family.
const MISTRAL: &[&str] =
    &["mistral", "zephyr", "openchat", "neural-chat", "starling-lm", "westlake"];

#[rustfmt::skip]
const FAMILIES: &[ModelFamily] = &[
    ModelFamily { name: "SOLAR 10.7B", class: "LlamaForCausalLM", parts: &[&["10.7b", "11b"]], layers: 48, hidden: 4096, feed_forward: 14336, heads: 32, kv_heads: 8, head_dim: None, vocabulary: 32000, tied: false },
    ModelFamily { name: "Mistral 7B", class: "MistralForCausalLM", parts: &[MISTRAL, &["7b"]], layers: 32, hidden: 4096, feed_forward: 14336, heads: 32, kv_heads: 8, head_dim: None, vocabulary: 32000, tied: false },
    ModelFamily { name: "Llama 3.2 1B", class: "LlamaForCausalLM", parts: &[LLAMA3_2, &["1b"]], layers: 16, hidden: 2048, feed_forward: 8192, heads: 32, kv_heads: 8, head_dim: None, vocabulary: 128256, tied: true },
    ModelFamily { name: "Llama 3.2 3B", class: "LlamaForCausalLM", parts: &[LLAMA3_2, &["3b"]], layers: 28, hidden: 3072, feed_forward: 8192, heads: 24, kv_heads: 8, head_dim: None, vocabulary: 128256, tied: true },
    ModelFamily { name: "Llama 3 8B", class: "LlamaForCausalLM", parts: &[LLAMA3, &["8b"]], layers: 32, hidden: 4096, feed_forward: 14336, heads: 32, kv_heads: 8, head_dim: None, vocabulary: 128256, tied: false },
    ModelFamily { name: "Llama 3 70B", class: "LlamaForCausalLM", parts: &[LLAMA3, &["70b"]], layers: 80, hidden: 8192, feed_forward: 28672, heads: 64, kv_heads: 8, head_dim: None, vocabulary: 128256, tied: false },
    ModelFamily { name: "Llama 2 7B", class: "LlamaForCausalLM", parts: &[LLAMA2, &["7b"]], layers: 32, hidden: 4096, feed_forward: 11008, heads: 32, kv_heads: 32, head_dim: None, vocabulary: 32000, tied: false },
    ModelFamily { name: "Llama 2 13B", class: "LlamaForCausalLM", parts: &[LLAMA2, &["13b"]], layers: 40, hidden: 5120, feed_forward: 13824, heads: 40, kv_heads: 40, head_dim: None, vocabulary: 32000, tied: false },
    ModelFamily { name: "Llama 2 70B", class: "LlamaForCausalLM", parts: &[LLAMA2, &["70b"]], layers: 80, hidden: 8192, feed_forward: 28672, heads: 64, kv_heads: 8, head_dim: None, vocabulary: 32000, tied: false },
    ModelFamily { name: "SmolLM2 135M", class: "LlamaForCausalLM", parts: &[&["smollm2"], &["135m"]], layers: 30, hidden: 576, feed_forward: 1536, heads: 9, kv_heads: 3, head_dim: None, vocabulary: 49152, tied: true },
    ModelFamily { name: "SmolLM2 360M", class: "LlamaForCausalLM", parts: &[&["smollm2"], &["360m"]], layers: 32, hidden: 960, feed_forward: 2560, heads: 15, kv_heads: 5, head_dim: None, vocabulary: 49152, tied: true },
    ModelFamily { name: "SmolLM2 1.7B", class: "LlamaForCausalLM", parts: &[&["smollm2"], &["1.7b"]], layers: 24, hidden: 2048, feed_forward: 8192, heads: 32, kv_heads: 32, head_dim: None, vocabulary: 49152, tied: true },
    ModelFamily { name: "Qwen 2.5 0.5B", class: "Qwen2ForCausalLM", parts: &[QWEN2, &["0.5b"]], layers: 24, hidden: 896, feed_forward: 4864, heads: 14, kv_heads: 2, head_dim: None, vocabulary: 151936, tied: true },
    ModelFamily { name: "Qwen 2.5 1.5B", class: "Qwen2ForCausalLM", parts: &[QWEN2, &["1.5b"]], layers: 28, hidden: 1536, feed_forward: 8960, heads: 12, kv_heads: 2, head_dim: None, vocabulary: 151936, tied: true },
    ModelFamily { name: "Qwen 2.5 3B", class: "Qwen2ForCausalLM", parts: &[QWEN2, &["3b"]], layers: 36, hidden: 2048, feed_forward: 11008, heads: 16, kv_heads: 2, head_dim: None, vocabulary: 151936, tied: true },
    ModelFamily { name: "Qwen 2.5 7B", class: "Qwen2ForCausalLM", parts: &[QWEN2, &["7b"]], layers: 28, hidden: 3584, feed_forward: 18944, heads: 28, kv_heads: 4, head_dim: None, vocabulary: 152064, tied: false },
    ModelFamily { name: "Qwen 2.5 14B", class: "Qwen2ForCausalLM", parts: &[QWEN2, &["14b"]], layers: 48, hidden: 5120, feed_forward: 13824, heads: 40, kv_heads: 8, head_dim: None, vocabulary: 152064, tied: false },
    ModelFamily { name: "Qwen 2.5 32B", class: "Qwen2ForCausalLM", parts: &[QWEN2, &["32b"]], layers: 64, hidden: 5120, feed_forward: 27648, heads: 40, kv_heads: 8, head_dim: None, vocabulary: 152064, tied: false },
    ModelFamily { name: "Qwen 2.5 72B", class: "Qwen2ForCausalLM", parts: &[QWEN2, &["72b"]], layers: 80, hidden: 8192, feed_forward: 29568, heads: 64, kv_heads: 8, head_dim: None, vocabulary: 152064, tied: false },
    ModelFamily { name: "Qwen 3 0.6B", class: "Qwen3ForCausalLM", parts: &[QWEN3, &["0.6b"]], layers: 28, hidden: 1024, feed_forward: 3072, heads: 16, kv_heads: 8, head_dim: Some(128), vocabulary: 151936, tied: true },
    ModelFamily { name: "Qwen 3 1.7B", class: "Qwen3ForCausalLM", parts: &[QWEN3, &["1.7b"]], layers: 28, hidden: 2048, feed_forward: 6144, heads: 16, kv_heads: 8, head_dim: Some(128), vocabulary: 151936, tied: true },
    ModelFamily { name: "Qwen 3 4B", class: "Qwen3ForCausalLM", parts: &[QWEN3, &["4b"]], layers: 36, hidden: 2560, feed_forward: 9728, heads: 32, kv_heads: 8, head_dim: Some(128), vocabulary: 151936, tied: true },
    ModelFamily { name: "Qwen 3 8B", class: "Qwen3ForCausalLM", parts: &[QWEN3, &["8b"]], layers: 36, hidden: 4096, feed_forward: 12288, heads: 32, kv_heads: 8, head_dim: Some(128), vocabulary: 151936, tied: false },
    ModelFamily { name: "Qwen 3 14B", class: "Qwen3ForCausalLM", parts: &[QWEN3, &["14b"]], layers: 40, hidden: 5120, feed_forward: 17408, heads: 40, kv_heads: 8, head_dim: Some(128), vocabulary: 151936, tied: false },
    ModelFamily { name: "Qwen 3 32B", class: "Qwen3ForCausalLM", parts: &[QWEN3, &["32b"]], layers: 64, hidden: 5120, feed_forward: 25600, heads: 64, kv_heads: 8, head_dim: Some(128), vocabulary: 151936, tied: false },
    ModelFamily { name: "Gemma 2 2B", class: "Gemma2ForCausalLM", parts: &[GEMMA2, &["2b"]], layers: 26, hidden: 2304, feed_forward: 9216, heads: 8, kv_heads: 4, head_dim: Some(256), vocabulary: 256000, tied: true },
    ModelFamily { name: "Gemma 2 9B", class: "Gemma2ForCausalLM", parts: &[GEMMA2, &["9b"]], layers: 42, hidden: 3584, feed_forward: 14336, heads: 16, kv_heads: 8, head_dim: Some(256), vocabulary: 256000, tied: true },
    ModelFamily { name: "Gemma 2 27B", class: "Gemma2ForCausalLM", parts: &[GEMMA2, &["27b"]], layers: 46, hidden: 4608, feed_forward: 36864, heads: 32, kv_heads: 16, head_dim: Some(128), vocabulary: 256000, tied: true },
    ModelFamily { name: "Phi 3 mini", class: "Phi3ForCausalLM", parts: &[PHI3, &["mini"]], layers: 32, hidden: 3072, feed_forward: 8192, heads: 32, kv_heads: 32, head_dim: None, vocabulary: 32064, tied: false },
    ModelFamily { name: "Phi 3 medium", class: "Phi3ForCausalLM", parts: &[PHI3, &["medium"]], layers: 40, hidden: 5120, feed_forward: 17920, heads: 40, kv_heads: 10, head_dim: None, vocabulary: 32064, tied: false },
];

const LLAMA3_2: &[&str] = &["llama-3.2", "llama3.2"];
const LLAMA3: &[&str] = &["llama-3", "llama3"];
const LLAMA2: &[&str] = &["llama-2", "llama2"];
const QWEN2: &[&str] = &["qwen2.5"];
const QWEN3: &[&str] = &["qwen3"];
const GEMMA2: &[&str] = &["gemma-2", "gemma2"];
const PHI3: &[&str] = &["phi-3", "phi3"];

/// Whether `part` occurs in `name` with no digit before it (`7b` is not part of `67b`).
fn occurs(name: &str, part: &str) -> bool {
    name.match_indices(part).any(|(at, _)| {
        let before = name[..at].chars().next_back();
        !before.is_some_and(|c| c.is_ascii_digit() || c == '.')
    })
}

/// The configuration that a model of this name most likely has.
pub(crate) fn config_for(name: &str) -> Option<Config> {
    let lower = name.to_lowercase();
    let family = FAMILIES.iter().find(|family| {
        family.parts.iter().all(|any| any.iter().any(|part| occurs(&lower, part)))
    })?;
    let model_type = match family.class {
        "MistralForCausalLM" => "mistral",
        class => Architecture::for_hf_class(name, class).expect("a known class").model_type,
    };
    let mut value = json!({
        "architectures": [family.class],
        "model_type": model_type,
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
    if let Some(head_dim) = family.head_dim {
        value["head_dim"] = head_dim.into();
    }
    let origin = format!("{name} (taken to be {})", family.name);
    Some(Config::parse(&origin, &value.to_string()).expect("the table makes valid JSON"))
}

/// The families' names, for messages.
pub(crate) fn names() -> Vec<&'static str> {
    FAMILIES.iter().map(|family| family.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_a_usable_configuration() {
        for family in FAMILIES {
            let name: Vec<&str> = family.parts.iter().map(|any| any[0]).collect();
            let config = config_for(&name.join("-")).unwrap();
            let hyper = crate::model::arch::HyperParams::from_config(&config).unwrap();
            assert_eq!((hyper.n_layer, hyper.n_vocab), (family.layers, family.vocabulary));
        }
    }

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
        assert_eq!(layers("Qwen/Qwen2.5-14B-Instruct"), Some(48));
        assert_eq!(layers("Qwen/Qwen3-4B"), Some(36));
        assert_eq!(layers("google/gemma-2-27b-it"), Some(46));
        assert_eq!(layers("microsoft/Phi-3-mini-4k-instruct"), Some(32));
    }
}
