//! How the library tells its caller what it is doing, without printing.
//!
//! Long operations take a `&dyn Progress`. The command line draws bars from it; tests and other
//! callers pass [`Silent`]. Also the one place where long loops learn that the user wants to stop.

use crate::error::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};

/// What a stage counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes read or written.
    Bytes,
    /// Tokens that went through a layer (tokens x layers in all).
    Tokens,
    /// Anything countable: tensors, chunks.
    Items,
}

/// An observer of long work. Methods may be called from any thread.
pub trait Progress: Send + Sync {
    /// A stage begins; `total` units will be reported by [`Progress::advance`].
    fn begin(&self, stage: &str, total: u64, unit: Unit);
    /// `units` more of the current stage are done.
    fn advance(&self, units: u64);
    /// What is being worked on right now, a tensor's or a layer's name.
    fn detail(&self, text: &str);
    /// A result worth a line while the work goes on (running perplexity, a file that is whole).
    fn note(&self, text: &str);
    /// Something the user should know, which does not stop the work.
    fn warn(&self, text: &str);
    /// The current stage is over.
    fn end(&self);
}

/// Ignores everything.
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

/// Asks every loop that calls [`check_interrupted`] to stop. Safe to call from a signal handler's
/// thread.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

/// Fails with [`Error::Interrupted`] once [`interrupt`] was called. Long loops call it once per
/// tensor or layer, so that destructors run and unfinished files are removed.
pub fn check_interrupted() -> Result<()> {
    if INTERRUPTED.load(Ordering::SeqCst) { Err(Error::Interrupted) } else { Ok(()) }
}
