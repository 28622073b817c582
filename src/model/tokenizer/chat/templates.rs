//! The chat templates that a model has: one by default, and more under names such as `tool_use`.
//!
//! This is the one reader of that fact, from the files of a checkpoint and from GGUF metadata alike. Files are taken
//! in the order of transformers' tokenizers (`_from_pretrained` in `tokenization_utils_base.py`, version 5.24):
//! `chat_template.jinja` and `additional_chat_templates/`, then `tokenizer_config.json`, then `chat_template.json`.
//! Not here: rendering ([`super::ChatTemplate`]), and the templates that recipes name.

use crate::base::error::{Error, Result};
use crate::formats::checkpoint::{ADDITIONAL_TEMPLATES, Checkpoint, Config, SideFile};
use crate::formats::gguf::{Array, Metadata, Value};
use crate::model::tokenizer::MAX_FILE_BYTES;
use serde_json::Value as Json;

const KEY: &str = "tokenizer.chat_template";
const NAMES_KEY: &str = "tokenizer.chat_templates";
/// The name of the default template in files and lists.
const DEFAULT: &str = "default";
/// The chat templates of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChatTemplates {
    /// The default template.
    pub default: Option<String>,
    /// Further templates in the order of their files or keys. Names have ASCII letters, digits and `_` only.
    pub named: Vec<(String, String)>,
    /// What contradicts in the files and how it was decided, a sentence each.
    pub warnings: Vec<String>,
}

impl ChatTemplates {
    /// A single template.
    pub fn of_text(text: impl Into<String>) -> ChatTemplates {
        ChatTemplates { default: Some(text.into()), ..ChatTemplates::default() }
    }

    /// The templates that the files of `checkpoint` give.
    ///
    /// # Errors
    /// If one of the files cannot be read or has another form than its name says.
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> Result<ChatTemplates> {
        let config = |name: &str| -> Result<ChatTemplates> {
            let Some(file) = checkpoint.side_file(name) else { return Ok(Self::default()) };
            let config = Config::from_side_file(file)?;
            Ok(config.get("chat_template").map(|v| of_json(name, v)).unwrap_or_default())
        };
        let files = of_files(checkpoint)?;
        let sources = [
            (FILES_NAME, files),
            ("tokenizer_config.json", config("tokenizer_config.json")?),
            ("chat_template.json", config("chat_template.json")?),
        ];
        Ok(choose(sources))
    }

    /// The templates that `metadata` hold. Named ones that `tokenizer.chat_templates` does not list come last.
    pub fn of_metadata(metadata: &Metadata) -> ChatTemplates {
        let default = metadata.str(KEY).map(str::to_string);
        let mut templates = ChatTemplates { default, ..ChatTemplates::default() };
        let prefix = format!("{KEY}.");
        let listed = metadata.strings(NAMES_KEY).unwrap_or_default().iter().map(String::as_str);
        let keyed = metadata.iter().filter_map(|(key, _)| key.strip_prefix(&prefix));
        for name in listed.chain(keyed) {
            let known = templates.get(&safe_name(name)).is_some();
            if let Some(text) = metadata.str(&format!("{prefix}{name}"))
                && !known
                && !(name == DEFAULT && templates.default.is_some())
            {
                templates.set(name, text.to_string(), "the metadata");
            }
        }
        templates
    }

    /// Writes the keys in the order of llama.cpp's converter (`gguf_writer.py`, `add_chat_template`).
    pub fn write_to(&self, metadata: &mut Metadata) {
        for (name, template) in &self.named {
            metadata.set(format!("{KEY}.{name}"), template.as_str());
        }
        if !self.named.is_empty() {
            let names = self.named.iter().map(|(name, _)| name.clone()).collect();
            metadata.set(NAMES_KEY, Value::Array(Array::String(names)));
        }
        if let Some(template) = &self.default {
            metadata.set(KEY, template.as_str());
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.default.is_none() && self.named.is_empty()
    }

    /// The named template `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.named.iter().find(|(known, _)| known == name).map(|(_, text)| text.as_str())
    }

    /// The templates as files of their own, as transformers 5 saves them.
    pub fn to_files(&self) -> Vec<SideFile> {
        let named = self.named.iter().map(|(name, text)| {
            SideFile::generated(format!("{ADDITIONAL_TEMPLATES}/{name}.jinja"), text.as_str())
        });
        let default = self.default.iter();
        default.map(|text| SideFile::generated(FILES_NAME, text.as_str())).chain(named).collect()
    }

    fn set(&mut self, name: &str, text: String, from: &str) {
        if name == DEFAULT {
            self.default = Some(text);
            return;
        }
        let safe = safe_name(name);
        if safe.is_empty() {
            self.warnings.push(format!("a chat template of {from} has no name and is left out"));
            return;
        }
        if self.get(&safe).is_some() {
            self.warnings.push(format!(
                "{from}: more than one chat template is called '{safe}' in GGUF, and the last of them is taken"
            ));
            self.named.retain(|(known, _)| *known != safe);
        }
        self.named.push((safe, text));
    }

    /// Whether both hold the same texts, line ends aside.
    fn agrees_with(&self, other: &ChatTemplates) -> bool {
        let texts = |templates: &ChatTemplates| {
            let default = templates.default.iter().map(|text| (DEFAULT, text));
            let named = templates.named.iter().map(|(name, text)| (name.as_str(), text));
            let mut texts: Vec<_> = default
                .chain(named)
                .map(|(name, text)| (name.to_string(), line_feeds(text)))
                .collect();
            texts.sort();
            texts
        };
        texts(self) == texts(other)
    }
}

/// A name as llama.cpp's converter writes it into keys; safe as a file's name too.
fn safe_name(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    name.chars().map(safe).collect()
}

/// The file of the default template, which stands for the folder of named ones too in messages.
const FILES_NAME: &str = "chat_template.jinja";

/// Takes the first source that has templates, and says what of the others contradicts it.
fn choose(sources: [(&str, ChatTemplates); 3]) -> ChatTemplates {
    let (given, empty): (Vec<_>, Vec<_>) =
        sources.into_iter().partition(|(_, templates)| !templates.is_empty());
    let mut given = given.into_iter();
    let Some((name, mut chosen)) = given.next() else {
        let warnings = empty.into_iter().flat_map(|(_, templates)| templates.warnings).collect();
        return ChatTemplates { warnings, ..ChatTemplates::default() };
    };
    for (other, templates) in given {
        if chosen.default.is_none() && templates.default.is_some() {
            chosen.warnings.push(format!(
                "{ADDITIONAL_TEMPLATES}/ has no default chat template and {other} has one: both are taken, though \
                 transformers 5 takes the folder alone and llama.cpp's converter {other} alone"
            ));
            chosen.default = templates.default;
        } else if !chosen.agrees_with(&templates) {
            chosen.warnings.push(format!(
                "{name} and {other} give different chat templates: {name} is taken, as by transformers' tokenizers, \
                 and not {other}, {}",
                left_out(name, other)
            ));
        }
    }
    chosen
}

/// Who takes the file that is left out.
fn left_out(taken: &str, other: &str) -> &'static str {
    match (taken, other) {
        (FILES_NAME, "tokenizer_config.json") => "as llama.cpp's converter does",
        _ => "as transformers' processors do",
    }
}

/// `chat_template.jinja` and `additional_chat_templates/`.
fn of_files(checkpoint: &Checkpoint) -> Result<ChatTemplates> {
    let mut templates = ChatTemplates::default();
    if let Some(file) = checkpoint.side_file(FILES_NAME) {
        templates.default = Some(text_of(file)?);
    }
    for file in &checkpoint.side_files {
        let name = file.name();
        let name = name.strip_prefix(ADDITIONAL_TEMPLATES).and_then(|name| name.strip_prefix('/'));
        if let Some(name) = name.and_then(|name| name.strip_suffix(".jinja")) {
            templates.set(name, text_of(file)?, ADDITIONAL_TEMPLATES);
        }
    }
    Ok(templates)
}

/// The text of a file as Python opens it: any line end is a line feed.
fn text_of(file: &SideFile) -> Result<String> {
    let text = String::from_utf8(file.read(MAX_FILE_BYTES)?.into_owned())
        .map_err(|_| Error::format(file.path(), "the chat template is not UTF-8"))?;
    Ok(line_feeds(&text))
}

/// `text` with the line ends of other systems as line feeds.
pub(super) fn line_feeds(text: &str) -> String {
    match text.contains('\r') {
        true => text.replace("\r\n", "\n").replace('\r', "\n"),
        false => text.to_string(),
    }
}

/// One template as a string, or a list of named ones. Texts in JSON keep their line ends.
fn of_json(from: &str, value: &Json) -> ChatTemplates {
    let mut templates = ChatTemplates::default();
    match value {
        Json::String(text) => templates.default = Some(text.clone()),
        Json::Array(choices) => {
            for choice in choices {
                let text = |key: &str| choice.get(key).and_then(Json::as_str);
                match (text("name"), text("template")) {
                    (Some(name), Some(template)) => {
                        templates.set(name, template.to_string(), from);
                    }
                    _ => templates.warnings.push(format!(
                        "{from}: an entry of 'chat_template' lacks 'name' or 'template' and is left out"
                    )),
                }
            }
        }
        Json::Null => {}
        _ => templates
            .warnings
            .push(format!("{from}: 'chat_template' is neither a text nor a list and is left out")),
    }
    templates
}
