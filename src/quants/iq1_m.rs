//! IQ1_M: 256 weights in 16 sub-blocks of 16, groups of eight on a grid of 2048 points.
//!
//! Bytes: low eight bits of each group's index (32), a nibble a group with the index's high three bits and
//! one that is set where levels are shifted down (16), four 16-bit words (8) with four 3-bit scales s each
//! and, in their top nibbles, the F16 `d`, lowest nibble first. A weight is
//! `d * (2 s + 1) * (level - 1 +- 1/8)`. Encoding is `quantize_row_iq1_m_impl`, decoding
//! `dequantize_row_iq1_m` of llama.cpp.

use super::codec::{self, Codec, DecodeBlock};
use super::f16::{f16_to_f32, f32_to_f16};
use super::grids;
use super::iq1::{self, DOWN, EncodeBlock, Sums, TOGETHER, UP};
use crate::dtype::DType;

pub(super) const CODEC: Codec = Codec {
    dtype: DType::IQ1_M,
    decode: codec::decode_blocks::<IQ1_M, 256, 56>,
    quantize: Some(iq1::quantize::<IQ1_M, 56>),
    is_valid: |block| block.first_chunk().is_none_or(|block| scale_bits(block) & 0x7c00 != 0x7c00),
};

/// Magnitudes below which a sub-block counts as zero.
const NEGLIGIBLE: f32 = 1e-7;

#[allow(non_camel_case_types)] // The type's own spelling.
struct IQ1_M;

/// The four words with scales.
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

/// A sub-block's split into levels.
struct Split {
    scale: f32,
    /// Ranks of the first weights of level 1 and of level 2.
    at: (usize, usize),
    /// Which groups are shifted down.
    down: [bool; 2],
}

/// What the two groups' levels stand for.
#[inline(always)]
fn values(down: [bool; 2]) -> [&'static [f32; 3]; 2] {
    down.map(|down| if down { &DOWN } else { &UP })
}

impl EncodeBlock<56> for IQ1_M {
    #[inline(always)]
    fn encode_block(x: &[f32; 256], importance: Option<&[f32; 256]>, out: &mut [u8; 56]) {
        encode_block(x, importance, out);
    }
}

#[inline(always)]
fn encode_block(x: &[f32; 256], importance: Option<&[f32; 256]>, out: &mut [u8; 56]) {
    *out = [0; 56];
    let weights = weights(x, importance);
    let (x, weights) = (x.as_chunks::<16>().0, weights.as_chunks::<16>().0);
    let (mut scales, mut max_scale) = ([0f32; 16], 0f32);
    for j in 0..16 {
        if iq1::largest(&x[j]) < NEGLIGIBLE {
            continue;
        }
        let order = iq1::ascending(&x[j]);
        let Some(split) = best_split(&x[j], &weights[j], &order) else { continue };
        let turn = split.scale < 0.0;
        let levels = iq1::levels(&order, split.at, turn);
        let down = split.down.map(|down| down != turn);
        let scale = split.scale.abs();
        let (indices, scale) = iq1::place(&levels, &x[j], &weights[j], scale, values(down));
        for g in 0..2 {
            out[2 * j + g] = indices[g] as u8;
            out[32 + j] |= ((indices[g] >> 8) as u8 | u8::from(down[g]) << 3) << (4 * g);
        }
        scales[j] = scale;
        max_scale = if max_scale > scale { max_scale } else { scale };
    }
    if max_scale == 0.0 {
        // Shifts are written together with scales.
        out[32..48].iter_mut().for_each(|byte| *byte &= 0x77);
        return;
    }
    finish(x, weights, &scales, max_scale / 15.0, out);
}

/// The weights of the search: importance, or the values' squares where there is none.
#[inline(always)]
fn weights(x: &[f32; 256], importance: Option<&[f32; 256]>) -> [f32; 256] {
    let mut sigma2 = 0f32;
    for x in x {
        sigma2 += x * x;
    }
    sigma2 = 2.0 * sigma2 / 256.0;
    let mut weights = [0f32; 256];
    for i in 0..256 {
        weights[i] = match importance {
            Some(importance) => importance[i] * (sigma2 + x[i] * x[i]).sqrt(),
            None => x[i] * x[i],
        };
    }
    weights
}

/// Writes scales, and `d` as it fits best to all points and scales.
#[inline(always)]
fn finish(x: &[[f32; 16]], weights: &[[f32; 16]], scales: &[f32; 16], d: f32, out: &mut [u8; 56]) {
    let points = grids::two_bit_2048().points();
    let (mut sums, mut words) = ((0.0, 0.0), [0u16; 4]);
    let inverse = 1.0 / d;
    for j in 0..16 {
        let code = iq1::scale_code(inverse, scales[j]);
        words[j / 4] |= code << (3 * (j % 4));
        let (x, weights) = (x[j].as_chunks::<8>().0, weights[j].as_chunks::<8>().0);
        for g in 0..2 {
            let nibble = u16::from(out[32 + j] >> (4 * g));
            let values = if nibble & 8 != 0 { &DOWN } else { &UP };
            let point = &points[usize::from(u16::from(out[2 * j + g]) | (nibble & 7) << 8)];
            let times = f32::from(2 * code + 1);
            iq1::add_fit(&mut sums, point, &x[g], &weights[g], values, times);
        }
    }
    let d = if sums.1 > 0.0 { sums.0 / sums.1 } else { d };
    // The reference's factor, found by trial.
    let half = f32_to_f16(d * 1.1125);
    for (w, word) in words.into_iter().enumerate() {
        let word = word | ((half >> (4 * w)) & 15) << 12;
        out[48 + 2 * w..][..2].copy_from_slice(&word.to_le_bytes());
    }
}

/// Sums over the weights of one group, from the left.
struct Half {
    x: Sums,
    w: Sums,
}

impl Half {
    #[inline(always)]
    fn new(x: &[f32; 16], weights: &[f32; 16], order: &[u8; 16], half: usize) -> Half {
        let (mut sum_x, mut sum_w): (Sums, Sums) = ([0.0; 33 + TOGETHER], [0.0; 33 + TOGETHER]);
        for (at, &i) in order.iter().enumerate() {
            let i = usize::from(i) & 15;
            let own = i / 8 == half;
            sum_x[at + 1] = if own { sum_x[at] + weights[i] * x[i] } else { sum_x[at] };
            sum_w[at + 1] = if own { sum_w[at] + weights[i] } else { sum_w[at] };
        }
        Half { x: sum_x, w: sum_w }
    }

    /// The sums of x q and q^2 for a chunk of splits. Neighbouring values differ by one, so the first is
    /// the total times the highest value, less the sums up to both boundaries.
    #[inline(always)]
    fn fits(&self, first: usize, second: usize, v: &[f32; 3]) -> [[f32; TOGETHER]; 2] {
        let (total_x, total_w) = (self.x[16], self.w[16]);
        let c1 = v[0] * v[0] - v[1] * v[1];
        let c2 = v[1] * v[1] - v[2] * v[2];
        let mut fits = [[0f32; TOGETHER]; 2];
        for k in 0..TOGETHER {
            fits[0][k] = total_x * v[2] - (self.x[first] + self.x[second + k]);
            fits[1][k] = total_w * v[2] * v[2] + self.w[first] * c1 + self.w[second + k] * c2;
        }
        fits
    }
}

/// Tries all boundaries and all four shifts. `None` if no weight counts.
#[inline(always)]
fn best_split(x: &[f32; 16], weights: &[f32; 16], order: &[u8; 16]) -> Option<Split> {
    let halves = [Half::new(x, weights, order, 0), Half::new(x, weights, order, 1)];
    let (mut best, mut found) = (f32::MIN, None);
    for first in 0..=16 {
        let mut second = first;
        while second <= 16 {
            let up = [halves[0].fits(first, second, &UP), halves[1].fits(first, second, &UP)];
            let down = [halves[0].fits(first, second, &DOWN), halves[1].fits(first, second, &DOWN)];
            let count = TOGETHER.min(17 - second);
            let (mut sums, mut any) = ([[[0f32; TOGETHER]; 2]; 4], false);
            for (shifts, sums) in sums.iter_mut().enumerate() {
                let a = if shifts < 2 { &up[0] } else { &down[0] };
                let b = if shifts % 2 == 0 { &up[1] } else { &down[1] };
                for k in 0..TOGETHER {
                    sums[0][k] = a[0][k] + b[0][k];
                    sums[1][k] = a[1][k] + b[1][k];
                }
                for k in 0..TOGETHER {
                    any |= iq1::beats(sums[0][k], sums[1][k], best) & (k < count);
                }
            }
            // Most chunks hold nothing better; in the others the order of trials decides.
            if any {
                for k in 0..count {
                    for (shifts, [xq, q2]) in sums.iter().enumerate() {
                        if iq1::beats(xq[k], q2[k], best) {
                            let scale = xq[k] / q2[k];
                            best = scale * xq[k];
                            let down = [shifts >= 2, shifts % 2 == 1];
                            found = Some(Split { scale, at: (first, second + k), down });
                        }
                    }
                }
            }
            second += TOGETHER;
        }
    }
    found
}
