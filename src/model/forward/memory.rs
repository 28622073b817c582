//! The memory that a forward pass needs, and the schedule that fits a limit.
//!
//! A pass holds a layer's packed weights, twice if the next layer is packed meanwhile; the work
//! buffers of a group of chunks; the hidden states of all chunks or, if spilled, of one group; and
//! the buffers of reading a tensor. After the layers, the head and a tile of logits replace weights
//! and buffers.

use crate::base::error::{Error, Result};
use crate::base::size;
use crate::formats::source::TensorTable;
use crate::kernels::{PackedMatrix, Precision};
use crate::model::arch::HyperParams;

/// The bytes of a group's work buffers, unless one chunk needs more or the limit allows less.
const GROUP_BYTES: u64 = 256 << 20;
/// The bytes of a tile of logits, unless 16 rows need more.
pub(super) const LOGIT_BYTES: usize = 64 << 20;
/// The bytes that the program needs besides: tokenizer, text, tables, sums, threads.
const BASE_BYTES: u64 = 160 << 20;
/// The bytes that other computed tensors hold at most while one is read.
const READING_BYTES: u64 = 512 << 20;
const F32: u64 = size_of::<f32>() as u64;

/// The memory that the parts of a pass need, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct MemoryNeeds {
    /// The largest layer, packed.
    pub layer: u64,
    /// All layers, packed.
    pub layers: u64,
    /// The head, packed, with a tile of logits.
    pub head: u64,
    /// The buffers of reading a tensor.
    reading: u64,
    /// The hidden states of a token.
    states: u64,
    /// The work buffers of a token.
    work: u64,
}

/// How a pass divides its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    /// The number of tokens in a group, unless one chunk has more.
    pub group: usize,
    /// Whether hidden states go to a temporary file.
    pub spill: bool,
    /// Whether the next layer is read and packed while one is computed.
    pub ahead: bool,
    /// The bytes held at once.
    pub peak: u64,
}

impl MemoryNeeds {
    /// The needs of a model with the tensors of `table`. Reading one of them takes up to `reading`
    /// bytes.
    pub(super) fn new(
        hyper: &HyperParams,
        table: &TensorTable,
        precision: Precision,
        reading: u64,
    ) -> MemoryNeeds {
        let packed = |shape: &[usize]| match *shape {
            [outputs, inputs] => PackedMatrix::bytes(precision, outputs, inputs),
            // One expert is packed at a time.
            [_, outputs, inputs] => PackedMatrix::bytes(precision, outputs, inputs),
            _ => 0,
        };
        let mut layers = vec![0u64; hyper.n_layer];
        for info in table.infos() {
            let layer = info.name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
            let layer = layer.and_then(|(number, _)| layers.get_mut(number.parse::<usize>().ok()?));
            if let Some(bytes) = layer {
                *bytes = bytes.saturating_add(packed(&info.shape));
            }
        }
        let logits = (LOGIT_BYTES as u64).max(16 * hyper.n_vocab as u64 * F32);
        MemoryNeeds {
            layer: layers.iter().max().copied().unwrap_or(0),
            layers: layers.iter().fold(0, |sum, bytes| sum.saturating_add(*bytes)),
            head: packed(&[hyper.n_vocab, hyper.n_embd]) + logits,
            reading: reading + READING_BYTES.min(4 * reading),
            // A mixture also holds the sums of its experts' outputs.
            states: hyper.n_embd as u64 * F32 * if hyper.experts.is_some() { 2 } else { 1 },
            work: work_floats_per_row(hyper) as u64 * F32,
        }
    }

    /// The fastest schedule for `tokens` tokens in chunks of up to `longest` that fits into
    /// `memory` bytes for the whole process.
    ///
    /// # Errors
    /// If no schedule fits, with the bytes that the smallest needs.
    pub(super) fn fit(&self, tokens: usize, longest: usize, memory: u64) -> Result<Schedule> {
        let full = (GROUP_BYTES / self.work.max(1)) as usize;
        let group = |rows: usize| rows.max(longest).min(tokens.max(1));
        // From the fastest to the smallest. Small groups cost little time, a file more.
        let candidates = [
            (full, false, true),
            (full, false, false),
            (0, false, true),
            (0, false, false),
            (full, true, true),
            (0, true, true),
            (full, true, false),
            (0, true, false),
        ];
        let mut least = u64::MAX;
        for (rows, spill, ahead) in candidates {
            let group = group(rows);
            let peak = self.peak(tokens, group, spill, ahead);
            if peak <= memory {
                return Ok(Schedule { group, spill, ahead, peak });
            }
            least = least.min(peak);
        }
        Err(Error::Usage(format!(
            "{} of memory is not enough: this model needs {}, layer by layer in chunks of {longest} \
             tokens; give more (--memory) or use smaller chunks",
            size::display(memory),
            size::display(least)
        )))
    }

    /// The bytes needed besides weights, states and work buffers.
    pub(super) fn base(&self) -> u64 {
        BASE_BYTES + self.reading
    }

    fn peak(&self, tokens: usize, group: usize, spill: bool, ahead: bool) -> u64 {
        let rows = |count: usize, bytes: u64| (count as u64).saturating_mul(bytes);
        let states = rows(if spill { group } else { tokens }, self.states);
        let layers = self.layer * if ahead { 2 } else { 1 } + rows(group, self.work);
        // The head also holds the final norm's output of a chunk.
        let head = self.head + rows(group, self.states);
        (self.base() + layers.max(head)).saturating_add(states)
    }
}

/// The number of elements of all work buffers for one row.
pub(super) fn work_floats_per_row(hyper: &HyperParams) -> usize {
    let (query, kv) = (hyper.n_head * hyper.head_dim, hyper.n_head_kv * hyper.head_dim);
    match hyper.experts {
        None => hyper.n_embd + 2 * query + 2 * kv + 2 * hyper.n_ff,
        // Experts reuse the buffers of attention.
        Some(experts) => {
            let gate = experts.n_ff.max(experts.count);
            hyper.n_embd + query + 2 * kv + query.max(hyper.n_embd) + gate + experts.n_ff
        }
    }
}

/// Returns the peak memory in bytes of [`super::run`] over `tokens` tokens in chunks of `ctx`, with
/// logits, within the limit `memory`, or the smallest possible peak if that is larger. `reading` is
/// the largest number of bytes that reading a tensor takes.
///
/// Pages of mapped files are released after reading and not counted.
pub fn memory_estimate(
    hyper: &HyperParams,
    table: &TensorTable,
    precision: Precision,
    (tokens, ctx): (usize, usize),
    reading: u64,
    memory: u64,
) -> u64 {
    let needs = MemoryNeeds::new(hyper, table, precision, reading);
    match needs.fit(tokens, ctx, memory) {
        Ok(schedule) => schedule.peak,
        Err(_) => needs.peak(tokens, ctx, true, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: MemoryNeeds = MemoryNeeds {
        layer: 1 << 30,
        layers: 1 << 35,
        head: 1 << 29,
        reading: 0,
        states: 1 << 14,
        work: 1 << 18,
    };

    #[test]
    fn schedules_stay_within_the_limit() {
        let tokens = 100 * 512;
        let mut last = None;
        for memory in (1 << 30..=4u64 << 30).rev().step_by(1 << 26) {
            let Ok(schedule) = NEEDS.fit(tokens, 512, memory) else { break };
            assert!(schedule.peak <= memory && schedule.group >= 512, "{schedule:?}");
            last = Some(schedule);
        }
        let quick = NEEDS.fit(tokens, 512, 1 << 40).unwrap();
        assert!(quick.ahead && !quick.spill && quick.group == 1024, "{quick:?}");
        let last = last.unwrap();
        assert!(last.spill && !last.ahead && last.group == 512, "{last:?}");
        let error = NEEDS.fit(tokens, 512, 1 << 30).unwrap_err().to_string();
        assert!(error.contains("needs 1.38 GB") && error.contains("--memory"), "{error}");
    }

    #[test]
    fn a_group_is_no_larger_than_the_text() {
        assert_eq!(NEEDS.fit(40, 20, 1 << 40).unwrap().group, 40);
    }
}
