//! Q4_1: 32 weights, an F16 scale and minimum and 4-bit codes: `d * q + m`.
//!
//! Bytes: scale (2), minimum (2), then nibbles as in Q4_0.

use super::codec::{self, Codec, DecodeBlock};
use super::f16::read_f16;
use crate::dtype::DType;

pub(super) const CODEC: Codec = Codec {
    dtype: DType::Q4_1,
    decode: codec::decode_blocks::<Q4_1, 32, 20>,
    quantize: None,
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
