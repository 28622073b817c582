//! config.json and generation_config.json from metadata.
//!
//! Keys: Hugging Face transformers' `LlamaConfig`; where they come from, [`crate::convert`].

use super::tensors::ROPE_FREQS;
use crate::arch::{Architecture, HyperParams, RopeScaling};
use crate::checkpoint::Config;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::gguf::{GgufModel, Value};
use serde_json::{Map, Value as Json, json};

/// The scalings of which a file holds only the divisors that they give: factor, low and high frequency
/// factor, original context. Llama 3.1, and 3.2 and later.
const KNOWN_SCALINGS: &[[f32; 4]] = &[[8.0, 1.0, 4.0, 8192.0], [32.0, 1.0, 4.0, 8192.0]];

/// The configuration, and generation_config.json if there is something to put into it.
pub(super) fn make(
    model: &GgufModel,
    arch: &Architecture,
    hyper: &HyperParams,
) -> Result<(Config, Option<String>)> {
    let key = |suffix: &str| format!("{}.{suffix}", arch.gguf_name);
    let count = |suffix: &str| model.metadata.u64(&key(suffix));
    let fail = |detail: String| Err(Error::model(model.origin(), detail));
    if count("rope.dimension_count").is_some_and(|n| n != hyper.head_dim as u64) {
        return fail(
            "only part of each head is rotated, which its class in transformers lacks".into(),
        );
    }
    if count("attention.value_length").is_some_and(|n| n != hyper.head_dim as u64) {
        return fail("values have another length than keys, which cannot be merged".into());
    }
    if count("expert_count").is_some_and(|n| n > 0) {
        return fail("a mixture of experts, which cannot be merged yet".into());
    }
    let table = model.tensors.table();
    let has = |suffix: &str| table.find(&format!("blk.0.{suffix}")).is_some();
    let mut map = Map::new();
    let mut set = |key: &str, value: Json| {
        map.insert(key.to_string(), value);
    };
    set("architectures", json!([arch.hf_classes[0]]));
    set("attention_bias", has("attn_q.bias").into());
    token_ids(model, &mut set);
    if hyper.head_dim * hyper.n_head != hyper.n_embd {
        set("head_dim", hyper.head_dim.into());
    }
    set("hidden_act", "silu".into());
    set("hidden_size", hyper.n_embd.into());
    set("intermediate_size", hyper.n_ff.into());
    set("max_position_embeddings", hyper.n_ctx_train.into());
    set("mlp_bias", has("ffn_up.bias").into());
    set("model_type", arch.gguf_name.into());
    set("num_attention_heads", hyper.n_head.into());
    set("num_hidden_layers", hyper.n_layer.into());
    set("num_key_value_heads", hyper.n_head_kv.into());
    set("rms_norm_eps", shortest(hyper.rms_eps));
    set("rope_scaling", rope_scaling(model, hyper)?);
    set("rope_theta", shortest(hyper.rope_theta));
    set("tie_word_embeddings", hyper.tied.into());
    let embedding = table.get("token_embd.weight").map_or(DType::F16, |info| info.dtype);
    let torch = match embedding {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    };
    set("torch_dtype", torch.into());
    set("vocab_size", hyper.n_vocab.into());
    let origin = format!("{} (its metadata)", model.origin());
    let config = Config::parse(&origin, &Json::Object(map).to_string())?;
    Ok((config, generation(model)))
}

fn token_ids(model: &GgufModel, set: &mut impl FnMut(&str, Json)) {
    for (key, gguf) in [("bos", "bos"), ("eos", "eos"), ("pad", "padding")] {
        let id = model.metadata.u64(&format!("tokenizer.ggml.{gguf}_token_id"));
        if let Some(id) = id {
            set(&format!("{key}_token_id"), id.into());
        }
    }
}

/// An f32 as the shortest decimal that means it: 1e-5, not 9.99999974737875e-6.
fn shortest(x: f32) -> Json {
    x.to_string().parse::<f64>().map_or(Json::Null, Json::from)
}

/// `rope_scaling`; null if there is none.
fn rope_scaling(model: &GgufModel, hyper: &HyperParams) -> Result<Json> {
    if let RopeScaling::Linear { factor } = hyper.rope_scaling {
        return Ok(json!({ "factor": shortest(factor), "rope_type": "linear", "type": "linear" }));
    }
    let Some(index) = model.tensors.table().find(ROPE_FREQS) else { return Ok(Json::Null) };
    let divisors = model.tensors.read(index)?.to_f32()?;
    for &[factor, low, high, context] in KNOWN_SCALINGS {
        let scaling = RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_context: context,
        };
        let known = HyperParams { rope_scaling: scaling, ..hyper.clone() }.rope_factors();
        // Programs compute them with powers of their own, which may differ in the last bits.
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-4 * b.abs();
        if known.is_some_and(|k| k.len() == divisors.len() && divisors.iter().zip(&k).all(near)) {
            return Ok(json!({
                "factor": factor,
                "high_freq_factor": high,
                "low_freq_factor": low,
                "original_max_position_embeddings": context as u64,
                "rope_type": "llama3",
            }));
        }
    }
    let detail = format!(
        "the divisors in '{ROPE_FREQS}' are those of no known 'rope_scaling', so config.json cannot be \
         made; take the model's Hugging Face folder"
    );
    Err(Error::model(model.origin(), detail))
}

/// Recommended sampler settings, by the names that transformers has for them.
fn generation(model: &GgufModel) -> Option<String> {
    let mut map = Map::new();
    let named = [
        ("top_k", "top_k"),
        ("top_p", "top_p"),
        ("min_p", "min_p"),
        ("temp", "temperature"),
        ("penalty_repeat", "repetition_penalty"),
    ];
    for (gguf, hf) in named {
        let value = match model.metadata.get(&format!("general.sampling.{gguf}")) {
            Some(Value::F32(x)) if x.is_finite() => shortest(*x),
            Some(value) => match value.as_u64() {
                Some(n) => n.into(),
                None => continue,
            },
            None => continue,
        };
        map.insert(hf.to_string(), value);
    }
    if map.is_empty() {
        return None;
    }
    token_ids(model, &mut |key, value| {
        map.insert(key.to_string(), value);
    });
    Some(serde_json::to_string_pretty(&map).expect("JSON values serialize") + "\n")
}
