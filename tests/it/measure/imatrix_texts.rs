//! What an importance matrix is computed from: special tokens, conversations, and texts that will not do.

use crate::support::files::entries;
use crate::support::program::{Place, shipped};
use aqueduct::base::progress::Silent;
use aqueduct::build::Source;
use aqueduct::formats::gguf::GgufModel;
use aqueduct::kernels::Precision;
use aqueduct::measure::imatrix::{self, ImportanceMatrix, Options};
use aqueduct::model::convert::ConvertOptions;
use aqueduct::model::tokenizer::Tokenizer;
use serde_json::{Value as Json, json};
use std::fs;
use std::path::Path;

const SETTINGS: &str = "--ctx 32 --precision f32";
/// Puts the tokenizer's special token around messages, and refuses roles it does not know.
const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}\n    {%- if m.role not in ['user', 'assistant'] %}\
    {{ raise_exception('unknown role ' + m.role) }}{% endif %}\n    \
    {{- m['role'].title() + ': ' + m['content'].strip() + eos_token }}\n{%- endfor %}";

fn held_out() -> String {
    fs::read_to_string(shipped("tests/data/demo/held-out.txt")).unwrap()
}

/// The demo's clerk in the folder `talker`, with a chat template.
fn talker(place: &Place, template: &str) {
    let (from, to) = (shipped("recipes/demo/clerk"), place.path("talker"));
    fs::create_dir_all(&to).unwrap();
    for file in entries(&from) {
        fs::copy(from.join(&file), to.join(&file)).unwrap();
    }
    let path = to.join("tokenizer_config.json");
    let mut config: Json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["chat_template"] = template.into();
    fs::write(path, config.to_string()).unwrap();
}

fn open(folder: &Path) -> (GgufModel, Tokenizer) {
    let model = Source::open(folder).unwrap().to_gguf(&ConvertOptions::default(), &Silent).unwrap();
    let tokenizer = Tokenizer::from_metadata("model", &model.metadata).unwrap();
    (model, tokenizer)
}

/// What [`SETTINGS`] give for `tokens`.
fn expected(model: &GgufModel, tokens: &[u32]) -> ImportanceMatrix {
    let options =
        Options { ctx: 32, bos: Some(0), precision: Precision::F32, ..Options::default() };
    imatrix::compute(model, tokens, &options, None, &Silent).unwrap().imatrix
}

fn same_sums(place: &Place, name: &str, expected: &ImportanceMatrix) {
    let matrix = ImportanceMatrix::read(place.path(name)).unwrap();
    assert_eq!(matrix.chunk_count, expected.chunk_count);
    assert!(matrix.entries == expected.entries, "{name}: other sums");
}

#[test]
fn special_tokens_are_parsed_on_request() {
    let place = Place::new();
    let text = held_out().replace("\n\n", "<|endoftext|>");
    fs::write(place.path("t.txt"), &text).unwrap();
    let (model, tokenizer) = open(&shipped("recipes/demo/clerk"));
    let [plain, parsed] =
        [false, true].map(|parse| tokenizer.encode_document(&text, parse).unwrap());
    let special = |tokens: &[u32]| tokens.iter().filter(|token| **token == 0).count();
    let spelled = text.matches("<|endoftext|>").count();
    assert_eq!((special(&plain), special(&parsed)), (1, 1 + spelled), "one is BOS");
    assert!(spelled >= 3);
    let run = format!("imatrix @recipes/demo/clerk -f t.txt {SETTINGS}");
    place.ok(&format!("{run} -o plain.gguf"));
    same_sums(&place, "plain.gguf", &expected(&model, &plain));
    place.ok(&format!("{run} --parse-special -o parsed.gguf"));
    same_sums(&place, "parsed.gguf", &expected(&model, &parsed));
    place.fails(1, "imatrix merge plain.gguf parsed.gguf -o x.gguf", &["the text"]);
}

/// Conversations of the held-out text's lines, and what [`TEMPLATE`] makes of each.
fn conversations() -> (Vec<Json>, Vec<String>) {
    let text = held_out();
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let pairs = lines.chunks_exact(2).map(|pair| {
        let messages = json!([{"role": "user", "content": format!("  {}\n", pair[0])},
            {"role": "assistant", "content": pair[1]}]);
        let [user, assistant] = [pair[0], pair[1]].map(str::trim);
        let end = "<|endoftext|>";
        (messages, format!("{end}User: {user}{end}Assistant: {assistant}{end}"))
    });
    pairs.unzip()
}

#[test]
fn conversations_are_written_by_the_models_template() {
    let place = Place::new();
    talker(&place, TEMPLATE);
    let (messages, rendered) = conversations();
    assert!(messages.len() > 5);
    // Lists and objects, with an empty line between.
    let line = |(at, messages): (usize, &Json)| match at % 2 {
        0 => format!("{messages}\n"),
        _ => format!("{}\n\n", json!({"messages": messages, "id": at})),
    };
    let file: String = messages.iter().enumerate().map(line).collect();
    fs::write(place.path("talk.jsonl"), file).unwrap();
    let (model, tokenizer) = open(&place.path("talker"));
    let encode = |text: &String| tokenizer.encode(text, true).unwrap();
    let tokens: Vec<u32> = rendered.iter().flat_map(encode).collect();
    assert_eq!(tokens.iter().filter(|token| **token == 0).count(), 3 * messages.len());
    let run = format!("imatrix talker --chat talk.jsonl {SETTINGS} --json");
    let ran = place.ok(&format!("{run} -o chat.gguf")).json();
    same_sums(&place, "chat.gguf", &expected(&model, &tokens));
    assert_eq!(ran["chunks"], tokens.len() / 32);
    // After texts, if there are any; special tokens are parsed in conversations alone.
    let text = format!("{}<|endoftext|>", held_out());
    fs::write(place.path("t.txt"), &text).unwrap();
    place.ok(&format!("{run} -f t.txt -o both.gguf"));
    let both = [tokenizer.encode_document(&text, false).unwrap(), tokens].concat();
    same_sums(&place, "both.gguf", &expected(&model, &both));
    let matrix = ImportanceMatrix::read(place.path("both.gguf")).unwrap();
    assert_eq!(matrix.datasets, ["t.txt", "talk.jsonl"]);
}

#[test]
fn conversations_that_will_not_do_tell_their_line() {
    let place = Place::new();
    talker(&place, TEMPLATE);
    let good = json!([{"role": "user", "content": "Hi"}]).to_string();
    let fails = |code: i32, model: &str, content: &str, parts: &[&str]| {
        fs::write(place.path("t.jsonl"), content).unwrap();
        let line = format!("imatrix {model} --chat t.jsonl {SETTINGS} -o x.gguf");
        place.fails(code, &line, parts);
        assert!(!place.path("x.gguf").exists());
    };
    let tool = json!({"messages": [{"role": "tool", "content": "3"}]});
    let parts = [
        "t.jsonl: line 3: the model's chat template fails",
        "unknown role tool",
        "chat_template:2",
    ];
    fails(1, "talker", &format!("{good}\n\n{tool}\n"), &parts);
    fails(1, "talker", &format!("{good}\n[\"Hi\"]"), &["t.jsonl: line 2: message 1: no object"]);
    fails(
        1,
        "talker",
        &format!("{good}\n{{\"messages\"\n"),
        &["t.jsonl: line 2: column", "not JSON"],
    );
    fails(1, "talker", "\n \n", &["t.jsonl: there is no text"]);
    fails(2, "talker", &good, &["do not fill one context of 32"]);
    fails(1, "@recipes/demo/clerk", &good, &["clerk", "no chat template", "chat_template: chatml"]);
    talker(&place, "{% if %}");
    fails(1, "talker", &good, &["talker", "the chat template cannot be used", "chat_template:1"]);
    place.fails(1, "imatrix talker --chat no.jsonl -o x.gguf", &["no.jsonl", "cannot read"]);
    place.fails(2, "imatrix --chat t.jsonl show m.gguf", &["belongs to computing"]);
}

#[test]
fn texts_that_will_not_do_are_refused() {
    let place = Place::new();
    let clerk = "imatrix @recipes/demo/clerk";
    for empty in ["", " \n\t\n"] {
        fs::write(place.path("empty.txt"), empty).unwrap();
        let line = format!("{clerk} -f @README.md -f empty.txt -o x.gguf");
        place.fails(1, &line, &["empty.txt: there is no text in this file"]);
    }
    fs::write(place.path("short.txt"), "A short text.").unwrap();
    let parts = ["the calibration text has", "do not fill one context of 64", "more text"];
    place.fails(2, &format!("{clerk} -f short.txt --ctx 64 -o x.gguf"), &parts);
    fs::write(place.path("binary.txt"), b"ab\xff").unwrap();
    let parts = ["binary.txt: not UTF-8 text: byte 2"];
    place.fails(1, &format!("{clerk} -f binary.txt -o x.gguf"), &parts);
    // A single chunk, and longer than the model was trained for: warnings, as llama-imatrix has one.
    let ran = place.ok(&format!("{clerk} -f @tests/data/demo/held-out.txt --ctx 570 -o x.gguf"));
    let warning =
        "chunks of 570 tokens are longer than the context of 512 the model was trained for";
    assert!(ran.stderr.contains(warning), "{}", ran.stderr);
    assert!(ran.stderr.contains("only one chunk"), "{}", ran.stderr);
}

#[test]
fn quantizing_with_another_models_matrix_is_refused() {
    let place = Place::new();
    let clerk = shipped("recipes/demo/clerk");
    place.ok(&format!(
        "imatrix @recipes/demo/clerk -f @tests/data/demo/held-out.txt {SETTINGS} -o m.gguf"
    ));
    let matrix = ImportanceMatrix::read(place.path("m.gguf")).unwrap();
    let renamed = |from: &str, to: &str| {
        let mut matrix = matrix.clone();
        let entries = matrix.entries.into_iter();
        matrix.entries = entries.map(|(name, e)| (name.replacen(from, to, 1), e)).collect();
        matrix.write(place.path("other.gguf"), imatrix::Format::Gguf, true).unwrap();
    };
    let line = format!("quantize {} Q4_K_M --imatrix other.gguf --force", clerk.display());
    renamed("blk.", "layers.");
    let parts =
        ["layers.0.attn_k.weight", "none of them is a tensor of this model", "another model"];
    place.fails(1, &format!("{line} -o q.gguf"), &parts);
    assert!(!place.path("q.gguf").exists());
    // A deeper model of the same widths: what fits is used.
    renamed("blk.2.", "blk.7.");
    let ran = place.ok(&format!("{line} -o q.gguf"));
    for part in ["has entries for blk.7.attn_k.weight", "has no entry for blk.2.attn_k.weight"] {
        assert!(ran.stderr.contains(part), "{}", ran.stderr);
    }
    let peers = "--imatrix @tests/data/smollm2/imatrix-gpl3.gguf";
    let line = format!("quantize @recipes/demo/clerk Q4_K_M {peers} -o q2.gguf");
    place.fails(1, &line, &["blk.0.attn_", "576 values where 256", "another model"]);
}
