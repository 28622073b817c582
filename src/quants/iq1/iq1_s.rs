//! IQ1_S: 256 weights in 8 sub-blocks of 32, groups of eight on a grid of 2048 points.
//!
//! Bytes: F16 `d` (2), low eight bits of the index of each group (32), then 16 bits per sub-block
//! (16): the high three bits of its four indices, a 3-bit scale s, and a bit that is set if levels
//! are shifted down. A weight is `d * (2 s + 1) * (level - 1 +- 1/8)`. Source: llama.cpp,
//! `quantize_row_iq1_s_impl` and `dequantize_row_iq1_s`.

use super::{Best, DOWN, Trial, UP};
use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock};
use crate::quants::floats::f16::read_f16;
use crate::quants::grids;
use crate::quants::lanes::{
    F32s, LANES, Panel, QuantizePanel, U8s, importance_weights, quantize_panels, store_f16,
    twice_mean_square,
};

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::IQ1_S,
    decode: codec::decode_blocks::<IQ1_S, 256, 50>,
    quantize: Some(quantize_panels::<IQ1_S, 256, 50>),
    is_valid: |block| codec::finite_f16(block, 0),
};

/// A sub-block whose largest magnitude is below this counts as zero.
const NEGLIGIBLE: f32 = 1e-12;

#[allow(non_camel_case_types)] // As GGUF spells it.
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

impl QuantizePanel<256, 50> for IQ1_S {
    #[inline(always)]
    fn quantize_panel(panel: &Panel<256>, out: &mut [U8s; 50]) {
        let sigma2 = twice_mean_square(&panel.weights);
        let (x, importance) = (panel.weights.as_chunks::<32>().0, panel.importance.as_chunks().0);
        let (mut scales, mut downs, mut max_scale) = ([F32s::ZERO; 8], [[0; LANES]; 8], F32s::ZERO);
        for j in 0..8 {
            let weights = importance_weights(&x[j], &importance[j], &sigma2);
            let ranks = super::ranks(&x[j]);
            let best = best_split(&x[j], &weights, &ranks);
            let fitted = super::fit(&best, &ranks, &x[j], &weights, NEGLIGIBLE, &[1; 4]);
            for k in 0..LANES {
                let mut head = 0;
                for g in 0..4 {
                    out[2 + 4 * j + g][k] = fitted.indices[g][k] as u8;
                    head |= (fitted.indices[g][k] >> 8) << (3 * g);
                }
                [out[34 + 2 * j][k], out[35 + 2 * j][k]] = head.to_le_bytes();
                let scale = fitted.scale[k];
                max_scale[k] = if max_scale[k] > scale { max_scale[k] } else { scale };
            }
            (scales[j], downs[j]) = (fitted.scale, fitted.down);
        }
        store_scales(&scales, &downs, &max_scale, out);
    }
}

/// Writes `d` and the scale and shift of each sub-block. If all scales are zero, so are the shifts.
#[inline(always)]
fn store_scales(scales: &[F32s; 8], downs: &[U8s; 8], max_scale: &F32s, out: &mut [U8s; 50]) {
    let mut half = F32s::ZERO;
    for k in 0..LANES {
        let d = max_scale[k] / 15.0;
        // llama.cpp's empirical factor.
        half[k] = d * 1.125;
        for j in 0..8 {
            let code = super::scale_code(1.0 / d, scales[j][k]) | u16::from(downs[j][k]) << 3;
            out[35 + 2 * j][k] |= if max_scale[k] == 0.0 { 0 } else { (code << 4) as u8 };
        }
    }
    store_f16(&half, &mut out[..2]);
}

/// Tries all pairs of boundaries with both shifts.
#[inline(always)]
fn best_split(x: &[F32s; 32], weights: &[F32s; 32], ranks: &[[i32; LANES]; 32]) -> Best {
    let (mut sum_x, mut sum_w) = ([F32s::ZERO; 33], [F32s::ZERO; 33]);
    for i in 0..32 {
        for k in 0..LANES {
            let at = 1 + (ranks[i][k] as usize & 31);
            sum_x[at][k] = weights[i][k] * x[i][k];
            sum_w[at][k] = weights[i][k];
        }
    }
    super::accumulate(&mut sum_x);
    super::accumulate(&mut sum_w);
    // Sums of x q and q^2 over the weights above the second boundary, for both shifts.
    let above = [UP, DOWN].map(|v| {
        let mut above = [[F32s::ZERO; 2]; 33];
        for second in 0..33 {
            for k in 0..LANES {
                above[second][0][k] = (sum_x[32][k] - sum_x[second][k]) * v[2];
                above[second][1][k] = (sum_w[32][k] - sum_w[second][k]) * v[2] * v[2];
            }
        }
        above
    });
    let mut best = Best::new();
    for first in 0..=32 {
        for second in first..=32 {
            for (down, v) in [UP, DOWN].into_iter().enumerate() {
                let (mut xq, mut q2) = (F32s::ZERO, F32s::ZERO);
                let [above_x, above_w] = &above[down][second];
                for k in 0..LANES {
                    let (x, w) = (sum_x[first][k], sum_w[first][k]);
                    xq[k] = x * v[0] + (sum_x[second][k] - x) * v[1] + above_x[k];
                    q2[k] = w * v[0] * v[0] + (sum_w[second][k] - w) * v[1] * v[1] + above_w[k];
                }
                best.offer(&xq, &q2, Trial { first, second, down });
            }
        }
    }
    best
}
