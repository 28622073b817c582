//! The model card: README.md beside the weights. Its front matter (YAML between two lines `---`)
//! holds name, license, base models and tags, which conversion reads. Not here: the text below the
//! front matter, and the cards that merging writes.

use serde_json::{Map, Value};
use serde_yaml::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The file name of a model card.
pub const CARD_FILE: &str = "README.md";
/// The number of bytes of a card that are read. Front matter takes a few hundred.
const LARGEST: u64 = 1 << 20;

/// A model card on disk or in memory.
#[derive(Clone, Debug)]
pub enum ModelCard {
    /// A file on disk.
    File(PathBuf),
    /// The text of a card that is not on disk.
    Text(String),
}

/// The front matter of a model card.
#[derive(Clone, Debug, Default)]
pub struct FrontMatter {
    /// The keys and values in their order; empty if there is no readable front matter.
    pub keys: Map<String, Value>,
    /// Why the front matter could not be read, a sentence for the user.
    pub warning: Option<String>,
}

impl ModelCard {
    /// The card of the folder `dir`, if there is one.
    pub fn in_folder(dir: &Path) -> Option<ModelCard> {
        let path = dir.join(CARD_FILE);
        path.is_file().then_some(ModelCard::File(path))
    }

    /// Reads the front matter. Problems are warnings rather than errors, because the model works
    /// without a card.
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
    // YAML does not allow tabs as indentation, but published cards have them. llama.cpp reads two
    // spaces.
    let yaml = lines.join("\n").replace('\t', "  ");
    let options = serde_yaml::options! {
        // `no` is the code of Norwegian here, not a boolean.
        strict_booleans: true,
        // Like PyYAML, which llama.cpp and the hub use.
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
    };
    match serde_yaml::from_str_with_options::<Value>(&yaml, options) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(Value::Null) => Ok(Map::new()),
        Ok(_) => Err("its front matter is not a list of keys and values".to_string()),
        Err(error) => {
            let text = error.without_snippet().to_string();
            let what = text.lines().next().unwrap_or_default();
            let what = what.split(" at line ").next().unwrap_or(what);
            // Counts the line that opens the front matter.
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
    fn front_matter_is_the_text_between_two_lines() {
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
    fn front_matter_is_read_as_pyyaml_reads_it() {
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
    fn unreadable_front_matter_is_a_warning() {
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
