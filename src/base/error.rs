//! The library's error type: what went wrong, where, and what to do.
//!
//! Every variant names its place (file, tensor, offset, or the recipe's line and column). The binary
//! prints the chain once and maps it to an exit code; the library never prints.

use std::path::{Path, PathBuf};

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can stop an operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation on a file; the reason is the error's source.
    #[error("{}: cannot {action}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The refused operation as a verb, "open" for example.
        action: &'static str,
        /// The reason.
        #[source]
        source: std::io::Error,
    },

    /// A file is truncated, contradicts itself or has another format than expected.
    #[error("{}: {detail}{}", path.display(), at(*offset))]
    Format {
        /// The file.
        path: PathBuf,
        /// The place of the problem in bytes from the start of the file, where it is known.
        offset: Option<u64>,
        /// What is wrong and what to do.
        detail: String,
    },

    /// A tensor is missing, has the wrong shape or type, or holds values that cannot be used.
    #[error("{origin}: tensor '{tensor}': {detail}")]
    Tensor {
        /// The file or model with the tensor.
        origin: String,
        /// The tensor's name.
        tensor: String,
        /// What is wrong and what to do.
        detail: String,
    },

    /// A model's configuration or metadata is unusable: a missing key, an unknown architecture.
    #[error("{origin}: {detail}")]
    Model {
        /// The file or model.
        origin: String,
        /// What is wrong and what to do.
        detail: String,
    },

    /// A recipe has errors.
    #[error("{text}")]
    Recipe {
        /// The recipe.
        path: PathBuf,
        /// All errors and warnings, in the order of the recipe.
        problems: Vec<RecipeProblem>,
        /// The problems as people read them, with the lines of the recipe.
        text: String,
    },

    /// The request itself cannot be met (flags that conflict, an output that exists).
    #[error("{0}")]
    Usage(String),

    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// An error or a warning about a place in a recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecipeProblem {
    /// The line in the recipe, counted from 1.
    pub line: u64,
    /// The column, counted from 1.
    pub column: u64,
    /// Whether the merge can be planned all the same.
    pub is_warning: bool,
    /// What is wrong.
    pub message: String,
    /// What to do; empty where nothing needs doing.
    pub remedy: String,
}

/// The offset as the end of a message.
fn at(offset: Option<u64>) -> String {
    offset.map_or(String::new(), |offset| format!(" (at offset {offset})"))
}

impl Error {
    /// An [`Error::Io`] for `map_err`: `File::open(p).map_err(Error::io(p, "open"))`.
    pub fn io(
        path: impl AsRef<Path>,
        action: &'static str,
    ) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { path, action, source }
    }

    /// Whether a file could not be written for lack of space, of quota, or beyond the size that is allowed.
    pub fn is_lack_of_space(&self) -> bool {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let kinds = [StorageFull, QuotaExceeded, FileTooLarge];
        matches!(self, Error::Io { source, .. } if kinds.contains(&source.kind()))
    }

    /// An [`Error::Format`].
    pub fn format(path: impl AsRef<Path>, detail: impl Into<String>) -> Error {
        Error::Format { path: path.as_ref().to_path_buf(), offset: None, detail: detail.into() }
    }

    /// An [`Error::Format`] at `offset` bytes from the start of the file.
    pub fn format_at(path: impl AsRef<Path>, offset: u64, detail: impl Into<String>) -> Error {
        let path = path.as_ref().to_path_buf();
        Error::Format { path, offset: Some(offset), detail: detail.into() }
    }

    /// An [`Error::Tensor`]; `origin` is the file or model that was to give the tensor.
    pub fn tensor(
        origin: impl Into<String>,
        tensor: impl Into<String>,
        detail: impl Into<String>,
    ) -> Error {
        Error::Tensor { origin: origin.into(), tensor: tensor.into(), detail: detail.into() }
    }

    /// An [`Error::Model`].
    pub fn model(origin: impl Into<String>, detail: impl Into<String>) -> Error {
        Error::Model { origin: origin.into(), detail: detail.into() }
    }
}
