//! Continuing a folder whose writing was interrupted: which of its shards are whole, and whether they
//! belong to the folder that is wanted now.
//!
//! The hidden folder of an output under way holds a journal beside the shards: what the output is made
//! from ([`Fingerprint`]s), and size and hash of every shard that is on the disk. A run with equal fingerprints
//! verifies those shards and makes the others; any other run starts anew and says why. Deliberately
//! absent: continuing within a shard, and hashing weights of the inputs, which would take as long as
//! merging them.

use super::write::Shard;
use crate::base::error::{Error, Result};
use crate::base::hash;
use crate::base::mmap::{self, Mmap};
use crate::base::output::{OutputDir, is_inner_folder, part_path};
use crate::base::progress::{Progress, Unit, check_interrupted};
use crate::formats::source::{PART_BYTES, TensorTable, send_parts};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use xxhash_rust::xxh3::xxh3_128;

/// The journal's name in the hidden folder.
const JOURNAL: &str = "aqueduct-resume.json";
/// Counted up when the journal's layout or the meaning of its hashes changes.
const VERSION: u32 = 2;
/// A journal has some KB; a larger file is none.
const LARGEST: u64 = 16 << 20;

/// Something an output is made from, as a hash: two runs may share shards only if all their fingerprints are
/// equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// What it is, as a message names it: "the recipe".
    pub what: String,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

impl Fingerprint {
    /// The fingerprint of `what`, of which `bytes` tell all that matters.
    pub fn new(what: impl Into<String>, bytes: impl AsRef<[u8]>) -> Fingerprint {
        Fingerprint { what: what.into(), sha256: hash::sha256(bytes) }
    }
}

/// How to continue what an earlier run has left.
#[derive(Clone, Debug, Default)]
pub struct Resume {
    /// What the output is made from, besides its tensors' names, shapes and types.
    pub fingerprints: Vec<Fingerprint>,
    /// Discard what is there and start anew.
    pub restart: bool,
}

/// The hashes of a shard's parts, filled in as they are written or read.
pub(super) struct PartHashes {
    /// Of each tensor of the shard, of each part.
    parts: Vec<Vec<OnceLock<[u8; 16]>>>,
}

impl PartHashes {
    pub(super) fn new(shard: &Shard, table: &TensorTable) -> PartHashes {
        let bytes = |&index: &usize| table.infos()[index].bytes().unwrap_or(0);
        let slots = |bytes: usize| (0..bytes.div_ceil(PART_BYTES)).map(|_| OnceLock::new());
        PartHashes { parts: shard.tensors.iter().map(|i| slots(bytes(i)).collect()).collect() }
    }

    /// Takes the part at `offset` of the shard's tensor number `position`.
    pub(super) fn add(&self, position: usize, offset: usize, part: &[u8]) {
        if let Some(slot) = self.parts[position].get(offset / PART_BYTES) {
            // Against damage, not against forgery, and as fast as memory: SHA-256 would take a third of
            // the time that handing a tensor through takes.
            slot.get_or_init(|| xxh3_128(part).to_le_bytes());
        }
    }

    /// The shard's hash, or `None` if a part is missing: SHA-256 of its header and of the XXH3 (128 bits) of each part
    /// ([`PART_BYTES`]) of each tensor, in the order of the file. Of parts, so that threads can take them in any order.
    pub(super) fn finish(&self, shard: &Shard) -> Option<String> {
        let mut hasher = Sha256::new();
        hasher.update(&shard.header);
        for part in self.parts.iter().flatten() {
            hasher.update(part.get()?);
        }
        Some(hash::hex(hasher.finalize()))
    }
}

#[derive(Serialize, Deserialize)]
struct Contents {
    version: u32,
    #[serde(rename = "marks")]
    fingerprints: Vec<Fingerprint>,
    shards: Vec<Whole>,
}

/// A shard that is on the disk.
#[derive(Serialize, Deserialize)]
struct Whole {
    name: String,
    bytes: u64,
    sha256: String,
}

/// The record of an output that later runs may continue.
pub(super) struct Journal {
    contents: Contents,
    /// Shards of the output.
    count: usize,
}

impl Journal {
    /// Looks through `out`, which an earlier run may have left: keeps the shards that this output can
    /// use, verified, and removes everything else.
    pub(super) fn open(
        out: &OutputDir,
        resume: &Resume,
        shards: &[Shard],
        small: &[(String, Vec<u8>)],
        table: &TensorTable,
        progress: &dyn Progress,
    ) -> Result<Journal> {
        let layout = shards.iter().flat_map(|s| [s.name.as_bytes(), &s.header].concat());
        let layout = layout.collect::<Vec<u8>>();
        let mut fingerprints = resume.fingerprints.clone();
        fingerprints.push(Fingerprint::new(
            "the list of tensors, their types or the size of shards",
            layout,
        ));
        let left = read(out, small)?;
        let reason = match &left {
            Left::Nothing => None,
            Left::Unreadable => Some("its record cannot be read".to_string()),
            Left::Contents(_) if resume.restart => None,
            Left::Contents(contents) => changed(&contents.fingerprints, &fingerprints),
        };
        let found = match left {
            Left::Contents(contents) if reason.is_none() && !resume.restart => contents.shards,
            _ => Vec::new(),
        };
        if let Some(reason) = reason {
            let place = out.path().display();
            progress.warn(&format!("{place}: left by an interrupted run; starting anew: {reason}"));
        }
        let whole = verify(out, found, shards, table, progress)?;
        clear(out, &whole)?;
        if !whole.is_empty() {
            let (place, n, count) = (out.path().display(), whole.len(), shards.len());
            progress.note(&format!("continuing in {place}: {n} of {count} shards are whole"));
        }
        let contents = Contents { version: VERSION, fingerprints, shards: whole };
        let journal = Journal { contents, count: shards.len() };
        // At once, so that the folder can be told from anything else of its name.
        journal.write(out)?;
        Ok(journal)
    }

    /// Whether `shard` is there already.
    pub(super) fn has(&self, shard: &Shard) -> bool {
        self.contents.shards.iter().any(|whole| whole.name == shard.name)
    }

    pub(super) fn whole_shards(&self) -> usize {
        self.contents.shards.len()
    }

    /// Records `shard`, which is on the disk under its name.
    pub(super) fn record(&mut self, out: &OutputDir, shard: &Shard, sha256: String) -> Result<()> {
        let (name, bytes) = (shard.name.clone(), shard.file_bytes);
        self.contents.shards.push(Whole { name, bytes, sha256 });
        self.write(out)
    }

    fn write(&self, out: &OutputDir) -> Result<()> {
        let text = serde_json::to_vec_pretty(&self.contents).expect("plain data serialize");
        let mut file = out.replacement(JOURNAL)?;
        file.append(&text)?;
        file.commit()?;
        // From here on the folder is worth keeping, or not yet.
        if self.whole_shards() == 0 {
            out.abandon()
        } else {
            out.keep()
        }
        Ok(())
    }

    /// Takes the record out of the folder: the output is whole and only lacks its name. Until it has that the record
    /// is beside it, so that a run that ends just now loses nothing.
    pub(super) fn close(&self, out: &OutputDir) -> Result<()> {
        let path = out.path().join(JOURNAL);
        fs::rename(&path, aside(out.path())).map_err(Error::io(&path, "rename"))
    }

    /// What to tell the user of a run that has failed, if it leaves anything.
    pub(super) fn report_kept(&self, out: &OutputDir) -> Option<String> {
        let (whole, count) = (self.whole_shards(), self.count);
        (whole > 0).then(|| {
            format!(
                "{whole} of {count} shards are whole and stay in {}: the same command continues after \
                 them, with --restart it starts anew; remove the folder if you want neither",
                out.path().display()
            )
        })
    }
}

/// Where the record is while the folder `hidden` gets its name.
fn aside(hidden: &Path) -> PathBuf {
    let mut name = hidden.as_os_str().to_os_string();
    name.push(".json");
    PathBuf::from(name)
}

/// Removes the record that a run may have left that was ended when the folder `target` got its name.
///
/// # Errors
/// If it cannot be removed.
pub fn remove_record(target: &Path) -> Result<()> {
    let path = aside(&part_path(target)?);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&path, "remove")(e)),
        _ => Ok(()),
    }
}

/// What an earlier run has left.
enum Left {
    Nothing,
    Unreadable,
    Contents(Contents),
}

fn read(out: &OutputDir, small: &[(String, Vec<u8>)]) -> Result<Left> {
    let path = out.path().join(JOURNAL);
    let aside = aside(out.path());
    if aside.is_file() {
        // Of a folder that has its name by now, if there is another record or nothing to tell of.
        match path.exists() || entries(out.path())?.is_empty() {
            true => fs::remove_file(&aside).map_err(Error::io(&aside, "remove"))?,
            false => fs::rename(&aside, &path).map_err(Error::io(&aside, "rename"))?,
        }
    }
    match fs::symlink_metadata(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            // No record: nothing yet, or a run that ended just before the folder got its name. Or not
            // ours, and then nothing may be removed.
            return match entries(out.path())?.iter().find(|path| !is_ours(path, small)) {
                None => Ok(Left::Nothing),
                Some(foreign) => Err(Error::Usage(format!(
                    "{}: in the way, and not left by this program (it holds {:?}); move it away",
                    out.path().display(),
                    foreign.file_name().unwrap_or_default()
                ))),
            };
        }
        Err(e) => return Err(Error::io(&path, "examine")(e)),
        Ok(meta) if !meta.is_file() || meta.len() > LARGEST => return Ok(Left::Unreadable),
        Ok(_) => {}
    }
    let text = fs::read(&path).map_err(Error::io(&path, "read"))?;
    match serde_json::from_slice::<Contents>(&text) {
        Ok(contents) if contents.version == VERSION => Ok(Left::Contents(contents)),
        _ => Ok(Left::Unreadable),
    }
}

/// Whether `path` looks like a file of an output: one that was not finished, a shard, or one of `small`.
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

/// Why an output with the fingerprints `now` cannot use what was made for one with the fingerprints `before`; `None` if it can.
pub fn changed(before: &[Fingerprint], now: &[Fingerprint]) -> Option<String> {
    let missing_in = |fingerprints: &[Fingerprint], fingerprint: &Fingerprint| {
        !fingerprints.iter().any(|m| m.what == fingerprint.what)
    };
    let other = now.iter().filter(|fingerprint| !before.contains(fingerprint));
    let mut reasons: Vec<String> = other
        .map(|fingerprint| match missing_in(before, fingerprint) {
            true => format!("{} is new", fingerprint.what),
            false => format!("{} changed", fingerprint.what),
        })
        .collect();
    let gone = before.iter().filter(|fingerprint| missing_in(now, fingerprint));
    reasons.extend(gone.map(|fingerprint| format!("{} is gone", fingerprint.what)));
    (!reasons.is_empty()).then(|| reasons.join(", "))
}

/// Those of `found` that are shards of the output and have their bytes.
fn verify(
    out: &OutputDir,
    found: Vec<Whole>,
    shards: &[Shard],
    table: &TensorTable,
    progress: &dyn Progress,
) -> Result<Vec<Whole>> {
    if found.is_empty() {
        return Ok(found);
    }
    progress.begin("verify", found.iter().map(|whole| whole.bytes).sum(), Unit::Bytes);
    let mut kept: Vec<Whole> = Vec::new();
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

/// The hash of the file `path` if it is a file of the size and with the header of `shard`.
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

/// Removes everything from `out` but the journal and the shards in `whole`.
fn clear(out: &OutputDir, whole: &[Whole]) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_name_what_changed_came_and_went() {
        let fingerprint = |what: &str, bytes: &str| Fingerprint::new(what, bytes);
        let before = [
            fingerprint("the recipe", "a"),
            fingerprint("member 'x'", "b"),
            fingerprint("member 'y'", "c"),
        ];
        assert_eq!(changed(&before, &before), None);
        let now = [
            fingerprint("the recipe", "z"),
            fingerprint("member 'x'", "b"),
            fingerprint("member 'w'", "c"),
        ];
        let expected = "the recipe changed, member 'w' is new, member 'y' is gone";
        assert_eq!(changed(&before, &now).as_deref(), Some(expected));
    }
}
