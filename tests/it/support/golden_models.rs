//! A tiny model of every architecture, with the results of transformers and llama.cpp.

use crate::support::program::{Place, shipped};
use crate::support::tiny_llama::digest;
use aqueduct::base::dtype::DType;
use aqueduct::formats::checkpoint::{Checkpoint, Config, SideFile};
use aqueduct::formats::gguf::{Array, GgufModel, Value as V};
use aqueduct::formats::source::{MemorySource, TensorData, TensorInfo};
use aqueduct::model::arch::{Architecture, HyperParams, Role};
use aqueduct::model::convert::{ConvertOptions, OutputType, convert};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

pub(crate) const NAMES: &[&str] = &[
    "llama",
    "llama-linear",
    "llama-dynamic",
    "llama-llama3",
    "llama-yarn",
    "llama-longrope",
    "mixtral",
    "qwen2",
    "qwen2-yarn",
    "qwen3",
    "qwen3_moe",
    "gemma2",
    "gemma3",
    "gemma3-layers",
    "phi3",
    "phi3-short",
    "phi3-long",
    "phi3-partial",
    "granite",
];

pub(crate) fn folder() -> PathBuf {
    shipped("tests/data/architectures")
}

pub(crate) fn golden(name: &str) -> Value {
    let path = folder().join(format!("{name}.json"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// What scripts/tiny_models.py puts into the tensor `name`; `salt` makes other models of the kind.
pub(crate) fn weights(name: &str, shape: &[usize], gemma: bool, salt: u64) -> Vec<f32> {
    let mut state = 0xCBF2_9CE4_8422_2325u64 ^ salt;
    for byte in name.bytes() {
        state = (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
    }
    let (scale, offset) = match name {
        _ if name.ends_with("norm.weight") => (0.25, if gemma { 0.0 } else { 1.0 }),
        _ if shape.len() == 1 => (0.25, 0.0),
        "model.embed_tokens.weight" => (1.0, 0.0),
        _ => (0.5, 0.0),
    };
    let next = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale + offset
    };
    (0..shape.iter().product()).map(next).collect()
}

/// The model of the golden data as a checkpoint.
pub(crate) fn checkpoint(name: &str, golden: &Value, salt: u64) -> Checkpoint {
    let config = Config::parse("tiny/config.json", &golden["config"].to_string()).unwrap();
    let class = config.architecture().unwrap();
    let arch = Architecture::for_hf_class("tiny", class).unwrap();
    let hyper = HyperParams::from_config(&config).unwrap();
    let mut tensors = Vec::new();
    for decl in arch.tensors {
        if decl.optional && (decl.role != Role::Head || hyper.tied) {
            continue;
        }
        let layers = if decl.role == Role::Layer { hyper.n_layer } else { 1 };
        let experts = decl.copies(&hyper);
        for (layer, expert) in (0..layers).flat_map(|l| (0..experts).map(move |e| (l, e))) {
            let (name, shape) = (decl.hf_name_of(layer, expert), decl.shape(&hyper));
            let gemma = class.starts_with("Gemma");
            let data = TensorData::from_f32(shape.clone(), &weights(&name, &shape, gemma, salt));
            tensors.push((TensorInfo::new(name, shape, DType::F32), data.bytes.into_owned()));
        }
    }
    tensors.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    let tokenizer = folder().join(golden["tokenizer"].as_str().unwrap());
    let files = std::fs::read_dir(tokenizer).unwrap().map(|entry| entry.unwrap().path());
    Checkpoint {
        name: name.to_string(),
        config,
        tensors: Arc::new(MemorySource::new("tiny", tensors).unwrap()),
        side_files: files.map(SideFile::from).collect(),
        card: None,
        warnings: Vec::new(),
    }
}

pub(crate) fn converted(checkpoint: &Checkpoint, output_type: OutputType) -> GgufModel {
    convert(checkpoint, &ConvertOptions { output_type, ..ConvertOptions::default() }).unwrap()
}

/// A key's type and value as the golden data have it.
pub(crate) fn shown(value: &V) -> Value {
    let array = |kind: &str, n: usize, text: String| json!([kind, [n, digest(text.as_bytes())]]);
    match value {
        V::String(v) if v.chars().count() > 200 => json!(["STRING", digest(v.as_bytes())]),
        V::String(v) => json!(["STRING", v]),
        V::U32(v) => json!(["UINT32", v]),
        V::I32(v) => json!(["INT32", v]),
        V::F32(v) => json!(["FLOAT32", f64::from(*v)]),
        V::Bool(v) => json!(["BOOL", v]),
        V::Array(Array::Bool(v)) => array("ARRAY BOOL", v.len(), json!(v).to_string()),
        V::Array(Array::I32(v)) => array("ARRAY INT32", v.len(), json!(v).to_string()),
        V::Array(Array::String(v)) => array("ARRAY STRING", v.len(), json!(v).to_string()),
        V::Array(Array::F32(v)) => {
            let hex = v.iter().flat_map(|x| x.to_le_bytes()).map(|b| format!("{b:02x}"));
            array("ARRAY FLOAT32", v.len(), hex.collect())
        }
        other => panic!("a type the golden data do not have: {other:?}"),
    }
}

/// Writes the model as a folder `folder`.
pub(crate) fn write_folder(place: &Place, folder: &str, golden: &Value, salt: u64) {
    let checkpoint = checkpoint(folder, golden, salt);
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (index, info) in checkpoint.tensors.table().infos().iter().enumerate() {
        let start = data.len();
        data.extend_from_slice(&checkpoint.tensors.read(index).unwrap().bytes);
        let entry =
            json!({"dtype": "F32", "shape": info.shape, "data_offsets": [start, data.len()]});
        header.insert(info.name.clone(), entry);
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&data);
    let dir = place.path(folder);
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("model.safetensors"), bytes).unwrap();
    std::fs::write(dir.join("config.json"), golden["config"].to_string()).unwrap();
    for file in &checkpoint.side_files {
        let name = file.path().file_name().unwrap();
        std::fs::copy(file.path(), dir.join(name)).unwrap();
    }
}
