//! Read-only memory maps of whole files: what makes reading tensors zero-copy.
//!
//! The one place outside the SIMD kernels with `unsafe` in it. Deliberately absent: writable maps;
//! outputs are written with ordinary writes.

use crate::error::{Error, Result};
use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};

/// The bytes of a file. Its length is that at opening; callers check every offset against it.
///
/// A file that another program truncates while it is mapped makes reads of the lost part end the
/// process with SIGBUS; nothing in user space can turn that into an error. Aqueduct itself never
/// writes into an existing file (outputs are new files, renamed), so it cannot do this to itself, even
/// when an output replaces its own input.
pub struct Mmap {
    path: PathBuf,
    map: memmap2::Mmap,
}

impl Mmap {
    /// Maps `path`, which must be a regular file: not a folder, pipe or device.
    pub fn open(path: &Path) -> Result<Mmap> {
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        let meta = file.metadata().map_err(Error::io(path, "examine"))?;
        if !meta.is_file() {
            return Err(Error::format(path, "not a regular file"));
        }
        // SAFETY: the map is read-only and private to this process. The remaining hazard is another
        // process changing the file; bytes that change are read as whatever they are at the time
        // (every parser here treats them as untrusted), and truncation is described above.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path, "map"))?;
        Ok(Mmap { path: path.to_path_buf(), map })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Deref for Mmap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_refused_and_empty_files_are_empty() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Mmap::open(dir.path()).is_err());
        let empty = dir.path().join("empty");
        std::fs::write(&empty, b"").unwrap();
        assert_eq!(Mmap::open(&empty).unwrap().len(), 0);
    }
}
