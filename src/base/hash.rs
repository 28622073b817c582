//! Hashes in hexadecimal, as people and other programs write them.
//!
//! Not here: the hashes that detect damage in unfinished outputs, which their modules define.

use crate::base::error::{Error, Result};
use crate::base::progress::check_interrupted;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes read at a time.
const PART: usize = 1 << 20;

/// Returns `bytes` in hexadecimal, two lower-case digits each.
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the SHA-256 of `bytes` in hexadecimal.
pub fn sha256(bytes: impl AsRef<[u8]>) -> String {
    hex(Sha256::digest(bytes.as_ref()))
}

/// Returns the SHA-256 of the file at `path` in hexadecimal. Calls `read` with the number of bytes of each
/// part read.
///
/// # Errors
/// If `path` is not a file or cannot be read, or the user interrupts.
pub fn sha256_of_file(path: &Path, read: impl Fn(u64)) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io(path, "open"))?;
    if !file.metadata().is_ok_and(|meta| meta.is_file()) {
        return Err(Error::format(path, "not a file"));
    }
    of_reader(Sha256::new(), &mut file, path, read)
}

/// Feeds all of `reader` to the hash `sum` and returns it in hexadecimal. `path` names the reader in errors;
/// `read` is called with the number of bytes of each part read.
///
/// # Errors
/// If the reader fails, or the user interrupts.
pub fn of_reader(
    mut sum: impl Digest,
    reader: &mut impl Read,
    path: &Path,
    read: impl Fn(u64),
) -> Result<String> {
    let mut part = vec![0; PART];
    loop {
        check_interrupted()?;
        match reader.read(&mut part).map_err(Error::io(path, "read"))? {
            0 => return Ok(hex(sum.finalize())),
            n => {
                sum.update(&part[..n]);
                read(n as u64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_has_two_digits_a_byte() {
        assert_eq!(hex([0, 10, 255]), "000aff");
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256(""), empty);
    }
}
