//! README.md beside the weights: read as PyYAML reads it, and never in the way of work.
//!
//! Expected values: llama.cpp's `gguf-py/gguf/metadata.py` of October 2026 run on the same front
//! matter.

use crate::support::program::{Place, shipped};
use aqueduct::formats::gguf;
use std::fs;

/// The demo's clerk with `card` as its README.md.
fn place(card: &[u8]) -> Place {
    let place = Place::new();
    fs::create_dir(place.path("model")).unwrap();
    for entry in fs::read_dir(shipped("recipes/demo/clerk")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, place.path("model").join(path.file_name().unwrap())).unwrap();
    }
    fs::write(place.path("model/README.md"), card).unwrap();
    place
}

fn keys(place: &Place, wanted: &[&str]) -> String {
    let metadata = gguf::open(place.path("m.gguf")).unwrap().metadata;
    let value = |key: &&str| match metadata.str(&format!("general.{key}")) {
        Some(text) => text.to_string(),
        None => metadata.strings(&format!("general.{key}")).map_or("-".into(), |l| l.join("+")),
    };
    wanted.iter().map(value).collect::<Vec<_>>().join(" ")
}

#[test]
fn cards_are_read_as_llama_cpp_reads_them() {
    for (front, wanted, expected) in [
        (
            "license: mit\nlicense: apache-2.0\ntags:\n- a\ntags:\n- b\n- c\n",
            &["license", "tags"][..],
            "apache-2.0 b+c",
        ),
        (
            "model-index:\n- results:\n  - metrics:\n    - {value: .nan}\n    - {value: -.inf}\nlicense: mit\n",
            &["license"],
            "mit",
        ),
        (
            "base_model:\n\t- mistralai/Mistral-7B-v0.1\ntags:\n\t- merge\n",
            &["base_model.0.organization", "tags"],
            "Mistralai merge",
        ),
        ("language:\n- en\n- no\nlicense: null\n", &["languages", "license"], "en+no -"),
        (
            "x: &b\n- acme/a-7b\n- acme/b-7b\nbase_model: *b\n",
            &["base_model.1.repo_url"],
            "https://huggingface.co/acme/b-7b",
        ),
        ("license: mit\r\ntags:\r\n- merge\r\n", &["license", "tags"], "mit merge"),
        (
            "model_description: >-\n  a long\n  text: with colon\nauthor: 'A: B'\nlanguage: en\n",
            &["description", "author", "languages"],
            "a long text: with colon A: B en",
        ),
        ("a: &a {license: mit}\n<<: *a\ntags: [x]\n", &["license", "tags"], "mit x"),
        ("license: mit\nimg: !!binary aGVsbG8=\ndate: 2024-01-01\n", &["license"], "mit"),
        ("tags:\n- \u{1f916}\n- \u{2728} x\n", &["tags"], "\u{1f916}+\u{2728} x"),
        ("license: mit\n...\n", &["license"], "mit"),
        ("", &["license"], "-"),
    ] {
        let end = if front.contains('\r') { "\r\n" } else { "\n" };
        let place = place(format!("---{end}{front}---{end}# Text\n").as_bytes());
        let ran = place.ok("convert model -o m.gguf");
        assert_eq!(ran.stderr, "", "{front:?}");
        assert_eq!(keys(&place, wanted), expected, "{front:?}");
    }
}

#[test]
fn a_card_that_cannot_be_read_is_a_warning_everywhere() {
    let warning = "README.md: its front matter is not valid YAML (line 3, column 7): ";
    let place = place(b"---\nlicense: mit\ntags: [a\n---\n");
    fs::write(place.path("text.txt"), "A page about a house by the sea. ".repeat(40)).unwrap();
    for line in [
        "convert model -o m.gguf",
        "quantize model -o q Q8_0",
        "imatrix model -f text.txt --ctx 32 --chunks 1 -o i.gguf",
        "build model -f text.txt --ctx 32 --chunks 2 -o b --types Q8_0",
    ] {
        let ran = place.ok(line);
        assert_eq!(ran.stderr.matches(warning).count(), 1, "{line}\n{}", ran.stderr);
    }
    assert_eq!(keys(&place, &["name", "license"]), "Model -");
    let recipe = "merge_method: passthrough\ndtype: float16\nslices:\n- sources:\n  - {model: model, layer_range: [0, 2]}\n";
    fs::write(place.path("r.yml"), recipe).unwrap();
    let ran = place.ok("build r.yml -f text.txt --ctx 32 --chunks 2 -o r --types Q8_0");
    assert_eq!(ran.stderr.matches(warning).count(), 1, "{}", ran.stderr);
    // Bytes that are no UTF-8 and a mark of byte order do no harm.
    let place = self::place(b"\xef\xbb\xbf---\nlicense: mit\nauthor: Ren\xe9\n---\n");
    assert_eq!(place.ok("convert model -o m.gguf").stderr, "");
    assert_eq!(keys(&place, &["license"]), "mit");
}
