//! Q4_0: 32 weights, an F16 scale and 4-bit codes: `d * (q - 8)`.
//!
//! Bytes: scale (2), then 16 bytes with weight i in the low nibble and weight i + 16 in the high
//! one.

use super::{search_symmetric, spread_symmetric};
use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock, EncodeBlock};
use crate::quants::floats::f16::{f16_bytes, read_f16};
use crate::quants::lanes::{Panel, QuantizePanel, U8s};
use crate::quants::pack::nibbles;

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::Q4_0,
    decode: codec::decode_blocks::<Q4_0, 32, 18>,
    quantize: Some(super::quantize::<Q4_0, 18>),
    is_valid: |block| codec::finite_f16(block, 0),
};

struct Q4_0;

impl DecodeBlock<32, 18> for Q4_0 {
    #[inline(always)]
    fn decode_block(block: &[u8; 18], out: &mut [f32; 32]) {
        let d = read_f16(block, 0);
        for i in 0..16 {
            let byte = i32::from(block[2 + i]);
            out[i] = ((byte & 15) - 8) as f32 * d;
            out[i + 16] = ((byte >> 4) - 8) as f32 * d;
        }
    }
}

impl EncodeBlock<32, 18> for Q4_0 {
    #[inline(always)]
    fn encode_block(weights: &[f32; 32], out: &mut [u8; 18]) {
        let (d, codes) = spread_symmetric(weights, 8.0);
        out[..2].copy_from_slice(&f16_bytes(d));
        // Through a signed byte, as in llama.cpp; only blocks of denormals have codes below zero.
        let code = |i: usize| i32::from(codes[i] as i8).min(15) as u8;
        for i in 0..16 {
            out[2 + i] = code(i) | code(i + 16) << 4;
        }
    }
}

impl QuantizePanel<32, 18> for Q4_0 {
    const NEEDS_ROW_MEAN_SQUARE: bool = true;

    #[inline(always)]
    fn quantize_panel(panel: &Panel<32>, out: &mut [U8s; 18]) {
        let codes = search_symmetric(panel, 8, &mut out[..2]);
        nibbles(&codes[..16], &codes[16..], &mut out[2..]);
    }
}
