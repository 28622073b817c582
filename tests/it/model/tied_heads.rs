//! Whether the head is the embedding: decided by what is stored, in the same way on every path.

use crate::formats::tensor_types::edit_weights;
use crate::support::program::{Place, copy_member};
use aqueduct::formats::checkpoint::Checkpoint;
use aqueduct::formats::gguf;
use aqueduct::model::arch::Description;
use serde_json::{Value as Json, json};
use std::fs;

const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

fn set_tied(place: &Place, folder: &str, tied: Option<bool>) {
    let path = place.path(folder).join("config.json");
    let mut config: Json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    match tied {
        Some(tied) => config["tie_word_embeddings"] = json!(tied),
        None => {
            config.as_object_mut().unwrap().remove("tie_word_embeddings");
        }
    }
    fs::write(&path, config.to_string()).unwrap();
}

/// A copy of a demo model with config.json tied as given, and its stored head edited.
fn model(place: &Place, name: &str, folder: &str, tied: Option<bool>, head: &str) {
    copy_member(place, name, folder);
    set_tied(place, folder, tied);
    edit_weights(&place.path(folder).join("model.safetensors"), |tensors| match head {
        "own" => {}
        "none" => {
            tensors.remove(HEAD);
        }
        "copy" => {
            let embedding = tensors[EMBEDDING].clone();
            tensors.insert(HEAD.to_string(), embedding);
        }
        "alone" => {
            tensors.remove(EMBEDDING);
        }
        other => panic!("{other}"),
    });
}

fn passthrough(place: &Place, model: &str) -> String {
    let name = format!("{model}.yml");
    let text = format!("merge_method: passthrough\nmodels: [{{model: ./{model}}}]\n");
    fs::write(place.path(&name), text).unwrap();
    name
}

fn perplexity(place: &Place, source: &str) -> f64 {
    let line = format!("eval {source} -f @tests/data/demo/held-out.txt --chunks 1 --ctx 64 --json");
    place.ok(&line).json()["models"][0]["perplexity"]["value"].as_f64().unwrap()
}

/// The bytes of `output.weight` in a GGUF file, if it has one.
fn head(place: &Place, file: &str) -> Option<Vec<u8>> {
    let model = gguf::open(place.path(file)).unwrap();
    let index = model.tensors.table().find("output.weight")?;
    Some(model.tensors.read(index).unwrap().bytes.to_vec())
}

#[test]
fn an_own_head_survives_every_path_and_is_told() {
    let place = Place::new();
    model(&place, "storyteller", "own", Some(true), "own");
    let ran = place.ok("convert own -o own.gguf --name m");
    assert!(ran.stderr.contains("stores 'lm_head.weight'"), "{}", ran.stderr);
    place.ok("convert @recipes/demo/storyteller -o plain.gguf --name m");
    assert!(head(&place, "own.gguf").is_some());
    assert_eq!(head(&place, "own.gguf"), head(&place, "plain.gguf"));

    let recipe = passthrough(&place, "own");
    let expected = perplexity(&place, "@recipes/demo/storyteller");
    for source in ["own", "own.gguf", &recipe] {
        assert_eq!(perplexity(&place, source), expected, "{source}");
    }
    let ran = place.ok(&format!("merge {recipe} -o merged"));
    assert!(ran.stderr.contains("the output is untied"), "{}", ran.stderr);
    let merged = Checkpoint::open(place.path("merged")).unwrap();
    assert_eq!(merged.config.bool("tie_word_embeddings"), Some(false));
    assert!(merged.tensors.table().find(HEAD).is_some());
    assert!(Description::of_checkpoint(&merged).unwrap().warnings.is_empty());
    // Restored from GGUF, as a member.
    let recipe = passthrough(&place, "own.gguf");
    place.ok(&format!("merge {recipe} -o restored"));
    place.ok("convert restored -o restored.gguf --name m");
    assert_eq!(head(&place, "restored.gguf"), head(&place, "own.gguf"));
    place.ok(&format!("quantize {recipe} Q8_0 -o q.gguf"));
    place.ok("quantize own Q8_0 -o p.gguf");
    assert_eq!(head(&place, "q.gguf"), head(&place, "p.gguf"));
    place.ok("verify p.gguf --source own");
    let ran = place.ok("diff own own.gguf --json");
    assert!(!ran.stdout.is_empty());
}

#[test]
fn members_tied_and_untied_merge_by_the_heads_that_they_use() {
    let place = Place::new();
    model(&place, "storyteller", "own", Some(true), "own");
    model(&place, "clerk", "tied", Some(true), "none");
    for method in ["linear", "slerp", "ties"] {
        let (own, rest) = match method {
            "slerp" => ("", "base_model: ./own\nparameters: {t: 0.5}\n"),
            "ties" => ("", "base_model: ./own\nparameters: {weight: 0.5, density: 1}\n"),
            _ => ("", "parameters: {weight: 0.5}\n"),
        };
        let text = format!(
            "merge_method: {method}\nmodels: [{{model: ./own}}, {{model: ./tied}}]\n{rest}{own}dtype: float32\n"
        );
        fs::write(place.path("both.yml"), text).unwrap();
        fs::remove_dir_all(place.path("out")).ok();
        place.ok("merge both.yml -o out");
        let out = Checkpoint::open(place.path("out")).unwrap();
        assert_eq!(out.config.bool("tie_word_embeddings"), Some(false), "{method}");
        let read = |folder: &str, name: &str| {
            let model = Checkpoint::open(place.path(folder)).unwrap();
            model.tensors.read_name(name).unwrap().to_f32().unwrap()
        };
        let merged = read("out", HEAD);
        if method == "linear" {
            let (a, b) = (read("own", HEAD), read("tied", EMBEDDING));
            let mean = |i: usize| 0.5 * a[i] + 0.5 * b[i];
            assert!(merged.iter().enumerate().all(|(i, v)| (v - mean(i)).abs() < 1e-6));
        }
    }
}

#[test]
fn ends_of_a_recipe_take_the_own_head_of_a_tied_model() {
    let place = Place::new();
    model(&place, "storyteller", "own", Some(true), "own");
    model(&place, "clerk", "tied", Some(true), "none");
    let end = "{merge_method: passthrough, models: [{model: ./own}]}";
    let text = format!("merge_method: passthrough\nmodels: [{{model: ./tied}}]\nhead: {end}\n");
    fs::write(place.path("ends.yml"), text).unwrap();
    place.ok("merge ends.yml -o out");
    let read = |folder: &str, name: &str| {
        let model = Checkpoint::open(place.path(folder)).unwrap();
        model.tensors.read_name(name).unwrap().bytes.to_vec()
    };
    assert_eq!(read("out", HEAD), read("own", HEAD));
    assert_eq!(read("out", EMBEDDING), read("tied", EMBEDDING));
}

#[test]
fn a_stored_copy_is_kept_as_llama_cpp_keeps_it() {
    let place = Place::new();
    model(&place, "storyteller", "copy", Some(true), "copy");
    model(&place, "storyteller", "none", Some(true), "none");
    place.ok("convert copy -o copy.gguf --name m");
    let file = gguf::open(place.path("copy.gguf")).unwrap();
    let embedding = file.tensors.read_name("token_embd.weight").unwrap().bytes.to_vec();
    assert_eq!(head(&place, "copy.gguf"), Some(embedding));
    let recipe = passthrough(&place, "copy");
    place.ok(&format!("convert {recipe} -o recipe.gguf --name m"));
    assert_eq!(head(&place, "recipe.gguf"), head(&place, "copy.gguf"));
    assert_eq!(perplexity(&place, "copy"), perplexity(&place, "none"));
}

#[test]
fn without_a_head_the_embedding_is_one_whatever_the_configuration_says() {
    let place = Place::new();
    model(&place, "storyteller", "tied", Some(true), "none");
    place.ok("convert tied -o tied.gguf --name m");
    for (folder, tied) in [("untied", Some(false)), ("silent", None)] {
        model(&place, "storyteller", folder, tied, "none");
        let ran = place.ok(&format!("convert {folder} -o {folder}.gguf --name m"));
        assert!(ran.stderr.contains("stores no head"), "{}", ran.stderr);
        assert!(place.read(&format!("{folder}.gguf")) == place.read("tied.gguf"));
        let recipe = passthrough(&place, folder);
        let ran = place.ok(&format!("merge {recipe} -o {folder}-merged"));
        assert!(ran.stderr.contains("stores no head"), "{}", ran.stderr);
        let merged = Checkpoint::open(place.path(&format!("{folder}-merged"))).unwrap();
        assert_eq!(merged.config.bool("tie_word_embeddings"), Some(true));
        assert_eq!(perplexity(&place, folder), perplexity(&place, &recipe));
    }
}

#[test]
fn a_head_stored_in_the_place_of_the_embedding_is_both() {
    let place = Place::new();
    model(&place, "storyteller", "alone", Some(true), "alone");
    let ran = place.ok("convert alone -o alone.gguf --name m");
    assert!(ran.stderr.contains("is used as both"), "{}", ran.stderr);
    assert_eq!(head(&place, "alone.gguf"), None);
    let recipe = passthrough(&place, "alone");
    assert_eq!(perplexity(&place, "alone"), perplexity(&place, &recipe));
    model(&place, "storyteller", "untied", Some(false), "alone");
    place.fails(1, "convert untied -o out.gguf", &["'model.embed_tokens.weight' is missing"]);
}
