//! One output folder.

use super::file::OutputFile;
use super::lock::lock_dir;
use super::{Unfinished, exists, make_parent, part_path, remove, sync_folder};
use crate::base::error::{Error, Result};
use crate::base::progress::check_interrupted;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The only folder that a model's folder may contain: named chat templates, as transformers 5 saves them.
pub const INNER_FOLDER: &str = "additional_chat_templates";

/// A folder under a hidden name beside its target. [`OutputDir::commit`] gives it its name; a drop without
/// a commit removes it with its contents, unless [`OutputDir::keep`] was called.
pub struct OutputDir {
    target: PathBuf,
    force: bool,
    unfinished: Unfinished,
    /// Holds the lock of a folder that later runs may resume.
    _lock: Option<File>,
}

impl OutputDir {
    /// Begins the folder `target`. With `force` it replaces a folder that contains files only, or
    /// [`INNER_FOLDER`] with templates only. No output of this program contains other folders, and a slip
    /// such as `-o .. --force` must not cost a home directory.
    ///
    /// # Errors
    /// If the target exists, unless it is empty or may be replaced; if the folder cannot be created.
    pub fn create(target: impl AsRef<Path>, force: bool) -> Result<OutputDir> {
        check_interrupted()?;
        let target = prepare_dir_target(target.as_ref(), force)?;
        let unfinished = Unfinished::beside(&target)?;
        fs::create_dir(&unfinished.0).map_err(Error::io(&target, "create"))?;
        Ok(OutputDir { target, force, unfinished, _lock: None })
    }

    /// As [`OutputDir::create`], under the hidden name `.NAME.part`, with what an earlier run has left in
    /// it. The caller removes what is of no use, and decides with [`OutputDir::keep`] and
    /// [`OutputDir::abandon`] whether the folder stays if this run does not finish either. Until then it
    /// stays.
    ///
    /// # Errors
    /// As [`OutputDir::create`]; if another process is at work in the folder, or something that is not a
    /// folder has its name.
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

    /// Returns the folder's path while it is written: put files here.
    pub fn path(&self) -> &Path {
        &self.unfinished.0
    }

    /// Returns the path that the folder will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Begins the file `name` in the folder.
    ///
    /// # Errors
    /// As [`OutputFile::create`].
    pub fn file(&self, name: &str) -> Result<OutputFile> {
        let mut file = OutputFile::create(self.path().join(name), false)?;
        file.target = self.target.join(name);
        Ok(file)
    }

    /// Gives the folder its name. With `force`, a folder that was there before is renamed first and
    /// removed after, so that one of the two is whole at any time.
    ///
    /// # Errors
    /// If something has appeared at the target that may not be replaced, or renaming fails.
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

    /// Renames what is at the target to a hidden name. It is not registered as unfinished, because it is
    /// the only whole folder until the new one has its name.
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

/// Checks `target`, creates the folder it will be in, and returns its absolute path. A target such as
/// `out/.` has a name and a parent then.
fn prepare_dir_target(target: &Path, force: bool) -> Result<PathBuf> {
    let target = std::path::absolute(target).map_err(Error::io(target, "examine"))?;
    check_dir_target(&target, force)?;
    make_parent(&target)?;
    Ok(target)
}
/// Fails if something is at `target` that a folder may not replace, see [`OutputDir::create`].
///
/// # Errors
/// [`Error::Usage`] in that case.
pub fn check_dir_target(target: &Path, force: bool) -> Result<()> {
    let entries = match fs::read_dir(target) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            return Err(Error::Usage(format!("{}: exists and is not a folder", target.display())));
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
                "{}: holds the folder {:?}, so it is not replaced; choose another name, or move the folder away",
                target.display(),
                entry.file_name()
            )));
        }
    }
    Ok(())
}

/// Whether `path` is [`INNER_FOLDER`] and contains only chat templates.
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
