//! The model card: README.md beside the weights, whose front matter (YAML between two lines `---`) tells
//! name, license, base models and tags. Conversion reads it; merging writes one of its own. Deliberately
//! absent: the text below the front matter, which is for people.

use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The name of the file.
pub const CARD_FILE: &str = "README.md";
/// How much of a card is read: front matter is a few hundred bytes.
const LARGEST: u64 = 1 << 20;

/// A card that is on disk, or would be if the checkpoint were written.
#[derive(Clone, Debug)]
pub enum ModelCard {
    File(PathBuf),
    Text(String),
}

impl ModelCard {
    /// The card of the folder `dir`, if there is one.
    pub fn beside(dir: &Path) -> Option<ModelCard> {
        let path = dir.join(CARD_FILE);
        path.is_file().then_some(ModelCard::File(path))
    }

    /// The keys of the front matter, in their order; none where there is no front matter.
    ///
    /// # Errors
    /// If the card cannot be read, or its front matter is no YAML mapping.
    pub fn front_matter(&self) -> Result<Map<String, Value>> {
        match self {
            ModelCard::Text(text) => parse(Path::new(CARD_FILE), text),
            ModelCard::File(path) => {
                let file = std::fs::File::open(path).map_err(Error::io(path, "open"))?;
                let mut bytes = Vec::new();
                file.take(LARGEST).read_to_end(&mut bytes).map_err(Error::io(path, "read"))?;
                parse(path, &String::from_utf8_lossy(&bytes))
            }
        }
    }
}

fn parse(path: &Path, text: &str) -> Result<Map<String, Value>> {
    let mut lines = text.trim_start_matches('\u{feff}').lines();
    if lines.next() != Some("---") {
        return Ok(Map::new());
    }
    let lines: Vec<&str> = lines.take_while(|line| *line != "---").collect();
    // Tabs are no indentation in YAML, yet published cards have them; llama.cpp reads them as two spaces.
    let yaml = lines.join("\n").replace('\t', "  ");
    if yaml.trim().is_empty() {
        return Ok(Map::new());
    }
    let fail = |what: &str| {
        let remedy = "mend it, or move the file away: conversion takes name, license and base models from it";
        Err(Error::format(path, format!("its front matter {what}; {remedy}")))
    };
    // `no` is the language, not a boolean.
    let options = serde_yaml::options! { strict_booleans: true };
    match serde_yaml::from_str_with_options::<Value>(&yaml, options) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => fail("is no list of keys and values"),
        Err(error) => {
            let text = error.to_string();
            fail(&format!("is no YAML: {}", text.lines().next().unwrap_or_default()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Map<String, Value>> {
        ModelCard::Text(text.to_string()).front_matter()
    }

    #[test]
    fn front_matter_is_what_stands_between_two_lines() {
        let card =
            "---\nlicense: mit\ntags:\n- merge\nlanguage:\n- no\n---\n# Text\nlicense: none\n";
        let map = parsed(card).unwrap();
        assert_eq!(
            Value::from(map),
            serde_json::json!({
                "license": "mit", "tags": ["merge"], "language": ["no"],
            })
        );
        for none in ["", "# Text", "---\n---\nlicense: mit\n", " ---\nlicense: mit\n---\n"] {
            assert!(parsed(none).unwrap().is_empty(), "{none:?}");
        }
    }

    #[test]
    fn bad_front_matter_is_an_error_that_says_where() {
        for bad in ["---\n- a\n---\n", "---\n[\n---\n", "---\na: 'b\n---\n"] {
            let error = parsed(bad).unwrap_err().to_string();
            assert!(error.contains("README.md: its front matter is no"), "{error}");
        }
    }
}
