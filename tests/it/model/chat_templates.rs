//! The chat templates of a model on their way through convert, merge and restore.

use crate::support::program::{Place, shipped};
use aqueduct::base::progress::Silent;
use aqueduct::formats::checkpoint::{self, Checkpoint, WriteOptions};
use aqueduct::formats::gguf::{self, Metadata};
use aqueduct::model::convert::{ConvertOptions, convert};
use aqueduct::model::restore::restore;
use serde_json::{Value as Json, json};
use std::fs;

const MERGE: &str = "merge_method: passthrough\nmodels: [{model: model}]\n";

/// A copy of the demo's clerk in the folder `model`, with more files; `template` goes into tokenizer_config.json.
fn model(files: &[(&str, &str)], template: Json) -> Place {
    let place = Place::new();
    fs::create_dir_all(place.path("model/additional_chat_templates")).unwrap();
    for entry in fs::read_dir(shipped("recipes/demo/clerk")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        fs::copy(&path, place.path("model").join(name)).unwrap();
    }
    if !template.is_null() {
        let path = place.path("model/tokenizer_config.json");
        let mut config: Json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["chat_template"] = template;
        fs::write(path, config.to_string()).unwrap();
    }
    for (name, text) in files {
        fs::write(place.path("model").join(name), text).unwrap();
    }
    place
}

/// The keys of chat templates in their order, and their values.
fn keys(metadata: &Metadata) -> Vec<(String, String)> {
    let keys = metadata.iter().filter(|(key, _)| key.starts_with("tokenizer.chat_template"));
    let value = |key: &str| match metadata.strings(key) {
        Some(names) => names.join(","),
        None => metadata.str(key).unwrap().to_string(),
    };
    keys.map(|(key, _)| (key.trim_start_matches("tokenizer.chat_template").to_string(), value(key)))
        .collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

/// Keys that conversion makes of a folder, and the warnings about templates.
fn converted(place: &Place, folder: &str) -> (Vec<(String, String)>, Vec<String>) {
    let checkpoint = Checkpoint::open(place.path(folder)).unwrap();
    let model = convert(&checkpoint, &ConvertOptions::default()).unwrap();
    (keys(&model.metadata), model.warnings)
}

/// Checks that conversion, a merge, a folder restored from GGUF and a merge of a GGUF file all give `expected`.
fn check_everywhere(place: &Place, expected: &[(&str, &str)]) {
    let expected = pairs(expected);
    assert_eq!(converted(place, "model").0, expected);
    fs::write(place.path("merge.yml"), MERGE).unwrap();
    place.ok("merge merge.yml -o merged");
    let (merged, warnings) = converted(place, "merged");
    assert_eq!(merged, expected);
    assert!(warnings.is_empty(), "a merge leaves nothing that contradicts: {warnings:?}");
    place.ok("merge merge.yml -o merged --force");
    place.ok("convert merge.yml -o straight.gguf");
    place.ok("convert model -o model.gguf");
    for name in ["straight.gguf", "model.gguf"] {
        let model = gguf::open(place.path(name)).unwrap();
        assert_eq!(keys(&model.metadata), expected);
        let restored = restore(&model, "restored").unwrap();
        let folder = place.path(&format!("from-{name}"));
        checkpoint::write(&restored, &folder, &WriteOptions::default(), &Silent).unwrap();
        assert_eq!(converted(place, &format!("from-{name}")).0, expected);
    }
}

const TOOL: (&str, &str) = ("additional_chat_templates/tool_use.jinja", "TOOL");
const RAG: (&str, &str) = ("additional_chat_templates/rag.jinja", "RAG");
const MAIN: (&str, &str) = ("chat_template.jinja", "MAIN");

/// llama.cpp's converter makes these keys of the same folder, in this order.
#[test]
fn a_folder_of_templates_is_carried() {
    let place = model(&[MAIN, TOOL, RAG], Json::Null);
    let expected = [(".rag", "RAG"), (".tool_use", "TOOL"), ("s", "rag,tool_use"), ("", "MAIN")];
    check_everywhere(&place, &expected);
    let merged = place.path("merged/additional_chat_templates/tool_use.jinja");
    assert_eq!(fs::read(merged).unwrap(), b"TOOL");
}

#[test]
fn a_list_of_templates_is_carried() {
    let list =
        json!([{"name": "default", "template": "MAIN"}, {"name": "tool-use", "template": "TOOL"}]);
    let expected = [(".tool_use", "TOOL"), ("s", "tool_use"), ("", "MAIN")];
    check_everywhere(&model(&[], list.clone()), &expected);
    let text = json!({ "chat_template": list }).to_string();
    check_everywhere(&model(&[("chat_template.json", &text)], Json::Null), &expected);
    let only = json!([{"name": "tool_use", "template": "TOOL"}]);
    check_everywhere(&model(&[], only), &[(".tool_use", "TOOL"), ("s", "tool_use")]);
}

#[test]
fn the_file_wins_over_older_templates_with_a_warning() {
    let warned = |place: &Place, parts: &[&str]| {
        let (_, warnings) = converted(place, "model");
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        for part in parts {
            assert!(warnings[0].contains(part), "{warnings:?}");
        }
        fs::write(place.path("merge.yml"), MERGE).unwrap();
        let planned = place.ok("plan merge.yml").stderr;
        assert!(parts.iter().all(|part| planned.contains(part)), "{planned}");
    };
    let old = json!([{"name": "default", "template": "OLD"}, {"name": "tool_use", "template": "OLD TOOL"}]);
    let place = model(&[MAIN], json!("OLD"));
    warned(
        &place,
        &["chat_template.jinja and tokenizer_config.json", "chat_template.jinja is taken"],
    );
    check_everywhere(&place, &[("", "MAIN")]);
    let place = model(&[MAIN, RAG], old.clone());
    warned(&place, &["chat_template.jinja is taken", "llama.cpp's converter"]);
    check_everywhere(&place, &[(".rag", "RAG"), ("s", "rag"), ("", "MAIN")]);
    let processor = ("chat_template.json", r#"{"chat_template": "PROCESSOR"}"#);
    let place = model(&[MAIN, processor], Json::Null);
    warned(&place, &["chat_template.jinja and chat_template.json", "processors"]);
    check_everywhere(&place, &[("", "MAIN")]);
    let place = model(&[processor], json!("OLD"));
    warned(&place, &["tokenizer_config.json is taken", "processors"]);
    check_everywhere(&place, &[("", "OLD")]);
    let place = model(&[TOOL], json!("OLD"));
    warned(&place, &["no default chat template and tokenizer_config.json has one"]);
    check_everywhere(&place, &[(".tool_use", "TOOL"), ("s", "tool_use"), ("", "OLD")]);
}

/// Python reads files with any line ends as line feeds, and JSON as it stands.
#[test]
fn line_ends_of_files_are_line_feeds() {
    let place = model(&[("chat_template.jinja", "A\r\nB\rC\n")], json!("A\r\nB\r\nC\r\n"));
    let (keys, warnings) = converted(&place, "model");
    assert_eq!(keys, pairs(&[("", "A\nB\nC\n")]));
    assert!(warnings.is_empty(), "they differ in line ends alone: {warnings:?}");
    let place = model(&[], json!("A\r\nB"));
    assert_eq!(converted(&place, "model").0, pairs(&[("", "A\r\nB")]));
}

#[test]
fn a_template_of_the_recipe_replaces_all_others() {
    let text = json!({ "chat_template": "OLD" }).to_string();
    let place = model(&[MAIN, TOOL, ("chat_template.json", &text)], json!("OLD"));
    fs::write(place.path("merge.yml"), format!("{MERGE}chat_template: '{{{{ x }}}}'\n")).unwrap();
    let ran = place.ok("merge merge.yml -o merged");
    assert!(ran.stderr.contains("chat templates tool_use are dropped"), "{}", ran.stderr);
    let (keys, warnings) = converted(&place, "merged");
    assert_eq!((keys, warnings), (pairs(&[("", "{{ x }}")]), Vec::new()));
    assert!(!place.path("merged/additional_chat_templates").exists());
    assert!(!place.path("merged/chat_template.json").exists());
    // The model's own default keeps its company.
    fs::write(place.path("merge.yml"), format!("{MERGE}chat_template: auto\n")).unwrap();
    place.ok("merge merge.yml -o again");
    let expected = [(".tool_use", "TOOL"), ("s", "tool_use"), ("", "MAIN")];
    assert_eq!(converted(&place, "again").0, pairs(&expected));
}

#[test]
fn entries_that_are_no_templates_are_left_out_with_a_warning() {
    let list = json!([{"name": "default", "template": "MAIN"}, {"name": "", "template": "X"},
        {"name": "half"}, {"name": "a-b", "template": "1"}, {"name": "a.b", "template": "2"}]);
    let place = model(&[("additional_chat_templates/notes.txt", "no template")], list);
    let (keys, warnings) = converted(&place, "model");
    assert_eq!(keys, pairs(&[(".a_b", "2"), ("s", "a_b"), ("", "MAIN")]));
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    let (keys, warnings) = converted(&model(&[], json!({"default": "MAIN"})), "model");
    assert!(keys.is_empty() && warnings[0].contains("neither a text nor a list"), "{warnings:?}");
}

/// A folder that is no output of this program is not replaced.
#[test]
fn only_a_folder_of_templates_may_be_in_a_folder_that_is_replaced() {
    let place = model(&[MAIN, TOOL], Json::Null);
    fs::write(place.path("merge.yml"), MERGE).unwrap();
    place.ok("merge merge.yml -o merged");
    fs::write(place.path("merged/additional_chat_templates/thesis.txt"), "precious").unwrap();
    place.fails(2, "merge merge.yml -o merged --force", &["holds the folder", "not replaced"]);
    assert!(place.path("merged/additional_chat_templates/thesis.txt").exists());
}
