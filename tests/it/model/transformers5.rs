//! Models that transformers 5 saved convert to what they were when version 4 had saved them.
//!
//! tests/data/transformers5/README.md says what made the data. Weights follow from the names of version 4's tensors.

use crate::support::golden_models::{NAMES, checkpoint, converted, golden, shown, write_folder};
use crate::support::program::{Place, shipped};
use crate::support::tiny_llama::digest;
use aqueduct::base::dtype::DType;
use aqueduct::formats::checkpoint::{Checkpoint, SideFile};
use aqueduct::formats::gguf::GgufModel;
use aqueduct::formats::source::{MemorySource, TensorInfo};
use aqueduct::model::arch::declared_form;
use aqueduct::model::convert::OutputType;
use aqueduct::model::restore::restore;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

fn data(name: &str) -> Value {
    let path = shipped("tests/data/transformers5").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The golden data of version 4 with the configuration of version 5.
fn resaved(name: &str) -> Value {
    let mut golden = golden(name);
    golden["config"] = data("models.json")[name]["config"].clone();
    golden
}

fn tokenizer(golden: &Value) -> Vec<SideFile> {
    let folder = shipped("tests/data/transformers5").join(golden["tokenizer"].as_str().unwrap());
    std::fs::read_dir(folder).unwrap().map(|entry| SideFile::from(entry.unwrap().path())).collect()
}

/// The model as version 5 saves it by default.
fn plain(name: &str, salt: u64) -> Checkpoint {
    let golden = resaved(name);
    Checkpoint { side_files: tokenizer(&golden), ..checkpoint(name, &golden, salt) }
}

/// The tensors of `name` in the format that `fused` lists, by name.
fn fused_tensors(name: &str, salt: u64) -> Vec<(TensorInfo, Vec<u8>)> {
    let source = checkpoint(name, &golden(name), salt);
    let experts = data("models.json")[name]["config"]["num_local_experts"].as_u64().unwrap();
    let [moe, parts] = match name {
        "mixtral" => ["block_sparse_moe", "w1 w3 w2"],
        _ => ["mlp", "gate_proj up_proj down_proj"],
    };
    let parts: Vec<&str> = parts.split(' ').collect();
    let tensor = |entry: &Value| {
        let stored = entry[0].as_str().unwrap();
        let shape: Vec<usize> = serde_json::from_value(entry[1].clone()).unwrap();
        let read = |name: &str| source.tensors.read_name(name).unwrap().bytes.into_owned();
        let bytes = match stored.split_once(".experts.") {
            Some((layer, part)) => {
                let parts = if part == "down_proj" { &parts[2..] } else { &parts[..2] };
                let layer = layer.replace("mlp", moe);
                let of_expert = |e| parts.iter().map(move |part| (e, *part)).collect::<Vec<_>>();
                let all = (0..experts).flat_map(of_expert);
                all.flat_map(|(e, part)| read(&format!("{layer}.experts.{e}.{part}.weight")))
                    .collect()
            }
            None => read(&stored.replace("mlp.gate.", &format!("{moe}.gate."))),
        };
        (TensorInfo::new(stored, shape, DType::F32), bytes)
    };
    data("models.json")[name]["fused"].as_array().unwrap().iter().map(tensor).collect()
}

/// The model as version 5 saves it with `save_original_format=False`, as it is declared.
fn fused(name: &str, salt: u64) -> Checkpoint {
    let tensors = Arc::new(MemorySource::new("fused", fused_tensors(name, salt)).unwrap());
    declared_form(Checkpoint { tensors, ..plain(name, salt) }).unwrap()
}

/// Checks the keys of `model` against those of version 4's form: llama.cpp's, but for what it does not write.
fn assert_keys(name: &str, model: &GgufModel) {
    let golden = golden(name);
    let kind = golden["tokenizer"].as_str().unwrap();
    let mut expected: BTreeMap<String, Value> =
        serde_json::from_value(golden["kv"].clone()).unwrap();
    // This key follows from the architecture.
    const PREFIX: &str = "tokenizer.ggml.add_space_prefix";
    expected.retain(|key, _| !key.starts_with("tokenizer.") || key == PREFIX);
    let tokenizers = data("tokenizers.json")[kind].as_object().unwrap().clone();
    expected.extend(tokenizers.into_iter().filter(|(key, _)| key != PREFIX));
    let more: Vec<&str> =
        golden["more"].as_array().unwrap().iter().map(|end| end.as_str().unwrap()).collect();
    let mut ours: BTreeMap<String, Value> =
        model.metadata.iter().map(|(key, value)| (key.to_string(), shown(value))).collect();
    ours.retain(|key, _| expected.contains_key(key) || !more.iter().any(|end| key.ends_with(end)));
    if kind == "gemma" {
        // The token that the class of version 5 added, and the arrays it is in.
        assert_eq!(ours.remove("tokenizer.ggml.mask_token_id"), Some(json!(["UINT32", 311])));
        for key in ["tokens", "scores", "token_type"] {
            let key = format!("tokenizer.ggml.{key}");
            assert!(ours.remove(&key).is_some() && expected.remove(&key).is_some());
        }
    }
    assert_eq!(ours, expected, "{name}");
}

/// Name, type, shape and hash of each tensor, sorted; without those that llama.cpp's converter does not make.
fn assert_tensors(name: &str, model: &GgufModel) {
    let golden = golden(name);
    let mut expected: Vec<String> =
        golden["tensors"].as_array().unwrap().iter().map(Value::to_string).collect();
    let more: Vec<&str> =
        golden["more"].as_array().unwrap().iter().map(|end| end.as_str().unwrap()).collect();
    let infos = model.tensors.table().infos().iter().enumerate();
    let kept = infos.filter(|(_, info)| !more.iter().any(|end| info.name.ends_with(end)));
    let mut ours: Vec<String> = kept
        .map(|(index, info)| {
            let ne: Vec<usize> = info.shape.iter().rev().copied().collect();
            let bytes = model.tensors.read(index).unwrap().bytes;
            json!([info.name, info.dtype.name(), ne, digest(&bytes)]).to_string()
        })
        .collect();
    // Other names are in another order in the file.
    expected.sort();
    ours.sort();
    assert_eq!(ours, expected, "{name}");
}

#[test]
fn every_architecture_converts_to_what_it_was() {
    for name in NAMES {
        let model = converted(&plain(name, 0), OutputType::F16);
        assert_eq!(model.warnings, Vec::<String>::new(), "{name}");
        assert_keys(name, &model);
        assert_tensors(name, &model);
    }
}

#[test]
fn tokens_without_a_sentencepiece_model_are_those_of_the_model() {
    for name in ["gemma3", "phi3"] {
        let strings = |model: &GgufModel| {
            let get = |key: &str| {
                let value = model.metadata.get(&format!("tokenizer.ggml.{key}")).unwrap();
                format!("{value:?}").replace("<mask>", "[PAD311]")
            };
            get("tokens")
        };
        let [was, is] = [checkpoint(name, &golden(name), 0), plain(name, 0)]
            .map(|model| strings(&converted(&model, OutputType::F16)));
        assert_eq!(was, is, "{name}");
    }
}

#[test]
fn fused_experts_convert_to_what_they_were() {
    for name in ["mixtral", "qwen3_moe"] {
        let listed = data("models.json")[name]["fused"].clone();
        let built: Vec<Value> = fused_tensors(name, 0)
            .iter()
            .map(|(info, bytes)| json!([info.name, info.shape, digest(bytes)]))
            .collect();
        assert_eq!(Value::from(built), listed, "{name}: not the tensors that transformers saved");
        let model = converted(&fused(name, 0), OutputType::F16);
        assert_keys(name, &model);
        assert_tensors(name, &model);
        // And back, to tensors of version 4.
        let back = restore(&converted(&fused(name, 0), OutputType::F32), name).unwrap();
        let was = checkpoint(name, &golden(name), 0);
        assert_eq!(back.tensors.table().infos().len(), was.tensors.table().infos().len());
        for (index, info) in was.tensors.table().infos().iter().enumerate() {
            let data = back.tensors.read_name(&info.name).unwrap();
            assert!(data.bytes == was.tensors.read(index).unwrap().bytes, "{name} {}", info.name);
        }
    }
}

/// Writes `tensors` as the only weights of `folder`.
fn write_weights(folder: &Path, tensors: &[(TensorInfo, Vec<u8>)]) {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (info, bytes) in tensors {
        let offsets = [end, end + bytes.len()];
        let entry = json!({"dtype": "F32", "shape": info.shape, "data_offsets": offsets});
        header.insert(info.name.clone(), entry);
        end = offsets[1];
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    tensors.iter().for_each(|(_, bytes)| file.extend_from_slice(bytes));
    std::fs::write(folder.join("model.safetensors"), file).unwrap();
}

#[test]
fn recipes_mix_fused_and_plain_members() {
    for name in ["mixtral", "qwen3_moe"] {
        let place = Place::new();
        write_folder(&place, "a", &golden(name), 0);
        write_folder(&place, "plain", &golden(name), 77);
        write_folder(&place, "fused", &golden(name), 77);
        let config = data("models.json")[name]["config"].to_string();
        std::fs::write(place.path("fused/config.json"), config).unwrap();
        let salted = fused_tensors(name, 77);
        write_weights(&place.path("fused"), &salted);
        for kind in ["plain", "fused"] {
            let recipe = format!(
                "merge_method: slerp\nbase_model: a\nparameters: {{t: 0.25}}\ndtype: float32\n\
                 models: [{{model: a}}, {{model: {kind}}}]\n"
            );
            std::fs::write(place.path(&format!("{kind}.yml")), recipe).unwrap();
            place.ok(&format!("merge {kind}.yml -o {kind}-merged"));
            place.ok(&format!("convert {kind}.yml -o {kind}.gguf --name same"));
        }
        let weights = |kind: &str| place.read(&format!("{kind}-merged/model.safetensors"));
        assert!(weights("plain") == weights("fused"), "{name}");
        let ends = ["plain", "fused"].map(|kind| {
            let model = aqueduct::formats::gguf::open(place.path(&format!("{kind}.gguf"))).unwrap();
            let infos = model.tensors.table().infos().to_vec();
            let digests = (0..infos.len()).map(|i| digest(&model.tensors.read(i).unwrap().bytes));
            (digests.collect::<Vec<_>>(), infos)
        });
        assert!(ends[0] == ends[1], "{name}");
        // A layer passed through whole is copied, not computed.
        let recipe = "merge_method: passthrough\nmodels: [{model: fused}]\n";
        std::fs::write(place.path("copy.yml"), recipe).unwrap();
        place.ok("merge copy.yml -o copy");
        let copy = Checkpoint::open(place.path("copy")).unwrap();
        let was = checkpoint(name, &golden(name), 77);
        for (index, info) in was.tensors.table().infos().iter().enumerate() {
            let data = copy.tensors.read_name(&info.name).unwrap();
            assert!(data.bytes == was.tensors.read(index).unwrap().bytes, "{name} {}", info.name);
        }
        std::fs::write(place.path("text.txt"), "the water comes down ".repeat(40)).unwrap();
        let perplexity = |source: &str| {
            let line = format!("eval {source} -f text.txt --ctx 64 --json");
            place.ok(&line).json()["models"][0]["perplexity"].clone()
        };
        assert_eq!(perplexity("fused"), perplexity("plain"), "{name}");
    }
}

#[test]
fn transposed_stacks_give_the_same_experts() {
    let name = "qwen3_moe";
    let turned = fused_tensors(name, 0).into_iter().map(|(mut info, bytes)| {
        let [count, rows, columns] = info.shape[..] else { return (info, bytes) };
        info.shape = vec![count, columns, rows];
        let mut out = Vec::with_capacity(bytes.len());
        for matrix in bytes.chunks(rows * columns * 4) {
            for at in (0..columns).flat_map(|c| (0..rows).map(move |r| (r * columns + c) * 4)) {
                out.extend_from_slice(&matrix[at..at + 4]);
            }
        }
        (info, out)
    });
    let source = MemorySource::new("turned", turned.collect()).unwrap();
    let checkpoint = declared_form(Checkpoint { tensors: Arc::new(source), ..plain(name, 0) });
    assert_tensors(name, &converted(&checkpoint.unwrap(), OutputType::F16));
}

#[test]
fn stacks_that_do_not_fit_the_configuration_are_named() {
    let mut tensors = fused_tensors("mixtral", 0);
    let (info, bytes) = tensors.iter_mut().find(|(info, _)| info.shape.len() == 3).unwrap();
    let small = [info.shape[0] - 1, info.shape[1], info.shape[2]];
    bytes.truncate(small.iter().product::<usize>() * 4);
    info.shape = small.to_vec();
    let source = MemorySource::new("small", tensors).unwrap();
    let golden = resaved("mixtral");
    let model = Checkpoint { tensors: Arc::new(source), ..checkpoint("mixtral", &golden, 0) };
    let error = declared_form(model).err().unwrap().to_string();
    assert!(error.contains("experts.down_proj") && error.contains("8 experts"), "{error}");
}
