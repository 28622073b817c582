//! Q5_1: 32 weights, an F16 scale and minimum and 5-bit codes: `d * q + m`.
//!
//! Bytes: scale (2), minimum (2), the fifth bits of all codes (4), then the low nibbles as in Q4_0.

use super::{fifth_bit_columns, fifth_bits, low_nibbles, search_affine, spread_affine};
use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock, EncodeBlock};
use crate::quants::floats::f16::{f16_bytes, read_f16};
use crate::quants::lanes::{Panel, QuantizePanel, U8s};
use crate::quants::pack::nibbles;

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::Q5_1,
    decode: codec::decode_blocks::<Q5_1, 32, 24>,
    quantize: Some(super::quantize::<Q5_1, 24>),
    is_valid: |block| codec::finite_f16(block, 0) && codec::finite_f16(block, 2),
};

struct Q5_1;

impl DecodeBlock<32, 24> for Q5_1 {
    #[inline(always)]
    fn decode_block(block: &[u8; 24], out: &mut [f32; 32]) {
        let d = read_f16(block, 0);
        let m = read_f16(block, 2);
        let high = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
        for i in 0..16 {
            let byte = u32::from(block[8 + i]);
            let low_half = (byte & 15) | ((high >> i) & 1) << 4;
            let high_half = (byte >> 4) | ((high >> (i + 16)) & 1) << 4;
            out[i] = low_half as f32 * d + m;
            out[i + 16] = high_half as f32 * d + m;
        }
    }
}

impl EncodeBlock<32, 24> for Q5_1 {
    #[inline(always)]
    fn encode_block(weights: &[f32; 32], out: &mut [u8; 24]) {
        let (d, min, codes) = spread_affine(weights, 31.0);
        out[..2].copy_from_slice(&f16_bytes(d));
        out[2..4].copy_from_slice(&f16_bytes(min));
        out[4..8].copy_from_slice(&fifth_bits(&codes));
        low_nibbles(&codes, &mut out[8..]);
    }
}

impl QuantizePanel<32, 24> for Q5_1 {
    const NEEDS_ROW_MEAN_SQUARE: bool = true;

    #[inline(always)]
    fn quantize_panel(panel: &Panel<32>, out: &mut [U8s; 24]) {
        let codes = search_affine(panel, 31, &mut out[..4]);
        fifth_bit_columns(&codes, &mut out[4..8]);
        nibbles(&codes[..16], &codes[16..], &mut out[8..]);
    }
}
