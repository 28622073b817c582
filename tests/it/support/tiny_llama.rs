//! A tiny Llama checkpoint in memory, and the real SmolLM2 where it has been downloaded.

use aqueduct::base::dtype::DType;
use aqueduct::formats::checkpoint::{Checkpoint, Config, SideFile};
use aqueduct::formats::source::{MemorySource, TensorInfo};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

pub(crate) const CONFIG: &str = r#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 8,
    "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2,
    "intermediate_size": 12, "vocab_size": 16, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1}"#;

/// Letters, a merge, and the byte-level rules of SmolLM2.
pub(crate) fn tokenizer_json() -> Value {
    let vocab = ["<s>", "</s>", "a", "b", "Ġ", "ab", "Ġab", "1"];
    let vocab: serde_json::Map<String, Value> =
        vocab.iter().enumerate().map(|(id, text)| (text.to_string(), json!(id))).collect();
    json!({
        "added_tokens": [
            {"id": 0, "content": "<s>", "special": true, "normalized": false},
            {"id": 1, "content": "</s>", "special": true, "normalized": false},
            {"id": 8, "content": "<br>", "special": false, "normalized": false},
            {"id": 9, "content": "<|x|>", "special": false, "normalized": false},
        ],
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": ["a b", "Ġ ab"]},
    })
}

/// The value of element `i` of tensor `seed`: exact in all float types.
pub(crate) fn value(seed: usize, i: usize) -> f32 {
    ((i * 7 + seed * 13) % 64) as f32 / 8.0 - 4.0
}

pub(crate) fn encode(dtype: DType, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * dtype.block_bytes()];
    aqueduct::quants::encode_float(dtype, values, &mut bytes).unwrap();
    bytes
}

/// Names and shapes of the tiny model, in the order of their names.
pub(crate) fn tensor_shapes() -> Vec<(String, Vec<usize>)> {
    let mut shapes = vec![
        ("lm_head.weight".to_string(), vec![16, 8]),
        ("model.embed_tokens.weight".to_string(), vec![16, 8]),
        ("model.norm.weight".to_string(), vec![8]),
    ];
    for layer in 0..2 {
        for (rest, shape) in [
            ("input_layernorm", vec![8]),
            ("mlp.down_proj", vec![8, 12]),
            ("mlp.gate_proj", vec![12, 8]),
            ("mlp.up_proj", vec![12, 8]),
            ("post_attention_layernorm", vec![8]),
            ("self_attn.k_proj", vec![4, 8]),
            ("self_attn.o_proj", vec![8, 8]),
            ("self_attn.q_proj", vec![8, 8]),
            ("self_attn.v_proj", vec![4, 8]),
        ] {
            shapes.push((format!("model.layers.{layer}.{rest}.weight"), shape));
        }
    }
    shapes.sort();
    shapes
}

pub(crate) type Tensors = Vec<(TensorInfo, Vec<u8>)>;

pub(crate) fn tensors(dtype: DType) -> Tensors {
    let make = |(seed, (name, shape)): (usize, (String, Vec<usize>))| {
        let info = TensorInfo::new(name, shape, dtype);
        let values: Vec<f32> = (0..info.elements()).map(|i| value(seed, i)).collect();
        (info, encode(dtype, &values))
    };
    tensor_shapes().into_iter().enumerate().map(make).collect()
}

/// A checkpoint whose side files lie in `dir`, made of `files`.
pub(crate) fn checkpoint(
    dir: &Path,
    config: &str,
    tensors: Tensors,
    files: &[(&str, &[u8])],
) -> Checkpoint {
    let write = |(name, bytes): &(&str, &[u8])| {
        let path = dir.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    Checkpoint {
        name: "tiny-llama-v2".to_string(),
        config: Config::parse("tiny/config.json", config).unwrap(),
        tensors: Arc::new(MemorySource::new("tiny", tensors).unwrap()),
        side_files: files.iter().map(write).map(SideFile::from).collect(),
        card: None,
        warnings: Vec::new(),
    }
}

/// The first 32 hex digits of a SHA-256 sum, as the golden data have them.
pub(crate) fn digest(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes)[..16].iter().map(|b| format!("{b:02x}")).collect()
}

/// The real model's folder: from the environment, or where scripts/fetch-smollm2 puts it.
pub(crate) fn smollm2() -> Checkpoint {
    let folder = std::env::var("AQUEDUCT_SMOLLM2").unwrap_or_else(|_| {
        concat!(env!("CARGO_MANIFEST_DIR"), "/models/SmolLM2-135M-Instruct").into()
    });
    Checkpoint::open(&folder).expect("run scripts/fetch-smollm2, or set AQUEDUCT_SMOLLM2")
}
