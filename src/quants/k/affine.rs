//! The common part of Q4_K and Q5_K: eight sub-blocks of 32, each with a six-bit scale and minimum.
//!
//! Without an importance matrix, the weights of the search are sqrt(mean x^2) + |x| within the
//! sub-block, and the scales are rounded. With one, the weights follow importance, and the scales
//! are searched for. Source: llama.cpp `ggml/src/ggml-quants.c`, `quantize_row_q4_K_ref` and
//! `_impl`.

use super::packed_scales::{pack_scale_and_min, scale_and_min};
use crate::quants::lanes::{
    F32s, LANES, Panel, U8s, importance_weights, load_f16, store_f16, sum, sum_of_squares,
    twice_mean_square,
};
use crate::quants::pack::requantize;
use crate::quants::search::{AffineGrid, fit_affine, fit_non_negative, nearest_int};

/// The largest six-bit scale.
const TOP_SCALE: i32 = 63;

/// Searches sixteen super-blocks. Fills `head`, the 16 bytes before the codes (`d`, `dmin`, packed
/// scales), and returns the codes. `plain` is the grid without importance.
///
/// If hardly any weight has importance, a scale can be negative; its code wraps as a byte. Codes
/// are capped to `scale_cap`: 63 in Q5_K, no cap in Q4_K.
#[inline(always)]
pub(crate) fn quantize(
    panel: &Panel<256>,
    plain: AffineGrid,
    scale_cap: u8,
    head: &mut [U8s],
) -> [U8s; 256] {
    let mut codes = [[0; LANES]; 256];
    let (x, _) = panel.weights.as_chunks::<32>();
    let (importance, _) = panel.importance.as_chunks::<32>();
    let (sub_codes, _) = codes.as_chunks_mut::<32>();
    let mut scales = [F32s::ZERO; 8];
    let mut mins = [F32s::ZERO; 8];
    if panel.weighted {
        let grid =
            AffineGrid { top: plain.top, start: -0.9, step: 0.05, steps: 36, absolute: false };
        let sigma2 = twice_mean_square(&panel.weights);
        let mut weight_sums = [F32s::ZERO; 8];
        for j in 0..8 {
            let weights = importance_weights(&x[j], &importance[j], &sigma2);
            weight_sums[j] = sum(&weights);
            (scales[j], mins[j]) = fit_affine(&x[j], &weights, grid, &mut sub_codes[j]);
        }
        search_scales(&scales, &mins, &weight_sums, scale_cap, head);
    } else {
        for j in 0..8 {
            let weights = deviation_weights(&x[j]);
            (scales[j], mins[j]) = fit_affine(&x[j], &weights, plain, &mut sub_codes[j]);
        }
        round_scales(&scales, &mins, head);
    }

    let (d, dmin) = (load_f16(&head[..2]), load_f16(&head[2..4]));
    for j in 0..8 {
        let (mut scale, mut min) = (F32s::ZERO, F32s::ZERO);
        for k in 0..LANES {
            let packed: [u8; 12] = std::array::from_fn(|byte| head[4 + byte][k]);
            let (s, m) = scale_and_min(&packed, j);
            scale[k] = d[k] * f32::from(s);
            min[k] = dmin[k] * f32::from(m);
        }
        requantize(&x[j], &scale, &min, (0, plain.top), &mut sub_codes[j]);
    }
    codes
}

/// sqrt(mean x^2) + |x|.
#[inline(always)]
fn deviation_weights(x: &[F32s; 32]) -> [F32s; 32] {
    let squares = sum_of_squares(x);
    let mut weights = [F32s::ZERO; 32];
    for i in 0..32 {
        for k in 0..LANES {
            weights[i][k] = (squares[k] / 32.0).sqrt() + x[i][k].abs();
        }
    }
    weights
}

/// Rounds scales and minima to multiples of 1/63 of the largest.
#[inline(always)]
fn round_scales(scales: &[F32s; 8], mins: &[F32s; 8], head: &mut [U8s]) {
    let (max_scale, max_min) = (largest(scales), largest(mins));
    for j in 0..8 {
        let scale = round_to_63(&scales[j], &max_scale);
        let min = round_to_63(&mins[j], &max_min);
        pack_scale_and_min(&mut head[4..], j, &scale, &min);
    }
    for (offset, max) in [(0, max_scale), (2, max_min)] {
        let mut d = F32s::ZERO;
        for k in 0..LANES {
            d[k] = max[k] / TOP_SCALE as f32;
        }
        store_f16(&d, &mut head[offset..offset + 2]);
    }
}

/// `values` as codes, in units of 1/63 of `max`.
#[inline(always)]
fn round_to_63(values: &F32s, max: &F32s) -> U8s {
    let mut codes = [0; LANES];
    for k in 0..LANES {
        let inverse = if max[k] > 0.0 { TOP_SCALE as f32 / max[k] } else { 0.0 };
        // Through a byte first: a negative scale wraps and is then capped.
        codes[k] = (nearest_int(inverse * values[k]) as u8).min(TOP_SCALE as u8);
    }
    codes
}

/// The largest value, but at least 0.
#[inline(always)]
pub(crate) fn largest<const N: usize>(values: &[F32s; N]) -> F32s {
    let mut max = F32s::ZERO;
    for v in values {
        for k in 0..LANES {
            max[k] = if v[k] > max[k] { v[k] } else { max[k] };
        }
    }
    max
}

/// Searches for `d` and `dmin`, and for the codes of the scales and minima of the sub-blocks.
#[inline(always)]
fn search_scales(
    scales: &[F32s; 8],
    mins: &[F32s; 8],
    weight_sums: &[F32s; 8],
    scale_cap: u8,
    head: &mut [U8s],
) {
    let (mut scale_codes, mut min_codes) = ([[0; LANES]; 8], [[0; LANES]; 8]);
    let d = fit_non_negative(scales, weight_sums, TOP_SCALE, &mut scale_codes);
    let dmin = fit_non_negative(mins, weight_sums, TOP_SCALE, &mut min_codes);
    store_f16(&d, &mut head[..2]);
    store_f16(&dmin, &mut head[2..4]);
    for j in 0..8 {
        for k in 0..LANES {
            scale_codes[j][k] = scale_codes[j][k].min(scale_cap);
            min_codes[j][k] = min_codes[j][k].min(scale_cap);
        }
        pack_scale_and_min(&mut head[4..], j, &scale_codes[j], &min_codes[j]);
    }
}
