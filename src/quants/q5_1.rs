//! Q5_1: 32 weights, an F16 scale and minimum and 5-bit codes: `d * q + m`.
//!
//! Bytes: scale (2), minimum (2), the fifth bits of all 32 codes (4), then the low nibbles as in Q4_0.

use super::codec::{self, Codec, DecodeBlock};
use super::f16::read_f16;
use crate::dtype::DType;

pub(super) const CODEC: Codec = Codec {
    dtype: DType::Q5_1,
    decode: codec::decode_blocks::<Q5_1, 32, 24>,
    quantize: None,
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
