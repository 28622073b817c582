//! The calibration text: files that the user gave, or the project's own.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// The project's own text, see `calibration/README.md`.
const BUILT_IN: (&str, &str) =
    ("aqueduct-v1.txt", include_str!("../../calibration/aqueduct-v1.txt"));

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

    /// The text that comes with the program.
    pub fn built_in() -> Calibration {
        let (name, text) = BUILT_IN;
        Calibration { names: vec![name.to_string()], texts: vec![text.to_string()] }
    }

    /// [`Calibration::read`] of `paths`, or the built-in text if there are none.
    pub fn read_or_built_in(paths: &[PathBuf]) -> Result<Calibration> {
        if paths.is_empty() { Ok(Calibration::built_in()) } else { Calibration::read(paths) }
    }
}

/// The text of a file, which must not be empty.
pub(super) fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::format(path, format!("not UTF-8 text: byte {at} is no part of a character"))
    })?;
    match text.trim().is_empty() {
        true => Err(Error::format(path, "there is no text in this file")),
        false => Ok(text),
    }
}
