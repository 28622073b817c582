//! The state of a run, saved on the way, so that an interrupted run can be continued.
//!
//! The state is an importance matrix of the chunks that are done, in the hidden file `.NAME.part` beside
//! the output. It is replaced whole, so a run that is killed at any moment leaves a whole one. Deliberately
//! absent: saving within a group of chunks, and a lock; of two runs at work on one output each saves states
//! that are whole, and either may be continued.

use super::record::Record;
use super::{Format, ImportanceMatrix};
use crate::base::error::{Error, Result};
use crate::base::output;
use crate::base::progress::Progress;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// How a run saves its state, and whether it may continue an earlier one's.
pub struct Saving {
    /// The state's file.
    path: PathBuf,
    every: Option<usize>,
    restart: bool,
    /// Chunks in the file, as far as this run knows.
    saved: AtomicUsize,
}

impl Saving {
    /// Saves, if `every` tells so, after each `every` chunks beside the output `target`. A state that is
    /// there already is continued, unless `restart`.
    ///
    /// # Errors
    /// If `target` is no name for a file.
    pub fn new(target: &Path, every: Option<usize>, restart: bool) -> Result<Saving> {
        let path = output::part_path(target)?;
        let every = every.map(|every| every.max(1));
        Ok(Saving { path, every, restart, saved: AtomicUsize::new(0) })
    }

    /// After how many chunks the state is saved.
    pub(super) fn every(&self) -> Option<usize> {
        self.every
    }

    /// The state that an earlier run of the same model, text and settings has left: sums over the first
    /// of the `chunks` chunks that begin with chunk `first` of the text. Warns of any other.
    pub(super) fn load(
        &self,
        run: &Record,
        first: u32,
        chunks: usize,
        progress: &dyn Progress,
    ) -> Result<Option<ImportanceMatrix>> {
        match std::fs::symlink_metadata(&self.path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(&self.path, "examine")(e)),
            Ok(meta) if !meta.is_file() => return Err(self.in_the_way("it is no file")),
            Ok(_) => {}
        }
        let state = ImportanceMatrix::read(&self.path);
        let state = state.map_err(|e| self.in_the_way(&e.to_string()))?;
        let Some(record) = &state.record else {
            return Err(self.in_the_way("it does not tell what it was computed from"));
        };
        if self.restart {
            return Ok(None);
        }
        let whole = first..first + chunks as u32;
        let reason = match run.difference(record) {
            Some(difference) => Some(format!("it differs in {difference}")),
            None if record.wanted != run.wanted => Some("it is of other chunks".to_string()),
            None => match &record.covered[..] {
                [done] if done.start == whole.start && done.end <= whole.end => None,
                _ => Some("it is of other chunks".to_string()),
            },
        };
        let place = self.path.display();
        if let Some(reason) = reason {
            progress.warn(&format!("{place}: left by an interrupted run; starting anew: {reason}"));
            return Ok(None);
        }
        let done = record.likelihoods.len();
        progress.note(&format!("continuing from {place}: {done} of {chunks} chunks are done"));
        self.saved.store(done, Ordering::Relaxed);
        Ok(Some(state))
    }

    /// Replaces the state by `state`.
    pub(super) fn save(&self, state: &ImportanceMatrix) -> Result<()> {
        state.write(&self.path, Format::Gguf, true)?;
        self.saved.store(state.chunk_count as usize, Ordering::Relaxed);
        Ok(())
    }

    /// Tells the user of a run of `chunks` chunks that has failed what it leaves, if anything.
    pub(super) fn report_kept(&self, chunks: usize, progress: &dyn Progress) {
        let saved = self.saved.load(Ordering::Relaxed);
        if saved > 0 {
            progress.warn(&format!(
                "{saved} of {chunks} chunks are done and stay in {}: the same command continues after \
                 them, with --restart it starts anew; remove the file if you want neither",
                self.path.display()
            ));
        }
    }

    /// Removes the state: the output is whole.
    pub fn finish(&self) -> Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(&self.path, "remove")(e))
            }
            _ => Ok(()),
        }
    }

    fn in_the_way(&self, why: &str) -> Error {
        let place = self.path.display();
        Error::Usage(format!("{place}: in the way, and no saved state ({why}); move it away"))
    }
}
