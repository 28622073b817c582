//! The model card: README.md beside the weights, whose front matter (YAML between two lines `---`)
//! tells name, license, base models and tags. Conversion reads it; merging writes one of its own.
//! Deliberately absent: the text below the front matter, which is for people.

use serde_json::{Map, Value};
use serde_yaml::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
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

/// The front matter of a card.
#[derive(Clone, Debug, Default)]
pub struct FrontMatter {
    /// The keys in their order; none where there is no front matter, or none that can be read.
    pub keys: Map<String, Value>,
    /// Why a front matter that is there could not be read, a sentence for the user.
    pub warning: Option<String>,
}

impl ModelCard {
    /// The card of the folder `dir`, if there is one.
    pub fn in_folder(dir: &Path) -> Option<ModelCard> {
        let path = dir.join(CARD_FILE);
        path.is_file().then_some(ModelCard::File(path))
    }

    /// The front matter. A card describes a model and is not part of it, so nothing in it is an
    /// error.
    pub fn front_matter(&self) -> FrontMatter {
        let (path, parsed) = match self {
            ModelCard::Text(text) => (Path::new(CARD_FILE), parse(text)),
            ModelCard::File(path) => {
                let read = || {
                    let mut bytes = Vec::new();
                    std::fs::File::open(path)?.take(LARGEST).read_to_end(&mut bytes)?;
                    Ok::<_, std::io::Error>(bytes)
                };
                let parsed = match read() {
                    Ok(bytes) => parse(&String::from_utf8_lossy(&bytes)),
                    Err(error) => Err(format!("it cannot be read: {error}")),
                };
                (path.as_path(), parsed)
            }
        };
        let mut front = FrontMatter::default();
        match parsed {
            Ok(keys) => front.keys = keys,
            Err(why) => {
                front.warning = Some(format!(
                    "{}: {why}; name, license and base models are taken from elsewhere",
                    path.display()
                ));
            }
        }
        front
    }
}

fn parse(text: &str) -> Result<Map<String, Value>, String> {
    let mut lines = text.trim_start_matches('\u{feff}').lines();
    if lines.next() != Some("---") {
        return Ok(Map::new());
    }
    let lines: Vec<&str> = lines.take_while(|line| *line != "---").collect();
    // Tabs are no indentation in YAML, yet published cards have them; llama.cpp reads them as two
    // spaces.
    let yaml = lines.join("\n").replace('\t', "  ");
    let options = serde_yaml::options! {
        // `no` is the language, not a boolean.
        strict_booleans: true,
        // As PyYAML, with which llama.cpp and the hub read cards.
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
    };
    match serde_yaml::from_str_with_options::<Value>(&yaml, options) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(Value::Null) => Ok(Map::new()),
        Ok(_) => Err("its front matter is no list of keys and values".to_string()),
        Err(error) => {
            let text = error.without_snippet().to_string();
            let what = text.lines().next().unwrap_or_default();
            let what = what.split(" at line ").next().unwrap_or(what);
            // The line of the card, whose first one opens the front matter.
            let place = error.location().map_or(String::new(), |at| {
                format!(" (line {}, column {})", at.line() + 1, at.column())
            });
            Err(format!("its front matter is not valid YAML{place}: {what}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Map<String, Value> {
        let front = ModelCard::Text(text.to_string()).front_matter();
        assert_eq!(front.warning, None, "{text:?}");
        front.keys
    }

    #[test]
    fn front_matter_is_what_stands_between_two_lines() {
        let card =
            "---\nlicense: mit\ntags:\n- merge\nlanguage:\n- no\n---\n# Text\nlicense: none\n";
        let map = parsed(card);
        assert_eq!(
            Value::from(map),
            serde_json::json!({
                "license": "mit", "tags": ["merge"], "language": ["no"],
            })
        );
        for none in ["", "# Text", "---\n---\nlicense: mit\n", " ---\nlicense: mit\n---\n"] {
            assert!(parsed(none).is_empty(), "{none:?}");
        }
    }

    #[test]
    fn what_pyyaml_reads_is_read() {
        let card = "---\nlicense: mit\nlicense: apache-2.0\nmodel-index:\n- metrics:\n\t- {acc: .nan, f1: -.inf}\n---\n";
        let map = Value::from(parsed(card));
        assert_eq!(map["license"], "apache-2.0");
        assert_eq!(
            map["model-index"][0]["metrics"][0],
            serde_json::json!({"acc": null, "f1": null})
        );
        assert_eq!(parsed("---\n2024: a\n---\n").len(), 1);
    }

    #[test]
    fn front_matter_that_cannot_be_read_is_a_warning() {
        for bad in ["---\n- a\n---\n", "---\n[\n---\n", "---\na: 'b\n---\n", "---\na: b: c\n---"] {
            let front = ModelCard::Text(bad.to_string()).front_matter();
            let warning = front.warning.expect(bad);
            assert!(
                front.keys.is_empty() && warning.contains("README.md: its front matter"),
                "{warning}"
            );
        }
    }
}
