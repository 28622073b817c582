//! Outputs that are whole or absent: written beside their target and renamed when complete.
//!
//! [`OutputFile`] is one file, [`OutputDir`] a folder. Dropped without a commit, they leave nothing
//! behind. Only a kill that cannot be caught leaves a hidden `.NAME.PID-N.part`. Outputs that a later run
//! resumes have the hidden name `.NAME.part` ([`part_path`]), which is the same in every run and stays.
//! Not here: what a resumed run records ([`crate::base::resume`]).

mod file;
mod folder;
mod lock;
mod space;

pub(crate) use file::replace_file;
pub use file::{OutputFile, check_file_target, place_part, write_file};
pub use folder::{INNER_FOLDER, OutputDir, check_dir_target, is_inner_folder};
pub(crate) use lock::{lock_folder, lock_part};
pub use space::{check_space, free_space, temporary_file};

use crate::base::error::{Error, Result};
use crate::base::sync::lock;
use crate::base::system;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Paths of outputs under way, so that a signal handler can remove them.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
static SERIAL: AtomicU64 = AtomicU64::new(0);

fn unfinished() -> std::sync::MutexGuard<'static, BTreeSet<PathBuf>> {
    // A panic elsewhere while the lock was held must not keep the rest from being cleaned up.
    lock(&UNFINISHED)
}

fn remove(path: &Path) {
    // Errors are ignored: this runs in destructors and at the process's end.
    let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

/// Removes every unfinished output of this process. Call it before an exit that runs no destructors;
/// commits of those outputs fail from then on.
pub fn remove_unfinished() {
    for path in std::mem::take(&mut *unfinished()) {
        remove(&path);
    }
}

/// Removes the file `path`, if there is one.
///
/// # Errors
/// If it cannot be removed.
pub fn remove_if_exists(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(path, "remove")(e)),
        _ => Ok(()),
    }
}

/// A path that is removed on drop, unless [`Unfinished::keep`] was called.
struct Unfinished(PathBuf);

impl Unfinished {
    /// Registers a fresh hidden name beside `target`.
    fn beside(target: &Path) -> Result<Unfinished> {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let path = hidden(target, &format!(".{}-{serial}.part", std::process::id()))?;
        let unfinished = Unfinished(path);
        unfinished.abandon();
        Ok(unfinished)
    }

    /// The path stays: it is finished, or worth keeping.
    fn keep(&self) {
        unfinished().remove(&self.0);
    }

    /// The path goes with this value.
    fn abandon(&self) {
        unfinished().insert(self.0.clone());
    }
}

/// Returns the path `.NAME.part` beside `target`, where an interrupted run leaves what a later one
/// resumes.
///
/// # Errors
/// If `target` has no file name.
pub fn part_path(target: &Path) -> Result<PathBuf> {
    hidden(target, ".part")
}

/// The path `.NAME` + `suffix` beside `target`.
fn hidden(target: &Path, suffix: &str) -> Result<PathBuf> {
    let name = target
        .file_name()
        .ok_or_else(|| Error::Usage(format!("{}: not a name for an output", target.display())))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(suffix);
    Ok(target.with_file_name(hidden))
}

/// Returns NAME of `.NAME.PID-N.part`, the hidden name of files that are not resumed.
pub(crate) fn torn_name(name: &str) -> Option<&str> {
    let rest = name.strip_prefix('.')?.strip_suffix(".part")?;
    let (of, numbers) = rest.rsplit_once('.')?;
    let (pid, serial) = numbers.split_once('-')?;
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (number(pid) && number(serial)).then_some(of)
}

/// Removes the hidden files that killed runs have left of the file `target`. The caller holds a lock that no other
/// run writes it under.
///
/// # Errors
/// If the folder of `target` cannot be listed, or a file cannot be removed.
pub(crate) fn remove_torn(target: &Path) -> Result<()> {
    let parent = make_parent(target)?;
    for entry in fs::read_dir(&parent).map_err(Error::io(&parent, "list"))? {
        let entry = entry.map_err(Error::io(&parent, "list"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if torn_name(&name).is_some_and(|of| target.file_name().is_some_and(|name| name == of)) {
            remove_if_exists(&entry.path())?;
        }
    }
    Ok(())
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if unfinished().remove(&self.0) {
            remove(&self.0);
        }
    }
}

/// Creates the folder that will hold `target` and returns its path.
fn make_parent(target: &Path) -> Result<PathBuf> {
    let parent = match target.parent() {
        Some(p) if p != Path::new("") => p.to_path_buf(),
        _ => PathBuf::from("."),
    };
    fs::create_dir_all(&parent).map_err(Error::io(&parent, "create"))?;
    Ok(parent)
}

/// Makes a rename durable. Not every filesystem can sync a folder, and the rename has happened, so
/// failures are ignored.
fn sync_folder(folder: &Path) {
    if let Ok(handle) = system::open_folder(folder) {
        let _ = handle.sync_all();
    }
}
/// Fails if writing the file or folder `target` would replace one of `inputs`, by whatever name: another
/// path, a link of either kind, or a folder that the input is in. `--force` does not allow it either.
/// Call it before any work.
///
/// # Errors
/// [`Error::Usage`] with both paths.
pub fn check_not_input<P: AsRef<Path>>(
    target: &Path,
    inputs: impl IntoIterator<Item = P>,
) -> Result<()> {
    let Ok(meta) = fs::metadata(target) else { return Ok(()) };
    let real = target.canonicalize().ok();
    for input in inputs {
        let input = input.as_ref();
        let input_path = input.canonicalize().ok();
        let known = real.as_ref().zip(input_path.as_ref());
        let is_input = known.is_some_and(|(target, input)| target == input)
            || fs::metadata(input).is_ok_and(|other| system::same_entry(&meta, &other));
        if is_input || known.is_some_and(|(target, input)| input.starts_with(target)) {
            let is = if is_input { "is also" } else { "holds" };
            return Err(Error::Usage(format!(
                "{}: {is} an input of this command ({}), which no output may replace; choose another \
                 name",
                target.display(),
                input.display()
            )));
        }
    }
    Ok(())
}

fn exists(target: &Path) -> Error {
    Error::Usage(format!("{}: exists already; --force replaces it", target.display()))
}
