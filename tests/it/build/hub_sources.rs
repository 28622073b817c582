//! Names and addresses on the hub as SOURCE and as members: found in the cache, else an error with
//! the command that downloads them.

use crate::support::program::{Place, Ran, arguments, finished};
use std::fs;
use std::path::Path;

/// Copies files into the cache as `hf download` does, for the revisions `main` and `v1`.
fn cached(place: &Place, name: &str, from: &Path, files: &[&str]) {
    let repository = place.path("hub").join(format!("models--{}", name.replace('/', "--")));
    let snapshot = repository.join("snapshots/0a1b2c");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repository.join("refs")).unwrap();
    for revision in ["main", "v1"] {
        fs::write(repository.join("refs").join(revision), "0a1b2c").unwrap();
    }
    for file in files {
        fs::copy(from.join(file), snapshot.join(file)).unwrap();
    }
}

fn run(place: &Place, code: i32, line: &str) -> Ran {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_aqueduct"));
    command.args(arguments(line)).current_dir(place.path("."));
    command.env("HF_HUB_CACHE", place.path("hub")).env("HF_HUB_OFFLINE", "1");
    finished(line, code, command.output().unwrap())
}

const CLERK: &[&str] =
    &["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

fn with_clerk() -> Place {
    let place = Place::new();
    let clerk = crate::support::program::shipped("recipes/demo/clerk");
    let files: Vec<&str> =
        CLERK.iter().copied().filter(|file| clerk.join(file).is_file()).collect();
    cached(&place, "org/clerk", &clerk, &files);
    place
}

#[test]
fn sources_are_found_in_the_cache_by_name_and_by_address() {
    let place = with_clerk();
    run(&place, 0, "convert @recipes/demo/clerk -o expected.gguf --name clerk");
    for (number, source) in [
        "org/clerk",
        "org/clerk@v1",
        "https://huggingface.co/org/clerk",
        "https://huggingface.co/org/clerk/tree/v1",
        "hf.co/org/clerk",
        "hf://org/clerk@v1",
    ]
    .iter()
    .enumerate()
    {
        run(&place, 0, &format!("convert {source} -o {number}.gguf --name clerk"));
        assert!(place.read(&format!("{number}.gguf")) == place.read("expected.gguf"), "{source}");
    }
}

#[test]
fn paths_take_precedence_over_names_on_the_hub() {
    let place = with_clerk();
    fs::create_dir_all(place.path("org/clerk")).unwrap();
    let ran = run(&place, 1, "convert org/clerk -o out.gguf");
    assert!(ran.stderr.contains("no config.json"), "{}", ran.stderr);
}

#[test]
fn missing_sources_name_the_download_command() {
    let place = Place::new();
    for (line, part) in [
        ("convert org/name -o out.gguf", "hf download org/name"),
        ("quantize org/name@v2 Q8_0 -o out.gguf", "hf download org/name --revision v2"),
        ("plan https://huggingface.co/org/name/tree/v2", "hf download org/name --revision v2"),
        ("eval hf://org/name -f @tests/data/demo/held-out.txt", "hf download org/name"),
        ("diff org/name org/other", "hf download org/name"),
        ("imatrix org/name -o i.gguf", "hf download org/name"),
        ("calibrate org/name -o text.txt", "hf download org/name"),
        ("build org/name -o out", "hf download org/name"),
        (
            "convert https://huggingface.co/org/name/resolve/main/m-Q8_0.gguf -o out.gguf",
            "hf download org/name m-Q8_0.gguf",
        ),
    ] {
        let ran = run(&place, 1, line);
        assert!(ran.stderr.contains("there is no such file or folder"), "{line}\n{}", ran.stderr);
        assert!(ran.stderr.contains(part), "{line}\n{}", ran.stderr);
    }
    // A text that looks like a path is not taken for a name on the hub.
    for source in ["out/model.gguf", "./org/name", "recipes/mine.yml"] {
        let ran = run(&place, 1, &format!("convert {source} -o out.gguf"));
        assert!(!ran.stderr.contains("hf download"), "{}", ran.stderr);
    }
}

#[test]
fn members_and_adapters_may_be_addresses() {
    let place = with_clerk();
    let data = crate::support::program::shipped("tests/data/lora");
    let base: Vec<_> =
        fs::read_dir(data.join("base")).unwrap().map(|e| e.unwrap().file_name()).collect();
    let base: Vec<&str> = base.iter().filter_map(|name| name.to_str()).collect();
    cached(&place, "org/base", &data.join("base"), &base);
    let adapter: Vec<_> =
        fs::read_dir(data.join("adapter")).unwrap().map(|e| e.unwrap().file_name()).collect();
    let adapter: Vec<&str> = adapter.iter().filter_map(|name| name.to_str()).collect();
    cached(&place, "org/adapter", &data.join("adapter"), &adapter);
    let recipe = |name: &str, model: &str| {
        let text = format!("merge_method: passthrough\nmodels:\n  - model: {model}\n");
        fs::write(place.path(name), text).unwrap();
    };
    let plain = format!("{}+{}", data.join("base").display(), data.join("adapter").display());
    recipe("plain.yml", &plain);
    recipe("hub.yml", "https://huggingface.co/org/base/tree/v1+hf.co/org/adapter");
    run(&place, 0, "merge plain.yml -o plain");
    run(&place, 0, "merge hub.yml -o hub-merged");
    assert!(place.read("plain/model.safetensors") == place.read("hub-merged/model.safetensors"));
    recipe("nowhere.yml", "https://huggingface.co/org/none/tree/v1");
    let ran = run(&place, 1, "merge nowhere.yml -o out");
    assert!(ran.stderr.contains("hf download org/none --revision v1"), "{}", ran.stderr);
}

#[test]
fn a_folder_with_one_gguf_model_is_that_model() {
    let place = with_clerk();
    fs::create_dir(place.path("one")).unwrap();
    run(&place, 0, "convert org/clerk -o one/clerk-F16.gguf");
    fs::copy(place.path("one/clerk-F16.gguf"), place.path("one/mmproj-clerk.gguf")).unwrap();
    run(&place, 0, "quantize one Q8_0 -o named/");
    run(&place, 0, "quantize one/clerk-F16.gguf Q8_0 -o expected.gguf");
    assert!(place.read("named/clerk-Q8_0.gguf") == place.read("expected.gguf"));
    cached(&place, "org/clerk-GGUF", &place.path("one"), &["clerk-F16.gguf"]);
    run(&place, 0, "quantize org/clerk-GGUF Q8_0 -o hub.gguf");
    assert!(place.read("hub.gguf") == place.read("expected.gguf"));
    run(
        &place,
        0,
        "quantize https://huggingface.co/org/clerk-GGUF/blob/main/clerk-F16.gguf Q8_0 -o file.gguf",
    );
    assert!(place.read("file.gguf") == place.read("expected.gguf"));
    // The shards of a model count as one; two models are ambiguous.
    run(&place, 0, "split one/clerk-F16.gguf --max-shard-size 200K -o shards/clerk");
    run(&place, 0, "quantize shards Q8_0 -o joined.gguf");
    fs::copy(place.path("one/clerk-F16.gguf"), place.path("one/other.gguf")).unwrap();
    let ran = run(&place, 1, "quantize one Q8_0 -o out.gguf");
    for part in ["a folder with 2 GGUF models", "clerk-F16.gguf", "other.gguf", "name one of them"]
    {
        assert!(ran.stderr.contains(part), "{}", ran.stderr);
    }
}
