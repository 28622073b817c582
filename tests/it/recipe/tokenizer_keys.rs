//! Chat templates of merges, and what is refused or warned of where vocabularies differ.

use crate::support::tokenizer_members::{
    HEAD, Members, data, json_file, linear, member_rows, rows, to_gguf,
};
use aqueduct::merge;
use aqueduct::recipe::{Folders, Severity, plan_text};
use serde_json::{Value as Json, json};

#[test]
fn vocabularies_that_differ_are_refused_with_counts_and_a_remedy() {
    let members = Members::new();
    let text = linear(&["base", "chat"], "");
    members.error(
        &text,
        "2:33",
        "has shape [11, 8] in 'chat', but [8, 8] in 'base'",
        "tokenizer: {source: union}",
    );
    let stack = "merge_method: passthrough\nslices:\n\
                 - sources: [{model: base, layer_range: [0, 2]}]\n\
                 - sources: [{model: chat, layer_range: [0, 2]}]\n";
    members.error(
        stack,
        "1:1",
        "the embedding from 'base' has 8 rows, the head from 'chat' has 11",
        "tokenizer: {source: union}",
    );
}

#[test]
fn models_without_tokenizers() {
    let members = Members::new();
    members.remove("base/tokenizer.json");
    let union = linear(&["base", "chat"], "tokenizer_source: union\n");
    members.error(
        &union,
        "4:19",
        "'base' has no tokenizer, which the result needs",
        "tokenizer.json",
    );
    let other = linear(&["chat", "base"], "tokenizer_source: union\n");
    members.error(
        &other,
        "4:19",
        "'base' has no tokenizer, and its 8 rows do not match the 11 of 'chat'",
        "tokenizer.json",
    );
    members.error(
        &linear(&["base", "base"], "chat_template: chatml\n"),
        "4:16",
        "'base' has no tokenizer, so",
        "tokenizer_source",
    );
    // As many rows: most likely the same tokens.
    members
        .write("base/tokenizer.json", std::fs::read(data("models/base/tokenizer.json")).unwrap());
    std::fs::create_dir(members.path("twin")).unwrap();
    for file in ["config.json", "model.safetensors"] {
        let bytes = std::fs::read(members.path("base").join(file)).unwrap();
        members.write(&format!("twin/{file}"), bytes);
    }
    let twins = linear(&["base", "twin"], "tokenizer_source: union\n");
    members.expect(
        &twins,
        Severity::Warning,
        "4:19",
        "'twin' has no tokenizer: its 8 rows are assumed",
        "",
    );
    assert_eq!(rows(&members.open(&twins), HEAD), member_rows("base", HEAD));
    members.write("chat/tokenizer.json", "{");
    members.error(
        &union,
        "2:33",
        "the tokenizer of model 'chat' cannot be used",
        "correct or replace",
    );
}

#[test]
fn tokens_that_cannot_be_had() {
    let members = Members::new();
    let with =
        |tokens: &str| linear(&["base", "chat"], &format!("tokenizer: {{tokens: {{{tokens}}}}}\n"));
    members.error(
        &with("<|im_strat|>: {}"),
        "4:22",
        "no model has the token '<|im_strat|>'",
        "did you mean '<|im_start|>'?",
    );
    members.error(&with("c: {source: base}"), "4:22", "model 'base' has no token 'c'", "");
    members.error(
        &with("x: {source: {kind: model_token, model: chat, token: <|imstart|>}}"),
        "4:74",
        "model 'chat' has no token '<|imstart|>'",
        "did you mean '<|im_start|>'?",
    );
    members.error(
        &with("x: {source: {kind: model_token, model: chat, token_id: 11}}"),
        "4:77",
        "token_id 11 is out of range: the embedding of 'chat' has 11 rows",
        "from 0 to 10",
    );
    members.error(
        &with("x: {source: {kind: model_token, model: chat}}"),
        "4:34",
        "one of 'token'",
        "write",
    );
    members.error(
        &with("x: {source: {kind: model_token, token: a}}"),
        "4:34",
        "no 'model'",
        "write",
    );
    members.error(
        &with("x: {source: {kind: mean}}"),
        "4:41",
        "unknown kind of source",
        "'zero' or 'model_token'",
    );
    members.error(&with("a: {force: true}"), "4:25", "'force' needs a 'source'", "");
    members.error(
        &with("a: {source: chat, force: maybe}"),
        "4:47",
        "'force' is the text 'maybe'",
        "true or false",
    );
    members.error(
        &with("a: {sauce: chat}"),
        "4:26",
        "unknown key 'sauce' in a token",
        "did you mean 'source'?",
    );
    members.error(&with("a: {source: gone}"), "4:34", "'gone' is not on disk", "");
    let new = with("<new>: {source: {kind: zero}}");
    members.expect(
        &new,
        Severity::Warning,
        "4:22",
        "no model has the token '<new>': it is added",
        "",
    );
    let tokens =
        |text: &str| linear(&["base", "chat"], &format!("tokenizer: {{tokens: {text}}}\n"));
    members.error(&tokens("[a]"), "4:21", "'tokens' is a list", "write 'tokens:");
    members.error(&tokens("{'': {source: chat}}"), "4:22", "a token without text", "");
}

#[test]
fn tokenizer_keys_that_make_no_sense() {
    let members = Members::new();
    let with = |more: &str| linear(&["base", "chat"], more);
    for pad in ["0", "1000000", "-8", "2.5", "many"] {
        members.error(
            &with(&format!("tokenizer: {{pad_to_multiple_of: {pad}}}\n")),
            "4:33",
            "not a whole number from 1 to 65536",
            "64",
        );
    }
    members.error(&with("tokenizer_source: base\n"), "4:19", "there is none", "add 'base_model");
    members.error(
        &with("tokenizer_source: base\ntokenizer: {}\n"),
        "5:1",
        "both 'tokenizer' and",
        "keep one",
    );
    members.error(
        &with("tokenizer: union\n"),
        "4:12",
        "'tokenizer' is the text 'union'",
        "tokenizer: {source: union}",
    );
    members.error(
        &with("chat_template: chatlm\ntokenizer_source: union\n"),
        "4:16",
        "unknown chat template 'chatlm'",
        "did you mean 'chatml'?",
    );
    members.error(
        &with("chat_template: vicuna\ntokenizer_source: union\n"),
        "4:16",
        "'vicuna'",
        "known are auto, alpaca, chatml",
    );
    members.error(&with("chat_template: [1]\n"), "4:16", "'chat_template' is a list", "known are");
}

#[test]
fn chat_templates_by_majority_by_name_and_as_text() {
    let members = Members::new();
    let template = |more: &str| {
        let text = linear(&["base", "chat", "padded"], &format!("tokenizer_source: union\n{more}"));
        let model = to_gguf(&members.open(&text));
        model.metadata.str("tokenizer.chat_template").map(str::to_string)
    };
    assert_eq!(template(""), None, "the donor has none");
    assert!(template("chat_template: auto").unwrap().contains("m['content']"));
    for name in ["base", "padded"] {
        members.write(&format!("{name}/chat_template.jinja"), "{{ messages }}\n");
    }
    assert_eq!(template("").as_deref(), Some("{{ messages }}\n"));
    assert_eq!(template("chat_template: auto").as_deref(), Some("{{ messages }}"));
    assert!(template("chat_template: llama3").unwrap().contains("<|start_header_id|>"));
    assert_eq!(template("chat_template: '{{ x }}'").as_deref(), Some("{{ x }}"));
    let text = linear(&["base", "padded"], "tokenizer_source: union\nchat_template: '{{ x }}'");
    let jinja = members
        .open(&text)
        .side_file("chat_template.jinja")
        .unwrap()
        .read(100)
        .unwrap()
        .into_owned();
    assert_eq!(jinja, b"{{ x }}", "both files agree");
    // Without a word on the tokenizer, too; and the name of the file is given.
    let text = linear(&["base", "base"], "chat_template: chatml");
    assert!(json_file(&members.open(&text), "tokenizer_config.json")["chat_template"].is_string());
}

#[test]
fn no_template_to_choose_from_is_a_warning() {
    let members = Members::new();
    let text = linear(&["base", "padded"], "tokenizer_source: union\nchat_template: auto");
    members.expect(
        &text,
        Severity::Warning,
        "5:16",
        "none of the models has a chat template",
        "chatml",
    );
}

fn run_template(name: &str, messages: Json, prompt: bool) -> Result<String, minijinja::Error> {
    let mut environment = minijinja::Environment::new();
    environment.add_function(
        "raise_exception",
        |text: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, text))
        },
    );
    let template = aqueduct::model::tokenizer::named_chat_template(name).unwrap();
    let context = json!({"messages": messages, "add_generation_prompt": prompt,
        "bos_token": "<s>", "eos_token": "</s>"});
    environment.render_str(template, minijinja::Value::from_serialize(context))
}

/// Expected texts: the formats' descriptions.
#[test]
fn named_templates_write_their_formats() {
    let chat = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Bye"}]);
    let run = |name: &str| run_template(name, chat.clone(), true).unwrap();
    assert_eq!(
        run("chatml"),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n\
         <|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(
        run("llama3"),
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n"
    );
    assert_eq!(run("mistral"), "<s>[INST] Be brief.\n\nHi [/INST] Hello</s>[INST] Bye [/INST]");
    assert_eq!(
        run("alpaca"),
        "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello\n\n### Instruction:\nBye\n\n\
         ### Response:\n"
    );
    assert_eq!(
        run("exaone"),
        "[|system|]Be brief.[|endofturn|]\n[|user|]Hi\n[|assistant|]Hello[|endofturn|]\n\
         [|user|]Bye\n[|assistant|]"
    );
    let short = json!([{"role": "user", "content": "Hi"}]);
    let plain = |name: &str| run_template(name, short.clone(), false).unwrap();
    assert_eq!(plain("exaone"), "[|system|][|endofturn|]\n[|user|]Hi\n");
    assert_eq!(plain("alpaca"), "### Instruction:\nHi");
    assert_eq!(plain("chatml"), "<|im_start|>user\nHi<|im_end|>\n");
    let twice = json!([{"role": "user", "content": "Hi"}, {"role": "user", "content": "Hi"}]);
    assert!(run_template("mistral", twice, true).unwrap_err().to_string().contains("take turns"));
}

/// An embedding that is padded beyond its tokens loses the padding; a warning has both numbers.
#[test]
fn rows_without_a_token_that_go_are_warned_of() {
    let members = Members::new();
    let text = |tokenizer: &str| {
        format!(
            "merge_method: linear\ndtype: float32\nbase_model: padded\n{tokenizer}models:\n\
             - {{model: padded, parameters: {{weight: 1.0}}}}\n"
        )
    };
    let path = members.path("recipe.yml");
    let warned = |tokenizer: &str| {
        let lookup = Folders::beside(&path, &[]);
        let plan = plan_text(&path, &text(tokenizer), &merge::methods::specs(), &lookup).unwrap();
        let rows = plan.output().hyper.n_vocab;
        let told = plan.warnings.iter().find(|w| w.message.contains("rows without a token"));
        (rows, told.map(|warning| warning.message.clone()))
    };
    let padded = warned("").0;
    for tokenizer in
        ["tokenizer_source: base\n", "tokenizer_source: union\n", "tokenizer: {source: padded}\n"]
    {
        let (rows, told) = warned(tokenizer);
        assert!(rows < padded, "{rows} {padded}");
        let expected =
            format!("the embedding of 'padded' has {padded} rows, that of the result {rows}");
        assert!(told.is_some_and(|told| told.contains(&expected)), "{tokenizer}");
    }
    assert_eq!(warned("").1, None);
    let (rows, told) = warned("tokenizer: {source: base, pad_to_multiple_of: 64}\n");
    assert!(rows >= padded && told.is_none(), "{rows} {padded}");
}
