//! Whole models with packed weights: what conversion, the forward pass, recipes and quantizing make
//! of them.
//!
//! The models are in tests/data/quantized, whose README.md says what made them.

use crate::support::program::{Place, shipped};
use crate::support::tiny_llama::digest;
use aqueduct::Silent;
use aqueduct::base::dtype::DType;
use aqueduct::formats::checkpoint::Checkpoint;
use aqueduct::formats::gguf::{self, GgufModel};
use aqueduct::formats::source::TensorSource;
use aqueduct::model::convert::{ConvertOptions, OutputType, convert};
use aqueduct::model::restore::restore;
use serde_json::{Value, json};
use std::fs;

const MODELS: &[&str] = &[
    "llama-bitnet",
    "llama-gptq-2-bits",
    "llama-gptq-4-bits",
    "llama-gptq-8-bits",
    "llama-nvfp4",
    "qwen3moe-nvfp4",
];

/// A place with the folder of `model`, its tokenizer with it, under the name `model`; and a text.
fn place_of(model: &str) -> Place {
    let place = Place::new();
    fs::create_dir(place.path("model")).unwrap();
    for folder in [format!("tests/data/quantized/{model}"), "tests/data/architectures/bpe".into()] {
        for entry in fs::read_dir(shipped(&folder)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), place.path("model").join(entry.file_name())).unwrap();
        }
    }
    let text = fs::read_to_string(shipped("tests/data/demo/held-out.txt")).unwrap();
    fs::write(place.path("text.txt"), text.chars().take(900).collect::<String>()).unwrap();
    place
}

fn converted(place: &Place, options: ConvertOptions) -> GgufModel {
    let checkpoint = Checkpoint::open(place.path("model")).unwrap();
    convert(&checkpoint, &options).unwrap()
}

fn bytes(source: &dyn TensorSource, name: &str) -> Vec<u8> {
    source.read_name(name).unwrap().bytes.into_owned()
}

#[test]
fn tensors_are_those_of_llama_cpp() {
    for name in MODELS {
        let place = place_of(name);
        let text = fs::read_to_string(place.path("model").join("llama.cpp.json")).unwrap();
        let golden: Value = serde_json::from_str(&text).unwrap();
        let model = converted(&place, ConvertOptions { keep_blocks: true, ..Default::default() });
        let tensors = model.tensors.as_ref();
        let mut found: Vec<Value> = (tensors.table().infos().iter())
            .map(|info| {
                let shape: Vec<usize> = info.shape.iter().rev().copied().collect();
                json!([info.name, info.dtype.name(), shape, digest(&bytes(tensors, &info.name))])
            })
            .collect();
        let mut expected = golden["tensors"].as_array().unwrap().clone();
        // It reads tensors by name, and writes a layer's stacks as they become complete.
        for list in [&mut found, &mut expected] {
            list.sort_by_key(|tensor| tensor[0].as_str().unwrap().to_string());
        }
        assert_eq!(found, expected, "{name}");
        let file_type = model.metadata.u64("general.file_type");
        assert_eq!(file_type, golden["file_type"][1].as_u64(), "{name}");
    }
}

#[test]
fn blocks_and_their_scales_are_the_weights() {
    for name in ["llama-nvfp4", "qwen3moe-nvfp4"] {
        let place = place_of(name);
        let kept = converted(&place, ConvertOptions { keep_blocks: true, ..Default::default() });
        let has = |end: &str, dtype| {
            kept.tensors.table().infos().iter().any(|i| i.name.ends_with(end) && i.dtype == dtype)
        };
        assert!(has(".weight", DType::NVFP4) && has(".scale", DType::F32), "{name}");
        assert_eq!(has(".input_scale", DType::F32), name == "llama-nvfp4");
        // Back in the checkpoint's terms, within the rounding of one product.
        let plain = Checkpoint::open(place.path("model")).unwrap();
        let restored = restore(&kept, "restored").unwrap();
        assert_eq!(restored.tensors.table().infos().len(), plain.tensors.table().infos().len());
        for info in plain.tensors.table().infos() {
            let ours = restored.tensors.read_name(&info.name).unwrap().to_f32().unwrap();
            let theirs = plain.tensors.read_name(&info.name).unwrap().to_f32().unwrap();
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 4e-7 * b.abs();
            assert!(ours.iter().zip(&theirs).all(near), "{name}: {}", info.name);
        }
        // An explicit type dequantizes them.
        let options = ConvertOptions {
            keep_blocks: true,
            output_type: OutputType::F32,
            ..ConvertOptions::default()
        };
        let floats = converted(&place, options);
        assert!(floats.tensors.table().infos().iter().all(|info| info.dtype == DType::F32));
    }
}

#[test]
fn perplexity_is_that_of_the_dequantized_model() {
    for name in ["llama-nvfp4", "qwen3moe-nvfp4"] {
        let place = place_of(name);
        place.ok("convert model -o kept.gguf");
        place.ok("convert model -o plain.gguf --type f32");
        let perplexity = |source: &str| {
            let line = format!("eval {source} -f text.txt --ctx 64 --precision f32 --json");
            let ran = place.ok(&line).json();
            ran["models"][0]["perplexity"]["value"].as_f64().unwrap()
        };
        let expected = perplexity("plain.gguf");
        for source in ["kept.gguf", "model"] {
            let found = perplexity(source);
            // Of random weights: vast, so its logarithm is compared.
            let (found, expected) = (found.ln(), expected.ln());
            assert!((found - expected).abs() < 1e-4 * expected, "{name}: {found} {expected}");
        }
    }
}

#[test]
fn blocks_go_through_where_the_target_is_their_type() {
    let place = place_of("llama-nvfp4");
    place.ok("convert model -o kept.gguf");
    place.ok("quantize model NVFP4 -o quantized.gguf --token-embedding-type F16");
    let [kept, quantized] =
        ["kept.gguf", "quantized.gguf"].map(|file| gguf::open(place.path(file)).unwrap());
    for info in kept.tensors.table().infos().iter().filter(|info| info.name.starts_with("blk")) {
        let other = quantized.tensors.table().get(&info.name).unwrap();
        assert_eq!(other.dtype, info.dtype, "{}", info.name);
        let name = &info.name;
        assert_eq!(bytes(&*quantized.tensors, name), bytes(&*kept.tensors, name), "{name}");
    }
    place.ok("verify quantized.gguf --source model");
    // The library verifies with the same conversion, and both do in a folder of files.
    place.ok("quantize model NVFP4 -o files --token-embedding-type F16");
    place.ok("verify files --source model --full");
    let model = aqueduct::Model::open(place.path("model")).unwrap();
    let found = aqueduct::verify(place.path("files"), Some(&model), &Silent).unwrap();
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    // Other types are made from the dequantized weights, without scales beside them.
    place.ok("quantize model Q8_0 -o q8.gguf");
    let q8 = gguf::open(place.path("q8.gguf")).unwrap();
    assert!(q8.tensors.table().infos().iter().all(|info| !info.name.ends_with("scale")));
}

#[test]
fn recipes_quantizing_and_importance_see_plain_weights() {
    let place = place_of("llama-gptq-4-bits");
    let recipe = "merge_method: passthrough\nmodels: [{model: model}]\n";
    fs::write(place.path("copy.yml"), recipe).unwrap();
    place.ok("merge copy.yml -o plain");
    let plain = Checkpoint::open(place.path("plain")).unwrap();
    assert!(plain.config.get("quantization_config").is_none());
    assert!(plain.warnings.is_empty(), "{:?}", plain.warnings);
    for source in ["model", "plain"] {
        place.ok(&format!("imatrix {source} -f text.txt --ctx 64 -o {source}.imatrix.gguf"));
        place.ok(&format!("quantize {source} Q4_0 -o {source}.gguf --imatrix model.imatrix.gguf"));
    }
    let [a, b] = ["model.gguf", "plain.gguf"].map(|file| gguf::open(place.path(file)).unwrap());
    let [x, y] = ["model.imatrix.gguf", "plain.imatrix.gguf"]
        .map(|file| gguf::open(place.path(file)).unwrap());
    for (one, other) in [(a, b), (x, y)] {
        assert_eq!(one.tensors.table().infos(), other.tensors.table().infos());
        for info in one.tensors.table().infos() {
            assert_eq!(bytes(&*one.tensors, &info.name), bytes(&*other.tensors, &info.name));
        }
    }
    // Halfway between the packed model and its plain copy is both.
    let recipe = "merge_method: linear\ndtype: float32\nmodels:\n\
                  - {model: model, parameters: {weight: 0.5}}\n\
                  - {model: plain, parameters: {weight: 0.5}}\n";
    fs::write(place.path("mean.yml"), recipe).unwrap();
    place.ok("merge mean.yml -o mean");
    let mean = Checkpoint::open(place.path("mean")).unwrap();
    let name = "model.layers.0.mlp.up_proj.weight";
    assert_eq!(bytes(&*mean.tensors, name), bytes(&*plain.tensors, name));
}
