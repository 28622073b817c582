//! IQ1_S: 256 weights in 8 sub-blocks of 32, groups of eight on a grid of 2048 points.
//!
//! Bytes: F16 `d` (2), low eight bits of each group's index (32), then 16 bits a sub-block (16): the high
//! three bits of its four indices, a 3-bit scale s, and one bit that is set where levels are shifted
//! down. A weight is `d * (2 s + 1) * (level - 1 +- 1/8)`. Encoding is `quantize_row_iq1_s_impl`, decoding
//! `dequantize_row_iq1_s` of llama.cpp.

use super::codec::{self, Codec, DecodeBlock};
use super::f16::{f32_to_f16, read_f16};
use super::grids;
use super::iq1::{self, DOWN, EncodeBlock, Sums, TOGETHER, UP};
use crate::dtype::DType;

pub(super) const CODEC: Codec = Codec {
    dtype: DType::IQ1_S,
    decode: codec::decode_blocks::<IQ1_S, 256, 50>,
    quantize: Some(iq1::quantize::<IQ1_S, 50>),
    is_valid: |block| codec::finite_f16(block, 0),
};

/// Magnitudes below which a sub-block counts as zero.
const NEGLIGIBLE: f32 = 1e-12;

#[allow(non_camel_case_types)] // The type's own spelling.
struct IQ1_S;

impl DecodeBlock<256, 50> for IQ1_S {
    #[inline(always)]
    fn decode_block(block: &[u8; 50], out: &mut [f32; 256]) {
        let points = grids::two_bit_2048().points();
        let d = read_f16(block, 0);
        for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let head = u16::from_le_bytes([block[34 + 2 * j], block[35 + 2 * j]]);
            let scale = d * f32::from(2 * ((head >> 12) & 7) + 1);
            let shift = if head & 0x8000 != 0 { -0.125 } else { 0.125 };
            for (g, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let high = (head >> (3 * g)) & 7;
                let point = &points[usize::from(u16::from(block[2 + 4 * j + g]) | high << 8)];
                for i in 0..8 {
                    out[i] = scale * (f32::from(point[i]) - 1.0 + shift);
                }
            }
        }
    }
}

/// A sub-block's split into levels.
struct Split {
    scale: f32,
    /// Ranks of the first weights of level 1 and of level 2.
    at: (usize, usize),
    down: bool,
}

impl EncodeBlock<50> for IQ1_S {
    #[inline(always)]
    fn encode_block(x: &[f32; 256], importance: Option<&[f32; 256]>, out: &mut [u8; 50]) {
        // Without importance the type is refused before.
        if let Some(importance) = importance {
            encode_block(x, importance, out);
        }
    }
}

#[inline(always)]
fn encode_block(x: &[f32; 256], importance: &[f32; 256], out: &mut [u8; 50]) {
    *out = [0; 50];
    let mut sigma2 = 0f32;
    for x in x {
        sigma2 += x * x;
    }
    sigma2 = 2.0 * sigma2 / 256.0;
    let (mut scales, mut down, mut max_scale) = ([0f32; 8], [false; 8], 0f32);
    let (x, importance) = (x.as_chunks::<32>().0, importance.as_chunks::<32>().0);
    for j in 0..8 {
        if iq1::largest(&x[j]) < NEGLIGIBLE {
            continue;
        }
        let mut weights = [0f32; 32];
        for i in 0..32 {
            weights[i] = importance[j][i] * (sigma2 + x[j][i] * x[j][i]).sqrt();
        }
        let order = iq1::ascending(&x[j]);
        let Some(split) = best_split(&x[j], &weights, &order) else { continue };
        let levels = iq1::levels(&order, split.at, split.scale < 0.0);
        down[j] = split.down != (split.scale < 0.0);
        let values = if down[j] { &DOWN } else { &UP };
        let scale = split.scale.abs();
        let (indices, scale) = iq1::place(&levels, &x[j], &weights, scale, [values; 4]);
        let mut head = 0;
        for (g, index) in indices.into_iter().enumerate() {
            out[2 + 4 * j + g] = index as u8;
            head |= (index >> 8) << (3 * g);
        }
        out[34 + 2 * j..][..2].copy_from_slice(&head.to_le_bytes());
        scales[j] = scale;
        max_scale = if max_scale > scale { max_scale } else { scale };
    }
    if max_scale == 0.0 {
        return;
    }
    let d = max_scale / 15.0;
    // The reference's factor, found by trial.
    out[..2].copy_from_slice(&f32_to_f16(d * 1.125).to_le_bytes());
    for j in 0..8 {
        let code = iq1::scale_code(1.0 / d, scales[j]) | u16::from(down[j]) << 3;
        out[35 + 2 * j] |= (code << 4) as u8;
    }
}

/// Tries all boundaries and both shifts. `None` if no weight counts.
#[inline(always)]
fn best_split(x: &[f32; 32], weights: &[f32; 32], order: &[u8; 32]) -> Option<Split> {
    let (mut sum_x, mut sum_w): (Sums, Sums) = ([0.0; 33 + TOGETHER], [0.0; 33 + TOGETHER]);
    for (at, &i) in order.iter().enumerate() {
        let i = usize::from(i) & 31;
        sum_x[at + 1] = sum_x[at] + weights[i] * x[i];
        sum_w[at + 1] = sum_w[at] + weights[i];
    }
    let (total_x, total_w) = (sum_x[32], sum_w[32]);
    let (mut best, mut found) = (f32::MIN, None);
    for first in 0..=32 {
        let (first_x, first_w) = (sum_x[first], sum_w[first]);
        let mut second = first;
        while second <= 32 {
            let mut fits = [([0f32; TOGETHER], [0f32; TOGETHER]); 2];
            for (fit, v) in fits.iter_mut().zip([&UP, &DOWN]) {
                for k in 0..TOGETHER {
                    let (x, w) = (sum_x[second + k], sum_w[second + k]);
                    fit.0[k] = first_x * v[0] + (x - first_x) * v[1] + (total_x - x) * v[2];
                    fit.1[k] = first_w * v[0] * v[0]
                        + (w - first_w) * v[1] * v[1]
                        + (total_w - w) * v[2] * v[2];
                }
            }
            let count = TOGETHER.min(33 - second);
            let mut any = false;
            for fit in &fits {
                for k in 0..TOGETHER {
                    any |= iq1::beats(fit.0[k], fit.1[k], best) & (k < count);
                }
            }
            // Most chunks hold nothing better; in the others the order of trials decides.
            if any {
                for k in 0..count {
                    for (down, fit) in fits.iter().enumerate() {
                        if iq1::beats(fit.0[k], fit.1[k], best) {
                            let scale = fit.0[k] / fit.1[k];
                            best = scale * fit.0[k];
                            let at = (first, second + k);
                            found = Some(Split { scale, at, down: down == 1 });
                        }
                    }
                }
            }
            second += TOGETHER;
        }
    }
    found
}
