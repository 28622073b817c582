//! What lies in the place of weights, texts and settings is named by kind, with what to do about
//! it.

use crate::support::program::{Place, copy_member};
use std::fs;

const POINTER: &str =
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4683073184\n";
const PAGE: &str = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>";
const ANSWER: &str = r#"{"error":"Invalid username or password."}"#;

/// Contents that stand in the place of a file, and what the message must say.
const FOREIGN: &[(&str, &[&str])] = &[
    (POINTER, &["Git LFS pointer", "4683073184 bytes", "git lfs pull", "hf download"]),
    (PAGE, &["web page", "hf download"]),
    (ANSWER, &["message from a server", "Invalid username or password"]),
    ("Entry not found", &["message from a server", "Entry not found"]),
    ("\u{1f}\u{0}", &[]),
];

/// A copy of the demo's clerk.
fn clerk(place: &Place) {
    copy_member(place, "clerk", "clerk");
}

fn replace(place: &Place, name: &str, text: &str) {
    fs::remove_file(place.path(name)).ok();
    fs::write(place.path(name), text).unwrap();
}

#[test]
fn files_of_a_folder_are_named_by_kind() {
    for file in ["model.safetensors", "config.json", "tokenizer.json"] {
        for (text, parts) in FOREIGN.iter().filter(|(_, parts)| !parts.is_empty()) {
            let place = Place::new();
            clerk(&place);
            replace(&place, &format!("clerk/{file}"), text);
            let error = place.fails(1, "convert clerk -o out.gguf", parts);
            assert!(error.contains(file) && !error.contains("header of"), "{error}");
        }
    }
}

#[test]
fn sources_matrices_recipes_and_texts_are_named_by_kind() {
    let place = Place::new();
    clerk(&place);
    for (text, parts) in FOREIGN.iter().filter(|(_, parts)| !parts.is_empty()) {
        for name in ["model.gguf", "recipe.yml"] {
            replace(&place, name, text);
            place.fails(1, &format!("convert {name} -o out.gguf"), parts);
        }
        replace(&place, "matrix.gguf", text);
        place.fails(1, "quantize clerk Q4_K_M --imatrix matrix.gguf -o out.gguf", parts);
        replace(&place, "member.gguf", text);
        fs::write(
            place.path("merge.yml"),
            "merge_method: passthrough\nmodels: [{model: ./member.gguf}]\n",
        )
        .unwrap();
        place.fails(1, "merge merge.yml -o out", parts);
    }
    replace(&place, "text.txt", POINTER);
    place.fails(1, "imatrix clerk -f text.txt -o i.gguf", &["text.txt", "Git LFS pointer"]);
}

#[test]
fn archives_zeros_and_nothing_are_named() {
    let place = Place::new();
    clerk(&place);
    let mut tar = vec![b'm'; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    for (bytes, parts) in [
        (b"\x1f\x8b\x08\0\0\0\0\0rest".to_vec(), ["gzip archive", "unpack"]),
        (tar, ["tar archive", "unpack"]),
        (vec![0; 5000], ["are zero", "interrupted download"]),
        (Vec::new(), ["is empty", "hf download"]),
        (b"GGUF\x03\0\0\0".to_vec(), ["a GGUF file", "safetensors"]),
        (b"PK\x03\x04whatever it is".to_vec(), ["a PyTorch file", "safetensors"]),
        (b"tjgg\x03\0\0\0".to_vec(), ["before GGUF", "again"]),
    ] {
        fs::write(place.path("clerk/model.safetensors"), bytes).unwrap();
        place.fails(1, "convert clerk -o out.gguf", &parts);
    }
    fs::write(place.path("model.gguf"), [0; 64]).unwrap();
    place.fails(1, "convert model.gguf -o out.gguf", &["model.gguf", "are zero"]);
}
