//! Q4_0: 32 weights, an F16 scale and 4-bit codes: `d * (q - 8)`.
//!
//! Bytes: scale (2), then 16 bytes with weight i in the low nibble and weight i + 16 in the high one.

use super::codec::{self, Codec, DecodeBlock};
use super::f16::read_f16;
use crate::dtype::DType;

pub(super) const CODEC: Codec = Codec {
    dtype: DType::Q4_0,
    decode: codec::decode_blocks::<Q4_0, 32, 18>,
    quantize: None,
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
