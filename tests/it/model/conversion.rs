//! Checkpoints to GGUF models: names, order, permutation, types, metadata, and what is refused.

use crate::support::files::assert_error;
use crate::support::tiny_llama::{
    CONFIG, Tensors, checkpoint, digest, smollm2, tensor_shapes, tensors, tokenizer_json, value,
};
use aqueduct::base::dtype::DType;
use aqueduct::formats::checkpoint::ModelCard;
use aqueduct::formats::gguf::{self, Array, GgufModel, GgufWriter};
use aqueduct::formats::source::TensorInfo;
use aqueduct::model::convert::{ConvertOptions, OutputType, convert};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::path::Path;

fn converted(
    config: &str,
    tensors: Tensors,
    options: &ConvertOptions,
) -> aqueduct::Result<GgufModel> {
    let dir = tempfile::tempdir().unwrap();
    let json = tokenizer_json().to_string();
    let files = [("tokenizer.json", json.as_bytes())];
    convert(&checkpoint(dir.path(), config, tensors, &files), options)
}

fn options(output_type: OutputType) -> ConvertOptions {
    ConvertOptions { output_type, ..ConvertOptions::default() }
}

#[test]
fn names_shapes_and_order() {
    let model = converted(CONFIG, tensors(DType::F16), &options(OutputType::F16)).unwrap();
    let infos = model.tensors.table().infos();
    let listed: Vec<String> =
        infos.iter().map(|i| format!("{} {} {:?}", i.name, i.dtype, i.shape)).take(12).collect();
    assert_eq!(
        listed,
        [
            "output.weight F16 [16, 8]",
            "token_embd.weight F16 [16, 8]",
            "blk.0.attn_norm.weight F32 [8]",
            "blk.0.ffn_down.weight F16 [8, 12]",
            "blk.0.ffn_gate.weight F16 [12, 8]",
            "blk.0.ffn_up.weight F16 [12, 8]",
            "blk.0.ffn_norm.weight F32 [8]",
            "blk.0.attn_k.weight F16 [4, 8]",
            "blk.0.attn_output.weight F16 [8, 8]",
            "blk.0.attn_q.weight F16 [8, 8]",
            "blk.0.attn_v.weight F16 [4, 8]",
            "blk.1.attn_norm.weight F32 [8]",
        ]
    );
    assert_eq!(infos.last().unwrap().name, "output_norm.weight");
}

#[test]
fn values_are_kept_permuted_and_cast() {
    for (from, to) in [
        (DType::F32, OutputType::F16),
        (DType::BF16, OutputType::F32),
        (DType::F16, OutputType::BF16),
        (DType::F16, OutputType::F16),
    ] {
        let model = converted(CONFIG, tensors(from), &options(to)).unwrap();
        let read = |name: &str| model.tensors.read_name(name).unwrap().to_f32().unwrap();
        let seed = |name: &str| tensor_shapes().iter().position(|(n, _)| n == name).unwrap();
        let up = seed("model.layers.1.mlp.up_proj.weight");
        let expected: Vec<f32> = (0..96).map(|i| value(up, i)).collect();
        assert_eq!(read("blk.1.ffn_up.weight"), expected, "{from} {to:?}");
        let q = seed("model.layers.0.self_attn.q_proj.weight");
        let rows = [0, 2, 1, 3, 4, 6, 5, 7].iter();
        let expected: Vec<f32> =
            rows.flat_map(|row| (0..8).map(move |column| value(q, row * 8 + column))).collect();
        assert_eq!(read("blk.0.attn_q.weight"), expected, "{from} {to:?}");
        let k = seed("model.layers.0.self_attn.k_proj.weight");
        assert_eq!(
            read("blk.0.attn_k.weight")[8..16],
            *(16..24).map(|i| value(k, i)).collect::<Vec<_>>()
        );
    }
}

#[test]
fn nothing_is_copied_where_nothing_changes() {
    let model = converted(CONFIG, tensors(DType::F16), &options(OutputType::Auto)).unwrap();
    let borrowed =
        |name: &str| matches!(model.tensors.read_name(name).unwrap().bytes, Cow::Borrowed(_));
    assert!(borrowed("blk.0.attn_v.weight") && borrowed("token_embd.weight"));
    assert!(!borrowed("blk.0.attn_q.weight") && !borrowed("output_norm.weight"));
}

#[test]
fn auto_takes_the_first_half_precision_matrix() {
    let dtype_of = |from: DType| {
        let model = converted(CONFIG, tensors(from), &options(OutputType::Auto)).unwrap();
        let file_type = model.metadata.u64("general.file_type").unwrap();
        (model.tensors.table().get("token_embd.weight").unwrap().dtype, file_type)
    };
    assert_eq!(dtype_of(DType::BF16), (DType::BF16, 32));
    assert_eq!(dtype_of(DType::F16), (DType::F16, 1));
    assert_eq!(dtype_of(DType::F32), (DType::F16, 1));
    let model = converted(CONFIG, tensors(DType::F16), &options(OutputType::F32)).unwrap();
    assert_eq!(model.metadata.u64("general.file_type"), Some(0));
}

#[test]
fn values_that_the_type_cannot_hold_are_named() {
    let with = |at: usize, bad: f32| {
        let mut tensors = tensors(DType::F32);
        let embedding = tensors.iter_mut().find(|(i, _)| i.name == "model.embed_tokens.weight");
        embedding.unwrap().1[at * 4..][..4].copy_from_slice(&bad.to_le_bytes());
        tensors
    };
    let read = |tensors: Tensors, to: OutputType| {
        let model = converted(CONFIG, tensors, &options(to)).unwrap();
        model.tensors.read_name("token_embd.weight").map(|_| ())
    };
    let parts = ["model.embed_tokens.weight", "element 77", "70000", "--type bf16"];
    assert_error(read(with(77, 70000.0), OutputType::F16), &parts);
    assert!(read(with(77, 70000.0), OutputType::BF16).is_ok());
    for to in [OutputType::F16, OutputType::F32] {
        assert_error(
            read(with(3, f32::NAN), to),
            &["model.embed_tokens.weight", "element 3", "NaN"],
        );
    }
}

#[test]
fn tensors_that_do_not_fit_are_all_named() {
    let mut tensors = tensors(DType::F16);
    tensors.retain(|(info, _)| info.name != "model.norm.weight" && info.name != "lm_head.weight");
    let extra = |name: &str, shape: Vec<usize>| {
        let info = TensorInfo::new(name, shape, DType::F16);
        let bytes = vec![0; info.bytes().unwrap()];
        (info, bytes)
    };
    tensors.push(extra("model.layers.2.input_layernorm.weight", vec![8]));
    tensors.push(extra("score.weight", vec![2, 8]));
    tensors.push(extra("model.layers.0.self_attn.rotary_emb.inv_freq", vec![2]));
    tensors.retain(|(info, _)| info.name != "model.layers.1.mlp.up_proj.weight");
    tensors.push(extra("model.layers.1.mlp.up_proj.weight", vec![12, 9]));
    let result = converted(CONFIG, tensors, &ConvertOptions::default());
    let parts = [
        "4 tensors",
        "'model.norm.weight' is missing",
        "'model.layers.2.input_layernorm.weight' is beyond the 2 layers",
        "'score.weight' is not a tensor",
        "'model.layers.1.mlp.up_proj.weight' has shape [12, 9], the configuration says [12, 8]",
    ];
    assert_error(result, &parts);
}

#[test]
fn a_tied_head_may_be_missing() {
    let config = CONFIG.replacen('{', r#"{"tie_word_embeddings": true, "#, 1);
    let mut tensors = tensors(DType::F16);
    tensors.retain(|(info, _)| info.name != "lm_head.weight");
    let model = converted(&config, tensors, &ConvertOptions::default()).unwrap();
    assert!(model.tensors.table().get("output.weight").is_none());
}

/// llama.cpp's gguf-py reads this card alike.
const CARD: &str = "---
model_name: The Forge
version: 0.2
model_creator: A. Smith
license: [apache-2.0, mit]
license_name: either
url: https://forge.example
base_model:
- acme/Anvil-7B-v0.1
- https://huggingface.co/smiths/hammer
- name: Tongs
datasets: smiths/sparks
tags:
- merge
pipeline_tag: text-generation
language:
- en
- no
---
# The Forge
license: none
";

#[test]
fn metadata_keys_and_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let json = tokenizer_json().to_string();
    let files = [("tokenizer.json", json.as_bytes())];
    let config = CONFIG.replacen('{', r#"{"_name_or_path": "acme/Anvil-7B-v0.1", "#, 1);
    let mut checkpoint = checkpoint(dir.path(), &config, tensors(DType::F16), &files);
    checkpoint.card = Some(ModelCard::Text(CARD.to_string()));
    let model = convert(&checkpoint, &options(OutputType::F16)).unwrap();
    let keys: Vec<&str> = model.metadata.iter().map(|(key, _)| key).collect();
    assert_eq!(
        keys,
        [
            "general.architecture",
            "general.type",
            "general.name",
            "general.author",
            "general.version",
            "general.organization",
            "general.finetune",
            "general.basename",
            "general.size_label",
            "general.license",
            "general.license.name",
            "general.source.url",
            "general.base_model.count",
            "general.base_model.0.name",
            "general.base_model.0.version",
            "general.base_model.0.organization",
            "general.base_model.0.repo_url",
            "general.base_model.1.name",
            "general.base_model.1.organization",
            "general.base_model.1.repo_url",
            "general.base_model.2.name",
            "general.dataset.count",
            "general.dataset.0.name",
            "general.dataset.0.organization",
            "general.dataset.0.repo_url",
            "general.tags",
            "general.languages",
            "llama.block_count",
            "llama.context_length",
            "llama.embedding_length",
            "llama.feed_forward_length",
            "llama.attention.head_count",
            "llama.attention.head_count_kv",
            "llama.rope.freq_base",
            "llama.attention.layer_norm_rms_epsilon",
            "llama.attention.key_length",
            "llama.attention.value_length",
            "general.file_type",
            "llama.vocab_size",
            "llama.rope.dimension_count",
            "general.quantization_version",
            "tokenizer.ggml.model",
            "tokenizer.ggml.pre",
            "tokenizer.ggml.tokens",
            "tokenizer.ggml.token_type",
            "tokenizer.ggml.merges",
            "tokenizer.ggml.bos_token_id",
            "tokenizer.ggml.eos_token_id",
        ]
    );
    let text = |key: &str| model.metadata.str(key).unwrap();
    assert_eq!(text("general.name"), "The Forge", "the card's goes first");
    assert_eq!(text("general.version"), "0.2");
    assert_eq!(text("general.license"), "apache-2.0,mit");
    assert_eq!(text("general.base_model.1.repo_url"), "https://huggingface.co/smiths/hammer");
    assert_eq!(text("general.base_model.2.name"), "Tongs");
    assert_eq!(text("general.size_label"), "1.3K");
    let list = |key| model.metadata.get(key).cloned();
    let words = |words: &[&str]| {
        Some(gguf::Value::Array(Array::String(words.iter().map(|w| w.to_string()).collect())))
    };
    assert_eq!(list("general.tags"), words(&["merge", "text-generation"]));
    assert_eq!(list("general.languages"), words(&["en", "no"]));
}

#[test]
fn rope_scaling_becomes_keys_or_a_tensor() {
    let scaled = |scaling: Value| {
        let config = CONFIG.replacen('{', &format!(r#"{{"rope_scaling": {scaling}, "#), 1);
        converted(&config, tensors(DType::F16), &ConvertOptions::default())
    };
    let linear = scaled(json!({"type": "linear", "factor": 4.0})).unwrap();
    assert_eq!(linear.metadata.str("llama.rope.scaling.type"), Some("linear"));
    assert_eq!(linear.metadata.f32("llama.rope.scaling.factor"), Some(4.0));
    let llama3 = scaled(json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 1000}))
    .unwrap();
    let first = &llama3.tensors.table().infos()[0];
    assert_eq!((first.name.as_str(), &first.shape[..]), ("rope_freqs.weight", &[2][..]));
    // Wavelengths 6.28 and 628.3: the first is below 250 and stays, the second is blended with
    // smooth = (1000 / 628.3 - 1) / 3 = 0.19718.
    let factors = llama3.tensors.read(0).unwrap().to_f32().unwrap();
    let smooth = (1000.0 / (2.0 * std::f64::consts::PI * 100.0) - 1.0) / 3.0;
    let blended = 1.0 / ((1.0 - smooth) / 8.0 + smooth);
    assert_eq!(factors[0], 1.0);
    assert!((f64::from(factors[1]) - blended).abs() < 1e-5, "{factors:?} {blended}");
    assert_error(
        scaled(json!({"type": "sideways", "factor": 2.0})),
        &["config.json", "'sideways'"],
    );
}

/// A metadata value as the golden data show it: arrays by their length and the sum of their JSON.
fn shown(value: &gguf::Value) -> Value {
    use gguf::{Array, Value as V};
    let array = |kind: &str, len: usize, items: Vec<String>| {
        let text = format!("[{}]", items.join(", "));
        json!(["ARRAY", {"array": kind, "len": len, "sha256": digest(text.as_bytes())}])
    };
    match value {
        V::String(v) => json!(["STRING", v]),
        V::U32(v) => json!(["UINT32", v]),
        V::F32(v) => json!(["FLOAT32", f64::from(*v)]),
        V::Bool(v) => json!(["BOOL", v]),
        V::Array(Array::I32(v)) => array("INT32", v.len(), v.iter().map(i32::to_string).collect()),
        V::Array(Array::String(v)) => {
            array("STRING", v.len(), v.iter().map(|s| serde_json::to_string(s).unwrap()).collect())
        }
        other => panic!("a type the golden data do not have: {other:?}"),
    }
}

/// Compares `model` with what llama.cpp's converter made of the same folder.
fn assert_golden(folder: &str, model: &GgufModel) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/convert/smollm2-f16.json");
    let mut golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let keys = golden["kv"].as_object_mut().unwrap();
    // These come from the folder's name, which was this one where the test data were made.
    let named = ["name", "finetune", "basename", "version"].map(|key| format!("general.{key}"));
    let from_name = |key: &str| folder != "smollm2-135m-hf" && named.iter().any(|n| n == key);
    keys.values_mut().for_each(|v| {
        v[1].as_object_mut().map(|array| array.remove("head"));
    });
    let expected: Vec<(&str, Value)> = keys
        .iter()
        .filter(|(key, _)| !from_name(key))
        .map(|(key, value)| (key.as_str(), value.clone()))
        .collect();
    let actual: Vec<(&str, Value)> =
        model.metadata.iter().filter(|(k, _)| !from_name(k)).map(|(k, v)| (k, shown(v))).collect();
    assert_eq!(actual, expected);
    let tensors = golden["tensors"].as_array().unwrap();
    assert_eq!(model.tensors.table().infos().len(), tensors.len());
    for (index, expected) in tensors.iter().enumerate() {
        let data = model.tensors.read(index).unwrap();
        let info = &model.tensors.table().infos()[index];
        let ne: Vec<usize> = info.shape.iter().rev().copied().collect();
        let actual = json!([info.name, info.dtype.name(), ne, digest(&data.bytes)]);
        assert_eq!(actual, *expected);
    }
}

#[test]
#[ignore = "needs SmolLM2-135M-Instruct: run scripts/fetch-smollm2"]
fn smollm2_equals_the_peers_conversion() {
    let options = ConvertOptions { output_type: OutputType::F16, ..ConvertOptions::default() };
    let checkpoint = smollm2();
    let model = convert(&checkpoint, &options).unwrap();
    assert_golden(&checkpoint.name, &model);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("smollm2-f16.gguf");
    let infos = model.tensors.table().infos().to_vec();
    let writer = GgufWriter::create(&path, false, &model.metadata, infos).unwrap();
    for index in 0..writer.tensors().len() {
        writer.write_tensor(index, &model.tensors.read(index).unwrap().bytes).unwrap();
    }
    writer.finish().unwrap();
    assert_golden(&checkpoint.name, &gguf::open(&path).unwrap());
}
