//! Memory of results that have been written, kept for the next ones.
//!
//! A result takes tens of megabytes. Fresh memory of that size comes from the system page by page, each
//! filled with zeros first, which costs as much time as the merge itself.

use std::sync::{Mutex, MutexGuard};

/// Bytes that are kept at the most.
const KEPT_BYTES: usize = 256 << 20;

static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn spare() -> MutexGuard<'static, Vec<Vec<u8>>> {
    // The list is whole at any time, whoever panicked.
    SPARE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A buffer of `bytes` bytes for a result that will be written in full: what is in it is arbitrary.
pub(super) fn take(bytes: usize) -> Vec<u8> {
    let mut spare = spare();
    // The smallest that is large enough.
    let fitting = spare.iter().enumerate().filter(|(_, buffer)| buffer.capacity() >= bytes);
    let found = fitting.min_by_key(|(_, buffer)| buffer.capacity()).map(|(at, _)| at);
    let buffer = found.map(|at| spare.swap_remove(at));
    drop(spare);
    match buffer {
        // Only what the earlier result did not fill is filled with zeros.
        Some(mut buffer) => {
            buffer.resize(bytes, 0);
            buffer
        }
        None => vec![0; bytes],
    }
}

/// Keeps `buffer` for a later [`take`]; the oldest go where there are too many.
pub(super) fn give_back(buffer: Vec<u8>) {
    let mut spare = spare();
    spare.push(buffer);
    while spare.iter().map(Vec::capacity).sum::<usize>() > KEPT_BYTES {
        spare.remove(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_have_the_length_that_is_asked_for_and_are_bounded() {
        give_back(vec![1; 1000]);
        for bytes in [10, 0, 1000, 100_000] {
            let buffer = take(bytes);
            assert_eq!(buffer.len(), bytes);
            give_back(buffer);
        }
        (0..5).for_each(|_| give_back(Vec::with_capacity(KEPT_BYTES / 3)));
        give_back(Vec::with_capacity(KEPT_BYTES + 1));
        assert!(spare().iter().map(Vec::capacity).sum::<usize>() <= KEPT_BYTES);
    }
}
