//! Conversations as a model reads them: its own chat template, run.
//!
//! The template is `tokenizer.chat_template`, from a recipe, a folder or a GGUF file alike. Its environment is
//! the one it was written for, transformers' `apply_chat_template` (`transformers/utils/chat_template_utils.py`,
//! version 4.57): Jinja with blocks trimmed, loop controls, Python's methods of strings, lists and mappings,
//! `raise_exception`, and a `tojson` that writes as Python's `json.dumps`. Deliberately absent:
//! `strftime_now`, as what a calibration is computed from must not change from day to day (templates that ask
//! whether it is there fall back to a date of their own); and the tag `generation`, which trainers use.

use crate::error::{Error, Result};
use crate::gguf::Metadata;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, ErrorKind, Output, State};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use serde_json::{Map, Value};
use std::io;

const KEY: &str = "tokenizer.chat_template";
/// Under which errors name the template.
const NAME: &str = "chat_template";
/// Steps for one conversation. A template takes some hundred for a message; one that takes more than this does
/// not end.
const FUEL: u64 = 50_000_000;

/// A model's chat template, ready to run.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// The template that the `tokenizer.*` keys hold; `origin` names the file in errors.
    ///
    /// # Errors
    /// If there is none, or it is no Jinja that this program knows; the error tells the template's line.
    pub fn from_metadata(origin: &str, metadata: &Metadata) -> Result<ChatTemplate> {
        let Some(text) = metadata.str(KEY) else {
            let detail = format!(
                "metadata key '{KEY}' is missing: the model has no chat template; a recipe can give it one \
                 (chat_template: chatml)"
            );
            return Err(Error::model(origin, detail));
        };
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(print);
        environment.add_filter("tojson", to_json);
        environment.add_function(
            "raise_exception",
            |text: String| -> std::result::Result<String, minijinja::Error> {
                Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
            },
        );
        environment.add_template_owned(NAME, text.to_string()).map_err(|e| {
            Error::model(origin, format!("the chat template cannot be used: {}", one_line(&e)))
        })?;
        let token = |key: &str| {
            let id = usize::try_from(metadata.u64(key)?).ok()?;
            metadata.strings("tokenizer.ggml.tokens")?.get(id).cloned()
        };
        Ok(ChatTemplate {
            environment,
            bos_token: token("tokenizer.ggml.bos_token_id").unwrap_or_default(),
            eos_token: token("tokenizer.ggml.eos_token_id").unwrap_or_default(),
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
        let mut variables = variables.clone();
        variables.insert("add_generation_prompt".into(), Value::Bool(answer));
        variables.insert("bos_token".into(), Value::String(self.bos_token.clone()));
        variables.insert("eos_token".into(), Value::String(self.eos_token.clone()));
        let template = self.environment.get_template(NAME).expect("it was added");
        template.render(&variables).map_err(|e| one_line(&e))
    }
}

/// Prints a value as Python does: its names of truth values and of none.
fn print(
    out: &mut Output<'_>,
    state: &State<'_, '_>,
    value: &minijinja::Value,
) -> std::result::Result<(), minijinja::Error> {
    let name = match (value.kind(), value.is_true()) {
        (ValueKind::Bool, true) => "True",
        (ValueKind::Bool, false) => "False",
        (ValueKind::None, _) => "None",
        _ => return minijinja::escape_formatter(out, state, value),
    };
    out.write_str(name).map_err(minijinja::Error::from)
}

/// The error with what caused it, without control characters, which may come from a file.
fn one_line(error: &minijinja::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `json.dumps` of Python with `ensure_ascii=False`: a space after commas and colons, and with `indent` a line
/// for each item.
fn to_json(
    value: &minijinja::Value,
    options: Kwargs,
) -> std::result::Result<minijinja::Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    // The only value of it that differs would escape what is not ASCII.
    if options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false) {
        let text = "tojson(ensure_ascii=true) is not supported";
        return Err(minijinja::Error::new(ErrorKind::InvalidOperation, text));
    }
    options.assert_all_used()?;
    let mut bytes = Vec::new();
    let written = match indent {
        None => value.serialize(&mut Serializer::with_formatter(&mut bytes, Spaced)),
        Some(n) => {
            let indent = vec![b' '; n.min(80)];
            let formatter = PrettyFormatter::with_indent(&indent);
            value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter))
        }
    };
    let text = written.map(|()| String::from_utf8(bytes).expect("JSON is UTF-8"));
    text.map(minijinja::Value::from)
        .map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string()))
}

/// JSON on one line, spaced as Python writes it.
struct Spaced;

impl Spaced {
    fn separate<W: ?Sized + io::Write>(writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }
}

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> io::Result<()> {
        Spaced::separate(w, first)
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> io::Result<()> {
        Spaced::separate(w, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn metadata(template: &str) -> Metadata {
        let mut metadata = Metadata::new();
        metadata.set(KEY, template);
        let tokens = ["<s>", "</s>", "a"].map(String::from).to_vec();
        metadata.set(
            "tokenizer.ggml.tokens",
            crate::gguf::Value::Array(crate::gguf::Array::String(tokens)),
        );
        metadata.set("tokenizer.ggml.bos_token_id", 0u32);
        metadata.set("tokenizer.ggml.eos_token_id", 1u32);
        metadata
    }

    fn run(template: &str, variables: Value) -> std::result::Result<String, String> {
        let template = ChatTemplate::from_metadata("m", &metadata(template)).unwrap();
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
                      {{ tools is defined }}{{ strftime_now is defined }}";
        assert_eq!(rendered(macros, chat), "<user><assistant>!FalseFalse");
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
        let error = run("{{ strftime_now('%Y') }}", chat.clone()).unwrap_err();
        assert!(error.contains("strftime_now is unknown"), "{error}");
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = b %}{% endfor %}{% endfor %}";
        assert!(run(endless, chat).unwrap_err().contains("fuel"));
        let fails = |metadata: &Metadata| {
            ChatTemplate::from_metadata("m.gguf", metadata).err().unwrap().to_string()
        };
        let error = fails(&metadata("{% generation %}x{% endgeneration %}"));
        assert!(
            error.starts_with("m.gguf: the chat template cannot be used")
                && error.contains("generation")
        );
        assert!(fails(&Metadata::new()).contains("no chat template"));
    }
}
