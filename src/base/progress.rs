//! Progress of long operations, reported to the caller, and the user's request to stop.
//!
//! Long operations take a `&dyn Progress`: the command line makes a progress line, events and a log of it.
//! Work has two levels. A *stage* is a part of the work with a name for people: the importance matrix,
//! quantizing. A stage has one *step* or several, one after the other, each of which counts something.
//! Not here: printing (`cli/progress`).

use crate::base::error::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};

/// What a step counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes read or written.
    Bytes,
    /// Tokens, for example of a text that is being generated.
    Tokens,
    /// Tokens, counted once in each of this many layers.
    LayerTokens(u64),
    /// Anything countable: tensors, chunks.
    Items,
}

/// An observer of long work. Methods may be called from any thread.
pub trait Progress: Send + Sync {
    /// Announces the names of the stages that follow, in order. A stage may be left out; others may come
    /// between.
    fn stages(&self, _names: &[&str]) {}
    /// Begins a stage, which lasts until the next one. `steps` is the number of its steps of one name that
    /// take about equally long, or 1. Steps of other names may come between.
    fn stage(&self, _name: &str, _steps: usize) {}
    /// Begins a step, in which [`Progress::advance`] will report `total` units. A step outside of any stage
    /// counts as a stage.
    fn begin(&self, step: &str, total: u64, unit: Unit);
    /// Reports that `units` more of the current step are done.
    fn advance(&self, units: u64);
    /// Names what is being worked on right now, such as a tensor or a layer.
    fn detail(&self, text: &str);
    /// Reports a result while the work goes on (running perplexity, a finished file).
    fn note(&self, text: &str);
    /// Reports a problem that does not stop the work.
    fn warn(&self, text: &str);
    /// Ends the current step.
    fn end(&self);
}

/// A [`Progress`] that ignores everything.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64, _: Unit) {}
    fn advance(&self, _: u64) {}
    fn detail(&self, _: &str) {}
    fn note(&self, _: &str) {}
    fn warn(&self, _: &str) {}
    fn end(&self) {}
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Asks every loop that calls `check_interrupted` to stop. May be called from the thread of a signal
/// handler.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

/// Fails once [`interrupt`] was called. Long loops call it once per tensor or layer, so that destructors
/// run and unfinished files are removed.
///
/// # Errors
/// [`Error::Interrupted`].
pub fn check_interrupted() -> Result<()> {
    if INTERRUPTED.load(Ordering::SeqCst) { Err(Error::Interrupted) } else { Ok(()) }
}
