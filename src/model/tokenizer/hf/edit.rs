//! The tokenizer files of a merge whose vocabulary or chat template is not quite its donor's.
//!
//! What does not change is handed through as it is. New tokens are declared as added tokens, with ids
//! after the last: in `tokenizer.json`, in `tokenizer_config.json` (`added_tokens_decoder`) and, where
//! the donor has one, in `added_tokens.json`, so that readers of any of them agree. `tokenizer.model`,
//! merges and special_tokens_map.json stay the donor's. Tokens that have no row in the embedding are
//! taken out of `tokenizer.json` together with the merges that make or use them, as mergekit does
//! (`tokenizer/build.py`, `get_stripped_tokenizer`).

use super::token_list::TokenList;
use super::tokenizer_json::AddedToken;
use super::vocab_merges;
use crate::base::error::{Error, Result};
use crate::formats::checkpoint::{ADDITIONAL_TEMPLATES, Checkpoint, SideFile, json};
use crate::model::tokenizer::{ChatTemplates, MAX_FILE_BYTES};
use serde_json::{Map, Value};
use std::collections::HashSet;

/// Files that belong to the tokenizer, but for named chat templates.
const FILES: &[&str] = &[
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];

/// Whether the side file `name` belongs to the tokenizer; all others follow the configuration.
pub fn is_tokenizer_file(name: &str) -> bool {
    FILES.contains(&name) || is_named_template(name)
}

fn is_named_template(name: &str) -> bool {
    name.strip_prefix(ADDITIONAL_TEMPLATES).is_some_and(|name| name.starts_with('/'))
}

/// What becomes of the donor's tokenizer files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change<'a> {
    /// The tokens of the result, if they may differ from the donor's.
    pub tokens: Option<&'a TokenList>,
    /// The chat templates of the result, if the donor's files do not give them or contradict each other.
    pub chat_templates: Option<&'a ChatTemplates>,
}

/// The tokenizer files of `donor` under `change`.
///
/// # Errors
/// If a file that must change cannot be read or is not what its name says.
pub fn edited_files(donor: &Checkpoint, change: Change<'_>) -> Result<Vec<SideFile>> {
    let own = match change.tokens {
        Some(_) => TokenList::read(donor)?,
        None => None,
    };
    let mut edit = Edit::new(own.as_ref().zip(change.tokens), change.chat_templates, donor);
    let mut files = Vec::new();
    if edit.changes_tokens()
        && !edit.has_json
        && !edit.has_sentencepiece
        && let Some((_, made)) = vocab_merges::tokenizer_json(donor)?
    {
        // vocab.json and merges.txt cannot say what changes; a tokenizer.json takes their place.
        (edit.has_json, edit.replaces_pieces) = (true, true);
        files.push(edit.tokenizer(&SideFile::generated("tokenizer.json", made.to_string()))?);
    }
    for file in &donor.side_files {
        if is_tokenizer_file(&file.name()) {
            files.extend(edit.file(file)?);
        }
    }
    files.extend(edit.template_files(donor));
    if !files.iter().any(|file| file.name() == "tokenizer_config.json") && edit.wants_config() {
        files.push(edit.config("tokenizer_config.json", Map::new()));
    }
    Ok(files)
}

struct Edit<'a> {
    new: Vec<&'a AddedToken>,
    /// Texts of tokens that go, and the id from which on all go.
    gone: HashSet<&'a str>,
    end: u32,
    chat_templates: Option<&'a ChatTemplates>,
    /// Readers of `tokenizer.model` learn of added tokens from tokenizer_config.json alone.
    has_sentencepiece: bool,
    has_json: bool,
    /// A `tokenizer.json` is made of the donor's vocab.json and merges.txt.
    replaces_pieces: bool,
}

impl<'a> Edit<'a> {
    fn new(
        tokens: Option<(&'a TokenList, &'a TokenList)>,
        chat_templates: Option<&'a ChatTemplates>,
        donor: &Checkpoint,
    ) -> Edit<'a> {
        let (new, gone, end) = match tokens {
            None => (Vec::new(), HashSet::new(), u32::MAX),
            Some((own, out)) => {
                let gone = own.iter().filter(|&(id, text)| out.text(id) != Some(text));
                (out.added_beyond(own), gone.map(|(_, text)| text).collect(), out.end())
            }
        };
        let has = |name| donor.side_file(name).is_some();
        let (has_sentencepiece, has_json) = (has("tokenizer.model"), has("tokenizer.json"));
        let replaces_pieces = false;
        Edit { new, gone, end, chat_templates, has_sentencepiece, has_json, replaces_pieces }
    }

    fn changes_tokens(&self) -> bool {
        !self.new.is_empty() || !self.gone.is_empty()
    }

    fn wants_config(&self) -> bool {
        self.template_in_config().is_some() || (self.has_sentencepiece && !self.new.is_empty())
    }

    /// What becomes of `file`; `None` if it is left out.
    fn file(&self, file: &SideFile) -> Result<Option<SideFile>> {
        let name = file.name();
        let made = match name.as_ref() {
            "tokenizer.json" if self.changes_tokens() => Some(self.tokenizer(file)?),
            "tokenizer_config.json" if self.changes_tokens() || self.chat_templates.is_some() => {
                Some(self.config(&name, object(file)?))
            }
            "added_tokens.json" if self.changes_tokens() => {
                let mut map = object(file)?;
                map.retain(|text, _| !self.gone.contains(text.as_str()));
                map.extend(self.new.iter().map(|token| (token.content.clone(), token.id.into())));
                Some(json_file(&name, map))
            }
            // Of the old form of a byte-level tokenizer, which cannot say that tokens are gone.
            "vocab.json" | "merges.txt"
                if self.replaces_pieces || (self.has_json && !self.gone.is_empty()) =>
            {
                return Ok(None);
            }
            "chat_template.jinja" | "chat_template.json" if self.chat_templates.is_some() => {
                return Ok(None);
            }
            name if is_named_template(name) && self.chat_templates.is_some() => return Ok(None),
            _ => None,
        };
        Ok(Some(made.unwrap_or_else(|| file.clone())))
    }

    /// The template that goes into tokenizer_config.json, which readers older than the files know alone: the one
    /// that there is. Of several only the files tell, because llama.cpp's converter prefers that file.
    fn template_in_config(&self) -> Option<&'a str> {
        let templates = self.chat_templates.filter(|templates| templates.named.is_empty())?;
        templates.default.as_deref()
    }

    /// The files of chat templates that take the place of the donor's.
    fn template_files(&self, donor: &Checkpoint) -> Vec<SideFile> {
        let Some(templates) = self.chat_templates else { return Vec::new() };
        let had_file = donor.side_file("chat_template.jinja").is_some();
        match had_file || !templates.named.is_empty() {
            true => templates.to_files(),
            false => Vec::new(),
        }
    }

    fn tokenizer(&self, file: &SideFile) -> Result<SideFile> {
        let mut map = object(file)?;
        let list = map.entry("added_tokens").or_insert_with(|| Value::Array(Vec::new()));
        let Value::Array(list) = list else {
            return Err(Error::format(file.path(), "'added_tokens' is no list"));
        };
        let id = |token: &Value| token.get("id").and_then(Value::as_u64).unwrap_or(0);
        list.retain(|token| id(token) < u64::from(self.end));
        list.extend(self.new.iter().map(|token| {
            let mut entry = Map::from_iter([("id".to_string(), token.id.into())]);
            entry.extend(flags(token));
            Value::Object(entry)
        }));
        // Loading gives ids in the order of the list.
        list.sort_by_key(id);
        if let Some(model) = map.get_mut("model").filter(|_| !self.gone.is_empty()) {
            self.strip(model);
        }
        Ok(json_file("tokenizer.json", map))
    }

    /// Takes the tokens that go out of the tokenizer's model.
    fn strip(&self, model: &mut Value) {
        match model.get_mut("vocab") {
            Some(Value::Object(vocab)) => {
                vocab.retain(|text, _| !self.gone.contains(text.as_str()))
            }
            Some(Value::Array(pieces)) => pieces.truncate(self.end as usize),
            _ => {}
        }
        let Some(Value::Array(merges)) = model.get_mut("merges") else { return };
        merges.retain(|merge| {
            let parts: Vec<&str> = match merge {
                Value::String(text) => text.split(' ').collect(),
                Value::Array(parts) => parts.iter().filter_map(Value::as_str).collect(),
                _ => return true,
            };
            let gone = |text: &str| self.gone.contains(text);
            !parts.iter().any(|part| gone(part)) && !gone(&parts.concat())
        });
    }

    fn config(&self, name: &str, mut map: Map<String, Value>) -> SideFile {
        const DECODER: &str = "added_tokens_decoder";
        if self.has_sentencepiece && !self.new.is_empty() && !map.contains_key(DECODER) {
            map.insert(DECODER.to_string(), Value::Object(Map::new()));
        }
        if let Some(Value::Object(decoder)) = map.get_mut(DECODER) {
            let stays = |id: &String| id.parse::<u32>().is_ok_and(|id| id < self.end);
            decoder.retain(|id, _| stays(id));
            for token in &self.new {
                decoder.insert(token.id.to_string(), Value::Object(flags(token)));
            }
        }
        if self.chat_templates.is_some() {
            match self.template_in_config() {
                Some(text) => map.insert("chat_template".to_string(), text.into()),
                None => map.shift_remove("chat_template"),
            };
        }
        json_file(name, map)
    }
}

/// An added token as tokenizer.json and tokenizer_config.json have it, without its id.
fn flags(token: &AddedToken) -> Map<String, Value> {
    Map::from_iter([
        ("content".to_string(), token.content.clone().into()),
        ("single_word".to_string(), token.single_word.into()),
        ("lstrip".to_string(), token.lstrip.into()),
        ("rstrip".to_string(), token.rstrip.into()),
        ("normalized".to_string(), token.is_normalized().into()),
        ("special".to_string(), token.special.into()),
    ])
}

fn object(file: &SideFile) -> Result<Map<String, Value>> {
    match json::parse(file.path(), &file.read(MAX_FILE_BYTES)?)? {
        Value::Object(map) => Ok(map),
        _ => Err(Error::format(file.path(), "expected a JSON object")),
    }
}

fn json_file(name: &str, map: Map<String, Value>) -> SideFile {
    SideFile::generated(name, json::to_text(&map))
}
