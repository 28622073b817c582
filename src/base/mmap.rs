//! Read-only memory maps of whole files, so that tensors are read without copies.
//!
//! Code that goes through a tensor announces what it reads next ([`will_need`]) and releases what it has
//! read ([`release_pages`]), so that a merge of any size reads ahead and occupies few pages. This is the
//! only module with `unsafe` besides the SIMD kernels. Not here: writable maps; outputs are written with
//! ordinary writes.

use crate::base::error::{Error, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// All live maps by the address they begin at, so that advice can be given about any bytes, whatever
/// sources they have come through.
static MAPS: Mutex<BTreeMap<usize, Weak<memmap2::Mmap>>> = Mutex::new(BTreeMap::new());

fn maps() -> MutexGuard<'static, BTreeMap<usize, Weak<memmap2::Mmap>>> {
    // The map of maps is whole at any time, even after a panic.
    MAPS.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The bytes of a file. The length is that at opening; callers check every offset against it.
///
/// If another program truncates the file while it is mapped, reading the lost part ends the process with
/// SIGBUS; a process cannot turn that into an error. Aqueduct never writes into an existing file (outputs
/// are new files, renamed), so it does not cause this itself, even when an output replaces its input.
pub struct Mmap {
    path: PathBuf,
    map: Arc<memmap2::Mmap>,
}

impl Mmap {
    /// Maps the regular file `path`.
    ///
    /// # Errors
    /// If it is a folder, pipe or device, or cannot be opened.
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
        let map = Arc::new(map);
        if !map.is_empty() {
            maps().insert(map.as_ptr() as usize, Arc::downgrade(&map));
        }
        Ok(Mmap { path: path.to_path_buf(), map })
    }

    /// Returns the path that was opened.
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

impl Drop for Mmap {
    fn drop(&mut self) {
        // Before the pages are unmapped, so that no new map can have the address yet.
        if !self.map.is_empty() {
            maps().remove(&(self.map.as_ptr() as usize));
        }
    }
}

/// Returns the map that contains `bytes`, and their offset in it; `None` for other memory.
fn locate(bytes: &[u8]) -> Option<(Arc<memmap2::Mmap>, usize)> {
    let start = bytes.as_ptr() as usize;
    let map = maps().range(..=start).next_back()?.1.upgrade()?;
    let offset = start - map.as_ptr() as usize;
    (offset.checked_add(bytes.len())? <= map.len()).then_some((map, offset))
}

/// Announces that `bytes` will be read soon: if they are mapped, the system begins to fetch them from the
/// disk. Does nothing for other memory.
pub fn will_need(bytes: &[u8]) {
    if let Some((map, offset)) = locate(bytes) {
        advise::will_need(&map, offset, bytes.len());
    }
}

/// Releases the pages of `bytes`, which have been read: if they are mapped, they no longer count as this
/// process's memory. They stay in the system's cache, so reading them again is only slower. Does nothing
/// for other memory.
pub fn release_pages(bytes: &[u8]) {
    if let Some((map, offset)) = locate(bytes) {
        advise::release_pages(&map, offset, bytes.len());
    }
}

/// Advice to the system about pages. A system that ignores it is only slower, or takes more memory.
#[cfg(unix)]
mod advise {
    use memmap2::{Advice, Mmap, UncheckedAdvice};

    pub(super) fn will_need(map: &Mmap, offset: usize, len: usize) {
        let _ = map.advise_range(Advice::WillNeed, offset, len);
    }

    pub(super) fn release_pages(map: &Mmap, offset: usize, len: usize) {
        // SAFETY: the map is read-only and shared with its file, so no data can be lost: a page that is
        // read later comes from the file again. `locate` has checked the range.
        let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, offset, len) };
    }
}

/// Windows takes no advice.
#[cfg(not(unix))]
mod advise {
    use memmap2::Mmap;

    pub fn will_need(_: &Mmap, _: usize, _: usize) {}

    pub fn release_pages(_: &Mmap, _: usize, _: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_changes_no_byte_and_ignores_other_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let contents: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &contents).unwrap();
        let map = Mmap::open(&path).unwrap();
        assert_eq!(locate(&map[5000..9000]).map(|(_, offset)| offset), Some(5000));
        for part in [&map[5000..9000], &map[..], &map[99_999..], &map[7..7]] {
            will_need(part);
            release_pages(part);
        }
        assert_eq!(&map[..], &contents[..]);
        assert!(locate(&contents[..10]).is_none(), "not mapped");
        let start = map.as_ptr() as usize;
        drop(map);
        assert!(!maps().contains_key(&start));
        release_pages(&contents);
    }

    #[test]
    fn folders_are_refused_and_empty_files_are_empty() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Mmap::open(dir.path()).is_err());
        let empty = dir.path().join("empty");
        std::fs::write(&empty, b"").unwrap();
        assert_eq!(Mmap::open(&empty).unwrap().len(), 0);
    }
}
