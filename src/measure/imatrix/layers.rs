//! The state of a run between two layers, saved on the way, so that an interrupted run loses no more than the layers
//! since then.
//!
//! One hidden file, `.NAME.layers.part` beside the output, replaced whole:
//!
//! ```text
//! bytes of the header   u64
//! header                JSON: what the run is of, layers that are done, the sums' names and counts
//! sums                  f32, entry after entry
//! hidden states         f32, a row for each token
//! hash                  XXH3 (128 bits) of all before
//! ```
//!
//! All little-endian. Deliberately absent: saving within a layer, and runs that take their chunks in several passes,
//! which [`super::Saving`] saves between passes.

use super::record::Record;
use super::{Entry, check_entry};
use crate::base::error::{Error, Result};
use crate::base::output::{self, OutputFile, Pace};
use crate::base::progress::Progress;
use crate::base::size;
use crate::model::forward::{Resumed, Snapshot};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::Xxh3;

/// Counted up when the layout changes.
const VERSION: u32 = 1;
/// A header has some hundred KB; a much larger one is none.
const LARGEST: u64 = 64 << 20;
const PIECE: usize = 1 << 20;
const HASH_BYTES: u64 = 16;

/// Keeps the state of a run from layer to layer.
pub struct LayerKeeping<'g> {
    path: PathBuf,
    /// Asked before anything is saved: whether what the run is of is still the same.
    guard: &'g (dyn Fn() -> Result<()> + Sync),
    pace: Pace,
    /// Layers in the file, as far as this run knows.
    saved: AtomicUsize,
    /// Whether saving is given up.
    off: AtomicBool,
}

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    run: Identity,
    layers: usize,
    entries: Vec<Counts>,
    /// Elements.
    states: u64,
}

/// What a run is of: only the same one may go on from its state.
#[derive(PartialEq, Serialize, Deserialize)]
struct Identity {
    model: String,
    text: String,
    settings: Vec<String>,
    /// First chunk and the one after the last.
    chunks: (u32, u32),
}

#[derive(Serialize, Deserialize)]
struct Counts {
    tensor: String,
    sums: u64,
    counts: Vec<i64>,
}

impl Identity {
    fn of(run: &Record, first: u32, chunks: usize) -> Identity {
        Identity {
            model: run.model.clone(),
            text: run.text.clone(),
            settings: run.settings.clone(),
            chunks: (first, first.saturating_add(chunks as u32)),
        }
    }
}

/// What an earlier run had done.
pub(super) struct Loaded {
    pub entries: BTreeMap<String, Entry>,
    pub layers: usize,
    states: BufReader<io::Take<File>>,
}

impl Loaded {
    /// The hidden states, for a pass that goes on; once.
    pub(super) fn resume(self) -> Resumed {
        Resumed { layers: self.layers, states: Box::new(self.states) }
    }
}

impl<'g> LayerKeeping<'g> {
    /// Keeps the state beside the output `target`, saving it when `every` has passed since the last time, or more
    /// where saving takes long, and only while `guard` finds nothing wrong.
    ///
    /// # Errors
    /// If `target` is no name for a file.
    pub fn new(
        target: &Path,
        every: Duration,
        guard: &'g (dyn Fn() -> Result<()> + Sync),
    ) -> Result<LayerKeeping<'g>> {
        let mut name = target.file_name().unwrap_or_default().to_os_string();
        name.push(".layers");
        let path = output::part_path(&target.with_file_name(name))?;
        Ok(LayerKeeping {
            path,
            guard,
            pace: Pace::new(every),
            saved: AtomicUsize::new(0),
            off: AtomicBool::new(false),
        })
    }

    /// Layers that are saved, as far as this run knows.
    pub fn saved(&self) -> usize {
        self.saved.load(Ordering::Relaxed)
    }

    /// Removes the state: the output is whole, or made anew.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn finish(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(&self.path, "remove")(e))
            }
            _ => Ok(()),
        }
    }

    /// The state of an earlier run of the `chunks` chunks from `first` on; `None`, with a warning where something is
    /// there, if it is of something else or damaged.
    pub(super) fn load(
        &self,
        run: &Record,
        (first, chunks): (u32, usize),
        progress: &dyn Progress,
    ) -> Result<Option<Loaded>> {
        if !fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.is_file()) {
            return Ok(None);
        }
        let place = self.path.display();
        let (header, loaded) = match self.read() {
            Ok(read) => read,
            Err(e) => {
                let text = format!("{place}: cannot be continued; starting anew: {e}");
                progress.warn(&text);
                return Ok(None);
            }
        };
        if header.run != Identity::of(run, first, chunks) {
            let reason = "it is of another model, text or settings";
            progress.warn(&format!("{place}: left by an interrupted run; starting anew: {reason}"));
            return Ok(None);
        }
        let layers = header.layers;
        progress.note(&format!("continuing from {place}: {layers} layers are done"));
        self.saved.store(layers, Ordering::Relaxed);
        Ok(Some(loaded))
    }

    fn read(&self) -> Result<(Header, Loaded)> {
        let fail = |detail: &str| Error::format(&self.path, detail);
        let read_error = |e| Error::io(&self.path, "read")(e);
        let open = || File::open(&self.path).map_err(Error::io(&self.path, "open"));
        let whole = open()?.metadata().map_err(read_error)?.len();
        let body = whole.checked_sub(HASH_BYTES).ok_or_else(|| fail("too short"))?;
        let mut file = open()?;
        let (mut hash, mut left, mut piece) = (Xxh3::new(), body, vec![0; PIECE]);
        while left > 0 {
            let part = &mut piece[..left.min(PIECE as u64) as usize];
            file.read_exact(part).map_err(read_error)?;
            hash.update(part);
            left -= part.len() as u64;
        }
        let mut expected = [0; HASH_BYTES as usize];
        file.read_exact(&mut expected).map_err(read_error)?;
        if hash.digest128().to_le_bytes() != expected {
            return Err(fail("it is damaged"));
        }
        let mut file = BufReader::with_capacity(PIECE, open()?.take(body));
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(read_error)?;
        let length = u64::from_le_bytes(length);
        if length > LARGEST.min(body) {
            return Err(fail("its header is too long"));
        }
        let mut text = vec![0; length as usize];
        file.read_exact(&mut text).map_err(read_error)?;
        let header: Header =
            serde_json::from_slice(&text).map_err(|_| fail("its header is of another kind"))?;
        let sums = header.entries.iter().try_fold(0u64, |all, entry| all.checked_add(entry.sums));
        let elements = sums.and_then(|sums| sums.checked_add(header.states)?.checked_mul(4));
        let expected = elements.and_then(|bytes| bytes.checked_add(8 + length));
        if header.version != VERSION || expected != Some(body) {
            return Err(fail("its header is of another kind"));
        }
        let mut entries = BTreeMap::new();
        for Counts { tensor, sums, counts } in &header.entries {
            let mut bytes = vec![0; *sums as usize * 4];
            file.read_exact(&mut bytes).map_err(read_error)?;
            let sums = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            let entry = Entry { sums, counts: counts.clone() };
            check_entry(&self.path, tensor, &entry)?;
            entries.insert(tensor.clone(), entry);
        }
        let layers = header.layers;
        Ok((header, Loaded { entries, layers, states: file }))
    }

    /// Whether it is time to save.
    pub(super) fn is_due(&self) -> bool {
        !self.off.load(Ordering::Relaxed) && self.pace.is_due()
    }

    /// As [`LayerKeeping::save`], but where there is no space for the state the run goes on without.
    pub(super) fn save_if_possible(
        &self,
        run: &Record,
        place: (u32, usize),
        layers: usize,
        entries: &BTreeMap<String, Entry>,
        snapshot: &mut Snapshot<'_>,
        progress: &dyn Progress,
    ) -> Result<()> {
        match self.save(run, place, layers, entries, snapshot) {
            Err(e) if e.is_lack_of_space() => {
                let needed = size::display(4 * snapshot.elements());
                let path = self.path.display();
                progress.warn(&format!(
                    "{path}: no space for the {needed} of the run's state; it goes on without saving that"
                ));
                self.off.store(true, Ordering::Relaxed);
                Ok(())
            }
            saved => saved,
        }
    }

    /// Replaces the state: `layers` layers are done, and made `entries` and the states of `snapshot`.
    fn save(
        &self,
        run: &Record,
        (first, chunks): (u32, usize),
        layers: usize,
        entries: &BTreeMap<String, Entry>,
        snapshot: &mut Snapshot<'_>,
    ) -> Result<()> {
        let started = Instant::now();
        (self.guard)()?;
        let header = Header {
            version: VERSION,
            run: Identity::of(run, first, chunks),
            layers,
            entries: entries
                .iter()
                .map(|(tensor, entry)| Counts {
                    tensor: tensor.clone(),
                    sums: entry.sums.len() as u64,
                    counts: entry.counts.clone(),
                })
                .collect(),
            states: snapshot.elements(),
        };
        let header = serde_json::to_vec(&header).expect("plain data serialize");
        let mut file = OutputFile::create(&self.path, true)?;
        let mut hash = Xxh3::new();
        let mut append = |bytes: &[u8]| {
            hash.update(bytes);
            file.append(bytes)
        };
        append(&(header.len() as u64).to_le_bytes())?;
        append(&header)?;
        for entry in entries.values() {
            let sums: Vec<u8> = entry.sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
            append(&sums)?;
        }
        snapshot.write(&mut append)?;
        file.append(&hash.digest128().to_le_bytes())?;
        file.commit()?;
        self.saved.store(layers, Ordering::Relaxed);
        self.pace.saved(started);
        Ok(())
    }
}
