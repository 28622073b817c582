//! Local files that are uploaded: their expected state, and parts of them that can be sent again.

use crate::base::error::{Error, Result};
use crate::base::progress::check_interrupted;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Take};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// A file to upload.
#[derive(Clone, Debug)]
pub struct LocalFile {
    /// Where the file is.
    pub path: PathBuf,
    /// Its path in the repository, with `/`.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its modification time, read before it was hashed.
    pub modified: Option<SystemTime>,
    /// The SHA-256 of its content, in hexadecimal.
    pub sha256: String,
}

impl LocalFile {
    /// The state in which it must stay while it is uploaded.
    pub(super) fn state(&self) -> FileState {
        FileState::new(self.bytes, self.modified)
    }
}

/// Length and modification time of a file, to detect changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileState(u64, Option<SystemTime>);

impl FileState {
    pub(super) fn new(bytes: u64, modified: Option<SystemTime>) -> FileState {
        FileState(bytes, modified)
    }

    fn of(path: &Path) -> Result<FileState> {
        let meta = std::fs::metadata(path).map_err(Error::io(path, "examine"))?;
        Ok(FileState(meta.len(), meta.modified().ok()))
    }

    /// Fails if the file at `path` is now in another state.
    pub(super) fn check(self, path: &Path) -> Result<()> {
        if FileState::of(path)? == self {
            return Ok(());
        }
        Err(Error::format(path, "changed during the upload; run the same command again"))
    }
}

/// A range of a file, which can be sent several times.
pub(super) struct FilePart {
    path: PathBuf,
    state: FileState,
    from: u64,
    len: u64,
    /// The most bytes that one attempt has sent; bytes sent again do not count as progress.
    sent: Arc<AtomicU64>,
    /// How many of `sent` were reported as progress.
    reported: AtomicU64,
}

impl FilePart {
    /// `len` bytes from byte `from` of the file `path`, which must stay in `state`.
    pub(super) fn new(path: &Path, state: FileState, from: u64, len: u64) -> FilePart {
        let (path, sent, reported) = (path.to_path_buf(), Arc::default(), AtomicU64::new(0));
        FilePart { path, state, from, len, sent, reported }
    }

    /// The length of the part in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The number of bytes sent since the last call.
    pub(super) fn newly_sent(&self) -> u64 {
        let sent = self.sent.load(Ordering::Relaxed);
        sent.saturating_sub(self.reported.swap(sent, Ordering::Relaxed))
    }

    /// Fails if the file was changed.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        self.state.check(&self.path)
    }

    /// A reader of exactly the bytes of the part.
    pub(super) fn reader(&self) -> io::Result<PartReader> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.from))?;
        let (len, sent) = (self.len, Arc::clone(&self.sent));
        Ok(PartReader { bytes: file.take(len), len, read: 0, sent })
    }
}

/// Reads a [`FilePart`].
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
    fn parts_are_complete_and_progress_is_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, b"0123456789").unwrap();
        let part = FilePart::new(&path, FileState::of(&path).unwrap(), 2, 6);
        let mut text = String::new();
        part.reader().unwrap().take(4).read_to_string(&mut text).unwrap();
        assert_eq!((part.newly_sent(), part.newly_sent()), (4, 0));
        part.reader().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), part.newly_sent()), ("2345234567", 2));
        assert!(part.check_unchanged().is_ok());
        std::fs::write(&path, b"01234").unwrap();
        assert!(part.reader().unwrap().read_to_string(&mut text).is_err());
        assert!(part.check_unchanged().unwrap_err().to_string().contains("changed during"));
    }
}
