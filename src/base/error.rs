//! The library's error type: what went wrong, where, and what to do.
//!
//! Every variant names its place (file, tensor, offset, or the recipe's line and column). The binary
//! prints the chain once and maps it to an exit code; the library never prints.

use std::path::{Path, PathBuf};

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Anything that can stop a command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused an operation on a file; why is in the error's source, which the
    /// binary prints as the next link of the chain.
    #[error("{}: cannot {action}", path.display())]
    Io {
        path: PathBuf,
        action: &'static str,
        #[source]
        source: std::io::Error,
    },

    /// A file is not what it says it is: truncated, lying or foreign.
    #[error("{}: {detail}", path.display())]
    Format { path: PathBuf, detail: String },

    /// A tensor is missing, has the wrong shape or type, or holds values that cannot be used.
    #[error("{origin}: tensor '{tensor}': {detail}")]
    Tensor { origin: String, tensor: String, detail: String },

    /// A model's configuration or metadata is unusable: a missing key, an unknown architecture.
    #[error("{origin}: {detail}")]
    Model { origin: String, detail: String },

    /// A recipe has problems; the text lists all of them with line and column.
    #[error("{0}")]
    Recipe(String),

    /// The request itself cannot be met (flags that conflict, an output that exists).
    #[error("{0}")]
    Usage(String),

    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
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
        Error::Format { path: path.as_ref().to_path_buf(), detail: detail.into() }
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
