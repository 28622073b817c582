//! Merges of models whose vocabularies differ: rows, tokenizer files, configuration.

use crate::support::sentencepiece::{PIECES, sentencepiece};
use crate::support::tokenizer_members::{
    HEAD, Members, data, json_file, linear, member_rows, rows, to_gguf,
};
use aqueduct::base::progress::Silent;
use aqueduct::formats::checkpoint::{self, Checkpoint, SideFile, WriteOptions};
use aqueduct::formats::gguf::{Array, GgufModel, Value};
use aqueduct::merge;
use aqueduct::recipe::{Folders, Severity, ShapesOnly, plan_text};
use serde_json::{Value as Json, json};
use std::path::Path;

const EMBEDDING: &str = "model.embed_tokens.weight";

/// Tokens by id and the ids of added ones, as tokenizer.json has them.
fn tokens(checkpoint: &Checkpoint) -> (Vec<String>, Vec<u64>) {
    let json = json_file(checkpoint, "tokenizer.json");
    let mut all: Vec<(u64, String)> = Vec::new();
    for (text, id) in json["model"]["vocab"].as_object().unwrap() {
        all.push((id.as_u64().unwrap(), text.clone()));
    }
    let mut added = Vec::new();
    for token in json["added_tokens"].as_array().unwrap() {
        let id = token["id"].as_u64().unwrap();
        added.push(id);
        all.push((id, token["content"].as_str().unwrap().to_string()));
    }
    all.sort();
    all.dedup();
    let ids: Vec<u64> = all.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, (0..all.len() as u64).collect::<Vec<_>>());
    (all.into_iter().map(|(_, text)| text).collect(), added)
}

fn golden(recipe: &str) -> Checkpoint {
    let path = data(&format!("recipes/{recipe}.yml"));
    let merged =
        merge::open(merge::plan(&path, &Folders::beside(&path, &[data("models")])).unwrap());
    let bytes = std::fs::read(data(&format!("merged/{recipe}.safetensors"))).unwrap();
    let expected = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let over_tokens = [EMBEDDING, HEAD].into_iter();
    let ours = over_tokens.filter(|name| merged.tensors.table().get(name).is_some()).count();
    assert_eq!(ours, expected.len());
    for (name, expected) in expected.iter() {
        let actual = merged.tensors.read_name(name).unwrap();
        assert_eq!(actual.shape, expected.shape(), "{name}");
        let values = expected.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        let values: Vec<f32> = values.collect();
        let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        for (at, (a, e)) in actual.to_f32().unwrap().iter().zip(&values).enumerate() {
            assert!((a - e).abs() <= 1e-5 * largest, "{name}, element {at}: {a} is not {e}");
        }
    }
    let text = std::fs::read_to_string(data(&format!("merged/{recipe}.json"))).unwrap();
    let expected: Json = serde_json::from_str(&text).unwrap();
    let (texts, added) = tokens(&merged);
    assert_eq!(
        (json!(texts), json!(added)),
        (expected["tokens"].clone(), expected["added"].clone())
    );
    assert_eq!(json!(merged.config.usize("vocab_size")), expected["vocab_size"]);
    merged
}

#[test]
fn a_union_of_tied_and_untied_models_equals_the_peers() {
    let merged = golden("union-base");
    assert_eq!(merged.config.bool("tie_word_embeddings"), Some(false));
}

#[test]
fn rows_told_for_single_tokens_equal_the_peers() {
    golden("tokens");
}

#[test]
fn the_vocabulary_of_a_named_model_equals_the_peers() {
    let merged = golden("slerp-model");
    assert_eq!(merged.config.usize("eos_token_id"), Some(10), "the tokenizer's, not the base's");
    let template = json_file(&merged, "tokenizer_config.json")["chat_template"].clone();
    assert!(template.as_str().unwrap().contains("<|im_start|>"));
}

#[test]
fn a_padded_union_equals_the_peers() {
    golden("union-pad");
}

#[test]
fn a_token_that_some_lack_is_the_mean_of_the_others_rows() {
    let members = Members::new();
    let merged = members.open(&linear(&["base", "chat", "padded"], "tokenizer_source: union"));
    // '<|im_end|>' is row 10 of 'chat' and row 9 of 'padded'; 'base' gets their mean.
    let (chat, padded) = (member_rows("chat", EMBEDDING), member_rows("padded", EMBEDDING));
    let ours = &rows(&merged, EMBEDDING)[10];
    for (column, value) in ours.iter().enumerate() {
        let (c, p) = (f64::from(chat[10][column]), f64::from(padded[9][column]));
        let expected = (c + p + (c + p) / 2.0) / 3.0;
        assert!((f64::from(*value) - expected).abs() < 1e-6, "{value} is not {expected}");
    }
    // A tied model's head is its embedding.
    let head = &rows(&merged, HEAD)[11];
    assert_eq!(head, &padded[8].iter().map(|v| (v + v + v) / 3.0).collect::<Vec<_>>());
}

#[test]
fn tied_models_stay_tied_under_a_union() {
    let members = Members::new();
    for name in ["chat", "base"] {
        let config = format!("{name}/config.json");
        members.edit(&config, |config| config["tie_word_embeddings"] = json!(true));
        members.without_head(name);
    }
    let merged = members.open(&linear(&["base", "chat"], "tokenizer_source: union"));
    assert!(merged.tensors.table().get(HEAD).is_none());
    assert_eq!(merged.config.bool("tie_word_embeddings"), Some(true));
    assert_eq!(rows(&merged, EMBEDDING).len(), 11);
}

#[test]
fn in_a_stack_the_other_models_give_the_rows_that_an_end_lacks() {
    let members = Members::new();
    let text = "merge_method: passthrough\nslices:\n\
                - sources: [{model: base, layer_range: [0, 2]}]\n\
                - sources: [{model: chat, layer_range: [1, 2]}]\ntokenizer_source: union\n";
    let merged = members.open(text);
    let (embedding, head) = (rows(&merged, EMBEDDING), rows(&merged, HEAD));
    assert_eq!(embedding[..8], member_rows("base", EMBEDDING)[..8]);
    assert_eq!(embedding[10], member_rows("chat", EMBEDDING)[10], "<|im_end|> from 'chat'");
    let chat = member_rows("chat", HEAD);
    // 'a' is token 2 of the union and token 3 of 'chat'; '1' is 7 and 8.
    assert_eq!((&head[2], &head[7], &head[10]), (&chat[3], &chat[8], &chat[10]));
    assert_eq!(merged.config.usize("vocab_size"), Some(11));
}

#[test]
fn equal_vocabularies_are_handed_through_and_rows_without_tokens_are_cut() {
    let members = Members::new();
    let merged =
        members.open("merge_method: passthrough\nmodels: [{model: base}]\ntokenizer_source: union");
    let embedding = merged.tensors.read_name(EMBEDDING).unwrap();
    assert!(matches!(embedding.bytes, std::borrow::Cow::Borrowed(_)));
    assert!(matches!(merged.side_file("tokenizer.json"), Some(SideFile::File(_))));
    let merged = members
        .open("merge_method: passthrough\nmodels: [{model: padded}]\ntokenizer_source: union");
    assert_eq!(rows(&merged, EMBEDDING)[..], member_rows("padded", EMBEDDING)[..10]);
    assert_eq!(merged.config.usize("vocab_size"), Some(10));
    let pad =
        "merge_method: passthrough\nmodels: [{model: base}]\ntokenizer: {pad_to_multiple_of: 6}";
    let padded = rows(&members.open(pad), EMBEDDING);
    let own = member_rows("base", EMBEDDING);
    assert_eq!((padded.len(), &padded[..8]), (12, &own[..]));
    let mean: Vec<f32> = (0..8)
        .map(|c| (own.iter().map(|row| f64::from(row[c])).sum::<f64>() / 8.0) as f32)
        .collect();
    assert!(padded[8..].iter().all(|row| *row == mean));
}

#[test]
fn stages_hand_on_their_vocabulary() {
    let members = Members::new();
    let one =
        linear(&["base", "chat"], "tokenizer_source: union\nchat_template: chatml\nname: one\n");
    let direct = members.open(&one);
    let staged =
        members.open(&format!("{one}---\nmerge_method: passthrough\nmodels: [{{model: one}}]\n"));
    assert_eq!(rows(&direct, EMBEDDING), rows(&staged, EMBEDDING));
    assert_eq!(tokens(&direct), tokens(&staged));
    assert_eq!(staged.config.usize("vocab_size"), Some(11));
    let template =
        |c: &Checkpoint| to_gguf(c).metadata.str("tokenizer.chat_template").map(str::to_string);
    assert!(template(&direct).unwrap().contains("<|im_start|>"));
    assert_eq!(template(&direct), template(&staged));
    // A stage's tokens can be arranged anew: 'base' orders them otherwise than 'chat'.
    let more = "---\nmerge_method: passthrough\nmodels: [{model: one}]\ntokenizer_source: chat\n";
    let anew = members.open(&format!("{one}{more}"));
    assert_eq!(rows(&anew, EMBEDDING)[3], rows(&direct, EMBEDDING)[2]);
}

/// The metadata and every tensor of two models.
fn assert_same_models(left: &GgufModel, right: &GgufModel) {
    let metadata = |m: &GgufModel| format!("{:?}", m.metadata.iter().collect::<Vec<_>>());
    assert_eq!(metadata(left), metadata(right));
    let infos = left.tensors.table().infos();
    assert_eq!(infos, right.tensors.table().infos());
    for (index, info) in infos.iter().enumerate() {
        let (l, r) = (left.tensors.read(index).unwrap(), right.tensors.read(index).unwrap());
        assert_eq!(l.bytes, r.bytes, "{}", info.name);
    }
}

#[test]
fn a_recipe_converts_to_what_its_merged_folder_does() {
    let members = Members::new();
    for recipe in ["union-base", "tokens", "slerp-model", "union-pad"] {
        let text = std::fs::read_to_string(data(&format!("recipes/{recipe}.yml"))).unwrap();
        let merged = members.open(&text);
        let folder = members.path("recipe");
        let options = WriteOptions { force: true, ..WriteOptions::default() };
        checkpoint::write(&merged, &folder, &options, &Silent).unwrap();
        let read = Checkpoint::open(&folder).unwrap();
        let (direct, converted) = (to_gguf(&merged), to_gguf(&read));
        assert_same_models(&direct, &converted);
        let vocabulary = direct.metadata.strings("tokenizer.ggml.tokens").unwrap();
        assert_eq!(vocabulary.len(), merged.config.usize("vocab_size").unwrap());
    }
}

#[test]
fn new_tokens_are_declared_in_every_file_that_declares_tokens() {
    let members = Members::new();
    members.edit("base/added_tokens.json", |json| *json = json!({"<s>": 0}));
    let merged = members.open(&linear(&["base", "chat", "padded"], "tokenizer_source: union"));
    let config = json_file(&merged, "tokenizer_config.json");
    let flags = json!({"content": "<|im_start|>", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true});
    assert_eq!(config["added_tokens_decoder"]["9"], flags);
    assert_eq!(json_file(&merged, "added_tokens.json")["<mark>"], json!(11));
    let model = to_gguf(&merged);
    let vocabulary = model.metadata.strings("tokenizer.ggml.tokens").unwrap();
    assert_eq!(vocabulary[8..], ["c", "<|im_start|>", "<|im_end|>", "<mark>"].map(String::from));
    let Some(Value::Array(Array::I32(kinds))) = model.metadata.get("tokenizer.ggml.token_type")
    else {
        panic!("no kinds")
    };
    assert_eq!(kinds[7..], [1, 4, 3, 3, 4]);
}

#[test]
fn tokens_without_a_row_are_taken_out_of_the_donors_files() {
    let members = Members::new();
    members.edit("base/tokenizer.json", |json| {
        json["model"]["vocab"]["1a"] = json!(8);
        json["model"]["merges"] = json!([["a", "b"], ["\u{120}", "ab"], ["1", "a"]]);
        json["added_tokens"].as_array_mut().unwrap().push(json!({"id": 9, "content": "<x>"}));
    });
    members.edit("base/tokenizer_config.json", |json| {
        json["added_tokens_decoder"]["9"] = json!({"content": "<x>"});
    });
    let text = linear(&["base", "chat"], "tokenizer_source: base\nbase_model: base\n");
    members.expect(
        &text,
        Severity::Warning,
        "5:13",
        "2 tokens of model 'base' are skipped: its embedding has only 8",
        "",
    );
    let merged = members.open(&text);
    assert_eq!(tokens(&merged).0.len(), 8);
    let json = json_file(&merged, "tokenizer.json");
    assert_eq!(json["model"]["merges"], json!([["a", "b"], ["\u{120}", "ab"]]));
    assert_eq!(json_file(&merged, "tokenizer_config.json")["added_tokens_decoder"].get("9"), None);
    to_gguf(&merged);
}

#[test]
fn a_sentencepiece_model_gets_new_tokens_in_its_configuration() {
    let members = Members::new();
    // Eight rows: the pieces up to 'a'.
    members.remove("base/tokenizer.json").remove("base/tokenizer_config.json");
    members.write("base/tokenizer.model", sentencepiece(&PIECES[..8], true));
    let merged = members.open(&linear(
        &["base", "chat"],
        "tokenizer: {tokens: {<new>: {source: {kind: zero}}}, source: base}\nbase_model: base\n",
    ));
    assert!(matches!(merged.side_file("tokenizer.model"), Some(SideFile::File(_))));
    let model = to_gguf(&merged);
    let vocabulary = model.metadata.strings("tokenizer.ggml.tokens").unwrap();
    assert_eq!(vocabulary[6..], ["\u{2581}", "a", "<new>"].map(String::from));
    assert_eq!(rows(&merged, EMBEDDING)[8], [0.0; 8]);
    // 'a' is row 7 of one and row 3 of the other.
    let expected: Vec<f32> = member_rows("base", EMBEDDING)[7]
        .iter()
        .zip(&member_rows("chat", EMBEDDING)[3])
        .map(|(x, y)| (x + y) / 2.0)
        .collect();
    assert_eq!(rows(&merged, EMBEDDING)[7], expected);
}

#[test]
fn ids_of_special_tokens_follow_the_tokenizer() {
    let members = Members::new();
    members.edit("base/generation_config.json", |json| {
        *json = json!({"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "top_k": 5});
    });
    let merged = members.open(&linear(&["base", "chat"], "tokenizer_source: chat\n"));
    assert_eq!(merged.config.usize("eos_token_id"), Some(10));
    let generation = json_file(&merged, "generation_config.json");
    assert_eq!(generation, json!({"bos_token_id": 0, "eos_token_id": 10, "top_k": 5}));
    assert_eq!(to_gguf(&merged).metadata.u64("tokenizer.ggml.eos_token_id"), Some(10));
    let merged = members.open(&linear(&["base", "chat"], "tokenizer_source: union\n"));
    assert_eq!(merged.config.usize("eos_token_id"), Some(1));
    assert!(matches!(merged.side_file("generation_config.json"), Some(SideFile::File(_))));
}

#[test]
fn files_come_from_the_donors() {
    let members = Members::new();
    for name in ["base", "padded"] {
        members.edit(&format!("{name}/generation_config.json"), |json| json["top_k"] = json!(1));
    }
    members.edit("padded/special_tokens_map.json", |_| ());
    let files = |more: &str| {
        let merged = members.open(&linear(&["base", "padded"], more));
        let named = |file: &SideFile| {
            let folder = file.path().parent().and_then(Path::file_name).unwrap_or_default();
            format!("{}/{}", folder.to_string_lossy(), file.name())
        };
        merged.side_files.iter().map(named).collect::<Vec<_>>()
    };
    let own = ["base/tokenizer.json", "base/tokenizer_config.json", "base/generation_config.json"];
    assert_eq!(files("tokenizer_source: base\nbase_model: base\n"), own);
    assert_eq!(
        files("tokenizer_source: padded\n"),
        [
            "padded/tokenizer.json",
            "padded/tokenizer_config.json",
            "padded/special_tokens_map.json",
            "/generation_config.json"
        ],
        "the last is made, with the tokenizer's ids"
    );
}

#[test]
fn nan_in_a_row_is_an_error_that_names_member_and_element() {
    let members = Members::new();
    let path = members.path("chat/model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let (header, tensors) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let (start, _) = tensors.info(EMBEDDING).unwrap().data_offsets;
    // Row 7, column 3: the token 'c'.
    let at = 8 + header + start + (7 * 8 + 3) * 4;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let merged = members.open(&linear(&["base", "chat"], "tokenizer_source: union"));
    let error = merged.tensors.read_name(EMBEDDING).unwrap_err().to_string();
    assert!(
        ["'chat'", EMBEDDING, "element 59", "NaN"].iter().all(|p| error.contains(p)),
        "{error}"
    );
}

#[test]
fn a_plan_from_shapes_takes_the_largest_vocabulary() {
    let members = Members::new();
    let path = members.path("recipe.yml");
    let text = linear(&["base", "chat"], "tokenizer: {pad_to_multiple_of: 8}\nchat_template: auto");
    let lookup = ShapesOnly::beside(&path, &[]);
    let plan = plan_text(&path, &text, &merge::methods::specs(), &lookup).unwrap();
    assert_eq!(plan.tensors().get(EMBEDDING).unwrap().shape, [16, 8]);
    assert!(plan.warnings.iter().any(|w| w.message.contains("assumed to have 11 tokens")));
}

#[test]
fn lists_with_an_entry_for_each_layer_follow_their_layers() {
    let members = Members::new();
    for (name, types) in [("base", ["full", "sliding"]), ("chat", ["local", "global"])] {
        members.edit(&format!("{name}/config.json"), |json| {
            json["layer_types"] = json!(types);
            json["no_rope_layers"] = json!([1, 0]);
            json["eos_token_id"] = json!([1, 0]);
            json["some_new_list"] = json!([name, 2]);
            json["vocab_size"] = json!(if name == "base" { 8 } else { 11 });
        });
    }
    let stack = "merge_method: passthrough\nslices:\n\
                 - sources: [{model: base, layer_range: [1, 2]}]\n\
                 - sources: [{model: chat, layer_range: [0, 2]}]\n\
                 - sources: [{model: base, layer_range: [0, 1]}]\ntokenizer_source: union\n";
    let config = members.open(stack).config;
    let list = |key: &str| config.get(key).cloned().unwrap();
    assert_eq!(list("layer_types"), json!(["sliding", "local", "global", "full"]));
    assert_eq!(list("no_rope_layers"), json!([0, 1, 0, 1]));
    assert_eq!(list("some_new_list"), json!([2, "chat", 2, "base"]));
    assert_eq!(list("eos_token_id"), json!([1, 0]), "no entries of layers");
    assert_eq!(list("architectures"), json!(["LlamaForCausalLM"]));
    // A model without the list leaves it out rather than wrong.
    members
        .edit("chat/config.json", |json| drop(json.as_object_mut().unwrap().remove("layer_types")));
    members.expect(
        stack,
        Severity::Warning,
        "3:21",
        "'layer_types' of config.json has an entry for each layer, but model 'chat'",
        "",
    );
    assert_eq!(members.open(stack).config.get("layer_types"), None);
}
