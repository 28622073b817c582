//! A corpus of wrong recipes, each with the exact text that the program answers with: where it is wrong,
//! what is wrong, and what to do. The recipes lie in `tests/data/wrong`, the answers beside them; the
//! first line of a recipe says which command is run. `AQUEDUCT_BLESS=1` writes the answers anew, to be
//! read by somebody before they are committed.

use crate::support::files::entries;
use crate::support::folders;
use crate::support::program::{Place, shipped};
use crate::support::pytorch_file::{Pickle, zip};
use aqueduct::base::dtype::DType;
use aqueduct::formats::checkpoint::{Checkpoint, Config};
use aqueduct::formats::source::{MemorySource, TensorInfo};
use aqueduct::recipe::shape_checkpoint;
use std::fs;
use std::path::Path;
use std::sync::Arc;

const LAYERS: usize = 4;

fn config(class: &str, hidden: usize, vocabulary: usize, tied: bool) -> Config {
    let json = format!(
        r#"{{"architectures": ["{class}"], "hidden_size": {hidden}, "intermediate_size": 24,
            "num_hidden_layers": {LAYERS}, "num_attention_heads": 4, "num_key_value_heads": 2,
            "vocab_size": {vocabulary}, "tie_word_embeddings": {tied}}}"#
    );
    Config::parse("config.json", &json).unwrap()
}

/// A model of small numbers, which `edit` may spoil.
fn model(config: &Config, edit: impl Fn(&mut TensorInfo, &mut Vec<f32>) -> bool) -> Checkpoint {
    let shapes = shape_checkpoint("a", config.clone()).unwrap();
    let mut tensors = Vec::new();
    for (seed, info) in shapes.tensors.table().infos().iter().enumerate() {
        let mut info = TensorInfo::new(info.name.clone(), info.shape.clone(), DType::F32);
        let value = |i: usize| ((i * 31 + seed * 17) % 101) as f32 / 101.0 - 0.5;
        let mut values: Vec<f32> = (0..info.elements()).map(value).collect();
        if edit(&mut info, &mut values) {
            tensors.push((info, values.iter().flat_map(|v| v.to_le_bytes()).collect()));
        }
    }
    let tensors = Arc::new(MemorySource::new("made up", tensors).unwrap());
    Checkpoint { tensors, config: config.clone(), ..shapes }
}

/// Writes every member that the recipes name.
fn write_members(place: &Place) {
    let llama = |hidden, vocabulary| config("LlamaForCausalLM", hidden, vocabulary, false);
    let plain = llama(16, 32);
    let write = |name: &str, model: &Checkpoint| {
        folders::write(model, &place.path(name), u64::MAX);
    };
    let same = |_: &mut TensorInfo, _: &mut Vec<f32>| true;
    for name in ["a", "b", "c", "base", "empty", "truncated", "garbled", "alien", "bare", "worded"]
    {
        write(name, &model(&plain, same));
    }
    write("wide", &model(&llama(32, 32), same));
    write("wordy", &model(&llama(16, 34), same));
    write("tied", &model(&config("LlamaForCausalLM", 16, 32, true), same));
    write(
        "flat",
        &model(&plain, |info, _| {
            if info.name == "model.layers.1.mlp.up_proj.weight" {
                info.shape = vec![24 * 16];
            }
            true
        }),
    );
    write("holey", &model(&plain, |info, _| info.name != "model.layers.2.mlp.down_proj.weight"));
    let spoiled = |value: f32| {
        move |info: &mut TensorInfo, values: &mut Vec<f32>| {
            if info.name == "model.layers.1.self_attn.q_proj.weight" {
                values[37] = value;
            }
            true
        }
    };
    write("nan", &model(&plain, spoiled(f32::NAN)));
    write("huge", &model(&plain, spoiled(60000.0)));
    let letters = (0..32u8).map(|id| (char::from(b'@' + id).to_string(), id.into()));
    let vocabulary: serde_json::Map<String, serde_json::Value> = letters.collect();
    let tokenizer = serde_json::json!({
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    });
    fs::write(place.path("worded/tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::remove_file(place.path("bare/config.json")).unwrap();
    fs::remove_file(place.path("empty/model.safetensors")).unwrap();
    let weights = place.path("truncated/model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    fs::write(place.path("garbled/config.json"), "{\"architectures\": [").unwrap();
    let path = place.path("alien/config.json");
    let text = fs::read_to_string(&path).unwrap().replace("LlamaForCausalLM", "FooForCausalLM");
    fs::write(&path, text).unwrap();
}

/// The two matrices of an adapter for `target`.
fn write_adapter(dir: &Path, target: &str, a: [usize; 2], b: [usize; 2]) {
    fs::create_dir(dir).unwrap();
    let config = format!(
        r#"{{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": "{target}"}}"#
    );
    fs::write(dir.join("adapter_config.json"), config).unwrap();
    let name = |half: &str| format!("base_model.model.{target}.lora_{half}.weight");
    let zeros = |shape: [usize; 2]| vec![0u8; shape[0] * shape[1] * 4];
    let (bytes_a, bytes_b) = (zeros(a), zeros(b));
    let view = |shape: [usize; 2], bytes| {
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes)
            .unwrap()
    };
    let tensors = [(name("A"), view(a, &bytes_a)), (name("B"), view(b, &bytes_b))];
    let bytes = safetensors::serialize(tensors, None).unwrap();
    fs::write(dir.join("adapter_model.safetensors"), bytes).unwrap();
}

fn write_adapters(place: &Place) {
    let q = "model.layers.0.self_attn.q_proj";
    let write = |name: &str, target, a, b| write_adapter(&place.path(name), target, a, b);
    write("adapter", q, [2, 16], [16, 2]);
    write("adapter-wide", q, [2, 32], [32, 2]);
    write("adapter-ranks", q, [2, 16], [16, 3]);
    write("adapter-astray", "model.layers.9.self_attn.q_proj", [2, 16], [16, 2]);
}

/// Folders whose weights are pickles that must not be trusted, or cannot be read.
fn write_pickles(place: &Place) {
    let write = |name: &str, bytes: &[u8]| {
        let dir = place.path(name);
        fs::create_dir(&dir).unwrap();
        fs::copy(place.path("a/config.json"), dir.join("config.json")).unwrap();
        fs::write(dir.join("pytorch_model.bin"), bytes).unwrap();
    };
    let call = Pickle::new().global("posix", "system").raw(b"(").text("touch pwned").raw(b"tR");
    let archive = zip(&[("model/data.pkl".to_string(), call.done())], false);
    write("pickle-system", &archive);
    write("pickle-truncated", &archive[..archive.len() / 2]);
    // The magic number that torch.save wrote before there were archives.
    write("pickle-legacy", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.");
}

/// Recipes that are only warned of.
const PASSING: [&str; 4] = [
    "filter-matches-nothing.txt",
    "parameter-of-another-method.txt",
    "slerp-t-outside.txt",
    "tied-and-untied.txt",
];

/// What the program says to the recipe `name`.
fn answer(place: &Place, name: &str) -> String {
    let text = fs::read_to_string(shipped("tests/data/wrong").join(name)).unwrap();
    fs::write(place.path(name), &text).unwrap();
    let command = text.lines().next().and_then(|line| line.strip_prefix("# aqueduct "));
    let line = match command.expect("the first line says what to run") {
        "merge" => format!("merge {name} -o merged --quiet"),
        command => format!("{command} {name} --quiet"),
    };
    let output = place.command(&line).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains("panicked"), "{name}\n{said}");
    assert!(!place.path("merged").exists(), "{name}: nothing is written");
    fs::remove_file(place.path(name)).unwrap();
    format!("exit code {}\n{said}", output.status.code().unwrap())
}

#[test]
fn wrong_recipes_are_answered_as_they_should_be() {
    let place = Place::new();
    write_members(&place);
    write_adapters(&place);
    write_pickles(&place);
    let data = shipped("tests/data/wrong");
    let names = entries(&data);
    let recipes: Vec<&String> = names.iter().filter(|name| name.ends_with(".yml")).collect();
    assert!(recipes.len() >= 40);
    let bless = std::env::var_os("AQUEDUCT_BLESS").is_some();
    let mut wrong = Vec::new();
    for name in recipes {
        let said = answer(&place, name);
        let path = data.join(name).with_extension("txt");
        if bless {
            fs::write(&path, &said).unwrap();
        } else if fs::read_to_string(&path).unwrap_or_default() != said {
            wrong.push(format!("--- {name}\n{said}"));
        }
    }
    assert!(wrong.is_empty(), "other answers than expected:\n{}", wrong.join("\n"));
    // Warnings alone let a recipe pass; everything else must be refused.
    let passing = names.iter().filter(|name| {
        let text = fs::read_to_string(data.join(name)).unwrap();
        name.ends_with(".txt") && !text.starts_with("exit code 1\n")
    });
    assert_eq!(passing.collect::<Vec<_>>(), PASSING);
}
