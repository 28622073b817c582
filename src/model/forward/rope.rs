//! Rotary position embedding: rotates pairs of elements of a head by angles that grow with the
//! position.
//!
//! The architecture decides which elements form a pair, see [`crate::model::arch::Pairing`].

use crate::kernels::{rotate_halves, rotate_pairs};
use crate::model::arch::{HyperParams, Pairing, RopeScaling, Yarn};

/// Cosines and sines for every position and pair.
pub(super) struct RopeTable {
    pairing: Pairing,
    pairs: usize,
    /// `[position][pair]`, cosine and sine.
    turns: Vec<[f32; 2]>,
}

impl RopeTable {
    /// A table for `positions` positions of layers without a window, and of layers with one that
    /// have the same base frequency. `factors`, one for each pair, divide the angles
    /// (`rope_freqs.weight` and similar tensors).
    ///
    /// Angle of pair `i` at position `p`: `p / scale * theta^(-2 i / dims) / factors[i]`.
    pub(super) fn new(
        hyper: &HyperParams,
        pairing: Pairing,
        factors: Option<&[f32]>,
        positions: usize,
    ) -> RopeTable {
        let (dims, theta) = (hyper.rope_dims, f64::from(hyper.rope_theta));
        let plain = |pair: usize| {
            let factor = factors.map_or(1.0, |f| f64::from(f[pair]));
            theta.powf(-2.0 * pair as f64 / dims as f64) / factor
        };
        let (frequencies, magnitude): (Vec<f64>, f64) = match &hyper.rope_scaling {
            RopeScaling::Linear { factor } => {
                ((0..dims / 2).map(|pair| plain(pair) / f64::from(*factor)).collect(), 1.0)
            }
            RopeScaling::Yarn(yarn) => {
                let share = unscaled_share(yarn, hyper);
                let blended = |pair: usize| {
                    let (extended, share) = (plain(pair) / f64::from(yarn.factor), share(pair));
                    extended * (1.0 - share) + plain(pair) * share
                };
                ((0..dims / 2).map(blended).collect(), yarn_magnitude(yarn))
            }
            RopeScaling::LongRope { attention_factor, .. } => {
                ((0..dims / 2).map(plain).collect(), f64::from(*attention_factor))
            }
            RopeScaling::None | RopeScaling::Dynamic { .. } | RopeScaling::Llama3 { .. } => {
                ((0..dims / 2).map(plain).collect(), 1.0)
            }
        };
        RopeTable::of(pairing, &frequencies, magnitude, positions)
    }

    /// A table for layers with a window, whose frequencies have the base `theta` and no scaling.
    pub(super) fn local(dims: usize, pairing: Pairing, theta: f32, positions: usize) -> RopeTable {
        let frequency = |pair: usize| f64::from(theta).powf(-2.0 * pair as f64 / dims as f64);
        let frequencies: Vec<f64> = (0..dims / 2).map(frequency).collect();
        RopeTable::of(pairing, &frequencies, 1.0, positions)
    }

    fn of(pairing: Pairing, frequencies: &[f64], magnitude: f64, positions: usize) -> RopeTable {
        let turn = |angle: f64| [angle.cos(), angle.sin()].map(|x| (x * magnitude) as f32);
        let turns = (0..positions)
            .flat_map(|position| frequencies.iter().map(move |f| turn(position as f64 * f)))
            .collect();
        RopeTable { pairing, pairs: frequencies.len(), turns }
    }

    /// Rotates all heads of one row, each of `head_dim` elements.
    pub(super) fn apply(&self, position: usize, head_dim: usize, row: &mut [f32]) {
        let turns = &self.turns[position * self.pairs..][..self.pairs];
        for head in row.chunks_exact_mut(head_dim) {
            match self.pairing {
                Pairing::Adjacent => rotate_pairs(head, turns),
                Pairing::Halves => rotate_halves(head, turns),
            }
        }
    }
}

/// The share of a pair's frequency that YaRN does not scale: 1 for pairs that turn more than
/// `beta_fast` times in the original context, 0 for those that turn less than `beta_slow` times,
/// linear in the pair's number between. Source: Hugging Face transformers,
/// `_compute_yarn_parameters`.
fn unscaled_share(yarn: &Yarn, hyper: &HyperParams) -> impl Fn(usize) -> f64 {
    let (dims, context) = (hyper.rope_dims as f64, hyper.original_context as f64);
    let pair_of = |turns: f64| {
        let wavelength = context / (turns * std::f64::consts::TAU);
        dims * wavelength.ln() / (2.0 * f64::from(hyper.rope_theta).ln())
    };
    let first = pair_of(f64::from(yarn.beta_fast.unwrap_or(32.0))).floor().max(0.0);
    let last = pair_of(f64::from(yarn.beta_slow.unwrap_or(1.0))).ceil().min(dims - 1.0);
    let extrapolation = f64::from(yarn.extrapolation.unwrap_or(1.0));
    move |pair| {
        let along = (pair as f64 - first) / (last - first).max(0.001);
        (1.0 - along.clamp(0.0, 1.0)) * extrapolation
    }
}

/// The factor that YaRN applies to queries and keys.
fn yarn_magnitude(yarn: &Yarn) -> f64 {
    let factor = f64::from(yarn.factor);
    let derived = if factor > 1.0 { 1.0 + 0.1 * factor.ln() } else { 1.0 };
    yarn.attention_factor.map_or(derived, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::checkpoint::Config;

    #[test]
    fn yarn_angles_are_those_of_transformers() {
        let config = r#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 256, "num_attention_heads": 4,
            "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 8, "max_position_embeddings": 8192,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}}"#;
        let hyper = HyperParams::from_config(&Config::parse("test", config).unwrap()).unwrap();
        let table = RopeTable::new(&hyper, Pairing::Adjacent, None, 2);
        // Pairs and frequencies: transformers 4.57.6, ROPE_INIT_FUNCTIONS["yarn"].
        for (pair, want) in [
            (0, 1.0),
            (10, 0.049745575),
            (12, 0.024325214),
            (16, 0.0053846152),
            (20, 0.00097300857),
            (24, 0.00025),
            (31, 3.333804e-5),
        ] {
            let [cos, sin] = table.turns[32 + pair].map(f64::from);
            assert!((sin.atan2(cos) - want).abs() < 1e-5 * want + 1e-7, "pair {pair}");
            assert!((cos.hypot(sin) - 1.138_629_436).abs() < 1e-6);
        }
    }
}
