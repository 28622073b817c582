//! config.json and generation_config.json from metadata.
//!
//! Keys: the architectures' configurations in Hugging Face transformers; where they come from,
//! [`crate::model::convert`].

use super::tensors::{ROPE_FREQS, ROPE_LONG, ROPE_SHORT};
use crate::base::dtype::DType;
use crate::base::error::{Error, Result};
use crate::formats::checkpoint::Config;
use crate::formats::gguf::{GgufModel, Value};
use crate::model::arch::{
    Activation, Architecture, EmbeddingScale, HyperParams, Key, RopeScaling, Scores, Yarn,
};
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
    check_heads(model, arch, hyper)?;
    let table = model.tensors.table();
    let optional =
        |part: &str| arch.tensors.iter().any(|decl| decl.optional && decl.hf.contains(part));
    let has = |suffix: &str| table.find(&format!("blk.0.{suffix}")).is_some();
    let mut map = Map::new();
    let mut set = |key: &str, value: Json| {
        map.insert(key.to_string(), value);
    };
    set("architectures", json!([arch.hf_classes[0]]));
    if optional("self_attn") {
        set("attention_bias", has("attn_q.bias").into());
    }
    block(arch, hyper, &mut set);
    token_ids(model, &mut set);
    // A SentencePiece model alone does not show it where the piece is a control token, as Gemma's is.
    let scores = model.metadata.str("tokenizer.ggml.model") == Some("llama");
    if let Some(id) = model.metadata.u64("tokenizer.ggml.unknown_token_id").filter(|_| scores) {
        set("unk_token_id", id.into());
    }
    if hyper.head_dim * hyper.n_head != hyper.n_embd || arch.defaults.head_dim.is_some() {
        set("head_dim", hyper.head_dim.into());
    }
    set("hidden_size", hyper.n_embd.into());
    set("intermediate_size", hyper.n_ff.into());
    set("max_position_embeddings", hyper.n_ctx_train.into());
    if optional("mlp") {
        set("mlp_bias", has("ffn_up.bias").into());
    }
    set("model_type", arch.model_type.into());
    set("num_attention_heads", hyper.n_head.into());
    experts(arch, hyper, &mut set);
    set("num_hidden_layers", hyper.n_layer.into());
    set("num_key_value_heads", hyper.n_head_kv.into());
    set("rms_norm_eps", shortest(hyper.rms_eps));
    set("rope_scaling", rope_scaling(model, hyper)?);
    set("rope_theta", shortest(hyper.rope_theta));
    set("tie_word_embeddings", hyper.tied.into());
    let embedding = table.get("token_embd.weight").map_or(DType::F16, |info| info.dtype);
    set("torch_dtype", torch_dtype(embedding).into());
    set("vocab_size", hyper.n_vocab.into());
    let origin = format!("{} (its metadata)", model.origin());
    let config = Config::parse(&origin, &Json::Object(map).to_string())?;
    Ok((config, generation(model)))
}

/// Fails if the heads have a form that the class in transformers lacks.
fn check_heads(model: &GgufModel, arch: &Architecture, hyper: &HyperParams) -> Result<()> {
    let fail = |detail: &str| Err(Error::model(model.origin(), detail));
    if hyper.rope_dims != hyper.head_dim && !arch.turns_partly() {
        return fail("only part of each head is rotated, which its class in transformers lacks");
    }
    let value_length = model.metadata.u64(&format!("{}.attention.value_length", arch.gguf_name));
    if value_length.is_some_and(|n| n != hyper.head_dim as u64) {
        return fail("values have another length than keys, which cannot be merged");
    }
    Ok(())
}

/// The keys of a mixture of experts.
fn experts(arch: &Architecture, hyper: &HyperParams, set: &mut impl FnMut(&str, Json)) {
    if let (Some(keys), Some(experts)) = (&arch.experts, hyper.experts) {
        set(keys.count, experts.count.into());
        set(keys.used, experts.used.into());
        set(keys.n_ff, experts.n_ff.into());
        if let Some(key) = keys.normalized {
            set(key, true.into());
        }
    }
}

/// PyTorch's name of a type; tensors of other types are restored as f32.
fn torch_dtype(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    }
}

/// What is not llama's: activation, windows, scales and caps.
fn block(arch: &Architecture, hyper: &HyperParams, set: &mut impl FnMut(&str, Json)) {
    match arch.block.activation {
        Activation::Silu => set("hidden_act", "silu".into()),
        Activation::GeluTanh => set("hidden_activation", "gelu_pytorch_tanh".into()),
    }
    let optional = |x: Option<f32>| x.map_or(Json::Null, shortest);
    match arch.block.scores {
        Scores::HeadLength => {}
        Scores::QueryScalar { .. } => {
            // The reciprocal of a square root: an integer before.
            let scalar = f64::from(hyper.score_scale()).powi(-2).round();
            set("query_pre_attn_scalar", (scalar as u64).into());
        }
        Scores::Multiplier => set("attention_multiplier", shortest(hyper.score_scale())),
    }
    if arch.block.embedding == EmbeddingScale::Multiplier {
        set("embedding_multiplier", shortest(hyper.embedding_scale));
        set("residual_multiplier", shortest(hyper.residual_scale));
        set("logits_scaling", shortest(hyper.logit_scale));
    }
    if arch.keys.contains(&Key::AttentionSoftCap) {
        set("attn_logit_softcapping", optional(hyper.attention_soft_cap));
    }
    if arch.keys.contains(&Key::LogitSoftCap) {
        set("final_logit_softcapping", optional(hyper.logit_soft_cap));
    }
    if arch.keys.contains(&Key::Window) || arch.keys.contains(&Key::UnusedWindow) {
        set("sliding_window", hyper.window.map_or(Json::Null, Json::from));
    }
    if !hyper.windowed.is_empty() {
        let kind = |&windowed: &bool| match windowed {
            true => "sliding_attention",
            false => "full_attention",
        };
        set("layer_types", hyper.windowed.iter().map(kind).collect::<Vec<_>>().into());
    }
    if let Some(theta) = hyper.local_rope_theta {
        set("rope_local_base_freq", shortest(theta));
    }
    let long_rope = matches!(hyper.rope_scaling, RopeScaling::LongRope { .. });
    if long_rope || arch.keys.contains(&Key::OriginalContext) {
        set("original_max_position_embeddings", hyper.original_context.into());
    }
    if hyper.rope_dims != hyper.head_dim {
        set("partial_rotary_factor", (hyper.rope_dims as f64 / hyper.head_dim as f64).into());
    }
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
    match hyper.rope_scaling {
        RopeScaling::Linear { factor } => {
            let factor = shortest(factor);
            return Ok(json!({ "factor": factor, "rope_type": "linear", "type": "linear" }));
        }
        RopeScaling::Yarn(yarn) => return Ok(yarn_scaling(&yarn, hyper)),
        RopeScaling::LongRope { attention_factor, .. } => {
            return long_rope(model, hyper, attention_factor);
        }
        RopeScaling::None | RopeScaling::Dynamic { .. } | RopeScaling::Llama3 { .. } => {}
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

fn yarn_scaling(yarn: &Yarn, hyper: &HyperParams) -> Json {
    let mut map = json!({
        "factor": shortest(yarn.factor),
        "original_max_position_embeddings": hyper.original_context,
        "rope_type": "yarn",
        "type": "yarn",
    });
    let optional = [
        ("extrapolation_factor", yarn.extrapolation),
        ("attention_factor", yarn.attention_factor),
        ("beta_fast", yarn.beta_fast),
        ("beta_slow", yarn.beta_slow),
    ];
    for (key, value) in optional {
        if let Some(value) = value {
            map[key] = shortest(value);
        }
    }
    map
}

/// Lists for short and long texts; the attention factor only where the contexts do not give it.
fn long_rope(model: &GgufModel, hyper: &HyperParams, attention_factor: f32) -> Result<Json> {
    let list = |name: &str| -> Result<Vec<Json>> {
        Ok(model.tensors.read_name(name)?.to_f32()?.into_iter().map(shortest).collect())
    };
    let mut map = json!({
        "long_factor": list(ROPE_LONG)?,
        "rope_type": "longrope",
        "short_factor": list(ROPE_SHORT)?,
        "type": "longrope",
    });
    let (context, original) = (hyper.n_ctx_train as f64, hyper.original_context as f64);
    let derived = (1.0 + (context / original).max(1.0).ln() / original.ln()).sqrt();
    if (derived as f32 - attention_factor).abs() > 1e-6 {
        map["attention_factor"] = shortest(attention_factor);
    }
    Ok(map)
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
