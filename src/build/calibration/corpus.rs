//! The calibration corpus that comes with the program: named parts in groups, see `calibration/README.md`.
//!
//! A text made of several parts takes turns between them, piece by piece, so that a run over its first
//! chunks meets every kind. Deliberately absent: any judgement of what a model needs.

use crate::base::error::{Error, Result};
use crate::base::hash;
use crate::model::tokenizer::in_turns;
use serde::Deserialize;

/// The name of the corpus. Texts that are released do not change; others come under another name.
pub const CORPUS: &str = "aqueduct-v2";
/// The word for all parts.
const ALL: &str = "all";
/// What separates the pieces of a part, and those of the text that is made of them: three empty lines, as
/// two may stand within a program.
const SEPARATOR: &str = "\n\n\n\n";
/// What does in parts that have no such separator.
const SHORT_SEPARATOR: &str = "\n\n\n";

const MANIFEST: &str = include_str!("../../../calibration/manifest.json");

/// Declares the texts whose files are named after them.
macro_rules! texts {
    ($($name:literal)*) => {
        &[$(($name, include_str!(concat!("../../../calibration/", $name, ".txt")))),*]
    };
}

/// All texts; what they are is said in the manifest.
const TEXTS: &[(&str, &str)] = texts![
    "prose-en" "dialogue-en"
    "code-python" "code-rust" "code-javascript" "code-c" "code-typescript"
    "code-java" "code-cpp" "code-go" "code-sql" "code-shell"
    "prose-de" "prose-fr" "prose-es" "prose-ru" "prose-zh" "prose-ja"
    "prose-it" "prose-pt" "prose-nl" "prose-pl" "dialogue-multi"
    "data" "markup" "maths" "random" "aqueduct-v1"
];

/// What the manifest says of a part.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusPart {
    /// The file's name without `.txt`.
    pub name: String,
    pub group: String,
    /// Natural or programming language, or `none`.
    pub language: String,
    pub bytes: usize,
    /// With the tokenizer of SmolLM2.
    pub tokens: usize,
    /// Of the file's bytes, in hexadecimal.
    pub sha256: String,
    pub note: String,
}

impl CorpusPart {
    /// The text itself.
    ///
    /// # Panics
    /// If the manifest names a part that the program lacks; the tests see to it that it does not.
    pub fn text(&self) -> &'static str {
        let found = TEXTS.iter().find(|(name, _)| *name == self.name);
        found.unwrap_or_else(|| panic!("calibration/manifest.json names '{}'", self.name)).1
    }

    /// Whether bytes and hash are those of the text.
    pub fn is_intact(&self) -> bool {
        self.bytes == self.text().len() && self.sha256 == hash::sha256(self.text())
    }
}

/// All parts, in the order of the manifest.
pub fn parts() -> Vec<CorpusPart> {
    serde_json::from_str(MANIFEST).expect("calibration/manifest.json is in the program")
}

/// The groups, in the order of the manifest.
fn groups(parts: &[CorpusPart]) -> Vec<&str> {
    let mut groups: Vec<&str> = Vec::new();
    for part in parts {
        if !groups.contains(&part.group.as_str()) {
            groups.push(&part.group);
        }
    }
    groups
}

/// The parts that `words` pick, which are names of parts or groups, or `all`.
///
/// Each part comes once and in the order of the manifest, however it was picked.
///
/// # Errors
/// If a word names nothing; the error lists what can be named.
pub(super) fn pick(words: &[String]) -> Result<Vec<CorpusPart>> {
    let all = parts();
    let names =
        |part: &CorpusPart, word: &str| word == ALL || part.name == word || part.group == word;
    for word in words {
        if !all.iter().any(|part| names(part, word)) {
            let parts: Vec<&str> = all.iter().map(|part| part.name.as_str()).collect();
            return Err(Error::Usage(format!(
                "no calibration text is called '{word}'; there are {ALL}, the groups {}, and the parts \
                 {}. A file is given with -f",
                groups(&all).join(", "),
                parts.join(", ")
            )));
        }
    }
    let picked = |part: &CorpusPart| words.iter().any(|word| names(part, word));
    Ok(all.into_iter().filter(picked).collect())
}

/// One text of `parts`: as it is if there is only one, otherwise their pieces in turns.
pub(super) fn text(parts: &[CorpusPart]) -> String {
    if let [part] = parts {
        return part.text().to_string();
    }
    let of_group = |group: &str| {
        let parts = parts.iter().filter(|part| part.group == group);
        interleave(parts.map(|part| pieces(part.text())).collect())
    };
    let groups = groups(parts).into_iter().map(of_group).collect();
    let mut text = interleave(groups).join(SEPARATOR);
    text.push('\n');
    text
}

fn pieces(text: &str) -> Vec<&str> {
    let separator = if text.contains(SEPARATOR) { SEPARATOR } else { SHORT_SEPARATOR };
    text.trim_end_matches('\n').split(separator).collect()
}

/// One sequence of all pieces, in turns.
fn interleave(sequences: Vec<Vec<&str>>) -> Vec<&str> {
    let sized = |pieces: Vec<_>| pieces.into_iter().map(|piece: &str| (piece, piece.len()));
    in_turns(sequences.into_iter().map(|pieces| sized(pieces).collect()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| word.to_string()).collect()
    }

    #[test]
    fn the_manifest_agrees_with_the_texts() {
        let parts = parts();
        assert!(parts.iter().all(CorpusPart::is_intact));
        let mut names: Vec<_> = parts.iter().map(|part| part.name.as_str()).collect();
        let mut texts: Vec<_> = TEXTS.iter().map(|(name, _)| *name).collect();
        names.sort();
        texts.sort();
        assert_eq!(names, texts);
        names.dedup();
        assert_eq!(names.len(), parts.len(), "a part is listed twice");
        for (index, part) in parts.iter().enumerate() {
            let others = || parts.iter().enumerate().filter(|(other, _)| *other != index);
            assert!(others().all(|(_, other)| other.group != part.name), "{}", part.name);
            assert!(![&part.name, &part.group].contains(&&ALL.to_string()));
        }
    }

    #[test]
    fn words_pick_parts_and_groups() {
        let names = |list: &[&str]| -> Vec<String> {
            pick(&words(list)).unwrap().into_iter().map(|part| part.name).collect()
        };
        assert_eq!(names(&["maths", "general"]), ["prose-en", "dialogue-en", "maths"]);
        assert_eq!(names(&["code-rust", "code"]).len(), 10, "no part comes twice");
        assert_eq!(names(&["all"]).len(), TEXTS.len());
        let error = pick(&words(&["general", "cobol"])).unwrap_err().to_string();
        for expected in ["'cobol'", "languages", "code-rust", "-f"] {
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_text_holds_every_piece_once() {
        let parts = pick(&words(&["code-c", "aqueduct-v1", "random"])).unwrap();
        let made = text(&parts);
        for part in &parts {
            for piece in pieces(part.text()) {
                assert_eq!(made.matches(piece).count(), 1, "{piece}");
            }
        }
        let separators = made.matches(SEPARATOR).count() + 1;
        assert_eq!(separators, parts.iter().map(|part| pieces(part.text()).len()).sum::<usize>());
    }

    #[test]
    fn one_part_is_its_file_and_the_beginning_sees_every_group() {
        let v1 = pick(&words(&["aqueduct-v1"])).unwrap();
        assert_eq!(text(&v1), include_str!("../../../calibration/aqueduct-v1.txt"));
        let all = pick(&words(&["all"])).unwrap();
        let made = text(&all);
        for group in groups(&all) {
            let parts = all.iter().filter(|part| part.group == group);
            let first = parts.filter_map(|part| made.find(pieces(part.text())[0])).min().unwrap();
            assert!(first < 16_000, "{group} begins at byte {first}");
        }
    }
}
