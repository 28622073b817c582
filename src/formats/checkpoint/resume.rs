//! Resuming a folder whose writing was interrupted: which of its shards are whole.
//!
//! The hidden folder of an output under way holds a journal beside the shards, with the size and the
//! hash of every shard on the disk. Not here: resuming within a shard, and hashing the weights of the
//! inputs, which would take as long as merging them.

use super::shards::{PartHashes, Shard};
use crate::base::error::{Error, Result};
use crate::base::mmap::{self, Mmap};
use crate::base::output::{self, OutputDir, is_inner_folder, part_path};
use crate::base::progress::{Progress, Unit, check_interrupted};
use crate::base::resume::{
    CONTINUES, Checkpointing, Earlier, Fingerprint, Journal, Pace, Recorded,
};
use crate::formats::source::{TensorTable, send_parts};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The journal's name in the hidden folder.
const JOURNAL: &str = "aqueduct-resume.json";
/// Counted up when the journal's layout or the meaning of its hashes changes.
const VERSION: u32 = 2;

/// The shards that are on the disk.
#[derive(Default, Serialize, Deserialize)]
struct Shards {
    shards: Vec<WholeShard>,
}

#[derive(Serialize, Deserialize)]
struct WholeShard {
    name: String,
    bytes: u64,
    sha256: String,
}

/// The journal of an output that later runs may resume.
pub(super) struct ShardJournal {
    journal: Journal,
    recorded: Recorded<Shards>,
    /// Number of shards of the output.
    count: usize,
    pace: Pace,
    /// Whether the file lacks shards that are whole.
    outdated: bool,
}

impl ShardJournal {
    /// Looks through `out`, which an earlier run may have left: keeps the shards that this output can
    /// use, verified, and removes everything else.
    pub(super) fn open(
        out: &OutputDir,
        checkpointing: &Checkpointing,
        shards: &[Shard],
        small: &[(String, Vec<u8>)],
        table: &TensorTable,
        progress: &dyn Progress,
    ) -> Result<ShardJournal> {
        let layout = shards.iter().flat_map(|s| [s.name.as_bytes(), &s.header].concat());
        let layout = layout.collect::<Vec<u8>>();
        let what = "the list of tensors, their types or the size of shards";
        let mut checkpointing = checkpointing.clone();
        checkpointing.fingerprints.push(Fingerprint::new(what, layout));

        let journal = Journal::new(out.path().join(JOURNAL), VERSION);
        restore(out, journal.path())?;
        let earlier = journal.read::<Recorded<Shards>>()?;
        if matches!(earlier, Earlier::Nothing) {
            refuse_foreign(out, small)?;
        }
        let found = checkpointing.usable(earlier, out.path(), progress).unwrap_or_default();
        let whole = verify(out, found.shards, shards, table, progress)?;
        clear(out, &whole)?;
        if !whole.is_empty() {
            let (place, n, count) = (out.path().display(), whole.len(), shards.len());
            progress.note(&format!("continuing in {place}: {n} of {count} shards are whole"));
        }
        let fingerprints = checkpointing.fingerprints;
        let mut journal = ShardJournal {
            journal,
            recorded: Recorded { fingerprints, progress: Shards { shards: whole } },
            count: shards.len(),
            pace: Pace::new(checkpointing.every),
            outdated: true,
        };
        // At once, so that later runs recognise the folder as theirs.
        journal.save(out)?;
        Ok(journal)
    }

    fn whole(&self) -> &[WholeShard] {
        &self.recorded.progress.shards
    }

    /// Whether the shard `name` is whole.
    pub(super) fn has(&self, name: &str) -> bool {
        self.whole().iter().any(|whole| whole.name == name)
    }

    pub(super) fn whole_shards(&self) -> usize {
        self.whole().len()
    }

    /// Records `shard`, which is on the disk under its name.
    pub(super) fn record(&mut self, out: &OutputDir, shard: &Shard, sha256: String) -> Result<()> {
        let (name, bytes) = (shard.name.clone(), shard.file_bytes);
        self.recorded.progress.shards.push(WholeShard { name, bytes, sha256 });
        self.outdated = true;
        if self.pace.is_due() { self.save(out) } else { Ok(()) }
    }

    /// Writes the file, if it lacks something.
    fn save(&mut self, out: &OutputDir) -> Result<()> {
        if !std::mem::take(&mut self.outdated) {
            return Ok(());
        }
        let started = Instant::now();
        self.journal.write(&self.recorded)?;
        self.pace.saved(started);
        // The folder is worth keeping once a shard is whole.
        if self.whole_shards() == 0 {
            out.abandon()
        } else {
            out.keep()
        }
        Ok(())
    }

    /// Takes the journal out of the folder: the output is whole and only lacks its name. Until it has the
    /// name, the journal is beside the folder, so that a run that ends just now loses nothing.
    pub(super) fn close(&mut self, out: &OutputDir) -> Result<()> {
        self.save(out)?;
        let path = self.journal.path();
        fs::rename(path, aside(out.path())).map_err(Error::io(path, "rename"))
    }

    /// Saves what a failed run has made, and says where it is, if there is anything.
    pub(super) fn report_kept(mut self, out: &OutputDir, progress: &dyn Progress) {
        // An error is being reported already.
        let saved = self.save(out);
        let (whole, count) = (self.whole_shards(), self.count);
        if whole > 0 && saved.is_ok() {
            progress.warn(&format!(
                "{whole} of {count} shards are whole and stay in {}: {CONTINUES}",
                out.path().display()
            ));
        }
    }
}

/// The journal's path while the folder `hidden` gets its name.
fn aside(hidden: &Path) -> PathBuf {
    let mut name = hidden.as_os_str().to_os_string();
    name.push(".json");
    PathBuf::from(name)
}

/// Removes the journal that a run leaves beside the folder if it ends while the folder `target` gets its
/// name.
///
/// # Errors
/// If it cannot be removed.
pub(crate) fn remove_record(target: &Path) -> Result<()> {
    output::remove_if_exists(&aside(&part_path(target)?))
}

/// Puts the journal that an earlier run has left beside the folder back into it.
fn restore(out: &OutputDir, journal: &Path) -> Result<()> {
    let aside = aside(out.path());
    if !aside.is_file() {
        return Ok(());
    }
    // It belongs to a folder that has its name by now if there is another journal or nothing to record.
    match journal.exists() || entries(out.path())?.is_empty() {
        true => output::remove_if_exists(&aside),
        false => fs::rename(&aside, journal).map_err(Error::io(&aside, "rename")),
    }
}

/// Fails if the folder without a journal holds a file that is not part of an output: nothing of it may be
/// removed then.
fn refuse_foreign(out: &OutputDir, small: &[(String, Vec<u8>)]) -> Result<()> {
    match entries(out.path())?.iter().find(|path| !is_ours(path, small)) {
        None => Ok(()),
        Some(foreign) => Err(Error::Usage(format!(
            "{}: in the way, and not left by this program (it holds {:?}); move it away",
            out.path().display(),
            foreign.file_name().unwrap_or_default()
        ))),
    }
}

/// Whether `path` looks like a file of an output: an unfinished file, a shard, or one of `small`.
fn is_ours(path: &Path, small: &[(String, Vec<u8>)]) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = name.starts_with('.') && name.ends_with(".part");
    let whole = name.ends_with(".safetensors") || small.iter().any(|(other, _)| *other == name);
    match path.is_dir() {
        true => is_inner_folder(path),
        false => unfinished || whole,
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let list = fs::read_dir(dir).map_err(Error::io(dir, "list"))?;
    let entry = |entry: std::io::Result<fs::DirEntry>| {
        entry.map(|entry| entry.path()).map_err(Error::io(dir, "list"))
    };
    list.map(entry).collect()
}

/// Returns those of `found` that are shards of the output and whose bytes are as recorded.
fn verify(
    out: &OutputDir,
    found: Vec<WholeShard>,
    shards: &[Shard],
    table: &TensorTable,
    progress: &dyn Progress,
) -> Result<Vec<WholeShard>> {
    if found.is_empty() {
        return Ok(found);
    }
    progress.begin("verify", found.iter().map(|whole| whole.bytes).sum(), Unit::Bytes);
    let mut kept: Vec<WholeShard> = Vec::new();
    for whole in found {
        check_interrupted()?;
        let shard = shards.iter().find(|shard| shard.name == whole.name);
        let Some(shard) = shard.filter(|_| kept.iter().all(|other| other.name != whole.name))
        else {
            continue;
        };
        progress.detail(&whole.name);
        let path = out.path().join(&shard.name);
        if hash_file(&path, shard, table, progress)?.as_ref() == Some(&whole.sha256) {
            kept.push(whole);
        } else {
            let place = path.display();
            progress.warn(&format!("{place}: not as it was written; this shard is made again"));
        }
    }
    progress.end();
    Ok(kept)
}

/// Returns the hash of the file `path`, if it has the size and the header of `shard`.
fn hash_file(
    path: &Path,
    shard: &Shard,
    table: &TensorTable,
    progress: &dyn Progress,
) -> Result<Option<String>> {
    let meta = fs::symlink_metadata(path);
    if !meta.is_ok_and(|meta| meta.is_file() && meta.len() == shard.file_bytes) {
        return Ok(None);
    }
    let map = Mmap::open(path)?;
    if !map.starts_with(&shard.header) {
        return Ok(None);
    }
    let hashes = PartHashes::new(shard, table);
    for (position, (&index, &start)) in shard.tensors.iter().zip(&shard.starts).enumerate() {
        let (start, bytes) = (start as usize, table.infos()[index].bytes().unwrap_or(0));
        let Some(data) = map.get(start..start + bytes) else { return Ok(None) };
        mmap::will_need(data);
        send_parts(data, &|offset, part| {
            check_interrupted()?;
            hashes.add(position, offset, part);
            progress.advance(part.len() as u64);
            mmap::release_pages(part);
            Ok(())
        })?;
    }
    Ok(hashes.finish(shard))
}

/// Removes everything from `out` except the journal and the shards in `whole`.
fn clear(out: &OutputDir, whole: &[WholeShard]) -> Result<()> {
    for path in entries(out.path())? {
        let name = path.file_name().unwrap_or_default();
        if name == JOURNAL || whole.iter().any(|whole| name == whole.name.as_str()) {
            continue;
        }
        match is_inner_folder(&path) {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        }
        .map_err(Error::io(&path, "remove"))?;
    }
    Ok(())
}
