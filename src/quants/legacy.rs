//! What Q4_0, Q4_1, Q5_0 and Q5_1 share: blocks of 32, spread evenly over the extent of the weights
//! without an importance matrix, searched with one.
//!
//! Conversions to integers truncate as x86-64 does it, which is what C compiles to: what does not fit
//! becomes i32::MIN and then loses its upper bits. Only blocks of denormals come to that.

use super::f16::f32_to_f16;
use super::lanes::{F32s, LANES, Panel, U8s, importance_weights, store_f16};
use super::search::{AffineGrid, fit_affine, fit_symmetric};

/// `value` truncated to an integer.
#[inline(always)]
pub(super) fn truncate(value: f32) -> i32 {
    if value.abs() < 2_147_483_648.0 { value as i32 } else { i32::MIN }
}

/// The weight of largest magnitude, the first of equals; 0 if all are zero.
#[inline(always)]
fn largest(weights: &[f32; 32]) -> f32 {
    let mut magnitude = 0f32;
    for w in weights {
        magnitude = if w.abs() > magnitude { w.abs() } else { magnitude };
    }
    // Both signs may occur at this magnitude: the first one counts.
    let first = weights.iter().find(|w| magnitude > 0.0 && w.abs() == magnitude);
    first.copied().unwrap_or(0.0)
}

/// Scale such that the weight of largest magnitude gets code 0 and zero gets code `half`; and what the
/// codes truncate: `x / scale + half + 0.5`.
#[inline(always)]
pub(super) fn spread_symmetric(weights: &[f32; 32], half: f32) -> (f32, [i32; 32]) {
    let d = largest(weights) / -half;
    let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
    let mut codes = [0; 32];
    for i in 0..32 {
        codes[i] = truncate(weights[i] * inverse + (half + 0.5));
    }
    (d, codes)
}

/// Scale and minimum such that the codes 0 and `top` are the smallest and the largest weight; and what
/// the codes truncate: `(x - min) / scale + 0.5`.
#[inline(always)]
pub(super) fn spread_affine(weights: &[f32; 32], top: f32) -> (f32, f32, [i32; 32]) {
    let (mut low, mut high) = (f32::MAX, -f32::MAX);
    for &w in weights {
        low = if w < low { w } else { low };
        high = if w > high { w } else { high };
    }
    let d = (high - low) / top;
    let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
    let mut codes = [0; 32];
    for i in 0..32 {
        codes[i] = truncate((weights[i] - low) * inverse + 0.5);
    }
    (d, low, codes)
}

#[inline(always)]
pub(super) fn f16_bytes(value: f32) -> [u8; 2] {
    f32_to_f16(value).to_le_bytes()
}

/// Low nibbles: weight i in the low half of byte i, weight i + 16 in the high half.
#[inline(always)]
pub(super) fn low_nibbles(codes: &[i32; 32], out: &mut [u8]) {
    for i in 0..16 {
        out[i] = (codes[i] & 15) as u8 | ((codes[i + 16] & 15) << 4) as u8;
    }
}

/// Bit i is the fifth bit of code i.
#[inline(always)]
pub(super) fn fifth_bits(codes: &[i32; 32]) -> [u8; 4] {
    let mut bits = 0u32;
    for (i, code) in codes.iter().enumerate() {
        bits |= ((*code as u32 >> 4) & 1) << i;
    }
    bits.to_le_bytes()
}

/// [`fifth_bits`] for sixteen blocks.
#[inline(always)]
pub(super) fn fifth_bit_columns(codes: &[U8s; 32], out: &mut [U8s]) {
    for (codes, out) in codes.chunks_exact(8).zip(out) {
        *out = [0; LANES];
        for (bit, code) in codes.iter().enumerate() {
            for k in 0..LANES {
                out[k] |= ((code[k] >> 4) & 1) << bit;
            }
        }
    }
}

/// Searches the scale under importance and stores it; returns the codes.
#[inline(always)]
pub(super) fn search_symmetric(panel: &Panel<32>, half: i32, out: &mut [U8s]) -> [U8s; 32] {
    let mut codes = [[0; LANES]; 32];
    let weights = importance_weights(&panel.weights, &panel.importance, &panel.row_mean_square);
    let d = fit_symmetric(&panel.weights, &weights, half, &mut codes);
    store_f16(&d, out);
    codes
}

/// Searches scale and minimum under importance and stores them; returns the codes.
#[inline(always)]
pub(super) fn search_affine(panel: &Panel<32>, top: i32, out: &mut [U8s]) -> [U8s; 32] {
    let grid = AffineGrid { top, start: -0.9, step: 0.05, steps: 36, absolute: false };
    let mut codes = [[0; LANES]; 32];
    let weights = importance_weights(&panel.weights, &panel.importance, &panel.row_mean_square);
    let (d, min) = fit_affine(&panel.weights, &weights, grid, &mut codes);
    let mut stored = F32s::ZERO;
    for k in 0..LANES {
        stored[k] = -min[k];
    }
    store_f16(&d, &mut out[..2]);
    store_f16(&stored, &mut out[2..4]);
    codes
}
