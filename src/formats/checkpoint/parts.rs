//! The tensors of one shard, computed on all threads within a bound on memory and written to their places.
//!
//! Tensors are begun in the shard's order and written in parts as these become ready. What is written
//! is brought to the disk meanwhile, so that the disk and the arithmetic work at the same time and the
//! shard's end does not wait long.

use super::resume::PartHashes;
use super::write::Shard;
use crate::base::error::{Error, Result};
use crate::base::output::OutputFile;
use crate::base::progress::{Progress, check_interrupted};
use crate::formats::source::TensorSource;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Condvar, Mutex, MutexGuard};

/// Tensors in flight at most. More would only cost memory: computing a tensor is itself parallel.
const MAX_IN_FLIGHT: usize = 4;
/// Bytes after which what has been written is sent to the disk. Less than what systems let lie
/// unwritten, so that writers are not stopped.
const SYNC_BYTES: u64 = 256 << 20;

/// What it takes to write a shard.
pub(super) struct ShardWriter<'a> {
    pub source: &'a dyn TensorSource,
    pub shard: &'a Shard,
    pub file: &'a OutputFile,
    /// Bytes of computed tensors to hold at most; one tensor may take more.
    pub memory: u64,
    /// Takes the parts' hashes, where they are wanted.
    pub hashes: Option<&'a PartHashes>,
    pub progress: &'a dyn Progress,
}

/// Who is next, and what is held.
#[derive(Default)]
struct Turn {
    next: usize,
    running: usize,
    held: u64,
    /// The error of the tensor that comes first, so that errors repeat.
    error: Option<(usize, Error)>,
}

/// State that the workers of one shard share.
#[derive(Default)]
struct Shared {
    turn: Mutex<Turn>,
    changed: Condvar,
    written: AtomicU64,
}

/// A tensor's place and share of memory; gives both back when dropped, after a panic too.
struct Running<'a> {
    shared: &'a Shared,
    position: usize,
    bytes: u64,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut turn = self.shared.lock();
        turn.running -= 1;
        turn.held -= self.bytes;
        drop(turn);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Turn> {
        // What the lock guards is whole at any time.
        self.turn.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn fail(&self, position: usize, error: Error) {
        let mut turn = self.lock();
        if turn.error.as_ref().is_none_or(|(first, _)| position < *first) {
            turn.error = Some((position, error));
        }
        drop(turn);
        self.changed.notify_all();
    }
}

impl ShardWriter<'_> {
    /// Writes all tensors of the shard.
    ///
    /// Own threads, not a parallel iterator: a rayon worker that waits inside the computation of one
    /// tensor would begin the next one, and the number in flight, so memory, would not be bounded.
    pub(super) fn run(&self) -> Result<()> {
        let shared = Shared::default();
        let workers = rayon::current_num_threads().clamp(1, MAX_IN_FLIGHT);
        std::thread::scope(|scope| {
            let (wake, woken) = sync_channel(1);
            scope.spawn(|| self.sync(&shared, woken));
            for _ in 0..workers {
                let (shared, wake) = (&shared, wake.clone());
                scope.spawn(move || self.work(shared, &wake));
            }
        });
        let turn = shared.turn.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        turn.error.map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Sends to the disk what has been written, whenever it is told to.
    fn sync(&self, shared: &Shared, woken: Receiver<()>) {
        for () in woken {
            if let Err(error) = self.file.sync_data() {
                return shared.fail(usize::MAX, error);
            }
        }
    }

    fn work(&self, shared: &Shared, wake: &SyncSender<()>) {
        while let Some(running) = self.next(shared) {
            if let Err(error) = self.write_tensor(running.position, shared, wake) {
                shared.fail(running.position, error);
            }
        }
    }

    /// Waits until the next tensor may be begun; `None` when there is none, or an error.
    fn next<'s>(&self, shared: &'s Shared) -> Option<Running<'s>> {
        let mut turn = shared.lock();
        loop {
            let &index = self.shard.tensors.get(turn.next).filter(|_| turn.error.is_none())?;
            let bytes = self.source.stream_bytes(index);
            if turn.held == 0 || turn.held.saturating_add(bytes) <= self.memory {
                let position = turn.next;
                turn.next += 1;
                turn.running += 1;
                turn.held += bytes;
                return Some(Running { shared, position, bytes });
            }
            let woken = shared.changed.wait(turn);
            turn = woken.unwrap_or_else(|poisoned| poisoned.into_inner());
        }
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
        let detail = format!("{streamed} bytes came where {expected} were announced");
        Err(Error::tensor(self.source.origin(), &info.name, detail))
    }
}
