//! Six-bit scales of sub-blocks, packed into 12 bytes as in Q3_K, Q4_K and Q5_K.
//!
//! Source of the layout: llama.cpp `ggml/src/ggml-quants.c`.

use crate::quants::lanes::{LANES, U8s};

/// The scale and minimum, each in 0..64, of sub-block `j` of eight (Q4_K, Q5_K).
#[inline(always)]
pub(crate) fn scale_and_min(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        let scale = (packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4;
        let min = (packed[j + 4] >> 4) | (packed[j] >> 6) << 4;
        (scale, min)
    }
}

/// The scale, in -32..32, of sub-block `j` of sixteen (Q3_K): low four bits in bytes 0..8, high two
/// in bytes 8..12.
#[inline(always)]
pub(crate) fn signed_scale(packed: &[u8], j: usize) -> i32 {
    let low = if j < 8 { packed[j] & 15 } else { packed[j - 8] >> 4 };
    let high = (packed[8 + j % 4] >> (2 * (j / 4))) & 3;
    i32::from(low | high << 4) - 32
}

/// Packs `scale` and `min` of sub-block `j` of eight, for [`scale_and_min`]. Must be called in
/// order of `j`: the last four sub-blocks use the high bits of the bytes of the first four.
#[inline(always)]
pub(crate) fn pack_scale_and_min(packed: &mut [U8s], j: usize, scale: &U8s, min: &U8s) {
    for k in 0..LANES {
        if j < 4 {
            packed[j][k] = scale[k];
            packed[j + 4][k] = min[k];
        } else {
            packed[j + 4][k] = (scale[k] & 15) | (min[k] & 15) << 4;
            packed[j - 4][k] |= (scale[k] >> 4) << 6;
            packed[j][k] |= (min[k] >> 4) << 6;
        }
    }
}

/// Packs sixteen `codes`, each scale + 32, for [`signed_scale`].
#[inline(always)]
pub(crate) fn pack_signed_scales(packed: &mut [U8s], codes: &[U8s; 16]) {
    for k in 0..LANES {
        for j in 0..8 {
            packed[j][k] = (codes[j][k] & 15) | codes[j + 8][k] << 4;
        }
        for j in 0..4 {
            packed[8 + j][k] = (codes[j][k] >> 4)
                | (codes[j + 4][k] >> 4) << 2
                | (codes[j + 8][k] >> 4) << 4
                | (codes[j + 12][k] >> 4) << 6;
        }
    }
}
