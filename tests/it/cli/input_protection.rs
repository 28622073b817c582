//! Outputs never replace what a command reads, whatever name they are given and however much force.

use crate::support::program::{Place, shipped};
use std::fs;
use std::path::Path;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// A model folder with a card, its GGUF file, shards of that, a recipe, a text and an importance matrix.
fn place() -> Place {
    let place = Place::new();
    for name in ["clerk", "storyteller"] {
        copy(&shipped("recipes/demo").join(name), &place.path(name));
    }
    fs::write(place.path("clerk/README.md"), "---\nlicense: mit\n---\n").unwrap();
    let recipe = "merge_method: linear\ndtype: float16\nmodels:\n  - model: clerk\n    parameters: {weight: 0.5}\n  \
                  - model: storyteller\n    parameters: {weight: 0.5}\n";
    fs::write(place.path("recipe.yml"), recipe).unwrap();
    fs::write(place.path("text.txt"), "A page about a house by the sea. ".repeat(40)).unwrap();
    place.ok("convert clerk -o clerk.gguf --quiet");
    place.ok("split clerk.gguf -o part --max-tensors 20 --quiet");
    place.ok("imatrix clerk -f text.txt --ctx 32 --chunks 2 -o clerk-imatrix.gguf --quiet");
    place
}

/// Contents of all files, by path.
fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(contents(&path)),
            false => all.push((path.display().to_string(), fs::read(&path).unwrap())),
        }
    }
    all.sort();
    all
}

#[test]
fn no_command_replaces_its_inputs() {
    let place = place();
    fs::copy(place.path("clerk.gguf"), place.path("clerk-Q8_0.gguf")).unwrap();
    let before = contents(&place.path(""));
    for line in [
        "join part-00001-of-00002.gguf -o part-00001-of-00002.gguf",
        "join part-00001-of-00002.gguf -o part-00002-of-00002.gguf",
        "split part-00001-of-00002.gguf -o part --max-tensors 20",
        "quantize clerk.gguf -o clerk.gguf Q8_0",
        "quantize clerk.gguf -o clerk/../clerk.gguf Q8_0",
        "quantize clerk.gguf --imatrix clerk-imatrix.gguf -o clerk-imatrix.gguf Q4_K_M",
        "quantize clerk.gguf -o clerk.gguf F16",
        "convert clerk.gguf -o clerk.gguf",
        "convert clerk.gguf -o clerk.gguf --type f32",
        "convert clerk -o clerk/model.safetensors",
        "convert clerk -o clerk/tokenizer.json",
        "convert recipe.yml -o recipe.yml",
        "convert recipe.yml -o storyteller/config.json",
        "merge recipe.yml -o clerk",
        "merge recipe.yml -o .",
        "imatrix clerk -f text.txt -o text.txt --ctx 32",
        "imatrix clerk -f text.txt -o clerk/README.md --ctx 32",
        "imatrix merge clerk-imatrix.gguf -o clerk-imatrix.gguf",
        "imatrix show clerk-imatrix.gguf --svg clerk-imatrix.gguf",
        "calibrate clerk -o clerk/config.json --tokens 16",
        "eval clerk.gguf -f text.txt --ctx 32 --save-logits clerk.gguf",
        "eval clerk.gguf -f text.txt --ctx 32 --save-logits text.txt",
        "build clerk -f text.txt --ctx 32 -o clerk --types Q8_0",
        "build recipe.yml -f text.txt --ctx 32 -o . --types Q8_0",
        "build clerk-Q8_0.gguf -f text.txt --ctx 32 -o . --types Q8_0 --name clerk --allow-requantize",
        "plan recipe.yml --svg recipe.yml",
        "diff clerk.gguf clerk --html clerk/model.safetensors",
    ] {
        let line = format!("{line} --force --quiet");
        place.fails(2, &line, &["an input of this command", "choose another name"]);
        let after = contents(&place.path(""));
        let same = before.iter().zip(&after).all(|(a, b)| a == b) && before.len() == after.len();
        assert!(same, "{line} changed a file");
    }
}

#[cfg(unix)]
#[test]
fn links_to_inputs_are_inputs() {
    let place = place();
    std::os::unix::fs::symlink("clerk.gguf", place.path("symbolic.gguf")).unwrap();
    fs::hard_link(place.path("clerk.gguf"), place.path("hard.gguf")).unwrap();
    std::os::unix::fs::symlink("clerk", place.path("folder")).unwrap();
    for (source, target) in [
        ("clerk.gguf", "symbolic.gguf"),
        ("clerk.gguf", "hard.gguf"),
        ("symbolic.gguf", "clerk.gguf"),
        ("hard.gguf", "symbolic.gguf"),
        ("clerk", "folder/model.safetensors"),
        ("folder", "clerk/model.safetensors"),
    ] {
        let line = format!("convert {source} -o {target} --force");
        place.fails(2, &line, &[target, "an input of this command"]);
    }
    // Other files are replaced as before.
    place.ok("convert clerk -o hard.gguf --force --quiet");
}
