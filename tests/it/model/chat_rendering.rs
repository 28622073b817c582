//! Chat templates render as transformers renders them, byte for byte, and fail where it fails.

use crate::support::program::shipped;
use aqueduct::formats::gguf::{Array, Metadata, Value};
use aqueduct::model::tokenizer::{ChatTemplate, Date};
use serde_json::{Map, Value as Json};
use std::fs;
use std::path::Path;

fn read(path: &Path) -> Json {
    serde_json::from_slice(&fs::read(path).unwrap_or_else(|e| panic!("{path:?}: {e}"))).unwrap()
}

/// The metadata of a model with `template` and the special tokens of `chats`.
pub(crate) fn metadata(template: &str, tokens: &Json) -> Metadata {
    let mut metadata = Metadata::new();
    metadata.set("tokenizer.chat_template", template);
    let mut texts = Vec::new();
    for (name, key) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown")] {
        if let Some(text) = tokens[format!("{name}_token")].as_str() {
            metadata.set(format!("tokenizer.ggml.{key}_token_id"), texts.len() as u32);
            texts.push(text.to_string());
        }
    }
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(texts)));
    metadata
}

fn rendered(
    template: &ChatTemplate,
    chat: &Map<String, Json>,
    prompt: bool,
) -> Result<String, String> {
    if prompt { template.render_prompt(chat) } else { template.render(chat) }
}

/// Compares all of `folder`; gives the number of texts, and what differs.
fn compare(folder: &Path) -> (usize, Vec<String>) {
    let all = read(&folder.join("chats.json"));
    let (mut count, mut wrong) = (0, Vec::new());
    let mut paths: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| !path.ends_with("chats.json")) {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let cases = match read(path) {
            Json::Array(cases) => cases,
            case => vec![case],
        };
        for case in &cases {
            let found = compare_case(&name, case, &all);
            count += found.0;
            wrong.extend(found.1);
        }
    }
    (count, wrong)
}

/// Compares the texts of one template.
fn compare_case(name: &str, case: &Json, all: &Json) -> (usize, Vec<String>) {
    let (mut count, mut wrong) = (0, Vec::new());
    let source = case["template"].as_str().unwrap();
    let template =
        ChatTemplate::from_metadata(name, &metadata(source, &all["tokens"]), Date::default());
    for (chat, expected) in case["rendered"].as_object().unwrap() {
        let variables = all["chats"][chat].as_object().unwrap();
        for (prompt, expected) in [false, true].into_iter().zip(expected.as_array().unwrap()) {
            count += 1;
            let text = match &template {
                Ok(template) => rendered(template, variables, prompt),
                Err(e) => Err(e.to_string()),
            };
            if text.as_deref().ok() != expected.as_str() {
                let source = source.lines().next().unwrap_or_default();
                let what = format!("{name}, {chat}, prompt {prompt}: {source}");
                wrong.push(difference(&what, &text, expected));
            }
        }
    }
    (count, wrong)
}

/// The first place where both differ.
fn difference(what: &str, text: &Result<String, String>, expected: &Json) -> String {
    match (text, expected.as_str()) {
        (Err(e), _) => format!("{what}: fails: {e}"),
        (Ok(_), None) => format!("{what}: must fail"),
        (Ok(text), Some(expected)) => {
            let same = text.chars().zip(expected.chars()).take_while(|(a, b)| a == b).count();
            let part = |text: &str| {
                text.chars().skip(same.saturating_sub(30)).take(80).collect::<String>()
            };
            format!("{what}: at {same}\n   is {:?}\n  not {:?}", part(text), part(expected))
        }
    }
}

#[test]
fn templates_render_as_in_transformers() {
    let (count, wrong) = compare(&shipped("tests/data/templates/rendered"));
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count > 50, "{count} texts");
}

/// `scripts/check-templates` runs this over the templates of llama.cpp's sources.
#[test]
#[ignore = "needs the texts that scripts/check-templates makes, in the folder AQUEDUCT_RENDERED"]
fn rendered_elsewhere() {
    let folder = std::env::var("AQUEDUCT_RENDERED").expect("AQUEDUCT_RENDERED names a folder");
    let (count, wrong) = compare(Path::new(&folder));
    println!("{} of {count} texts agree", count - wrong.len());
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
}
