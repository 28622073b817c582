//! A file beside the weights: one that is on disk, or one that a merge makes.
//!
//! Conversion and writing read both in the same way, so a model that is computed needs no folder.

use crate::base::error::{Error, Result};
use crate::formats::file_kind::refuse_foreign;
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Tokenizer files, generation_config.json, chat template: what travels with the weights.
#[derive(Clone, Debug)]
pub enum SideFile {
    /// Travels unchanged.
    File(PathBuf),
    /// Travels unchanged, in the folder of that name within the model's folder.
    InFolder { folder: &'static str, path: PathBuf },
    /// Made in memory.
    Made { name: String, bytes: Arc<[u8]> },
    /// Cannot be had; why is told to whoever reads it.
    Absent { name: String, of: PathBuf, why: String },
}

impl SideFile {
    pub fn made(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> SideFile {
        SideFile::Made { name: name.into(), bytes: bytes.into().into() }
    }

    pub fn absent(
        name: impl Into<String>,
        of: impl Into<PathBuf>,
        why: impl Into<String>,
    ) -> SideFile {
        SideFile::Absent { name: name.into(), of: of.into(), why: why.into() }
    }

    /// The file's name within the model's folder, with `/` behind a folder's; empty for a path that has none.
    pub fn name(&self) -> Cow<'_, str> {
        let last =
            |path: &'_ Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match self {
            SideFile::File(path) => path.file_name().unwrap_or_default().to_string_lossy(),
            SideFile::InFolder { folder, path } => Cow::Owned(format!("{folder}/{}", last(path))),
            SideFile::Made { name, .. } | SideFile::Absent { name, .. } => Cow::Borrowed(name),
        }
    }

    /// What to call the file in messages.
    pub fn path(&self) -> &Path {
        match self {
            SideFile::File(path) | SideFile::InFolder { path, .. } => path,
            SideFile::Made { name, .. } => Path::new(name),
            SideFile::Absent { of, .. } => of,
        }
    }

    /// The contents.
    ///
    /// # Errors
    /// If the file cannot be read, cannot be had, or has more than `limit` bytes.
    pub fn read(&self, limit: u64) -> Result<Cow<'_, [u8]>> {
        let path = self.path();
        let too_many = |size| Error::format(path, format!("{size} bytes are too many"));
        match self {
            SideFile::Made { bytes, .. } => Ok(Cow::Borrowed(bytes)),
            SideFile::Absent { name, why, .. } => {
                let remedy = "take the tokenizer from another model with 'tokenizer_source'";
                Err(Error::format(path, format!("cannot give '{name}': {why}; {remedy}")))
            }
            SideFile::File(path) | SideFile::InFolder { path, .. } => {
                let size = std::fs::metadata(path).map_err(Error::io(path, "read"))?.len();
                if size > limit {
                    return Err(too_many(size));
                }
                // A chat template may be empty; every other file of the tokenizer holds something.
                if size > 0 {
                    refuse_foreign(path)?;
                }
                Ok(Cow::Owned(std::fs::read(path).map_err(Error::io(path, "read"))?))
            }
        }
    }
}

impl From<PathBuf> for SideFile {
    fn from(path: PathBuf) -> SideFile {
        SideFile::File(path)
    }
}
