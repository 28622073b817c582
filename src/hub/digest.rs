//! The hashes by which the hub identifies files.
//!
//! Large files go by their SHA-256 (git-lfs), others by git's object name: the SHA-1 of `blob
//! SIZE`, a zero byte and the content (git's documentation, "Git Objects").

use crate::base::error::Result;
use crate::base::hash;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::Path;

/// The SHA-256 of all that `reader` yields, in hexadecimal. `path` is its name in errors.
pub(super) fn sha256(reader: &mut impl Read, path: &Path) -> Result<String> {
    hash::of_reader(Sha256::new(), reader, path, |_| {})
}

/// Git's object name of the content of `reader`, which has `size` bytes. `path` is its name in
/// errors.
pub(super) fn git_blob(reader: &mut impl Read, size: u64, path: &Path) -> Result<String> {
    hash::of_reader(Sha1::new_with_prefix(format!("blob {size}\0")), reader, path, |_| {})
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn hashes_equal_those_of_git_and_coreutils() {
        // printf 'hello\n' | git hash-object --stdin; printf 'hello\n' | sha256sum
        let (content, path) = (b"hello\n", Path::new("x"));
        let git = git_blob(&mut content.as_slice(), 6, path).unwrap();
        assert_eq!(git, "ce013625030ba8dba906f756967f9e9ca394464a");
        let sum = sha256(&mut content.as_slice(), path).unwrap();
        assert_eq!(sum, "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
        let empty = git_blob(&mut io::empty(), 0, path).unwrap();
        assert_eq!(empty, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
    }
}
