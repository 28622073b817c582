//! How the library tells its caller what it is doing, without printing.
//!
//! Long operations take a `&dyn Progress`. The command line makes a line, events and a log of it; tests and
//! other callers pass [`Silent`]. Also the one place where long loops learn that the user wants to stop.
//!
//! Work has two levels. A *stage* is what people would call a part of the work: the importance matrix, quantizing. Within
//! it go *steps*, one after the other, each of which counts something. Most stages are a single step; a stage of several
//! alike, a pass of each of five models, is announced with [`Progress::stage`].

use crate::base::error::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};

/// What a stage counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes read or written.
    Bytes,
    /// Tokens, of a text that is written, for example.
    Tokens,
    /// Tokens, counted in each of so many layers that they go through.
    LayerTokens(u64),
    /// Anything countable: tensors, chunks.
    Items,
}

/// An observer of long work. Methods may be called from any thread.
pub trait Progress: Send + Sync {
    /// Names of the stages that follow, in order. A stage may be left out; others may come between.
    fn stages(&self, _names: &[&str]) {}
    /// A stage begins, and goes on until the next. It has so many steps of one name that take about as long as each
    /// other, 1 where they do not; steps of other names may come between.
    fn stage(&self, _name: &str, _steps: usize) {}
    /// A step begins, in which `total` units will be reported by [`Progress::advance`]. Outside of a stage that
    /// [`Progress::stage`] has begun, it is a stage of its own.
    fn begin(&self, step: &str, total: u64, unit: Unit);
    /// `units` more of the current step are done.
    fn advance(&self, units: u64);
    /// What is being worked on right now, a tensor's or a layer's name.
    fn detail(&self, text: &str);
    /// A result worth a line while the work goes on (running perplexity, a file that is whole).
    fn note(&self, text: &str);
    /// Something the user should know, which does not stop the work.
    fn warn(&self, text: &str);
    /// The current step is over.
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

/// Asks every loop that calls `check_interrupted` to stop. Safe to call from a signal handler's
/// thread.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

/// Fails with [`Error::Interrupted`] once [`interrupt`] was called. Long loops call it once per
/// tensor or layer, so that destructors run and unfinished files are removed.
pub fn check_interrupted() -> Result<()> {
    if INTERRUPTED.load(Ordering::SeqCst) { Err(Error::Interrupted) } else { Ok(()) }
}
