//! IQ1_M: 256 weights in 16 sub-blocks of 16, groups of eight on a grid of 2048 points.
//!
//! Bytes: low eight bits of the index of each group (32), a nibble per group with the high three
//! bits of the index and a bit that is set if levels are shifted down (16), four 16-bit words (8)
//! with four 3-bit scales s each and, in their top nibbles, the F16 `d`, lowest nibble first. A
//! weight is `d * (2 s + 1) * (level - 1 +- 1/8)`. Source: llama.cpp, `quantize_row_iq1_m_impl` and
//! `dequantize_row_iq1_m`.

use super::{Best, DELTA, DOWN, Trial, UP};
use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock};
use crate::quants::floats::f16::{f16_to_f32, f32_to_f16};
use crate::quants::grids;
use crate::quants::lanes::{
    F32s, LANES, Panel, QuantizePanel, U8s, importance_weights, quantize_panels, squares,
    twice_mean_square,
};

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::IQ1_M,
    decode: codec::decode_blocks::<IQ1_M, 256, 56>,
    quantize: Some(quantize_panels::<IQ1_M, 256, 56>),
    is_valid: |block| block.first_chunk().is_none_or(|block| scale_bits(block) & 0x7c00 != 0x7c00),
};

/// A sub-block whose largest magnitude is below this counts as zero.
const NEGLIGIBLE: f32 = 1e-7;

#[allow(non_camel_case_types)] // As GGUF spells it.
struct IQ1_M;

/// The four words that hold the scales.
#[inline(always)]
fn words(block: &[u8; 56]) -> [u16; 4] {
    std::array::from_fn(|w| u16::from_le_bytes([block[48 + 2 * w], block[49 + 2 * w]]))
}

/// The bits of `d`.
#[inline(always)]
fn scale_bits(block: &[u8; 56]) -> u16 {
    let words = words(block);
    (0..4).fold(0, |bits, w| bits | (words[w] >> 12) << (4 * w))
}

impl DecodeBlock<256, 56> for IQ1_M {
    #[inline(always)]
    fn decode_block(block: &[u8; 56], out: &mut [f32; 256]) {
        let points = grids::two_bit_2048().points();
        let (d, words) = (f16_to_f32(scale_bits(block)), words(block));
        for (g, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let j = g / 2;
            let scale = d * f32::from(2 * ((words[j / 4] >> (3 * (j % 4))) & 7) + 1);
            let nibble = u16::from(block[32 + j] >> (4 * (g % 2)));
            let shift = if nibble & 8 != 0 { -0.125 } else { 0.125 };
            let point = &points[usize::from(u16::from(block[g]) | (nibble & 7) << 8)];
            for i in 0..8 {
                out[i] = scale * (f32::from(point[i]) - 1.0 + shift);
            }
        }
    }
}

impl QuantizePanel<256, 56> for IQ1_M {
    #[inline(always)]
    fn quantize_panel(panel: &Panel<256>, out: &mut [U8s; 56]) {
        let mut fit = SuperBlockFit {
            scales: [F32s::ZERO; 16],
            downs: [[0; LANES]; 16],
            levels: [[0; LANES]; 256],
            weights: weights(panel),
        };
        let x = panel.weights.as_chunks::<16>().0;
        let weights = fit.weights.as_chunks::<16>().0;
        let mut max_scale = F32s::ZERO;
        for j in 0..16 {
            let ranks = super::ranks(&x[j]);
            let best = best_split(&x[j], &weights[j], &ranks);
            let fitted = super::fit(&best, &ranks, &x[j], &weights[j], NEGLIGIBLE, &[2, 1]);
            for k in 0..LANES {
                let [a, b] = [fitted.indices[0][k], fitted.indices[1][k]];
                out[2 * j][k] = a as u8;
                out[2 * j + 1][k] = b as u8;
                out[32 + j][k] = ((a >> 8) | (b >> 8) << 4) as u8;
                let scale = fitted.scale[k];
                max_scale[k] = if max_scale[k] > scale { max_scale[k] } else { scale };
            }
            fit.levels[16 * j..][..16].copy_from_slice(&fitted.levels);
            (fit.scales[j], fit.downs[j]) = (fitted.scale, fitted.down);
        }
        store_scales(&fit, x, &max_scale, out);
    }
}

/// The fits of all sub-blocks, from which `d` is computed.
struct SuperBlockFit {
    scales: [F32s; 16],
    /// The groups that are shifted down: bit 1 for the first, bit 0 for the second.
    downs: [U8s; 16],
    levels: [U8s; 256],
    weights: [F32s; 256],
}

/// The weights of the search, see [`importance_weights`]; x^2 if there is no importance matrix.
#[inline(always)]
fn weights(panel: &Panel<256>) -> [F32s; 256] {
    let x = &panel.weights;
    if panel.weighted {
        return importance_weights(x, &panel.importance, &twice_mean_square(x));
    }
    squares(x)
}

/// Writes scales, shifts and `d`, which is fitted to all points and scales. If all scales are zero,
/// so are the shifts.
#[inline(always)]
fn store_scales(fit: &SuperBlockFit, x: &[[F32s; 16]], max_scale: &F32s, out: &mut [U8s; 56]) {
    let (weights, levels) = (fit.weights.as_chunks::<16>().0, fit.levels.as_chunks::<16>().0);
    let (mut xq, mut q2, mut words) = (F32s::ZERO, F32s::ZERO, [[0u16; LANES]; 4]);
    for j in 0..16 {
        let (mut times, mut shifts) = (F32s::ZERO, [F32s::ZERO; 2]);
        for k in 0..LANES {
            let some = max_scale[k] != 0.0;
            let code = super::scale_code(1.0 / (max_scale[k] / 15.0), fit.scales[j][k]);
            words[j / 4][k] |= if some { code << (3 * (j % 4)) } else { 0 };
            times[k] = f32::from(2 * code + 1);
            let down = fit.downs[j][k];
            out[32 + j][k] |= if some { (down & 2) << 2 | (down & 1) << 7 } else { 0 };
            shifts[0][k] = if down & 2 != 0 { -DELTA } else { DELTA };
            shifts[1][k] = if down & 1 != 0 { -DELTA } else { DELTA };
        }
        super::add_fit(&mut xq, &mut q2, &levels[j], &x[j], &weights[j], &shifts, &times);
    }
    for k in 0..LANES {
        let d = if q2[k] > 0.0 { xq[k] / q2[k] } else { max_scale[k] / 15.0 };
        // llama.cpp's empirical factor.
        let half = if max_scale[k] == 0.0 { 0 } else { f32_to_f16(d * 1.1125) };
        for w in 0..4 {
            let word = words[w][k] | ((half >> (4 * w)) & 15) << 12;
            [out[48 + 2 * w][k], out[49 + 2 * w][k]] = word.to_le_bytes();
        }
    }
}

/// Sums over the weights of one of the two groups, by rank in the sub-block.
struct Half {
    /// Prefix sums of weight * x.
    x: [F32s; 17],
    /// For each shift, the part of the sum of q^2 that depends on the second boundary.
    by_second: [[F32s; 17]; 2],
    /// For each shift, the part that depends on the first boundary.
    by_first: [[F32s; 17]; 2],
    /// For each shift, the sum of x q if all weights had the highest level. Neighbouring levels
    /// differ by one, so the sums up to both boundaries are subtracted from it.
    highest: [F32s; 2],
}

impl Half {
    #[inline(always)]
    fn new(x: &[F32s], weights: &[F32s], ranks: &[[i32; LANES]]) -> Half {
        let (mut sum_x, mut sum_w) = ([F32s::ZERO; 17], [F32s::ZERO; 17]);
        for i in 0..8 {
            for k in 0..LANES {
                let at = 1 + (ranks[i][k] as usize & 15);
                sum_x[at][k] = weights[i][k] * x[i][k];
                sum_w[at][k] = weights[i][k];
            }
        }
        // Ranks of the other group add zero.
        super::accumulate(&mut sum_x);
        super::accumulate(&mut sum_w);
        let mut by_second = [[F32s::ZERO; 17]; 2];
        let (mut by_first, mut highest) = (by_second, [F32s::ZERO; 2]);
        for (down, v) in [UP, DOWN].into_iter().enumerate() {
            let c1 = v[0] * v[0] - v[1] * v[1];
            let c2 = v[1] * v[1] - v[2] * v[2];
            for at in 0..17 {
                for k in 0..LANES {
                    by_second[down][at][k] = sum_w[at][k] * c2;
                    by_first[down][at][k] = sum_w[16][k] * v[2] * v[2] + sum_w[at][k] * c1;
                }
            }
            for k in 0..LANES {
                highest[down][k] = sum_x[16][k] * v[2];
            }
        }
        Half { x: sum_x, by_second, by_first, highest }
    }

    /// The sums of x q and of q^2 of a split, for both shifts.
    #[inline(always)]
    fn sums(&self, first: usize, second: usize) -> [[F32s; 2]; 2] {
        let mut sums = [[F32s::ZERO; 2]; 2];
        for down in 0..2 {
            for k in 0..LANES {
                let below = self.x[first][k] + self.x[second][k];
                sums[down][0][k] = self.highest[down][k] - below;
                sums[down][1][k] = self.by_first[down][first][k] + self.by_second[down][second][k];
            }
        }
        sums
    }
}

/// Tries all pairs of boundaries with all four combinations of shifts.
#[inline(always)]
fn best_split(x: &[F32s; 16], weights: &[F32s; 16], ranks: &[[i32; LANES]; 16]) -> Best {
    let a = Half::new(&x[..8], &weights[..8], &ranks[..8]);
    let b = Half::new(&x[8..], &weights[8..], &ranks[8..]);
    let mut best = Best::new();
    for first in 0..=16 {
        for second in first..=16 {
            let (a, b) = (a.sums(first, second), b.sums(first, second));
            for down in 0..4 {
                let (a, b) = (&a[down / 2], &b[down % 2]);
                let (mut xq, mut q2) = (F32s::ZERO, F32s::ZERO);
                for k in 0..LANES {
                    xq[k] = a[0][k] + b[0][k];
                    q2[k] = a[1][k] + b[1][k];
                }
                best.offer(&xq, &q2, Trial { first, second, down });
            }
        }
    }
    best
}
