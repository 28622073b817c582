//! Platform-specific file operations: files at offsets, handles of folders, space on the disk.
//!
//! Linux has all of them. macOS lacks preallocation; Windows also lacks locks of folders and the free
//! space. That costs speed or comfort, not correctness. Not here: advice about memory maps (`mmap`).

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::path::Path;

/// Fills `bytes` from `offset` on, independent of the file's position.
///
/// # Errors
/// [`ErrorKind::UnexpectedEof`] if the file ends before; those of the system.
pub fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match read_at(file, &mut bytes[done..], offset + done as u64) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => done += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Writes `bytes` at `offset`, independent of the file's position. Several threads may write at once.
///
/// # Errors
/// Those of the system.
pub fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match write_at(file, &bytes[done..], offset + done as u64) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(unix)]
mod each {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    pub(super) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        file.read_at(bytes, offset)
    }

    pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        file.write_at(bytes, offset)
    }

    /// Opens a folder, to lock it or bring its entries to the disk.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open_folder(path: &Path) -> io::Result<File> {
        File::open(path)
    }

    /// Whether both describe the same file or folder.
    pub fn same_file(one: &Metadata, other: &Metadata) -> bool {
        (one.dev(), one.ino()) == (other.dev(), other.ino())
    }

    /// Whether both certainly describe the same file or folder.
    pub fn same_entry(one: &Metadata, other: &Metadata) -> bool {
        same_file(one, other)
    }

    /// Returns the bytes that are free for this user where `path` is; `None` if they are unknown.
    pub fn free_space(path: &Path) -> Option<u64> {
        let stat = rustix::fs::statvfs(path).ok()?;
        stat.f_bavail.checked_mul(stat.f_frsize)
    }
}

#[cfg(windows)]
mod each {
    use super::*;
    use std::fs::OpenOptions;
    use std::os::windows::fs::{FileExt, OpenOptionsExt};

    /// Required to open a folder on Windows (`FILE_FLAG_BACKUP_SEMANTICS` of `CreateFileW`).
    const BACKUP_SEMANTICS: u32 = 0x0200_0000;

    pub fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        match file.seek_read(bytes, offset) {
            // Beyond the end Windows reports an error, ERROR_HANDLE_EOF.
            Err(e) if e.raw_os_error() == Some(38) => Ok(0),
            read => read,
        }
    }

    pub fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        file.seek_write(bytes, offset)
    }

    /// Opens a folder. Windows does not lock folders.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open_folder(path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).custom_flags(BACKUP_SEMANTICS).open(path)
    }

    /// Whether both describe the same file or folder, judged by the time of creation.
    pub fn same_file(one: &Metadata, other: &Metadata) -> bool {
        one.created().ok() == other.created().ok()
    }

    /// Windows identifies files only by handles, so callers compare paths.
    pub fn same_entry(_: &Metadata, _: &Metadata) -> bool {
        false
    }

    /// Unknown.
    pub fn free_space(_: &Path) -> Option<u64> {
        None
    }
}

pub use each::{free_space, open_folder, same_entry, same_file};
use each::{read_at, write_at};

/// Gives `file` the length `bytes` and takes the space on the disk where the filesystem can.
///
/// # Errors
/// If there is no space.
pub fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if bytes > 0 {
        let flags = rustix::fs::FallocateFlags::empty();
        match rustix::fs::fallocate(file, flags, 0, bytes) {
            Ok(()) => return Ok(()),
            // The filesystem has no preallocation.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
            Err(e) => return Err(e.into()),
        }
    }
    file.set_len(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_to_their_offset_and_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        reserve(&file, 10).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 10);
        write_all_at(&file, b"end", 7).unwrap();
        write_all_at(&file, b"middle", 3).unwrap();
        let mut bytes = [1; 8];
        read_exact_at(&file, &mut bytes, 1).unwrap();
        assert_eq!(&bytes, b"\0\0middle");
        let beyond = read_exact_at(&file, &mut bytes, 5).unwrap_err();
        assert_eq!(beyond.kind(), ErrorKind::UnexpectedEof);
        assert_eq!(
            read_exact_at(&file, &mut bytes, 99).unwrap_err().kind(),
            ErrorKind::UnexpectedEof
        );
    }

    #[test]
    fn a_folder_is_opened_and_recognized() {
        let folder = tempfile::tempdir().unwrap();
        let held = open_folder(folder.path()).unwrap().metadata().unwrap();
        assert!(same_file(&held, &std::fs::metadata(folder.path()).unwrap()));
    }
}
