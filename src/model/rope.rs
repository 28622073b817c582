//! Rotary position embedding: pairs of adjacent elements of a head turn with the position.
//!
//! GGUF's rows of query and key weights are ordered so that a pair is adjacent (see
//! [`crate::arch::Permute`]).

use crate::arch::{HyperParams, RopeScaling};
use crate::kernels::rotate_pairs;

/// Cosines and sines for every position and pair.
pub(super) struct RopeTable {
    pairs: usize,
    /// `[position][pair]`, cosine and sine.
    turns: Vec<[f32; 2]>,
}

impl RopeTable {
    /// A table for `positions` positions. The first `dims` elements of a head turn; `factors`, one
    /// for each pair, divide the angles (`rope_freqs.weight`).
    ///
    /// Angle of pair `i` at position `p`: `p / scale * theta^(-2 i / dims) / factors[i]`.
    pub fn new(
        hyper: &HyperParams,
        dims: usize,
        factors: Option<&[f32]>,
        positions: usize,
    ) -> RopeTable {
        let pairs = dims / 2;
        let scale = match hyper.rope_scaling {
            // Files exist that say 0 for no scaling.
            RopeScaling::Linear { factor } if factor.is_normal() => f64::from(factor),
            _ => 1.0,
        };
        let frequency = |pair: usize| {
            let exponent = -2.0 * pair as f64 / dims as f64;
            let factor = factors.map_or(1.0, |f| f64::from(f[pair]));
            f64::from(hyper.rope_theta).powf(exponent) / factor / scale
        };
        let frequencies: Vec<f64> = (0..pairs).map(frequency).collect();
        let turn = |angle: f64| [angle.cos() as f32, angle.sin() as f32];
        let turns = (0..positions)
            .flat_map(|position| frequencies.iter().map(move |f| turn(position as f64 * f)))
            .collect();
        RopeTable { pairs, turns }
    }

    /// Turns all heads of one row, each `head_dim` long.
    pub fn apply(&self, position: usize, head_dim: usize, row: &mut [f32]) {
        let turns = &self.turns[position * self.pairs..][..self.pairs];
        for head in row.chunks_exact_mut(head_dim) {
            rotate_pairs(head, turns);
        }
    }
}
