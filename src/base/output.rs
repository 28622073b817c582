//! Outputs that are whole or absent: written beside their target and renamed when complete.
//!
//! [`OutputFile`] is one file, [`OutputDir`] a folder. Dropped without a commit, by an error or an
//! interruption, they leave nothing behind. The binary's signal handler calls [`remove_unfinished`] if
//! it ends the process without unwinding; only a kill that cannot be caught leaves a hidden
//! `.NAME.PID-N.part`, never anything under the final name. The exception is a folder that can be
//! continued ([`OutputDir::reopen`]): its hidden `.NAME.part` stays once its owner says that something
//! in it is worth keeping. A file that can be continued is under the same name ([`OutputFile::reopen`]), or has its saved
//! state there, whole in itself ([`part_path`]).

use crate::base::error::{Error, Result};
use crate::base::progress::check_interrupted;
use crate::base::size;
use crate::base::sync::lock;
use crate::base::system;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The one folder that a model's folder may hold: named chat templates, as transformers 5 saves them.
pub const INNER_FOLDER: &str = "additional_chat_templates";

/// Paths of outputs under way, so that a signal handler can remove them.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
static SERIAL: AtomicU64 = AtomicU64::new(0);

fn unfinished() -> std::sync::MutexGuard<'static, BTreeSet<PathBuf>> {
    // A panic elsewhere while the lock was held must not keep the rest from being cleaned up.
    lock(&UNFINISHED)
}

fn remove(path: &Path) {
    // Failures have nobody to hear them: this runs in destructors and at the process's end.
    let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

/// Removes every unfinished output of this process. For the moment before an exit that runs no
/// destructors; writes to those outputs that are still going on will fail to commit.
pub fn remove_unfinished() {
    for path in std::mem::take(&mut *unfinished()) {
        remove(&path);
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

/// `.NAME.part` beside `target`: where what is left of an interrupted run stays, for a later one to
/// continue.
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

impl Drop for Unfinished {
    fn drop(&mut self) {
        if unfinished().remove(&self.0) {
            remove(&self.0);
        }
    }
}

/// Creates the folder that will hold `target` and gives its path.
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

/// Bytes free for this user on the filesystem that holds, or will hold, `path`; `None` where the
/// system does not tell.
pub fn free_space(path: &Path) -> Option<u64> {
    let absolute = std::path::absolute(path).ok()?;
    let existing = absolute.ancestors().find(|p| p.exists())?;
    system::free_space(existing)
}

/// Fails if fewer than `needed` bytes are free where `path` will be written. Call it before long work:
/// it is cheap, though other programs may still fill the disk meanwhile.
pub fn check_space(path: &Path, needed: u64) -> Result<()> {
    match free_space(path) {
        Some(free) if free < needed => Err(no_space(path, needed, "no space left on the disk")),
        _ => Ok(()),
    }
}

/// A file without a name for `bytes` of `what` in the folder for temporary files, and that folder: nothing of it is
/// left however the program ends. Fails if there is no space; `remedy` says how to need less.
pub fn temporary_file(bytes: u64, what: &str, remedy: &str) -> Result<(File, PathBuf)> {
    let folder = std::env::temp_dir();
    if let Some(free) = free_space(&folder)
        && free < bytes
    {
        let (needed, free) = (size::display(bytes), size::display(free));
        let detail = format!(
            "{what} take {needed} here, and {free} are free; set TMPDIR to a folder with more space, or {remedy}"
        );
        return Err(Error::format(folder, detail));
    }
    let file =
        tempfile::tempfile_in(&folder).map_err(Error::io(&folder, "make a temporary file in"))?;
    Ok((file, folder))
}

fn no_space(path: &Path, needed: u64, what: &str) -> Error {
    let free = free_space(path).map_or(String::new(), |f| format!(", {} free", size::display(f)));
    let text = format!("{what}: {} needed{free}", size::display(needed));
    Error::io(path, "write")(io::Error::new(io::ErrorKind::StorageFull, text))
}

/// Fails if something is at `target` that a file may not replace: a folder, or a file unless `force` is
/// given. Creating and committing check it too; call it before long work.
pub fn check_file_target(target: &Path, force: bool) -> Result<()> {
    match fs::metadata(target) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io(target, "examine")(e)),
        Ok(meta) if !meta.is_file() => {
            Err(Error::Usage(format!("{}: exists and is not a file", target.display())))
        }
        Ok(_) if !force => Err(exists(target)),
        Ok(_) => Ok(()),
    }
}

/// Fails if writing the file or folder `target` would replace one of `inputs`, by whatever name: another path, a link
/// of either kind, or a folder that the input is in. `--force` allows no such thing; call it before any work.
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
                "{}: {is} an input of this command ({}), which no output may replace; choose another name",
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

/// When it is time to save the state of long work: every so often, and less often where saving takes long.
pub struct Pace {
    every: Duration,
    /// When the last saving ended, and how long it took.
    last: Mutex<(Instant, Duration)>,
}

/// Saving takes no more than one part in so many of the time.
const SAVING_SHARE: u32 = 20;

impl Pace {
    /// Begins now.
    pub fn new(every: Duration) -> Pace {
        Pace { every, last: Mutex::new((Instant::now(), Duration::ZERO)) }
    }

    pub fn is_due(&self) -> bool {
        let (ended, took) = *lock(&self.last);
        ended.elapsed() >= self.every.max(took * SAVING_SHARE)
    }

    /// A saving that began at `started` has ended.
    pub fn saved(&self, started: Instant) {
        *lock(&self.last) = (Instant::now(), started.elapsed());
    }
}

/// A file under a hidden name beside its target; [`OutputFile::commit`] gives it its name. Removed on
/// drop otherwise.
pub struct OutputFile {
    /// Where the commit renames it to.
    place: PathBuf,
    /// The final name, also in errors. Differs from `place` inside an unfinished [`OutputDir`].
    target: PathBuf,
    file: File,
    force: bool,
    /// Where [`OutputFile::append`] continues.
    end: u64,
    /// The size that is known to be needed, for errors.
    needed: u64,
    unfinished: Unfinished,
}

impl OutputFile {
    /// Begins the file `target`, creating its folder if need be. Fails if the target exists, unless
    /// `force`.
    pub fn create(target: impl AsRef<Path>, force: bool) -> Result<OutputFile> {
        check_interrupted()?;
        let target = target.as_ref().to_path_buf();
        check_file_target(&target, force)?;
        make_parent(&target)?;
        let unfinished = Unfinished::beside(&target)?;
        let file = File::create_new(&unfinished.0).map_err(Error::io(&target, "create"))?;
        let place = target.clone();
        Ok(OutputFile { place, target, file, force, end: 0, needed: 0, unfinished })
    }

    /// Opens the file under the hidden name `.NAME.part` beside `target`, which is the same in every run: what an
    /// earlier one left there is there again. It stays however this run ends; [`place_part`] gives it its name once
    /// [`OutputFile::seal`] has brought it to the disk.
    ///
    /// # Errors
    /// If something that is no file has that name.
    pub fn reopen(target: impl AsRef<Path>) -> Result<OutputFile> {
        check_interrupted()?;
        let target = target.as_ref().to_path_buf();
        make_parent(&target)?;
        let unfinished = Unfinished(part_path(&target)?);
        let path = &unfinished.0;
        if fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_file()) {
            let text = format!("{}: in the way, and no file; remove it", path.display());
            return Err(Error::Usage(text));
        }
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(Error::io(&target, "create"))?;
        let place = target.clone();
        Ok(OutputFile { place, target, file, force: true, end: 0, needed: 0, unfinished })
    }

    /// Bytes that are in the file.
    pub fn bytes(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(Error::io(&self.target, "examine"))?.len())
    }

    /// Takes everything out of the file.
    pub fn clear(&mut self) -> Result<()> {
        self.end = 0;
        self.file.set_len(0).map_err(|e| self.write_error(e))
    }

    /// Fills `bytes` with what is at `offset`. Only for files that were opened with [`OutputFile::reopen`].
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        system::read_exact_at(&self.file, bytes, offset).map_err(Error::io(&self.target, "read"))
    }

    /// Brings all to the disk and leaves the file under its hidden name.
    pub fn seal(self) -> Result<()> {
        self.file.sync_all().map_err(|e| self.write_error(e))?;
        sync_folder(&make_parent(&self.target)?);
        Ok(())
    }

    /// The name the file will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Gives the file its final length, filled with zeros, and takes the space on the disk where the
    /// filesystem can, so that a disk that is too small is reported now.
    pub fn reserve(&mut self, bytes: u64) -> Result<()> {
        self.needed = bytes;
        check_space(&self.target, bytes)?;
        system::reserve(&self.file, bytes).map_err(|e| self.write_error(e))
    }

    /// Writes `bytes` at `offset`. Any number of threads may write at once.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        system::write_all_at(&self.file, bytes, offset).map_err(|e| self.write_error(e))
    }

    /// Writes `bytes` after what was appended before.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.end + bytes.len() as u64;
        self.needed = self.needed.max(end);
        self.write_at(self.end, bytes)?;
        self.end = end;
        Ok(())
    }

    fn write_error(&self, e: io::Error) -> Error {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match e.kind() {
            StorageFull => no_space(&self.target, self.needed, "no space left on the disk"),
            QuotaExceeded => no_space(&self.target, self.needed, "the disk quota is used up"),
            FileTooLarge => no_space(&self.target, self.needed, "the system allows no larger file"),
            _ => Error::io(&self.target, "write")(e),
        }
    }

    /// Brings what has been written so far to the disk. Other threads may go on writing.
    pub fn sync_data(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| self.write_error(e))
    }

    /// Brings the data to the disk and gives the file its name.
    pub fn commit(self) -> Result<()> {
        self.file.sync_all().map_err(|e| self.write_error(e))?;
        // Again: it may have come into being while this one was written.
        check_file_target(&self.place, self.force)?;
        fs::rename(&self.unfinished.0, &self.place).map_err(Error::io(&self.target, "rename"))?;
        self.unfinished.keep();
        sync_folder(&make_parent(&self.place)?);
        Ok(())
    }
}

/// Gives the sealed file `.NAME.part` beside `target` its name, in place of what may be there.
pub fn place_part(target: &Path) -> Result<()> {
    fs::rename(part_path(target)?, target).map_err(Error::io(target, "rename"))?;
    sync_folder(&make_parent(target)?);
    Ok(())
}

/// Locks the folder `path` for this process, creating it if need be, so that nobody else builds into it. The lock dies
/// with the process, or with what is returned.
///
/// # Errors
/// If another process holds it, or `path` is something else.
pub fn lock_folder(path: &Path) -> Result<File> {
    let path = std::path::absolute(path).map_err(Error::io(path, "examine"))?;
    make_parent(&path)?;
    lock_dir(&path, &path)
}

/// Writes `bytes` as the whole file `target`.
pub fn write_file(target: impl AsRef<Path>, bytes: &[u8], force: bool) -> Result<()> {
    let mut file = OutputFile::create(target, force)?;
    file.append(bytes)?;
    file.commit()
}

/// A folder under a hidden name beside its target; [`OutputDir::commit`] gives it its name. Removed
/// with its contents on drop otherwise, unless [`OutputDir::keep`] was called.
pub struct OutputDir {
    target: PathBuf,
    force: bool,
    unfinished: Unfinished,
    /// Holds the lock of a folder that later runs may continue.
    _lock: Option<File>,
}

impl OutputDir {
    /// Begins the folder `target`. Fails if the target exists, unless it is an empty folder or `force`
    /// is given. Even then a folder that holds folders is not replaced, except [`INNER_FOLDER`] with templates alone:
    /// no output of this program has others, and a slip such as `-o .. --force` must not cost a home directory.
    pub fn create(target: impl AsRef<Path>, force: bool) -> Result<OutputDir> {
        check_interrupted()?;
        let target = prepare_dir_target(target.as_ref(), force)?;
        let unfinished = Unfinished::beside(&target)?;
        fs::create_dir(&unfinished.0).map_err(Error::io(&target, "create"))?;
        Ok(OutputDir { target, force, unfinished, _lock: None })
    }

    /// As [`OutputDir::create`], under the hidden name `.NAME.part`, which is the same in every run: what
    /// an earlier one left there is there again. The caller looks through it, removes what is of no
    /// use, and tells with [`OutputDir::keep`] and [`OutputDir::abandon`] whether the folder stays when
    /// this run does not finish either; until then it stays.
    ///
    /// # Errors
    /// If another process is at work in the folder, or something else has its name.
    pub fn reopen(target: impl AsRef<Path>, force: bool) -> Result<OutputDir> {
        check_interrupted()?;
        let target = prepare_dir_target(target.as_ref(), force)?;
        let unfinished = Unfinished(part_path(&target)?);
        let lock = lock_dir(&unfinished.0, &target)?;
        Ok(OutputDir { target, force, unfinished, _lock: Some(lock) })
    }

    /// The folder stays, hidden, if it is dropped without a commit.
    pub fn keep(&self) {
        self.unfinished.keep();
    }

    /// The folder is removed if it is dropped without a commit.
    pub fn abandon(&self) {
        self.unfinished.abandon();
    }

    /// Where the folder is while it is written: put files here.
    pub fn path(&self) -> &Path {
        &self.unfinished.0
    }

    /// The name the folder will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Begins the file `name` in the folder.
    pub fn file(&self, name: &str) -> Result<OutputFile> {
        let mut file = OutputFile::create(self.path().join(name), false)?;
        file.target = self.target.join(name);
        Ok(file)
    }

    /// Begins the file `name` in the folder, which replaces one that is there.
    pub fn replacement(&self, name: &str) -> Result<OutputFile> {
        OutputFile::create(self.path().join(name), true)
    }

    /// Gives the folder its name. With `force`, what was there before is set aside first and removed
    /// after, so that one of the two is whole at any time.
    pub fn commit(self) -> Result<()> {
        let parent = make_parent(&self.target)?;
        sync_folder(&self.unfinished.0);
        let old = self.set_old_aside()?;
        if let Err(e) = fs::rename(&self.unfinished.0, &self.target) {
            if let Some(old) = old {
                fs::rename(old, &self.target).map_err(Error::io(&self.target, "restore"))?;
            }
            return Err(Error::io(&self.target, "rename")(e));
        }
        self.unfinished.keep();
        sync_folder(&parent);
        if let Some(old) = old {
            remove(&old);
        }
        Ok(())
    }

    /// Renames what is at the target to a hidden name. That is not registered as unfinished: it is the
    /// only whole folder until the new one has its name.
    fn set_old_aside(&self) -> Result<Option<PathBuf>> {
        check_dir_target(&self.target, self.force)?;
        if !self.target.exists() {
            return Ok(None);
        }
        let aside = Unfinished::beside(&self.target)?;
        aside.keep();
        fs::rename(&self.target, &aside.0).map_err(Error::io(&self.target, "replace"))?;
        Ok(Some(aside.0.clone()))
    }
}

/// Checks `target`, creates the folder it will be in, and gives its absolute path, so that a target such
/// as `out/.` has a name and a parent.
fn prepare_dir_target(target: &Path, force: bool) -> Result<PathBuf> {
    let target = std::path::absolute(target).map_err(Error::io(target, "examine"))?;
    check_dir_target(&target, force)?;
    make_parent(&target)?;
    Ok(target)
}

/// How often, and how far apart, a lock that is held is tried for again. A run that was killed holds its lock until
/// the system has taken its memory apart, and a program that this process starts shares its locks for a moment.
const LOCK_TRIES: usize = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Creates the folder `path` if it is not there and locks it for this process. `target` is its name to
/// be, for errors.
fn lock_dir(path: &Path, target: &Path) -> Result<File> {
    let mut tries = 0;
    loop {
        match fs::create_dir(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io(target, "create")(e));
            }
            _ => {}
        }
        if fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_dir()) {
            let text = format!("{}: in the way, and no folder; remove it", path.display());
            return Err(Error::Usage(text));
        }
        let handle = match system::open_folder(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue, // its run has ended just now
            opened => opened.map_err(Error::io(path, "open"))?,
        };
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
            // A filesystem without locks: two runs at once are then the user's to avoid.
            Err(fs::TryLockError::Error(_)) | Ok(()) => {}
        }
        // The run that held the lock may have renamed or removed the folder meanwhile.
        let held = handle.metadata().map_err(Error::io(path, "examine"))?;
        if fs::symlink_metadata(path).is_ok_and(|now| system::same_file(&now, &held)) {
            return Ok(handle);
        }
    }
}

/// Fails if something is at `target` that a folder may not replace, see [`OutputDir::create`].
pub fn check_dir_target(target: &Path, force: bool) -> Result<()> {
    let entries = match fs::read_dir(target) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            return Err(Error::Usage(format!("{}: exists and is no folder", target.display())));
        }
        Err(e) => return Err(Error::io(target, "examine")(e)),
        Ok(entries) => entries,
    };
    for entry in entries {
        let entry = entry.map_err(Error::io(target, "examine"))?;
        if !force {
            return Err(exists(target));
        }
        let is_dir = entry.file_type().map_err(Error::io(target, "examine"))?.is_dir();
        if is_dir && !is_inner_folder(&entry.path()) {
            return Err(Error::Usage(format!(
                "{}: holds the folder {:?}, so it is not replaced; remove it yourself",
                target.display(),
                entry.file_name()
            )));
        }
    }
    Ok(())
}

/// Whether `path` is the folder of named chat templates, with nothing else in it.
pub fn is_inner_folder(path: &Path) -> bool {
    let is_template = |entry: io::Result<fs::DirEntry>| {
        entry.is_ok_and(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let unfinished = name.starts_with('.') && name.ends_with(".part");
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            (name.ends_with(".jinja") || unfinished) && is_file
        })
    };
    path.file_name().is_some_and(|name| name == INNER_FOLDER)
        && fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
        && fs::read_dir(path).is_ok_and(|mut entries| entries.all(is_template))
}
