//! The calibration text: files that the user gave, parts of the project's own corpus, or its default.

use super::corpus;
use crate::base::error::{Error, Result};
use crate::formats::file_kind::refuse_foreign_bytes;
use std::path::{Path, PathBuf};

/// What is used where neither parts nor files are named, see docs/reference/calibration.md.
const DEFAULT: &str = "all";
/// The part that was the whole text once, and is recorded as it was then.
const FIRST: &str = "aqueduct-v1";

/// Texts, and the names under which they are recorded.
#[derive(Clone, Debug)]
pub struct Calibration {
    pub names: Vec<String>,
    pub texts: Vec<String>,
}

impl Calibration {
    /// Reads `paths`, which are recorded as given.
    ///
    /// # Errors
    /// A file that cannot be read, is no UTF-8 text or has no text in it.
    pub fn read(paths: &[PathBuf]) -> Result<Calibration> {
        let names = paths.iter().map(|p| p.display().to_string()).collect();
        let texts = paths.iter().map(|p| read_text(p)).collect::<Result<_>>()?;
        Ok(Calibration { names, texts })
    }

    /// The default text.
    pub fn built_in() -> Calibration {
        Calibration::parts(&[DEFAULT.to_string()]).expect("the default is a part")
    }

    /// The parts and groups of the corpus that `words` name, as one text.
    ///
    /// # Errors
    /// A word that names nothing.
    pub fn parts(words: &[String]) -> Result<Calibration> {
        let picked = corpus::pick(words)?;
        let name = match &picked[..] {
            [part] if part.name == FIRST => format!("{FIRST}.txt"),
            picked if picked.len() == corpus::parts().len() => corpus::CORPUS.to_string(),
            _ => format!("{} ({})", corpus::CORPUS, words.join(", ")),
        };
        Ok(Calibration { names: vec![name], texts: vec![corpus::text(&picked)] })
    }

    /// What `words` name of the corpus, then the files `paths`; the built-in text if there are neither.
    ///
    /// # Errors
    /// As [`Calibration::parts`] and [`Calibration::read`].
    pub fn choose(words: &[String], paths: &[PathBuf]) -> Result<Calibration> {
        if words.is_empty() && paths.is_empty() {
            return Ok(Calibration::built_in());
        }
        let mut chosen = Calibration::read(paths)?;
        if !words.is_empty() {
            let parts = Calibration::parts(words)?;
            chosen.names.splice(0..0, parts.names);
            chosen.texts.splice(0..0, parts.texts);
        }
        Ok(chosen)
    }
}

/// The text of a file, which must not be empty.
pub(super) fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    if !bytes.is_empty() && !bytes.trim_ascii_start().starts_with(b"<") {
        refuse_foreign_bytes(path, &bytes, bytes.len() as u64)?;
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::format(path, format!("not UTF-8 text: byte {at} is no part of a character"))
    })?;
    match text.trim().is_empty() {
        true => Err(Error::format(path, "there is no text in this file")),
        false => Ok(text),
    }
}
