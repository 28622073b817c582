//! Locks that a panic elsewhere does not spoil.
//!
//! Deliberately absent: locks for data that are not whole at any time; a panic must not be passed over there.

use std::sync::{Mutex, MutexGuard};

/// Locks `mutex`, whose data are whole at any time, even where a thread panicked while it held the lock.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
