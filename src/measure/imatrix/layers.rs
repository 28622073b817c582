//! The state of a run between two layers, saved so that an interrupted run loses only the layers since.
//!
//! One hidden file, `.NAME.layers.part` beside the output, replaced whole:
//!
//! ```text
//! bytes of the header   u64
//! header                JSON: fingerprints of the run, layers that are done, names and counts of the sums
//! sums                  f32, entry after entry
//! hidden states         f32, a row for each token
//! hash                  XXH3 (128 bits) of everything before
//! ```
//!
//! All numbers are little-endian. Not here: saving within a layer.

use super::record::Record;
use super::{Entry, check_entry};
use crate::base::error::{Error, Result};
use crate::base::output::{self, OutputFile};
use crate::base::progress::Progress;
use crate::base::resume::{CONTINUES, Checkpointing, Earlier, Fingerprint, Pace, Recorded};
use crate::base::size;
use crate::model::forward::{Resumed, Snapshot};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;
use xxhash_rust::xxh3::Xxh3;

/// Counted up when the layout changes.
const VERSION: u32 = 2;
/// Every header begins with this.
const MAGIC: &[u8] = b"{\"version\":";
/// A header has some hundred KB; a much longer one is damaged.
const LARGEST: u64 = 64 << 20;
const PIECE: usize = 1 << 20;
const HASH_BYTES: u64 = 16;

/// Saves the state of a run between layers, and loads that of an earlier run.
pub struct LayerCheckpoints<'g> {
    path: PathBuf,
    checkpointing: Checkpointing,
    /// Fails if what the run is made from has changed. Called before anything is saved.
    guard: &'g (dyn Fn() -> Result<()> + Sync),
    pace: Pace,
    /// Layers in the file, as far as this run has seen.
    saved: AtomicUsize,
    /// Set once saving is given up.
    off: AtomicBool,
}

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    #[serde(flatten)]
    recorded: Recorded<Layers>,
}

/// What is done.
#[derive(Serialize, Deserialize)]
struct Layers {
    layers: usize,
    entries: Vec<Counts>,
    /// Elements of the hidden states.
    states: u64,
}

#[derive(Serialize, Deserialize)]
struct Counts {
    tensor: String,
    sums: u64,
    counts: Vec<i64>,
}

/// What an earlier run had done.
pub(super) struct Loaded {
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) layers: usize,
    states: BufReader<io::Take<File>>,
}

impl Loaded {
    /// The hidden states, for a pass that resumes.
    pub(super) fn resume(self) -> Resumed {
        Resumed { layers: self.layers, states: Box::new(self.states) }
    }
}

/// The run whose state is saved: its record, its first chunk in the text, and its number of chunks.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    pub(super) record: &'a Record,
    pub(super) first: u32,
    pub(super) chunks: usize,
}

impl Run<'_> {
    fn fingerprints(&self) -> Vec<Fingerprint> {
        let Record { model, text, settings, .. } = self.record;
        let chunks = format!("{} {}", self.first, self.chunks);
        let mut fingerprints = vec![
            Fingerprint::new("the model", model),
            Fingerprint::new("the text", text),
            Fingerprint::new("the choice of chunks", chunks),
        ];
        fingerprints.extend(settings.iter().map(|setting| {
            let name = setting.split(" = ").next().unwrap_or_default().replace('_', "-");
            Fingerprint::new(format!("--{name}"), setting)
        }));
        fingerprints
    }
}

impl<'g> LayerCheckpoints<'g> {
    /// Saves the state beside the output `target`, as `checkpointing` says, and only while `guard` does
    /// not fail.
    ///
    /// # Errors
    /// If `target` has no file name.
    pub fn new(
        target: &Path,
        checkpointing: Checkpointing,
        guard: &'g (dyn Fn() -> Result<()> + Sync),
    ) -> Result<LayerCheckpoints<'g>> {
        let mut name = target.file_name().unwrap_or_default().to_os_string();
        name.push(".layers");
        let path = output::part_path(&target.with_file_name(name))?;
        let pace = Pace::new(checkpointing.every);
        let (saved, off) = (AtomicUsize::new(0), AtomicBool::new(false));
        Ok(LayerCheckpoints { path, checkpointing, guard, pace, saved, off })
    }

    /// Returns the number of layers that are saved, as far as this run has seen.
    pub fn saved(&self) -> usize {
        self.saved.load(Ordering::Relaxed)
    }

    /// Removes the state, once the output is whole or is made anew.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn finish(&self) -> Result<()> {
        output::remove_if_exists(&self.path)
    }

    /// Warns of what a failed run leaves, if it leaves anything.
    pub fn report_kept(&self, progress: &dyn Progress) {
        let layers = self.saved();
        if layers > 0 {
            progress.warn(&format!(
                "{layers} layers are done and stay in {}: {CONTINUES}",
                self.path.display()
            ));
        }
    }

    /// Returns the state of an earlier run of the same chunks. Warns, and returns `None`, if what is there
    /// belongs to another run or is damaged.
    ///
    /// # Errors
    /// If something is in the way that is not a saved state.
    pub(super) fn load(&self, run: Run<'_>, progress: &dyn Progress) -> Result<Option<Loaded>> {
        self.refuse_foreign()?;
        let place = self.path.display();
        if !self.path.exists() {
            return Ok(None);
        }
        let (recorded, loaded) = match self.read() {
            Ok(read) => read,
            Err(e) => {
                progress.warn(&format!("{place}: cannot be continued; starting anew: {e}"));
                return Ok(None);
            }
        };
        let checkpointing = self.with_fingerprints_of(run);
        let earlier = Earlier::Found(recorded);
        if checkpointing.usable(earlier, &self.path, progress).is_none() {
            return Ok(None);
        }
        let layers = loaded.layers;
        progress.note(&format!("continuing from {place}: {layers} layers are done"));
        self.saved.store(layers, Ordering::Relaxed);
        Ok(Some(loaded))
    }

    fn with_fingerprints_of(&self, run: Run<'_>) -> Checkpointing {
        let mut checkpointing = self.checkpointing.clone();
        checkpointing.fingerprints.extend(run.fingerprints());
        checkpointing
    }

    /// Fails if something that no run has saved has the state's name.
    fn refuse_foreign(&self) -> Result<()> {
        let refuse = |why: &str| {
            let place = self.path.display();
            let text = format!("{place}: in the way, and not a saved state ({why}); move it away");
            Err(Error::Usage(text))
        };
        match fs::symlink_metadata(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io(&self.path, "examine")(e)),
            Ok(meta) if !meta.is_file() => return refuse("it is not a file"),
            Ok(_) => {}
        }
        let mut head = Vec::new();
        let file = File::open(&self.path).map_err(Error::io(&self.path, "open"))?;
        let length = 8 + MAGIC.len() as u64;
        file.take(length).read_to_end(&mut head).map_err(Error::io(&self.path, "read"))?;
        match head.get(8..) {
            Some(MAGIC) => Ok(()),
            _ => refuse("it has another format"),
        }
    }

    /// Reads the file and verifies its hash.
    fn read(&self) -> Result<(Recorded<Layers>, Loaded)> {
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
        let Header { version, recorded } = header;
        let Layers { layers, entries: counts, states } = &recorded.progress;
        let sums = counts.iter().try_fold(0u64, |all, entry| all.checked_add(entry.sums));
        let elements = sums.and_then(|sums| sums.checked_add(*states)?.checked_mul(4));
        let expected = elements.and_then(|bytes| bytes.checked_add(8 + length));
        if version != VERSION || expected != Some(body) {
            return Err(fail("its header is of another kind"));
        }
        let mut entries = BTreeMap::new();
        for Counts { tensor, sums, counts } in counts {
            let mut bytes = vec![0; *sums as usize * 4];
            file.read_exact(&mut bytes).map_err(read_error)?;
            let sums = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            let entry = Entry { sums, counts: counts.clone() };
            check_entry(&self.path, tensor, &entry)?;
            entries.insert(tensor.clone(), entry);
        }
        let layers = *layers;
        Ok((recorded, Loaded { entries, layers, states: file }))
    }

    /// Whether it is time to save.
    pub(super) fn is_due(&self) -> bool {
        !self.off.load(Ordering::Relaxed) && self.pace.is_due()
    }

    /// Replaces the state: `layers` layers are done, and made `entries` and the states of `snapshot`. Where
    /// there is no space for it, the run goes on without saving, and a warning says so.
    pub(super) fn save(
        &self,
        run: Run<'_>,
        layers: usize,
        entries: &BTreeMap<String, Entry>,
        snapshot: &mut Snapshot<'_>,
        progress: &dyn Progress,
    ) -> Result<()> {
        match self.write(run, layers, entries, snapshot) {
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

    fn write(
        &self,
        run: Run<'_>,
        layers: usize,
        entries: &BTreeMap<String, Entry>,
        snapshot: &mut Snapshot<'_>,
    ) -> Result<()> {
        let started = Instant::now();
        (self.guard)()?;
        let counts = entries.iter().map(|(tensor, entry)| Counts {
            tensor: tensor.clone(),
            sums: entry.sums.len() as u64,
            counts: entry.counts.clone(),
        });
        let progress = Layers { layers, entries: counts.collect(), states: snapshot.elements() };
        let fingerprints = self.with_fingerprints_of(run).fingerprints;
        let header = Header { version: VERSION, recorded: Recorded { fingerprints, progress } };
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
