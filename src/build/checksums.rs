//! SHA256SUMS: a line for each file of a folder, as `sha256sum` writes and checks it.
//!
//! Deliberately absent: taking the sums (`hash`), which the state of a build does when files are whole.

use crate::base::error::{Error, Result};
use crate::base::output;
use std::path::{Path, PathBuf};

/// The name of the file.
pub const SUMS_FILE: &str = "SHA256SUMS";
/// The text of SHA256SUMS for files and their hashes.
pub(crate) fn text(sums: &[(PathBuf, String)]) -> String {
    // Two spaces: text, which on these systems is the same as binary.
    sums.iter().map(|(path, sum)| format!("{sum}  {}\n", path.display())).collect()
}

/// The files in the folder `dir` of a model and in its folder of named chat templates, sorted.
pub(crate) fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let inner = dir.join(output::INNER_FOLDER);
    let mut files = files_in(dir)?;
    if inner.is_dir() {
        files.extend(files_in(&inner)?);
    }
    files.sort();
    Ok(files)
}

fn files_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let list = std::fs::read_dir(dir).map_err(Error::io(dir, "read"))?;
    let path = |entry: std::io::Result<std::fs::DirEntry>| {
        Ok(entry.map_err(Error::io(dir, "read"))?.path())
    };
    let paths = list.map(path).collect::<Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| path.is_file()).collect())
}
