//! The key-value cache of sequences that are decoded together.

use super::attention::{HeadCache, Heads, attend_next};
use super::weights::CheckedModel;
use crate::base::error::{Error, Result};
use crate::model::arch::HyperParams;

/// The next token of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feed {
    /// The slot of the sequence, below the number of slots.
    pub slot: usize,
    /// The token's id.
    pub token: u32,
    /// Whether the token begins a new sequence, which replaces the one in the slot.
    pub begins: bool,
}

/// Keys and values of all sequences.
pub(super) struct KvCache {
    /// For each layer, slot after slot, the key-value heads.
    layers: Vec<Vec<HeadCache>>,
    /// The number of tokens of each slot's sequence.
    lengths: Vec<usize>,
    /// Slot and position of each row of the step.
    rows: Vec<(usize, usize)>,
    /// The number of positions that a slot has room for.
    capacity: usize,
}

impl KvCache {
    /// An empty cache for `slots` sequences of up to `positions` tokens.
    pub(super) fn new(
        hyper: &HyperParams,
        heads: Heads,
        slots: usize,
        positions: usize,
    ) -> KvCache {
        let caches = || 0..slots * heads.n_head_kv;
        let layer = |_| caches().map(|_| HeadCache::new(heads, positions)).collect();
        KvCache {
            layers: (0..hyper.n_layer).map(layer).collect(),
            lengths: vec![0; slots],
            rows: Vec::new(),
            capacity: positions,
        }
    }

    /// Assigns the rows of the next step to `feeds`, in their order.
    ///
    /// # Errors
    /// If a token id is outside the vocabulary, or a slot is full.
    pub(super) fn assign(&mut self, feeds: &[Feed], model: &CheckedModel<'_>) -> Result<()> {
        self.rows.clear();
        for feed in feeds {
            let length = &mut self.lengths[feed.slot];
            if feed.begins {
                *length = 0;
            }
            let n_vocab = model.hyper.n_vocab;
            if *length == self.capacity || feed.token as usize >= n_vocab {
                let detail = format!(
                    "token {} of a vocabulary of {n_vocab} at position {length} of {} cannot be decoded",
                    feed.token, self.capacity
                );
                return Err(Error::model(model.origin(), detail));
            }
            self.rows.push((feed.slot, *length));
            *length += 1;
        }
        Ok(())
    }

    /// The position of each row in its sequence.
    pub(super) fn positions(&self) -> impl Iterator<Item = usize> {
        self.rows.iter().map(|(_, position)| *position)
    }

    /// Attention of the rows in `layer`, see [`attend_next`].
    ///
    /// # Panics
    /// If a slot has two rows.
    pub(super) fn attend(
        &mut self,
        layer: usize,
        heads: Heads,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        out: &mut [f32],
    ) {
        let mut slots: Vec<Option<&mut [HeadCache]>> =
            self.layers[layer].chunks_mut(heads.n_head_kv).map(Some).collect();
        let rows = self.rows.iter().map(|&(slot, position)| {
            (position, slots[slot].take().expect("a slot has one row in a step"))
        });
        attend_next(heads, rows.collect(), q, k, v, out);
    }
}
