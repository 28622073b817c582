//! Every architecture on tiny models, against llama.cpp's converter and transformers' logits.
//!
//! tests/data/architectures/README.md says what made the data; scripts/tiny_models.py makes the same
//! weights as this file does.

use crate::support::golden_models::{NAMES, checkpoint, converted, golden, shown, write_folder};
use crate::support::program::Place;
use crate::support::tiny_llama::digest;
use aqueduct::base::error::Result;
use aqueduct::base::progress::Silent;
use aqueduct::formats::gguf::{Array, GgufModel, Metadata, Value as V};
use aqueduct::kernels::Precision;
use aqueduct::model::convert::OutputType;
use aqueduct::model::forward::{self, Activations, Logits, Observer};
use aqueduct::model::restore::restore;
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[test]
fn conversions_equal_the_peers() {
    for name in NAMES {
        let golden = golden(name);
        let model = converted(&checkpoint(name, &golden, 0), OutputType::F16);
        let more: Vec<&str> =
            golden["more"].as_array().unwrap().iter().map(|m| m.as_str().unwrap()).collect();
        let extra = |name: &str| more.iter().any(|end| name.ends_with(end));
        let expected = golden["kv"].as_object().unwrap();
        let ours =
            model.metadata.iter().filter(|(key, _)| expected.contains_key(*key) || !extra(key));
        let ours: Vec<(&str, Value)> = ours.map(|(key, value)| (key, shown(value))).collect();
        let theirs: Vec<(&str, Value)> =
            expected.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        assert_eq!(ours, theirs, "{name}");
        let infos = model.tensors.table().infos().iter().enumerate();
        let ours: Vec<Value> = infos
            .filter(|(_, info)| !extra(&info.name))
            .map(|(index, info)| {
                let ne: Vec<usize> = info.shape.iter().rev().copied().collect();
                let bytes = model.tensors.read(index).unwrap().bytes;
                json!([info.name, info.dtype.name(), ne, digest(&bytes)])
            })
            .collect();
        assert_eq!(&ours, golden["tensors"].as_array().unwrap(), "{name}");
    }
}

/// Keeps all logits of one chunk.
#[derive(Default)]
struct Keep {
    logits: Vec<Vec<f32>>,
    /// The tensors whose inputs were shown.
    tensors: BTreeSet<String>,
}

impl Observer for Keep {
    fn activations(&mut self, input: &Activations<'_>) -> Result<()> {
        self.tensors.extend(input.tensors.iter().map(|name| name.to_string()));
        Ok(())
    }

    fn logits(&mut self, logits: &Logits<'_>) -> Result<()> {
        self.logits.extend(logits.values.chunks(logits.n_vocab).map(<[f32]>::to_vec));
        Ok(())
    }
}

fn run(model: &GgufModel, tokens: &[u32]) -> Keep {
    let mut keep = Keep::default();
    let (logits, memory) = (0..tokens.len(), u64::MAX);
    let options = forward::Options { logits, precision: Precision::F32, memory, first_chunk: 0 };
    forward::run(model, &[tokens.to_vec()], &mut keep, &options, &Silent).unwrap();
    keep
}

fn numbers<T: std::str::FromStr>(value: &Value) -> Vec<T> {
    let list = value.as_array().unwrap().iter();
    list.map(|n| n.to_string().parse().ok().expect("a number of that kind")).collect()
}

#[test]
fn logits_are_those_of_transformers() {
    for name in NAMES {
        let golden = golden(name);
        let model = converted(&checkpoint(name, &golden, 0), OutputType::F32);
        let keep = run(&model, &numbers(&golden["tokens"]));
        let step = golden["step"].as_u64().unwrap() as usize;
        for (row, position) in numbers::<usize>(&golden["positions"]).into_iter().enumerate() {
            let want: Vec<f32> = numbers(&golden["logits"][row]);
            let got: Vec<f32> = keep.logits[position].iter().step_by(step).copied().collect();
            assert_eq!(got.len(), want.len());
            let largest = want.iter().fold(0f32, |top, x| top.max(x.abs()));
            for (got, want) in got.iter().zip(&want) {
                let close = (got - want).abs() <= 1e-3 * largest;
                assert!(close, "{name}, position {position}: {got} for {want} of {largest}");
            }
        }
        // Every matrix but the embedding has been seen by the observer under its own name.
        let infos = model.tensors.table().infos().iter();
        let matrices = infos.filter(|info| info.shape.len() >= 2).map(|info| info.name.clone());
        let tied = model.tensors.table().find("output.weight").is_none();
        let expected: BTreeSet<String> =
            matrices.filter(|name| tied || name != "token_embd.weight").collect();
        assert_eq!(keep.tensors, expected, "{name}");
    }
}

/// Keys but those that name the model, which a checkpoint's name makes.
fn keys(metadata: &Metadata) -> BTreeSet<String> {
    let own = |key: &str| !key.starts_with("general.");
    metadata.iter().filter(|(k, _)| own(k)).map(|(k, v)| format!("{k} {v:?}")).collect()
}

#[test]
fn restored_models_convert_to_what_they_were() {
    // Llama 3's divisors come back only where they are those of a known model; tests of restoring see to it.
    for name in NAMES.iter().filter(|name| **name != "llama-llama3") {
        let model = converted(&checkpoint(name, &golden(name), 0), OutputType::F32);
        let back = restore(&model, name).unwrap();
        let again = converted(&back, OutputType::F32);
        assert_eq!(keys(&again.metadata), keys(&model.metadata), "{name}");
        let count =
            |model: &aqueduct::formats::gguf::GgufModel| model.tensors.table().infos().len();
        assert_eq!(count(&again), count(&model), "{name}");
        for (index, info) in again.tensors.table().infos().iter().enumerate() {
            let was = model.tensors.read_name(&info.name).unwrap();
            assert!(again.tensors.read(index).unwrap().bytes == was.bytes, "{name} {}", info.name);
        }
    }
}

#[test]
fn models_of_every_architecture_merge_stack_and_quantize() {
    for name in
        ["mixtral", "qwen3_moe", "qwen2-yarn", "qwen3", "gemma2", "gemma3", "phi3-long", "granite"]
    {
        let (place, golden) = (Place::new(), golden(name));
        write_folder(&place, "a", &golden, 0);
        write_folder(&place, "b", &golden, 77);
        let recipe = "merge_method: slerp\nbase_model: a\nparameters: {t: 0.5}\ndtype: float32\nslices:\n\
                      - sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]\n\
                      - sources: [{model: a, layer_range: [1, 2]}, {model: b, layer_range: [1, 2]}]\n";
        std::fs::write(place.path("recipe.yml"), recipe).unwrap();
        std::fs::write(place.path("text.txt"), "the water comes down from the hills ".repeat(40))
            .unwrap();
        place.ok("imatrix recipe.yml -f text.txt -o im.gguf --ctx 64");
        place.ok("quantize recipe.yml --imatrix im.gguf -o out.gguf Q8_0");
        place.ok("merge recipe.yml -o folder");
        place.ok("convert recipe.yml -o recipe.gguf");
        place.ok("convert folder -o folder.gguf");
        let [a, b] = ["recipe.gguf", "folder.gguf"]
            .map(|file| place.ok(&format!("eval {file} -f text.txt --ctx 64 --json")).json());
        let [a, b] = [a, b].map(|found| found["models"][0]["perplexity"].clone());
        assert!(a.is_object() && a == b, "{name}: {a} {b}");
    }
}

#[test]
fn layers_keep_their_windows_in_a_stack() {
    let (place, golden) = (Place::new(), golden("gemma2"));
    write_folder(&place, "a", &golden, 0);
    let recipe = "merge_method: passthrough\nslices:\n\
                  - sources: [{model: a, layer_range: [0, 3]}]\n- sources: [{model: a, layer_range: [0, 3]}]\n";
    std::fs::write(place.path("recipe.yml"), recipe).unwrap();
    place.ok("convert recipe.yml -o stack.gguf");
    let model = aqueduct::formats::gguf::open(place.path("stack.gguf")).unwrap();
    let pattern = model.metadata.get("gemma2.attention.sliding_window_pattern");
    let expected = Array::Bool(vec![true, false, true, true, false, true]);
    assert_eq!(pattern, Some(&V::Array(expected)));
    // Gemma 2 has no head to make of two different embeddings.
    write_folder(&place, "b", &golden, 77);
    let recipe = "merge_method: passthrough\nslices:\n\
                  - sources: [{model: a, layer_range: [0, 2]}]\n- sources: [{model: b, layer_range: [2, 3]}]\n";
    std::fs::write(place.path("two.yml"), recipe).unwrap();
    place.ok("convert two.yml -o two.gguf");
    let model = aqueduct::formats::gguf::open(place.path("two.gguf")).unwrap();
    assert!(model.tensors.table().find("output.weight").is_none());
    let head = "head: {merge_method: passthrough, models: [{model: a}]}\n";
    std::fs::write(place.path("head.yml"), format!("{recipe}{head}")).unwrap();
    place.fails(
        1,
        "convert head.yml -o head.gguf",
        &["gemma2 always use the embedding", "head: tied"],
    );
}
