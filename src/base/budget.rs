//! Bounded work in flight: a budget of bytes with permits, and the error that comes first.
//!
//! The passes that write checkpoints and quantized files begin a tensor once it fits the budget. With
//! several threads at work, the error with the lowest position is reported, so that it does not depend
//! on timing. Not here: the order in which work begins.

use crate::base::error::{Error, Result};
use crate::base::sync::lock;
use std::sync::{Condvar, Mutex, MutexGuard};

/// Bytes that may be held at once.
pub(crate) struct Budget {
    limit: u64,
    held: Mutex<u64>,
    released: Condvar,
}

/// Bytes taken from a [`Budget`]. Dropping it gives them back, after a panic too.
pub(crate) struct Permit<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Budget {
    /// A budget of `limit` bytes, none of which are held.
    pub(crate) fn new(limit: u64) -> Budget {
        Budget { limit, held: Mutex::new(0), released: Condvar::new() }
    }

    /// Waits until `bytes` fit, or nothing is held, and takes them.
    pub(crate) fn acquire(&self, bytes: u64) -> Permit<'_> {
        let mut held = self.wait(bytes);
        *held += bytes;
        Permit { budget: self, bytes }
    }

    /// Waits until `bytes` fit, or nothing is held. Takes nothing: for one thread that learns the exact
    /// size only later.
    pub(crate) fn wait_for(&self, bytes: u64) {
        drop(self.wait(bytes));
    }

    /// Takes `bytes` without waiting.
    pub(crate) fn take(&self, bytes: u64) -> Permit<'_> {
        *lock(&self.held) += bytes;
        Permit { budget: self, bytes }
    }

    fn wait(&self, bytes: u64) -> MutexGuard<'_, u64> {
        let mut held = lock(&self.held);
        while *held > 0 && held.saturating_add(bytes) > self.limit {
            if rayon::current_thread_index().is_some() {
                // A thread of the pool must not sleep: the work it waits for may be its own.
                drop(held);
                rayon::yield_now();
                held = lock(&self.held);
            } else {
                let woken = self.released.wait(held);
                held = woken.unwrap_or_else(|poisoned| poisoned.into_inner());
            }
        }
        held
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *lock(&self.budget.held) -= self.bytes;
        self.budget.released.notify_all();
    }
}

/// The error at the lowest position so far.
pub(crate) struct FirstError<P>(Mutex<Option<(P, Error)>>);

impl<P> Default for FirstError<P> {
    fn default() -> FirstError<P> {
        FirstError(Mutex::new(None))
    }
}

impl<P: PartialOrd> FirstError<P> {
    /// Records `error` at `position`, unless one is known that comes before it.
    pub(crate) fn record(&self, position: P, error: Error) {
        let mut first = lock(&self.0);
        if first.as_ref().is_none_or(|(place, _)| position < *place) {
            *first = Some((position, error));
        }
    }

    /// Whether an error was recorded.
    pub(crate) fn is_some(&self) -> bool {
        lock(&self.0).is_some()
    }

    /// Whether an error was recorded that comes before `position`.
    pub(crate) fn is_before(&self, position: &P) -> bool {
        lock(&self.0).as_ref().is_some_and(|(place, _)| place < position)
    }

    /// Fails with the error, if there is one.
    pub(crate) fn into_result(self) -> Result<()> {
        match self.0.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn a_budget_holds_no_more_than_its_limit_or_one_permit() {
        let (budget, most) = (Budget::new(10), AtomicU64::new(0));
        let held = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for bytes in [4, 6, 5, 3, 15, 2, 0, 7] {
                let (budget, most, held) = (&budget, &most, &held);
                scope.spawn(move || {
                    for _ in 0..50 {
                        let permit = budget.acquire(bytes);
                        let now = held.fetch_add(bytes, Ordering::SeqCst) + bytes;
                        most.fetch_max(now, Ordering::SeqCst);
                        assert!(now <= 10 || now == 15, "{now}");
                        held.fetch_sub(bytes, Ordering::SeqCst);
                        drop(permit);
                    }
                });
            }
        });
        assert!(most.into_inner() <= 15);
        budget.wait_for(u64::MAX);
        let permit = budget.take(11);
        assert_eq!(*lock(&budget.held), 11);
        drop(permit);
        assert_eq!(*lock(&budget.held), 0);
    }

    #[test]
    fn the_error_with_the_lowest_position_is_reported() {
        let first = FirstError::default();
        let error = |text: &str| Error::Usage(text.to_string());
        assert!(!first.is_some());
        first.record((2, 0), error("c"));
        first.record((1, 5), error("b"));
        first.record((1, 7), error("d"));
        assert!(first.is_some() && first.is_before(&(1, 6)) && !first.is_before(&(1, 5)));
        assert_eq!(first.into_result().unwrap_err().to_string(), "b");
        assert!(FirstError::<usize>::default().into_result().is_ok());
    }
}
