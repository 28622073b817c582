//! Locks, so that two processes do not write the same output.

use super::{make_parent, part_path};
use crate::base::error::{Error, Result};
use crate::base::system;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// How often, and how far apart, a lock that is held is tried for again. A run that was killed holds its
/// lock until the system has freed its memory, and a program that this process starts shares its locks
/// for a moment.
const LOCK_TRIES: usize = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Locks the folder `path` for this process, creating it if necessary. The lock ends with the process, or
/// when the returned handle is dropped.
///
/// # Errors
/// If another process holds the lock, or `path` is not a folder.
pub(crate) fn lock_folder(path: &Path) -> Result<File> {
    let path = std::path::absolute(path).map_err(Error::io(path, "examine"))?;
    make_parent(&path)?;
    lock_dir(&path, &path)
}

/// Locks the hidden file `.NAME.part` of `target` for this process, creating it if necessary. The lock
/// ends with the process, or when the returned handle is dropped. Windows does not let a process write to
/// a file that it has locked, so nothing is locked there.
///
/// # Errors
/// If another process holds the lock, or something that is not a file has that name.
pub(crate) fn lock_part(target: &Path) -> Result<File> {
    make_parent(target)?;
    let path = part_path(target)?;
    let open = || {
        refuse_other(&path, fs::Metadata::is_file, "not a file")?;
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        file.map_err(Error::io(target, "create"))
    };
    if cfg!(windows) { open() } else { lock(&path, target, open) }
}

/// Creates the folder `path` if it does not exist and locks it for this process. Errors name `target`,
/// the name that the folder will have.
pub(super) fn lock_dir(path: &Path, target: &Path) -> Result<File> {
    lock(path, target, || {
        loop {
            match fs::create_dir(path) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::io(target, "create")(e));
                }
                _ => {}
            }
            refuse_other(path, fs::Metadata::is_dir, "not a folder")?;
            match system::open_folder(path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {} // its run has ended just now
                opened => return opened.map_err(Error::io(path, "open")),
            }
        }
    })
}

/// Fails if something is at `path` that is not of the `kind` that is `expected`.
fn refuse_other(path: &Path, expected: fn(&fs::Metadata) -> bool, what: &str) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if !expected(&meta) => {
            let place = path.display();
            Err(Error::Usage(format!("{place}: in the way, and {what}; move it away")))
        }
        _ => Ok(()),
    }
}

/// Locks what `open` opens at `path`.
fn lock(path: &Path, target: &Path, open: impl Fn() -> Result<File>) -> Result<File> {
    let mut tries = 0;
    loop {
        let handle = open()?;
        match handle.try_lock() {
            Err(fs::TryLockError::WouldBlock) if tries < LOCK_TRIES => {
                tries += 1;
                thread::sleep(LOCK_PAUSE);
                continue;
            }
            Err(fs::TryLockError::WouldBlock) => {
                let place = match path == target {
                    true => String::new(),
                    false => format!(", in {}", path.display()),
                };
                let text = format!(
                    "{}: another run is writing it{place}; wait for its end or choose another name",
                    target.display()
                );
                return Err(Error::Usage(text));
            }
            // On a filesystem without locks, the user has to avoid two runs at once.
            Err(fs::TryLockError::Error(_)) | Ok(()) => {}
        }
        // The run that held the lock may have renamed or removed it meanwhile.
        let held = handle.metadata().map_err(Error::io(path, "examine"))?;
        if fs::symlink_metadata(path).is_ok_and(|now| system::same_file(&now, &held)) {
            return Ok(handle);
        }
    }
}
