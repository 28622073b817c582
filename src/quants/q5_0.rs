//! Q5_0: 32 weights, an F16 scale and 5-bit codes: `d * (q - 16)`.
//!
//! Bytes: scale (2), the fifth bits of all 32 codes (4), then the low nibbles as in Q4_0.

use super::codec::{self, Codec, DecodeBlock};
use super::f16::read_f16;
use crate::dtype::DType;

pub(super) const CODEC: Codec = Codec {
    dtype: DType::Q5_0,
    decode: codec::decode_blocks::<Q5_0, 32, 22>,
    quantize: None,
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
