//! Q5_0: 32 weights, an F16 scale and 5-bit codes: `d * (q - 16)`.
//!
//! Bytes: scale (2), the fifth bits of all codes (4), then the low nibbles as in Q4_0.

use super::{fifth_bit_columns, fifth_bits, low_nibbles, search_symmetric, spread_symmetric};
use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock, EncodeBlock};
use crate::quants::floats::f16::{f16_bytes, read_f16};
use crate::quants::lanes::{Panel, QuantizePanel, U8s};
use crate::quants::pack::nibbles;

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::Q5_0,
    decode: codec::decode_blocks::<Q5_0, 32, 22>,
    quantize: Some(super::quantize::<Q5_0, 22>),
    is_valid: |block| codec::finite_f16(block, 0),
};

struct Q5_0;

impl DecodeBlock<32, 22> for Q5_0 {
    #[inline(always)]
    fn decode_block(block: &[u8; 22], out: &mut [f32; 32]) {
        let d = read_f16(block, 0);
        let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
        for i in 0..16 {
            let byte = u32::from(block[6 + i]);
            let low_half = (byte & 15) | ((high >> i) & 1) << 4;
            let high_half = (byte >> 4) | ((high >> (i + 16)) & 1) << 4;
            out[i] = (low_half as i32 - 16) as f32 * d;
            out[i + 16] = (high_half as i32 - 16) as f32 * d;
        }
    }
}

impl EncodeBlock<32, 22> for Q5_0 {
    #[inline(always)]
    fn encode_block(weights: &[f32; 32], out: &mut [u8; 22]) {
        let (d, mut codes) = spread_symmetric(weights, 16.0);
        for code in &mut codes {
            *code = i32::from(*code as i8).min(31);
        }
        out[..2].copy_from_slice(&f16_bytes(d));
        out[2..6].copy_from_slice(&fifth_bits(&codes));
        low_nibbles(&codes, &mut out[6..]);
    }
}

impl QuantizePanel<32, 22> for Q5_0 {
    const NEEDS_ROW_MEAN_SQUARE: bool = true;

    #[inline(always)]
    fn quantize_panel(panel: &Panel<32>, out: &mut [U8s; 22]) {
        let codes = search_symmetric(panel, 16, &mut out[..2]);
        fifth_bit_columns(&codes, &mut out[2..6]);
        nibbles(&codes[..16], &codes[16..], &mut out[6..]);
    }
}
