//! Q4_1: 32 weights, an F16 scale and minimum and 4-bit codes: `d * q + m`.
//!
//! Bytes: scale (2), minimum (2), then nibbles as in Q4_0.

use super::{search_affine, spread_affine};
use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock, EncodeBlock};
use crate::quants::floats::f16::{f16_bytes, read_f16};
use crate::quants::lanes::{Panel, QuantizePanel, U8s};
use crate::quants::pack::nibbles;

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::Q4_1,
    decode: codec::decode_blocks::<Q4_1, 32, 20>,
    quantize: Some(super::quantize::<Q4_1, 20>),
    is_valid: |block| codec::finite_f16(block, 0) && codec::finite_f16(block, 2),
};

struct Q4_1;

impl DecodeBlock<32, 20> for Q4_1 {
    #[inline(always)]
    fn decode_block(block: &[u8; 20], out: &mut [f32; 32]) {
        let d = read_f16(block, 0);
        let m = read_f16(block, 2);
        for i in 0..16 {
            let byte = block[4 + i];
            out[i] = f32::from(byte & 15) * d + m;
            out[i + 16] = f32::from(byte >> 4) * d + m;
        }
    }
}

impl EncodeBlock<32, 20> for Q4_1 {
    #[inline(always)]
    fn encode_block(weights: &[f32; 32], out: &mut [u8; 20]) {
        let (d, min, codes) = spread_affine(weights, 15.0);
        out[..2].copy_from_slice(&f16_bytes(d));
        out[2..4].copy_from_slice(&f16_bytes(min));
        // Through a signed byte, as in llama.cpp; only blocks of denormals have codes below zero.
        let code = |i: usize| i32::from(codes[i] as i8).min(15) as u8;
        for i in 0..16 {
            out[4 + i] = code(i) | code(i + 16) << 4;
        }
    }
}

impl QuantizePanel<32, 20> for Q4_1 {
    const NEEDS_ROW_MEAN_SQUARE: bool = true;

    #[inline(always)]
    fn quantize_panel(panel: &Panel<32>, out: &mut [U8s; 20]) {
        let codes = search_affine(panel, 15, &mut out[..4]);
        nibbles(&codes[..16], &codes[16..], &mut out[4..]);
    }
}
