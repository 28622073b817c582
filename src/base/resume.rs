//! Resuming interrupted work: what an output is made from, a journal of what is whole, and when to save.
//!
//! Merging, importance matrices, quantizing and builds resume alike. A run reads the journal that an
//! earlier one has left. If the fingerprints are the same, it verifies what the journal lists and makes
//! the rest; otherwise it starts anew and says why. Not here: what each kind of work records, and the
//! hidden files that hold it ([`crate::base::output`]).

use crate::base::error::{Error, Result};
use crate::base::hash;
use crate::base::output;
use crate::base::progress::Progress;
use crate::base::sync::lock;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

/// Seconds of work between two savings, unless the user chooses another number.
pub const DEFAULT_SAVE_EVERY: Duration = Duration::from_secs(30);

/// A hash of something that an output is made from. A run may use what another one made only if all
/// fingerprints of both are equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// What it is, as a message names it: "the recipe".
    pub what: String,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

impl Fingerprint {
    /// Returns the fingerprint of `what`; `bytes` must contain everything that matters about it.
    pub fn new(what: impl Into<String>, bytes: impl AsRef<[u8]>) -> Fingerprint {
        Fingerprint { what: what.into(), sha256: hash::sha256(bytes) }
    }

    /// Returns the fingerprint of this program's version.
    pub fn of_program() -> Fingerprint {
        Fingerprint::new("this program's version", env!("CARGO_PKG_VERSION"))
    }
}

/// Describes a file without reading it: a line with its name, size and time of change. `None` if the
/// file cannot be examined.
pub(crate) fn describe_file(path: &Path) -> Option<String> {
    let meta = fs::metadata(path).ok()?;
    let changed = meta.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(format!("{:?} {} {}\n", path.file_name()?, meta.len(), changed.as_nanos()))
}

/// Returns why an output with the fingerprints `now` cannot use what was made with the fingerprints
/// `before`; `None` if it can.
pub fn difference(before: &[Fingerprint], now: &[Fingerprint]) -> Option<String> {
    let missing_in =
        |list: &[Fingerprint], one: &Fingerprint| !list.iter().any(|other| other.what == one.what);
    let other = now.iter().filter(|one| !before.contains(one));
    let mut reasons: Vec<String> = other
        .map(|one| match missing_in(before, one) {
            true => format!("{} is new", one.what),
            false => format!("{} changed", one.what),
        })
        .collect();
    let gone = before.iter().filter(|one| missing_in(now, one));
    reasons.extend(gone.map(|one| format!("{} is gone", one.what)));
    (!reasons.is_empty()).then(|| reasons.join(", "))
}

/// How a run saves its progress, and whether it resumes an earlier one.
#[derive(Clone, Debug)]
pub struct Checkpointing {
    /// What the output is made from, besides what the work itself adds.
    pub fingerprints: Vec<Fingerprint>,
    /// Discard what an earlier run has left, and start anew.
    pub restart: bool,
    /// Time of work between two savings; longer where saving takes long.
    pub every: Duration,
}

impl Checkpointing {
    /// Resumes work with these fingerprints, and saves every 30 s.
    pub fn new(fingerprints: Vec<Fingerprint>) -> Checkpointing {
        Checkpointing { fingerprints, restart: false, every: DEFAULT_SAVE_EVERY }
    }

    /// Returns the progress that an earlier run of the same work has left. Warns with the reason if there
    /// is something at `place` that cannot be used, unless starting anew is what the user wants.
    pub(crate) fn usable<T>(
        &self,
        earlier: Earlier<Recorded<T>>,
        place: &Path,
        progress: &dyn Progress,
    ) -> Option<T> {
        let reason = match earlier {
            Earlier::Nothing => return None,
            Earlier::Unreadable => "its record cannot be read".to_string(),
            Earlier::Found(_) if self.restart => return None,
            Earlier::Found(recorded) => {
                match difference(&recorded.fingerprints, &self.fingerprints) {
                    None => return Some(recorded.progress),
                    Some(reason) => reason,
                }
            }
        };
        let place = place.display();
        progress.warn(&format!("{place}: left by an interrupted run; starting anew: {reason}"));
        None
    }
}

/// What an earlier run has left.
pub(crate) enum Earlier<T> {
    /// No journal.
    Nothing,
    /// Something that is not a journal of this version.
    Unreadable,
    /// A journal with these contents.
    Found(T),
}

/// The contents of a journal for one output: what it is made from, and what of it is whole.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Recorded<T> {
    #[serde(alias = "marks")]
    pub(crate) fingerprints: Vec<Fingerprint>,
    #[serde(flatten)]
    pub(crate) progress: T,
}

/// A JSON file that records progress. It is replaced whole, so a run that is killed at any moment leaves
/// a whole one.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    version: u32,
}

/// Journals have at most some MB; a file larger than this is not one.
const LARGEST_JOURNAL: u64 = 256 << 20;

/// A journal's contents with the version of their layout.
#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    contents: T,
}

impl Journal {
    /// The journal at `path`. Count `version` up when the layout or the meaning of hashes changes.
    pub(crate) fn new(path: PathBuf, version: u32) -> Journal {
        Journal { path, version }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads what an earlier run has recorded.
    ///
    /// # Errors
    /// If the file exists and cannot be read.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<Earlier<T>> {
        match fs::symlink_metadata(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Earlier::Nothing),
            Err(e) => return Err(Error::io(&self.path, "examine")(e)),
            Ok(meta) if !meta.is_file() || meta.len() > LARGEST_JOURNAL => {
                return Ok(Earlier::Unreadable);
            }
            Ok(_) => {}
        }
        let text = fs::read(&self.path).map_err(Error::io(&self.path, "read"))?;
        Ok(match serde_json::from_slice::<Versioned<T>>(&text) {
            Ok(Versioned { version, contents }) if version == self.version => {
                Earlier::Found(contents)
            }
            _ => Earlier::Unreadable,
        })
    }

    /// Replaces the journal's contents.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn write<T: Serialize>(&self, contents: &T) -> Result<()> {
        let contents = Versioned { version: self.version, contents };
        let text = serde_json::to_vec(&contents).expect("plain data serialize");
        output::replace_file(&self.path, &text)
    }
}

/// Decides when to save the state of long work: after an interval, which grows where saving takes long.
pub(crate) struct Pace {
    every: Duration,
    /// When the last saving ended, and how long it took.
    last: Mutex<(Instant, Duration)>,
}

/// Saving takes at most one part in this many of the time.
const SAVING_SHARE: u32 = 20;

impl Pace {
    /// A pace that begins now.
    pub(crate) fn new(every: Duration) -> Pace {
        Pace { every, last: Mutex::new((Instant::now(), Duration::ZERO)) }
    }

    /// Whether it is time to save.
    pub(crate) fn is_due(&self) -> bool {
        let (ended, took) = *lock(&self.last);
        ended.elapsed() >= self.every.max(took * SAVING_SHARE)
    }

    /// Records that a saving which began at `started` has ended.
    pub(crate) fn saved(&self, started: Instant) {
        *lock(&self.last) = (Instant::now(), started.elapsed());
    }
}

/// The end of the message about what a failed run leaves.
pub(crate) const CONTINUES: &str =
    "the same command continues after them, with --restart it starts anew";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::progress::Silent;
    use std::collections::BTreeMap;

    #[test]
    fn reasons_name_what_changed_came_and_went() {
        let one = |what: &str, bytes: &str| Fingerprint::new(what, bytes);
        let before = [one("the recipe", "a"), one("member 'x'", "b"), one("member 'y'", "c")];
        assert_eq!(difference(&before, &before), None);
        let now = [one("the recipe", "z"), one("member 'x'", "b"), one("member 'w'", "c")];
        let reason = difference(&before, &now).unwrap();
        assert_eq!(reason, "the recipe changed, member 'w' is new, member 'y' is gone");
    }

    #[test]
    fn a_journal_is_used_only_for_the_same_work() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path().join("journal"), 3);
        type Parts = BTreeMap<String, BTreeMap<String, u32>>;
        let read = |version, checkpointing: &Checkpointing| {
            let journal = Journal::new(journal.path().to_path_buf(), version);
            let earlier = journal.read::<Recorded<Parts>>().unwrap();
            checkpointing.usable(earlier, journal.path(), &Silent)
        };
        let same = Checkpointing::new(vec![Fingerprint::new("the recipe", "a")]);
        assert_eq!(read(3, &same), None);
        let progress: Parts = [("tensors".into(), [("t".to_string(), 7)].into())].into();
        let fingerprints = same.fingerprints.clone();
        journal.write(&Recorded { fingerprints, progress: progress.clone() }).unwrap();
        assert_eq!(read(3, &same), Some(progress));
        assert_eq!(read(4, &same), None);
        let other = Checkpointing::new(vec![Fingerprint::new("the recipe", "b")]);
        assert_eq!(read(3, &other), None);
        assert_eq!(read(3, &Checkpointing { restart: true, ..same.clone() }), None);
        fs::write(journal.path(), "{").unwrap();
        assert_eq!(read(3, &same), None);
    }

    #[test]
    fn saving_is_due_after_the_interval() {
        let pace = Pace::new(Duration::ZERO);
        assert!(pace.is_due());
        let pace = Pace::new(Duration::from_secs(3600));
        assert!(!pace.is_due());
        pace.saved(Instant::now());
        assert!(!pace.is_due());
    }
}
