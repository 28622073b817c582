//! Locks that stay usable after a panic.
//!
//! Not here: locks of data that a panic may leave inconsistent.

use std::sync::{Mutex, MutexGuard};

/// Locks `mutex`, even if a thread panicked while it held the lock. Its data must be consistent at any time.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
