//! Sums by which the hub knows files, and parts of files as they are sent.
//!
//! Large files go by their SHA-256 (git-lfs), others by git's object name: the SHA-1 of `blob SIZE`, a zero byte and
//! the content (git's documentation, "Git Objects").

use crate::base::error::{Error, Result};
use crate::base::hash;
use crate::base::progress::check_interrupted;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Take};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// SHA-256 of all of `reader`, in hexadecimal. `path` is its name in errors.
pub(super) fn sha256(reader: &mut impl Read, path: &Path) -> Result<String> {
    hash::of_reader(Sha256::new(), reader, path, |_| {})
}

/// Git's name of `reader`'s content, of which there are `size` bytes.
pub(super) fn git_blob(reader: &mut impl Read, size: u64, path: &Path) -> Result<String> {
    hash::of_reader(Sha1::new_with_prefix(format!("blob {size}\0")), reader, path, |_| {})
}

/// What tells whether a file was changed: length and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State(u64, Option<SystemTime>);

impl State {
    pub(super) fn new(bytes: u64, modified: Option<SystemTime>) -> State {
        State(bytes, modified)
    }

    fn of(path: &Path) -> Result<State> {
        let meta = std::fs::metadata(path).map_err(Error::io(path, "examine"))?;
        Ok(State(meta.len(), meta.modified().ok()))
    }

    /// Fails if the file at `path` is in another state now.
    pub(super) fn check(self, path: &Path) -> Result<()> {
        if State::of(path)? == self {
            return Ok(());
        }
        Err(Error::format(path, "was changed meanwhile; run the same command again"))
    }
}

/// A range of a file that is sent, perhaps several times.
pub(super) struct Part {
    path: PathBuf,
    state: State,
    from: u64,
    len: u64,
    /// The most bytes that an attempt sent; what is sent again is no progress.
    sent: Arc<AtomicU64>,
    reported: AtomicU64,
}

impl Part {
    /// `len` bytes of the file `path`, which is in `state`, from byte `from` on.
    pub(super) fn new(path: &Path, state: State, from: u64, len: u64) -> Part {
        let (path, sent, reported) = (path.to_path_buf(), Arc::default(), AtomicU64::new(0));
        Part { path, state, from, len, sent, reported }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// How many bytes more than at the last call were sent.
    pub(super) fn newly_sent(&self) -> u64 {
        let sent = self.sent.load(Ordering::Relaxed);
        sent.saturating_sub(self.reported.swap(sent, Ordering::Relaxed))
    }

    pub(super) fn check_unchanged(&self) -> Result<()> {
        self.state.check(&self.path)
    }

    /// Its bytes, and neither more nor fewer.
    pub(super) fn reader(&self) -> io::Result<PartReader> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.from))?;
        let (len, sent) = (self.len, Arc::clone(&self.sent));
        Ok(PartReader { bytes: file.take(len), len, read: 0, sent })
    }
}

/// Reads a [`Part`].
pub(super) struct PartReader {
    bytes: Take<File>,
    len: u64,
    read: u64,
    sent: Arc<AtomicU64>,
}

impl Read for PartReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        check_interrupted().map_err(io::Error::other)?;
        let n = self.bytes.read(buffer)?;
        if n == 0 && self.read < self.len && !buffer.is_empty() {
            return Err(io::Error::other("the file became shorter"));
        }
        self.read += n as u64;
        self.sent.fetch_max(self.read, Ordering::Relaxed);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_git_and_coreutils() {
        // printf 'hello\n' | git hash-object --stdin; printf 'hello\n' | sha256sum
        let (content, path) = (b"hello\n", Path::new("x"));
        let git = git_blob(&mut content.as_slice(), 6, path).unwrap();
        assert_eq!(git, "ce013625030ba8dba906f756967f9e9ca394464a");
        let sum = sha256(&mut content.as_slice(), path).unwrap();
        assert_eq!(sum, "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
        let empty = git_blob(&mut io::empty(), 0, path).unwrap();
        assert_eq!(empty, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
    }

    #[test]
    fn parts_are_whole_and_progress_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, b"0123456789").unwrap();
        let part = Part::new(&path, State::of(&path).unwrap(), 2, 6);
        let mut text = String::new();
        part.reader().unwrap().take(4).read_to_string(&mut text).unwrap();
        assert_eq!((part.newly_sent(), part.newly_sent()), (4, 0));
        part.reader().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), part.newly_sent()), ("2345234567", 2));
        assert!(part.check_unchanged().is_ok());
        std::fs::write(&path, b"01234").unwrap();
        assert!(part.reader().unwrap().read_to_string(&mut text).is_err());
        assert!(part.check_unchanged().unwrap_err().to_string().contains("was changed"));
    }
}
