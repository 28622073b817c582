//! A file beside the weights: one on disk, or one that a merge generates in memory.
//!
//! Conversion and writing read both in the same way, so a computed model needs no folder.

use crate::base::error::{Error, Result};
use crate::formats::file_kind::refuse_foreign;
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that belongs to a model besides its weights: tokenizer, generation_config.json, chat
/// template.
#[derive(Clone, Debug)]
pub enum SideFile {
    /// A file on disk, copied unchanged into the folder of an output.
    File(PathBuf),
    /// A file on disk, copied unchanged into a folder within the folder of an output.
    InFolder {
        /// Name of the inner folder.
        folder: &'static str,
        /// The file on disk.
        path: PathBuf,
    },
    /// A file generated in memory.
    Generated {
        /// Name within the model's folder.
        name: String,
        /// Contents.
        bytes: Arc<[u8]>,
    },
    /// A file that cannot be provided; reading it fails with the reason.
    Unavailable {
        /// Name within the model's folder.
        name: String,
        /// The file or folder that the reason is about, for errors.
        origin: PathBuf,
        /// Why there is no such file.
        reason: String,
    },
}

impl SideFile {
    /// A generated file with this name and these contents.
    pub fn generated(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> SideFile {
        SideFile::Generated { name: name.into(), bytes: bytes.into().into() }
    }

    /// A file that cannot be provided, and why.
    pub fn unavailable(
        name: impl Into<String>,
        origin: impl Into<PathBuf>,
        reason: impl Into<String>,
    ) -> SideFile {
        SideFile::Unavailable { name: name.into(), origin: origin.into(), reason: reason.into() }
    }

    /// The file's name within the model's folder, such as `tokenizer.json` or `FOLDER/NAME`; empty
    /// for a path without a file name.
    pub fn name(&self) -> Cow<'_, str> {
        let last =
            |path: &'_ Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match self {
            SideFile::File(path) => path.file_name().unwrap_or_default().to_string_lossy(),
            SideFile::InFolder { folder, path } => Cow::Owned(format!("{folder}/{}", last(path))),
            SideFile::Generated { name, .. } | SideFile::Unavailable { name, .. } => {
                Cow::Borrowed(name)
            }
        }
    }

    /// The path that names the file in messages.
    pub fn path(&self) -> &Path {
        match self {
            SideFile::File(path) | SideFile::InFolder { path, .. } => path,
            SideFile::Generated { name, .. } => Path::new(name),
            SideFile::Unavailable { origin, .. } => origin,
        }
    }

    /// Reads the contents.
    ///
    /// # Errors
    /// A file that cannot be read, is unavailable, or is larger than `limit` bytes.
    pub fn read(&self, limit: u64) -> Result<Cow<'_, [u8]>> {
        let path = self.path();
        let too_large = |size| Error::format(path, format!("{size} bytes are too many"));
        match self {
            SideFile::Generated { bytes, .. } => Ok(Cow::Borrowed(bytes)),
            SideFile::Unavailable { name, reason, .. } => {
                let remedy = "take the tokenizer from another model with 'tokenizer_source'";
                Err(Error::format(path, format!("cannot give '{name}': {reason}; {remedy}")))
            }
            SideFile::File(path) | SideFile::InFolder { path, .. } => {
                let size = std::fs::metadata(path).map_err(Error::io(path, "read"))?.len();
                if size > limit {
                    return Err(too_large(size));
                }
                // A chat template may be empty; an empty file of the tokenizer fails in its parser.
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
