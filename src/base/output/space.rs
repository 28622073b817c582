//! Space on the disk: checks before long work, and temporary files.

use crate::base::error::{Error, Result};
use crate::base::size;
use crate::base::system;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Returns the bytes that are free for this user on the filesystem that holds, or will hold, `path`;
/// `None` where the system does not report them.
pub fn free_space(path: &Path) -> Option<u64> {
    let absolute = std::path::absolute(path).ok()?;
    let existing = absolute.ancestors().find(|p| p.exists())?;
    system::free_space(existing)
}

/// Fails if fewer than `needed` bytes are free where `path` will be written. Call it before long work;
/// other programs may still fill the disk later.
///
/// # Errors
/// [`Error::Io`] of the kind [`io::ErrorKind::StorageFull`].
pub fn check_space(path: &Path, needed: u64) -> Result<()> {
    match free_space(path) {
        Some(free) if free < needed => Err(no_space(path, needed, "no space left on the disk")),
        _ => Ok(()),
    }
}

/// Opens a file without a name in the folder for temporary files, and returns that folder too. The file
/// vanishes however the program ends.
///
/// # Errors
/// If there is no space for `bytes`: the message names `what` they are, and `remedy` says how to need
/// less.
pub fn temporary_file(bytes: u64, what: &str, remedy: &str) -> Result<(File, PathBuf)> {
    let folder = std::env::temp_dir();
    if let Some(free) = free_space(&folder)
        && free < bytes
    {
        let (needed, free) = (size::display(bytes), size::display(free));
        let detail = format!(
            "{what} take {needed} here, and {free} are free; set TMPDIR to a folder with more space, or \
             {remedy}"
        );
        return Err(Error::format(folder, detail));
    }
    let file =
        tempfile::tempfile_in(&folder).map_err(Error::io(&folder, "make a temporary file in"))?;
    Ok((file, folder))
}

pub(super) fn no_space(path: &Path, needed: u64, what: &str) -> Error {
    let free = free_space(path).map_or(String::new(), |f| format!(", {} free", size::display(f)));
    let text = format!("{what}: {} needed{free}", size::display(needed));
    Error::io(path, "write")(io::Error::new(io::ErrorKind::StorageFull, text))
}
