//! One output file.

use super::space::no_space;
use super::{Unfinished, check_space, exists, make_parent, part_path, sync_folder};
use crate::base::error::{Error, Result};
use crate::base::progress::check_interrupted;
use crate::base::system;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Fails if something is at `target` that a file may not replace: a folder, or a file without `force`.
/// Creating and committing a file check it too; call it before long work.
///
/// # Errors
/// [`Error::Usage`] in these cases.
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
/// A file under a hidden name beside its target. [`OutputFile::commit`] gives it its name; a drop without
/// a commit removes it.
pub struct OutputFile {
    /// Path that the commit renames it to.
    place: PathBuf,
    /// The final path, also in errors. It differs from `place` inside an unfinished
    /// [`super::OutputDir`].
    pub(super) target: PathBuf,
    file: File,
    force: bool,
    /// Offset at which [`OutputFile::append`] continues.
    end: u64,
    /// Bytes that the file needs as far as is known, for errors.
    needed: u64,
    unfinished: Unfinished,
}

impl OutputFile {
    /// Begins the file `target`, creating its folder if necessary.
    ///
    /// # Errors
    /// If the target exists, unless `force`; if the file cannot be created; if the user interrupts.
    pub fn create(target: impl AsRef<Path>, force: bool) -> Result<OutputFile> {
        check_interrupted()?;
        OutputFile::begin(target.as_ref(), force)
    }

    fn begin(target: &Path, force: bool) -> Result<OutputFile> {
        let target = target.to_path_buf();
        check_file_target(&target, force)?;
        make_parent(&target)?;
        let unfinished = Unfinished::beside(&target)?;
        let file = File::create_new(&unfinished.0).map_err(Error::io(&target, "create"))?;
        let place = target.clone();
        Ok(OutputFile { place, target, file, force, end: 0, needed: 0, unfinished })
    }

    /// Opens the file under the hidden name `.NAME.part` beside `target`, with what an earlier run has left
    /// in it. It stays however this run ends. [`place_part`] gives it its name once [`OutputFile::seal`]
    /// has brought it to the disk.
    ///
    /// # Errors
    /// If something that is not a file has that name, or the file cannot be opened.
    pub fn reopen(target: impl AsRef<Path>) -> Result<OutputFile> {
        check_interrupted()?;
        let target = target.as_ref().to_path_buf();
        make_parent(&target)?;
        let unfinished = Unfinished(part_path(&target)?);
        let path = &unfinished.0;
        if fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_file()) {
            let text = format!("{}: in the way, and not a file; move it away", path.display());
            return Err(Error::Usage(text));
        }
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(Error::io(&target, "create"))?;
        let place = target.clone();
        Ok(OutputFile { place, target, file, force: true, end: 0, needed: 0, unfinished })
    }

    /// Returns the file's size in bytes.
    ///
    /// # Errors
    /// If it cannot be examined.
    pub fn bytes(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(Error::io(&self.target, "examine"))?.len())
    }

    /// Makes the file empty.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn clear(&mut self) -> Result<()> {
        self.end = 0;
        self.file.set_len(0).map_err(|e| self.write_error(e))
    }

    /// Fills `bytes` with what is at `offset`. Only for files that were opened with
    /// [`OutputFile::reopen`].
    ///
    /// # Errors
    /// If the file ends before, or cannot be read.
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        system::read_exact_at(&self.file, bytes, offset).map_err(Error::io(&self.target, "read"))
    }

    /// Brings everything to the disk and leaves the file under its hidden name.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn seal(self) -> Result<()> {
        self.file.sync_all().map_err(|e| self.write_error(e))?;
        sync_folder(&make_parent(&self.target)?);
        Ok(())
    }

    /// Returns the path that the file will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Gives the file its final length, filled with zeros, and takes the space on the disk where the
    /// filesystem can, so that a disk that is too small is reported now.
    ///
    /// # Errors
    /// If there is no space.
    pub fn reserve(&mut self, bytes: u64) -> Result<()> {
        self.needed = bytes;
        check_space(&self.target, bytes)?;
        system::reserve(&self.file, bytes).map_err(|e| self.write_error(e))
    }

    /// Writes `bytes` at `offset`. Any number of threads may write at once.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        system::write_all_at(&self.file, bytes, offset).map_err(|e| self.write_error(e))
    }

    /// Writes `bytes` after what was appended before.
    ///
    /// # Errors
    /// If the file cannot be written.
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
    ///
    /// # Errors
    /// If the disk refuses it.
    pub fn sync_data(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| self.write_error(e))
    }

    /// Brings the data to the disk and gives the file its name.
    ///
    /// # Errors
    /// If the file cannot be written, or one has appeared at the target without `force`.
    pub fn commit(self) -> Result<()> {
        self.file.sync_all().map_err(|e| self.write_error(e))?;
        // Again: a file may have appeared while this one was written.
        check_file_target(&self.place, self.force)?;
        fs::rename(&self.unfinished.0, &self.place).map_err(Error::io(&self.target, "rename"))?;
        self.unfinished.keep();
        sync_folder(&make_parent(&self.place)?);
        Ok(())
    }
}

/// Gives the sealed file `.NAME.part` beside `target` its name, in place of a file that is there.
///
/// # Errors
/// If it cannot be renamed.
pub fn place_part(target: &Path) -> Result<()> {
    fs::rename(part_path(target)?, target).map_err(Error::io(target, "rename"))?;
    sync_folder(&make_parent(target)?);
    Ok(())
}
/// Writes `bytes` as the whole file `target`.
///
/// # Errors
/// If the file exists, unless `force`, or cannot be written; if the user interrupts.
pub fn write_file(target: impl AsRef<Path>, bytes: &[u8], force: bool) -> Result<()> {
    let mut file = OutputFile::create(target, force)?;
    file.append(bytes)?;
    file.commit()
}

/// Writes `bytes` as the whole file `target`, in place of one that is there. An interruption does not
/// prevent it: this is how a run that ends records what it has made.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn replace_file(target: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = OutputFile::begin(target, true)?;
    file.append(bytes)?;
    file.commit()
}
