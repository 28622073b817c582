//! SHA256SUMS: a line for each file of a folder, as `sha256sum` writes and checks it.
//!
//! Files are read once more after they have been written, from the page cache where they fit: blocks of a
//! quantized file are written out of order, and SHA-256 wants them in order. Deliberately absent: the sums file
//! itself, and hidden files.

use crate::error::{Error, Result};
use crate::progress::check_interrupted;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The name of the file.
pub const SUMS_FILE: &str = "SHA256SUMS";
/// Bytes read at a time.
const PART: usize = 1 << 20;

/// A hash in hexadecimal.
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    Sha256::digest(bytes.as_ref()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of the file at `path`, in hexadecimal. `read` is told the bytes as they are read.
///
/// # Errors
/// If it is no file or cannot be read, or the user interrupts.
pub fn of_file(path: &Path, read: impl Fn(u64)) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io(path, "open"))?;
    if !file.metadata().is_ok_and(|meta| meta.is_file()) {
        return Err(Error::format(path, "no file"));
    }
    let mut hasher = Sha256::new();
    let mut part = vec![0; PART];
    loop {
        check_interrupted()?;
        match file.read(&mut part).map_err(Error::io(path, "read"))? {
            0 => break,
            n => {
                hasher.update(&part[..n]);
                read(n as u64);
            }
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The text of SHA256SUMS for files and their hashes.
pub fn text(sums: &[(PathBuf, String)]) -> String {
    // Two spaces: text, which on these systems is the same as binary.
    sums.iter().map(|(path, sum)| format!("{sum}  {}\n", path.display())).collect()
}

/// The files in the folder `dir`, sorted; not those in folders of it.
pub fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let list = std::fs::read_dir(dir).map_err(Error::io(dir, "read"))?;
    let path = |entry: std::io::Result<std::fs::DirEntry>| {
        Ok(entry.map_err(Error::io(dir, "read"))?.path())
    };
    let paths = list.map(path).collect::<Result<Vec<_>>>()?;
    let mut files: Vec<_> = paths.into_iter().filter(|path| path.is_file()).collect();
    files.sort();
    Ok(files)
}
