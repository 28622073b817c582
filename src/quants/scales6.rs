//! Six-bit scales packed into 12 bytes, as Q4_K, Q5_K and Q3_K store those of their sub-blocks.
//!
//! Layout read from llama.cpp `ggml/src/ggml-quants.c`.

/// Scale and minimum, each 0..64, of sub-block `j` of eight (Q4_K, Q5_K).
#[inline(always)]
pub(super) fn scale_and_min(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        let scale = (packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4;
        let min = (packed[j + 4] >> 4) | (packed[j] >> 6) << 4;
        (scale, min)
    }
}

/// Scale, -32..32, of sub-block `j` of sixteen (Q3_K): low four bits in bytes 0..8, high two in 8..12.
#[inline(always)]
pub(super) fn signed_scale(packed: &[u8], j: usize) -> i32 {
    let low = if j < 8 { packed[j] & 15 } else { packed[j - 8] >> 4 };
    let high = (packed[8 + j % 4] >> (2 * (j / 4))) & 3;
    i32::from(low | high << 4) - 32
}
