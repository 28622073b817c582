//! The tensors of one shard, computed on all threads within a bound on memory and written to their places.
//!
//! Tensors begin in the shard's order and are written in parts as these become ready. Another thread
//! brings the written parts to the disk meanwhile, so that arithmetic and disk work at the same time.

use super::shards::{PartHashes, Shard};
use crate::base::budget::{Budget, FirstError, Permit};
use crate::base::error::{Error, Result};
use crate::base::output::OutputFile;
use crate::base::progress::{Progress, check_interrupted};
use crate::base::sync::lock;
use crate::formats::source::TensorSource;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Tensors in flight at most. More would only cost memory: computing a tensor is itself parallel.
const MAX_IN_FLIGHT: usize = 4;
/// Bytes after which the data written so far are sent to the disk. Systems stop writers only at larger
/// amounts.
const SYNC_BYTES: u64 = 256 << 20;

/// Writes one shard.
pub(super) struct ShardWriter<'a> {
    pub source: &'a dyn TensorSource,
    pub shard: &'a Shard,
    pub file: &'a OutputFile,
    /// Bytes of computed tensors to hold at most; one tensor may take more.
    pub memory: u64,
    /// Takes the parts' hashes, if the shard is recorded.
    pub hashes: Option<&'a PartHashes>,
    pub progress: &'a dyn Progress,
}

/// State that the workers of one shard share.
struct Shared {
    budget: Budget,
    /// Position in the shard of the next tensor to begin.
    next: Mutex<usize>,
    error: FirstError<usize>,
    written: AtomicU64,
}

impl ShardWriter<'_> {
    /// Writes all tensors of the shard.
    ///
    /// Own threads, not a parallel iterator: a rayon worker that waits inside the computation of one
    /// tensor would begin the next one, and the number in flight, so memory, would not be bounded.
    pub(super) fn run(&self) -> Result<()> {
        let shared = Shared {
            budget: Budget::new(self.memory),
            next: Mutex::default(),
            error: FirstError::default(),
            written: AtomicU64::new(0),
        };
        let workers = rayon::current_num_threads().clamp(1, MAX_IN_FLIGHT);
        std::thread::scope(|scope| {
            let (wake, woken) = sync_channel(1);
            scope.spawn(|| self.sync(&shared, woken));
            for _ in 0..workers {
                let (shared, wake) = (&shared, wake.clone());
                scope.spawn(move || self.work(shared, &wake));
            }
        });
        shared.error.into_result()
    }

    /// Sends to the disk what has been written, whenever a worker asks for it.
    fn sync(&self, shared: &Shared, woken: Receiver<()>) {
        for () in woken {
            if let Err(error) = self.file.sync_data() {
                return shared.error.record(usize::MAX, error);
            }
        }
    }

    fn work(&self, shared: &Shared, wake: &SyncSender<()>) {
        while let Some((position, _permit)) = self.next(shared) {
            if let Err(error) = self.write_tensor(position, shared, wake) {
                shared.error.record(position, error);
            }
        }
    }

    /// Waits until the next tensor fits the budget, and returns its position; `None` after the last
    /// tensor or an error.
    fn next<'s>(&self, shared: &'s Shared) -> Option<(usize, Permit<'s>)> {
        // Held while waiting, so that tensors begin in the shard's order.
        let mut next = lock(&shared.next);
        let position = *next;
        let &index = self.shard.tensors.get(position)?;
        let permit = shared.budget.acquire(self.source.stream_bytes(index));
        *next += 1;
        (!shared.error.is_some()).then_some((position, permit))
    }

    fn write_tensor(&self, position: usize, shared: &Shared, wake: &SyncSender<()>) -> Result<()> {
        check_interrupted()?;
        let (index, start) = (self.shard.tensors[position], self.shard.starts[position]);
        let info = &self.source.table().infos()[index];
        self.progress.detail(&info.name);
        let streamed = AtomicU64::new(0);
        self.source.stream(index, &|offset, part| {
            check_interrupted()?;
            self.file.write_at(start + offset as u64, part)?;
            if let Some(hashes) = self.hashes {
                hashes.add(position, offset, part);
            }
            let bytes = part.len() as u64;
            streamed.fetch_add(bytes, Ordering::Relaxed);
            let before = shared.written.fetch_add(bytes, Ordering::Relaxed);
            if before / SYNC_BYTES != (before + bytes) / SYNC_BYTES {
                // A full channel: the disk is behind and will find this too.
                let _ = wake.try_send(());
            }
            self.progress.advance(bytes);
            Ok(())
        })?;
        let (streamed, expected) = (streamed.into_inner(), info.bytes().unwrap_or(0) as u64);
        if streamed == expected {
            return Ok(());
        }
        let detail = format!("the source gave {streamed} bytes, its table says {expected}");
        Err(Error::tensor(self.source.origin(), &info.name, detail))
    }
}
