//! From a folder of quants to a repository on the Hugging Face hub.
//!
//! [`Folder`] lists what would go and checks that it is whole: an unfinished build, a file that is not what SHA256SUMS
//! says or a card that the hub cannot read is found before anything is sent. `publish` sends it, with the feature
//! `hub`; [`hf_command`] says what does the same without it. Hidden files never go: they are locks, states and outputs
//! under way. Deliberately absent: removing files from the hub, and changing anything in the folder.

mod command;
mod folder;
mod pattern;

pub use command::hf_command;
pub use folder::{File, Folder};

use crate::hub::HubName;
use std::path::PathBuf;

/// What is to be published, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder, as `build` makes it.
    pub folder: PathBuf,
    /// The repository and, as its revision, the branch.
    pub repo: HubName,
    /// Whether a repository that has to be made is private.
    pub private: bool,
    /// The first line of the commit's message.
    pub message: Option<String>,
    /// Only files whose path in the folder one of these patterns matches, if there are any: shell patterns whose `*`
    /// matches `/`, too, as those of `hf upload`.
    pub include: Vec<String>,
    /// No file whose path one of these matches.
    pub exclude: Vec<String>,
}

/// Sends `folder`, which was made of the same `options`. `checked` tells that [`Folder::check`] found nothing wrong, so
/// that the sums in SHA256SUMS are known to be right; else all files are read for theirs.
///
/// # Errors
/// Those of [`crate::hub::upload`], and files that cannot be read.
#[cfg(feature = "hub")]
pub fn publish(
    options: &Options,
    folder: &Folder,
    checked: bool,
    progress: &dyn crate::base::progress::Progress,
) -> crate::Result<crate::hub::UploadReport> {
    let files = folder.with_sums(checked, progress)?;
    let message = options.message.clone();
    let version = env!("CARGO_PKG_VERSION");
    let message = message.unwrap_or_else(|| format!("Upload with Aqueduct {version}"));
    let (repo, private) = (&options.repo, options.private);
    let upload = crate::hub::Upload { repo, private, message: &message, files: &files };
    crate::hub::upload(&upload, progress)
}
