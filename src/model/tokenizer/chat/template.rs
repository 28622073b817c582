//! Conversations as a model reads them: its own chat template, run.
//!
//! The template is `tokenizer.chat_template`, from a recipe, a folder or a GGUF file alike, or that for tools where a
//! model has one. What a template sees is what transformers' `apply_chat_template` gives it
//! (`tokenization_utils_base.py` and `utils/chat_template_utils.py`, version 5.24). Today is a fixed date unless one is
//! given, because what a calibration is computed from must not change from day to day.

use super::ChatTemplates;
use super::jinja::{self, Date};
use crate::base::error::{Error, Result};
use crate::formats::gguf::Metadata;
use crate::model::tokenizer::SPECIAL_TOKEN_KEYS;
use minijinja::Environment;
use serde_json::{Map, Value};

/// Under which errors name the templates.
const NAME: &str = "chat_template";
const TOOL_NAME: &str = "chat_template.tool_use";
/// Steps for one conversation. A template takes some hundred for a message; one that takes more than this does
/// not end.
const FUEL: u64 = 50_000_000;

/// A model's chat template, ready to run.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// Whether there is a template for conversations without tools.
    has_default: bool,
    /// Whether there is a template for conversations with tools, and why it cannot be used.
    tool_use: Option<std::result::Result<(), String>>,
    /// Names and texts of special tokens.
    tokens: Vec<(&'static str, String)>,
}

impl ChatTemplate {
    /// The template that the `tokenizer.*` keys hold; `origin` names the file in errors, and `today` is the
    /// date that templates see.
    ///
    /// # Errors
    /// If there is none, or it is no Jinja that this program knows; the error names the template's line.
    pub fn from_metadata(origin: &str, metadata: &Metadata, today: Date) -> Result<ChatTemplate> {
        let templates = ChatTemplates::of_metadata(metadata);
        if templates.is_empty() {
            let detail = "metadata key 'tokenizer.chat_template' is missing: the model has no chat template; a \
                          recipe can give it one (chat_template: chatml)";
            return Err(Error::model(origin, detail));
        }
        let unusable = |e: String| format!("the chat template cannot be used: {e}");
        let mut environment = jinja::environment(today, FUEL);
        if let Some(text) = &templates.default {
            jinja::add_template(&mut environment, NAME, text)
                .map_err(|e| Error::model(origin, unusable(e)))?;
        }
        let tool_use = templates
            .get("tool_use")
            .map(|text| jinja::add_template(&mut environment, TOOL_NAME, text).map_err(unusable));
        let token = |(name, key): &(&'static str, &str)| {
            let id = usize::try_from(metadata.u64(key)?).ok()?;
            Some((*name, metadata.strings("tokenizer.ggml.tokens")?.get(id)?.clone()))
        };
        Ok(ChatTemplate {
            environment,
            has_default: templates.default.is_some(),
            tool_use,
            tokens: SPECIAL_TOKEN_KEYS.iter().filter_map(token).collect(),
        })
    }

    /// The text of a conversation that is over, without a prompt for the next answer. `variables` are what
    /// the template sees: `messages`, and what else it knows, such as `tools`. Special tokens are spelled
    /// out; BOS is there if the template writes it.
    ///
    /// # Errors
    /// What the template fails with or raises, and its line.
    pub fn render(&self, variables: &Map<String, Value>) -> std::result::Result<String, String> {
        self.render_with(variables, false)
    }

    /// As [`ChatTemplate::render`], with the beginning of the model's answer, as a client asks for one.
    ///
    /// # Errors
    /// As of [`ChatTemplate::render`].
    pub fn render_prompt(
        &self,
        variables: &Map<String, Value>,
    ) -> std::result::Result<String, String> {
        self.render_with(variables, true)
    }

    fn render_with(
        &self,
        variables: &Map<String, Value>,
        answer: bool,
    ) -> std::result::Result<String, String> {
        let mut all = Map::new();
        for (name, text) in &self.tokens {
            all.insert(name.to_string(), Value::String(text.clone()));
        }
        for name in ["tools", "documents"] {
            all.insert(name.to_string(), Value::Null);
        }
        for (name, value) in variables {
            let value = if name == "messages" { normalized(value) } else { value.clone() };
            all.insert(name.clone(), value);
        }
        all.insert("add_generation_prompt".into(), Value::Bool(answer));
        let with_tools = all.get("tools").is_some_and(|tools| !tools.is_null());
        let name = self.name_for(with_tools)?;
        let template = self.environment.get_template(name).map_err(|e| jinja::one_line(&e))?;
        template.render(&all).map_err(|e| jinja::one_line(&e))
    }

    fn name_for(&self, tools: bool) -> std::result::Result<&'static str, String> {
        match &self.tool_use {
            Some(usable) if tools => usable.clone().map(|()| TOOL_NAME),
            _ if self.has_default => Ok(NAME),
            _ => Err("the model has no default chat template, only named ones".to_string()),
        }
    }
}

/// The messages as transformers gives them to templates: without keys that are null, and with what a model thought
/// under the names that templates know.
fn normalized(messages: &Value) -> Value {
    let Value::Array(messages) = messages else { return messages.clone() };
    messages.iter().map(normalized_message).collect()
}

fn normalized_message(message: &Value) -> Value {
    const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
    let Value::Object(message) = message else { return message.clone() };
    let given = message.iter().filter(|(_, value)| !value.is_null());
    let given: Map<String, Value> =
        given.map(|(key, value)| (key.clone(), value.clone())).collect();
    let Some(reasoning) = REASONING.iter().find_map(|key| given.get(*key)).cloned() else {
        return Value::Object(given);
    };
    let mut all = Map::from_iter([("thinking".to_string(), reasoning.clone())]);
    all.extend(given);
    all.insert("reasoning_content".to_string(), reasoning);
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn metadata(template: &str) -> Metadata {
        let mut metadata = Metadata::new();
        metadata.set("tokenizer.chat_template", template);
        let tokens = ["<s>", "</s>", "a"].map(String::from).to_vec();
        metadata.set(
            "tokenizer.ggml.tokens",
            crate::formats::gguf::Value::Array(crate::formats::gguf::Array::String(tokens)),
        );
        metadata.set("tokenizer.ggml.bos_token_id", 0u32);
        metadata.set("tokenizer.ggml.eos_token_id", 1u32);
        metadata
    }

    fn run(template: &str, variables: Value) -> std::result::Result<String, String> {
        let template =
            ChatTemplate::from_metadata("m", &metadata(template), Date::default()).unwrap();
        template.render(variables.as_object().unwrap())
    }

    fn rendered(template: &str, variables: Value) -> String {
        run(template, variables).unwrap()
    }

    /// Expected texts: Jinja 3.1 of Python in the environment of `apply_chat_template`.
    #[test]
    fn the_environment_is_transformers() {
        let chat = json!({"messages": [
            {"role": "user", "content": "  Hi\n"}, {"role": "assistant", "content": "Yo"}]});
        // Lines that hold a block alone leave nothing; a newline at the template's end goes.
        let blocks = "{{ bos_token }}\n{% for m in messages %}\n    {% if m.role == 'user' %}\n\
                      [{{ m['content'].strip() }}]\n    {% else %}\n{{ m.content | trim }}{{ eos_token }}\n    \
                      {% endif %}\n{% endfor %}\n{% if add_generation_prompt %}P{% endif %}\n";
        assert_eq!(rendered(blocks, chat.clone()), "<s>\n[Hi]\nYo</s>\n");
        let python = "{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.content.startswith('Y') %}\
                      {% break %}{% endif %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}\
                      {% for k, v in messages[0].items() %}{{ k }}{% endfor %}{{ messages[1:] | length }}\
                      {{ 'a-b'.split('-')[-1] }}{{ messages[-1]['role'].upper() }}";
        assert_eq!(rendered(python, chat.clone()), "1rolecontent1bASSISTANT");
        let macros = "{% macro say(x) %}<{{ x }}>{% endmacro %}{% for m in messages %}{{ say(m.role) }}\
                      {% if loop.previtem is defined and loop.previtem.role == 'user' %}!{% endif %}{% endfor %}\
                      {{ tools is none }}{{ strftime_now is defined }}";
        assert_eq!(rendered(macros, chat), "<user><assistant>!TrueTrue");
    }

    #[test]
    fn json_is_pythons() {
        let tools =
            json!({"tools": {"b": [1, 2.5, null, true], "a": "<é'\"\n>", "e": [], "o": {}}});
        assert_eq!(
            rendered("{{ tools | tojson }}", tools.clone()),
            "{\"b\": [1, 2.5, null, true], \"a\": \"<é'\\\"\\n>\", \"e\": [], \"o\": {}}"
        );
        assert_eq!(
            rendered("{{ tools.b | tojson(indent=2) }}", tools.clone()),
            "[\n  1,\n  2.5,\n  null,\n  true\n]"
        );
        assert!(run("{{ tools | tojson(sort=1) }}", tools).unwrap_err().contains("sort"));
    }

    #[test]
    fn what_fails_tells_where() {
        let chat = json!({"messages": []});
        let error =
            run("x\n{{ raise_exception('roles must\\n alternate') }}", chat.clone()).unwrap_err();
        assert!(
            error.contains("roles must  alternate") && error.contains("chat_template:2"),
            "{error}"
        );
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = b %}{% endfor %}{% endfor %}";
        assert!(run(endless, chat).unwrap_err().contains("fuel"));
        let fails = |metadata: &Metadata| {
            ChatTemplate::from_metadata("m.gguf", metadata, Date::default())
                .err()
                .unwrap()
                .to_string()
        };
        let error = fails(&metadata("a\n{% trans %}x{% endtrans %}"));
        assert!(
            error.starts_with("m.gguf: the chat template cannot be used")
                && error.contains("'trans' is unknown (in chat_template:2)"),
            "{error}"
        );
        assert!(fails(&Metadata::new()).contains("no chat template"));
    }
}
