//! Q2_K: 256 weights in 16 sub-blocks, 2-bit codes: `d * scale * q - dmin * min`.
//!
//! Bytes: for each sub-block the scale in the low nibble and the minimum in the high one (16),
//! codes (64), F16 `d` and `dmin` (4). Code byte l of each half of 128 weights holds the weights l,
//! l + 32, l + 64 and l + 96.

use super::affine::largest;
use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock};
use crate::quants::floats::f16::read_f16;
use crate::quants::lanes::{
    F32s, LANES, Panel, QuantizePanel, U8s, importance_weights, load_f16, quantize_panels,
    store_f16, sum, sum_of_squares,
};
use crate::quants::pack::{requantize, two_bits};
use crate::quants::search::{AffineGrid, fit_affine, fit_non_negative, nearest_int};

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::Q2_K,
    decode: codec::decode_blocks::<Q2_K, 256, 84>,
    quantize: Some(quantize_panels::<Q2_K, 256, 84>),
    is_valid: |block| codec::finite_f16(block, 80) && codec::finite_f16(block, 82),
};

#[allow(non_camel_case_types)] // As GGUF spells it.
struct Q2_K;

impl DecodeBlock<256, 84> for Q2_K {
    #[inline(always)]
    fn decode_block(block: &[u8; 84], out: &mut [f32; 256]) {
        let d = read_f16(block, 80);
        let dmin = read_f16(block, 82);
        for j in 0..16 {
            let scale = d * f32::from(block[j] & 15);
            let min = dmin * f32::from(block[j] >> 4);
            // Sub-block j lies in quarter (j / 2) % 4 of half j / 8.
            let codes = 16 + 32 * (j / 8) + 16 * (j % 2);
            let shift = 2 * ((j / 2) % 4);
            for i in 0..16 {
                out[16 * j + i] = scale * f32::from((block[codes + i] >> shift) & 3) - min;
            }
        }
    }
}

/// The largest four-bit scale.
const TOP_SCALE: i32 = 15;

impl QuantizePanel<256, 84> for Q2_K {
    #[inline(always)]
    fn quantize_panel(panel: &Panel<256>, out: &mut [U8s; 84]) {
        let mut codes = [[0; LANES]; 256];
        let (x, _) = panel.weights.as_chunks::<16>();
        let (sub_codes, _) = codes.as_chunks_mut::<16>();
        if panel.weighted {
            search_weighted(panel, sub_codes, out);
        } else {
            search_plain(x, sub_codes, out);
        }

        let (d, dmin) = (load_f16(&out[80..82]), load_f16(&out[82..84]));
        for j in 0..16 {
            let (mut scale, mut min) = (F32s::ZERO, F32s::ZERO);
            for k in 0..LANES {
                scale[k] = d[k] * f32::from(out[j][k] & 15);
                min[k] = dmin[k] * f32::from(out[j][k] >> 4);
            }
            requantize(&x[j], &scale, &min, (0, 3), &mut sub_codes[j]);
        }
        two_bits(&codes, &mut out[16..80]);
    }
}

/// Searches for scales and minima with importance, then for their codes, `d` and `dmin`.
#[inline(always)]
fn search_weighted(panel: &Panel<256>, codes: &mut [[U8s; 16]], out: &mut [U8s; 84]) {
    let grid = AffineGrid { top: 3, start: -0.9, step: 0.05, steps: 36, absolute: false };
    let (x, _) = panel.weights.as_chunks::<16>();
    let (importance, _) = panel.importance.as_chunks::<16>();
    let mut sigma2 = sum_of_squares(&panel.weights);
    for k in 0..LANES {
        sigma2[k] /= 256.0;
    }
    let mut scales = [F32s::ZERO; 16];
    let mut mins = [F32s::ZERO; 16];
    let mut weight_sums = [F32s::ZERO; 16];
    for j in 0..16 {
        let weights = importance_weights(&x[j], &importance[j], &sigma2);
        weight_sums[j] = sum(&weights);
        (scales[j], mins[j]) = fit_affine(&x[j], &weights, grid, &mut codes[j]);
    }
    let (mut scale_codes, mut min_codes) = ([[0; LANES]; 16], [[0; LANES]; 16]);
    let d = fit_non_negative(&scales, &weight_sums, TOP_SCALE, &mut scale_codes);
    let dmin = fit_non_negative(&mins, &weight_sums, TOP_SCALE, &mut min_codes);
    store_f16(&d, &mut out[80..82]);
    store_f16(&dmin, &mut out[82..84]);
    for j in 0..16 {
        for k in 0..LANES {
            out[j][k] = scale_codes[j][k] | min_codes[j][k] << 4;
        }
    }
}

/// Searches for scales and minima by absolute deviation, weighted by |x|, then rounds them.
#[inline(always)]
fn search_plain(x: &[[F32s; 16]], codes: &mut [[U8s; 16]], out: &mut [U8s; 84]) {
    let grid = AffineGrid { top: 3, start: -0.5, step: 0.1, steps: 15, absolute: true };
    let mut scales = [F32s::ZERO; 16];
    let mut mins = [F32s::ZERO; 16];
    for j in 0..16 {
        let mut weights = x[j];
        for w in &mut weights {
            for k in 0..LANES {
                w[k] = w[k].abs();
            }
        }
        (scales[j], mins[j]) = fit_affine(&x[j], &weights, grid, &mut codes[j]);
    }
    let (max_scale, max_min) = (largest(&scales), largest(&mins));
    for j in 0..16 {
        for k in 0..LANES {
            let scale = round_to_15(scales[j][k], max_scale[k]);
            out[j][k] = scale | round_to_15(mins[j][k], max_min[k]) << 4;
        }
    }
    for (offset, max) in [(80, max_scale), (82, max_min)] {
        let mut d = F32s::ZERO;
        for k in 0..LANES {
            d[k] = if max[k] > 0.0 { max[k] / TOP_SCALE as f32 } else { 0.0 };
        }
        store_f16(&d, &mut out[offset..offset + 2]);
    }
}

/// `value` as a code, in units of 1/15 of `max`.
#[inline(always)]
fn round_to_15(value: f32, max: f32) -> u8 {
    let code = nearest_int(TOP_SCALE as f32 / max * value) as u8;
    if max > 0.0 { code } else { 0 }
}
