//! Adapters of every kind against PEFT's own merges, and what they make of configuration and
//! tokenizer.

use crate::support::program::Place;
use aqueduct::formats::checkpoint::{Checkpoint, with_adapter};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

fn data() -> PathBuf {
    crate::support::program::shipped("tests/data/lora-kinds")
}

fn merged(base: &str, adapter: &Path) -> aqueduct::Result<Checkpoint> {
    with_adapter(&Checkpoint::open(data().join(base)).unwrap(), adapter)
}

fn values(model: &Checkpoint, name: &str) -> Vec<f32> {
    model.tensors.read_name(name).unwrap().to_f32().unwrap()
}

/// Every folder of the data that holds an adapter, with what is expected of it.
fn kinds() -> Vec<(PathBuf, Value)> {
    let entries = fs::read_dir(data()).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|p| p.join("expected.json").is_file()).collect();
    folders.sort();
    let facts = |path: &PathBuf| fs::read(path.join("expected.json")).unwrap();
    folders.into_iter().map(|p| (p.clone(), serde_json::from_slice(&facts(&p)).unwrap())).collect()
}

#[test]
fn merges_of_every_kind_equal_those_of_peft() {
    let kinds = kinds();
    assert_eq!(kinds.len(), 21);
    for (folder, expected) in kinds {
        let what = folder.file_name().unwrap().to_string_lossy().into_owned();
        let model = merged(expected["base"].as_str().unwrap(), &folder)
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        let bytes = fs::read(folder.join("merged.safetensors")).unwrap();
        let golden = SafeTensors::deserialize(&bytes).unwrap();
        for (name, view) in golden.iter() {
            let numbers = view.data().as_chunks::<4>().0.iter();
            let wanted: Vec<f32> = numbers.map(|&b| f32::from_le_bytes(b)).collect();
            let info = model.tensors.table().get(name).unwrap_or_else(|| panic!("{what}: {name}"));
            assert_eq!(info.shape, view.shape(), "{what}: {name}");
            let got = values(&model, name);
            let worst = got.iter().zip(&wanted).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(worst <= 1e-6, "{what}: {name} is off by {worst}");
        }
        assert_eq!(golden.len(), model.tensors.table().infos().len(), "{what}");
        assert_eq!(model.config.bool("tie_word_embeddings"), expected["tied"].as_bool(), "{what}");
        let rows = expected["vocab_size"].as_u64().map(|n| n as usize);
        assert_eq!(model.config.usize("vocab_size"), rows, "{what}");
    }
}

#[test]
fn the_user_hears_of_heads_and_vocabularies_that_change() {
    let warnings =
        |name: &str| merged("base-tied", &data().join(name)).unwrap().warnings.join("\n");
    for name in ["tied-save-head", "tied-save-embedding", "tied-lora-head", "tied-lora-embedding"] {
        let text = warnings(name);
        assert!(text.contains("is untied") && text.contains(name), "{name}: {text}");
    }
    for name in ["tied-tokens", "tied-save-kept"] {
        assert_eq!(warnings(name), "", "{name}");
    }
    let text = warnings("tied-grown");
    assert!(text.contains("15 rows") && text.contains("vocab_size"), "{text}");
}

#[test]
fn an_adapter_over_an_own_head_of_a_tied_configuration_keeps_it() {
    let place = Place::new();
    let (base, folder) = (data().join("base-untied"), place.path("base"));
    fs::create_dir(&folder).unwrap();
    fs::copy(base.join("model.safetensors"), folder.join("model.safetensors")).unwrap();
    let text = fs::read_to_string(base.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["tie_word_embeddings"] = json!(true);
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let own = Checkpoint::open(&folder).unwrap();
    let adapter = data().join("untied-dora");
    let (a, b) = (with_adapter(&own, &adapter).unwrap(), merged("base-untied", &adapter).unwrap());
    for name in ["lm_head.weight", "model.embed_tokens.weight"] {
        assert_eq!(values(&a, name), values(&b, name));
    }
    assert_ne!(values(&a, "lm_head.weight"), values(&own, "lm_head.weight"));
}

#[test]
fn recipes_write_the_untied_head() {
    let place = Place::new();
    let text = format!(
        "merge_method: passthrough\nmodels: [{{model: {}+{}}}]\n",
        data().join("base-tied").display(),
        data().join("tied-lora-head").display()
    );
    fs::write(place.path("recipe.yml"), text).unwrap();
    let ran = place.ok("merge recipe.yml -o out");
    assert!(ran.stderr.contains("is untied"), "{}", ran.stderr);
    let out = Checkpoint::open(place.path("out")).unwrap();
    assert_eq!(out.config.bool("tie_word_embeddings"), Some(false));
    let model = merged("base-tied", &data().join("tied-lora-head")).unwrap();
    for info in out.tensors.table().infos() {
        assert_eq!(values(&out, &info.name), values(&model, &info.name), "{}", info.name);
    }
    assert!(out.tensors.table().find("lm_head.weight").is_some());
}

/// A copy of an adapter with its files changed by `edit`.
fn edited(name: &str, edit: impl FnOnce(&Path)) -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join(name);
    fs::create_dir(&folder).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(data().join(name).join(file), folder.join(file)).unwrap();
    }
    edit(&folder);
    (temp, folder)
}

fn set(folder: &Path, key: &str, value: Value) {
    let path = folder.join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    fs::write(&path, config.to_string()).unwrap();
}

#[test]
fn adapters_that_contradict_their_configuration_are_refused() {
    for (base, name, key, value, parts) in [
        (
            "base-untied",
            "untied-dora",
            "use_dora",
            json!(false),
            ["lora_magnitude_vector", "use_dora"],
        ),
        ("base-biased", "biased-of-b", "lora_bias", json!(false), ["lora_B.bias", "'lora_bias'"]),
        ("base-biased", "biased-all", "bias", json!("none"), [".bias", "'modules_to_save'"]),
        ("base-tied", "tied-tokens", "trainable_token_indices", json!([1]), ["1 tokens", "[2, 8]"]),
        (
            "base-tied",
            "tied-tokens",
            "trainable_token_indices",
            json!([1, 99]),
            ["token 99", "12 rows"],
        ),
        (
            "base-tied",
            "tied-tokens",
            "trainable_token_indices",
            json!(null),
            ["tokens_delta", "not among"],
        ),
    ] {
        let (_temp, folder) = edited(name, |folder| set(folder, key, value));
        let text = merged(base, &folder).err().expect(name).to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{name}: {text}");
    }
    // Base layers without a bias have nothing that the bias could be added to, as in PEFT.
    let text = merged("base-untied", &data().join("biased-of-b")).err().unwrap().to_string();
    assert!(text.contains("proj.bias") && text.contains("lacks"), "{text}");
}

#[test]
fn the_adapter_s_tokenizer_wins() {
    let place = Place::new();
    let base = place.path("base");
    fs::create_dir(&base).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(data().join("base-tied").join(file), base.join(file)).unwrap();
    }
    for (file, text) in [
        ("tokenizer.json", "{\"own\": 1}"),
        ("special_tokens_map.json", "{}"),
        ("generation_config.json", "{\"top_k\": 1}"),
    ] {
        fs::write(base.join(file), text).unwrap();
    }
    let read = |model: &Checkpoint, name: &str| {
        model.side_file(name).map(|file| file.read(1 << 20).unwrap().into_owned())
    };
    let base = Checkpoint::open(&base).unwrap();
    // The same one is no change; an incomplete one is none.
    for files in [&[("tokenizer.json", "{\"own\": 1}")][..], &[("tokenizer_config.json", "{}")]] {
        let (_temp, folder) = edited("tied-tokens", |folder| {
            files.iter().for_each(|(name, text)| fs::write(folder.join(name), text).unwrap());
        });
        let model = with_adapter(&base, &folder).unwrap();
        assert!(model.warnings.is_empty(), "{:?}", model.warnings);
        assert!(read(&model, "special_tokens_map.json").is_some());
    }
    let (_temp, folder) = edited("tied-grown", |folder| {
        fs::write(folder.join("tokenizer.json"), "{\"own\": 2}").unwrap();
        fs::write(folder.join("tokenizer_config.json"), "{}").unwrap();
    });
    let model = with_adapter(&base, &folder).unwrap();
    assert!(
        model.warnings.iter().any(|w| w.contains("the adapter's is used")),
        "{:?}",
        model.warnings
    );
    assert_eq!(read(&model, "tokenizer.json").unwrap(), b"{\"own\": 2}");
    assert_eq!(read(&model, "generation_config.json").unwrap(), b"{\"top_k\": 1}");
    assert!(
        read(&model, "special_tokens_map.json").is_none()
            && read(&model, "tokenizer_config.json").is_some()
    );
}
