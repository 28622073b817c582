//! Legacy types: blocks of 32 weights with an F16 scale. Without an importance matrix, codes divide
//! the range of the weights evenly; with one, the scale is searched for.
//!
//! Floats are converted to integers as compiled C does on x86-64: a value that does not fit becomes
//! i32::MIN, of which the low bits remain. Only blocks of denormals have such values.

pub(crate) mod q4_0;
pub(crate) mod q4_1;
pub(crate) mod q5_0;
pub(crate) mod q5_1;
pub(crate) mod q8_0;

use crate::base::simd::Level;
use crate::quants::codec::{EncodeBlock, Rows, encode_blocks};
use crate::quants::lanes::{
    F32s, LANES, Panel, QuantizePanel, U8s, importance_weights, quantize_panels, store_f16,
};
use crate::quants::search::{AffineGrid, fit_affine, fit_symmetric, nearest_int};

/// [`Codec::quantize`](crate::quants::codec::Codec::quantize) for a type that searches only if
/// there is an importance matrix.
fn quantize<F, const BYTES: usize>(level: Level, rows: Rows<'_>, out: &mut [u8])
where
    F: EncodeBlock<32, BYTES> + QuantizePanel<32, BYTES>,
{
    match rows.importance {
        None => encode_blocks::<F, 32, BYTES>(level, rows, out),
        Some(_) => quantize_panels::<F, 32, BYTES>(level, rows, out),
    }
}

/// `value` truncated to an integer. Uses [`nearest_int`], because the conversion of Rust saturates
/// and is not vectorized.
#[inline(always)]
fn truncate(value: f32) -> i32 {
    let nearest = nearest_int(value);
    let above = (value >= 0.0) & (nearest as f32 > value);
    let below = (value < 0.0) & ((nearest as f32) < value);
    let whole = nearest - i32::from(above) + i32::from(below);
    if value.abs() < 4_194_304.0 { whole } else { i32::MIN }
}

/// The largest |x|. Compares bits as integers, which have the same order: a maximum of integers is
/// vectorized, one of floats is not.
#[inline(always)]
pub(crate) fn largest_magnitude<const N: usize>(weights: &[f32; N]) -> f32 {
    let mut bits = 0i32;
    for w in weights {
        bits = bits.max((w.to_bits() & 0x7fff_ffff) as i32);
    }
    f32::from_bits(bits as u32)
}

/// The weight of largest magnitude, the first of equals; 0 if all are zero.
#[inline(always)]
fn largest(weights: &[f32; 32]) -> f32 {
    let magnitude = largest_magnitude(weights);
    let (mut positive, mut negative) = (false, false);
    for w in weights {
        positive |= *w == magnitude;
        negative |= *w == -magnitude;
    }
    match (positive, negative) {
        (true, false) => magnitude,
        (false, true) => -magnitude,
        // Both signs occur at this magnitude: take the first. Or all weights are zero.
        _ if magnitude > 0.0 => {
            weights.iter().copied().find(|w| w.abs() == magnitude).unwrap_or(magnitude)
        }
        _ => 0.0,
    }
}

/// The smallest and the largest weight. If the smallest is zero, it has the sign of the first zero.
#[inline(always)]
fn extent(weights: &[f32; 32]) -> (f32, f32) {
    // With the lower bits of negative floats flipped, the bits as integers have the same order.
    let key = |bits: i32| bits ^ ((bits >> 31) & 0x7fff_ffff);
    let (mut low, mut high) = (i32::MAX, i32::MIN);
    for w in weights {
        low = low.min(key(w.to_bits() as i32));
        high = high.max(key(w.to_bits() as i32));
    }
    let value = |key_bits: i32| f32::from_bits(key(key_bits) as u32);
    let (mut low, high) = (value(low), value(high));
    if low == 0.0 {
        low = weights.iter().copied().find(|w| *w == 0.0).unwrap_or(low);
    }
    (low, high)
}

/// The scale for which the weight of largest magnitude has code 0 and zero has code `half`; and the
/// codes, `x / scale + half + 0.5` truncated.
#[inline(always)]
pub(crate) fn spread_symmetric(weights: &[f32; 32], half: f32) -> (f32, [i32; 32]) {
    let d = largest(weights) / -half;
    let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
    let mut codes = [0; 32];
    for i in 0..32 {
        codes[i] = truncate(weights[i] * inverse + (half + 0.5));
    }
    (d, codes)
}

/// The scale and minimum for which codes 0 and `top` are the smallest and the largest weight; and
/// the codes, `(x - min) / scale + 0.5` truncated.
#[inline(always)]
pub(crate) fn spread_affine(weights: &[f32; 32], top: f32) -> (f32, f32, [i32; 32]) {
    let (low, high) = extent(weights);
    let d = (high - low) / top;
    let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
    let mut codes = [0; 32];
    for i in 0..32 {
        codes[i] = truncate((weights[i] - low) * inverse + 0.5);
    }
    (d, low, codes)
}

/// Packs the low four bits of codes: code i in the low half of byte i, code i + 16 in the high
/// half.
#[inline(always)]
pub(crate) fn low_nibbles(codes: &[i32; 32], out: &mut [u8]) {
    for i in 0..16 {
        out[i] = (codes[i] & 15) as u8 | ((codes[i + 16] & 15) << 4) as u8;
    }
}

/// Packs the fifth bits of codes: bit i is that of code i.
#[inline(always)]
pub(crate) fn fifth_bits(codes: &[i32; 32]) -> [u8; 4] {
    let mut bits = 0u32;
    for (i, code) in codes.iter().enumerate() {
        bits |= ((*code as u32 >> 4) & 1) << i;
    }
    bits.to_le_bytes()
}

/// [`fifth_bits`] for sixteen blocks.
#[inline(always)]
pub(crate) fn fifth_bit_columns(codes: &[U8s; 32], out: &mut [U8s]) {
    for (codes, out) in codes.chunks_exact(8).zip(out) {
        *out = [0; LANES];
        for (bit, code) in codes.iter().enumerate() {
            for k in 0..LANES {
                out[k] |= ((code[k] >> 4) & 1) << bit;
            }
        }
    }
}

/// Searches for the scale with importance, stores it and returns the codes.
#[inline(always)]
pub(crate) fn search_symmetric(panel: &Panel<32>, half: i32, out: &mut [U8s]) -> [U8s; 32] {
    let mut codes = [[0; LANES]; 32];
    let weights = importance_weights(&panel.weights, &panel.importance, &panel.row_mean_square);
    let d = fit_symmetric(&panel.weights, &weights, half, &mut codes);
    store_f16(&d, out);
    codes
}

/// Searches for scale and minimum with importance, stores them and returns the codes.
#[inline(always)]
pub(crate) fn search_affine(panel: &Panel<32>, top: i32, out: &mut [U8s]) -> [U8s; 32] {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncation_equals_a_cast() {
        for i in -1_000_000..=1_000_000 {
            let value = i as f32 / 8192.0;
            assert_eq!(truncate(value), value as i32, "{value}");
            let next = f32::from_bits(value.to_bits() + 1);
            assert_eq!(truncate(next), next as i32, "{next}");
        }
        assert_eq!(truncate(f32::INFINITY), i32::MIN);
        assert_eq!(truncate(f32::NAN), i32::MIN);
    }

    #[test]
    fn extremes_are_the_first_of_equal_values() {
        let mut weights = [0.0f32; 32];
        assert_eq!(largest(&weights).to_bits(), 0);
        weights[0] = -0.0;
        assert_eq!(largest(&weights).to_bits(), 0);
        assert_eq!(extent(&weights).0.to_bits(), (-0.0f32).to_bits());
        (weights[3], weights[9], weights[10]) = (-2.0, 2.0, -1.0);
        assert_eq!(largest(&weights), -2.0);
        assert_eq!(extent(&weights), (-2.0, 2.0));
        weights[1] = 2.0;
        assert_eq!(largest(&weights), 2.0);
    }
}
