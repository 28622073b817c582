//! Q2_K: 256 weights in 16 sub-blocks, 2-bit codes: `d * scale * q - dmin * min`.
//!
//! Bytes: a byte a sub-block with the scale in its low nibble and the minimum in its high one (16), codes
//! (64), F16 `d` and `dmin` (4). Code byte l of each half of 128 holds the weights l, l + 32, l + 64, l + 96.

use super::codec::{self, Codec, DecodeBlock};
use super::f16::read_f16;
use crate::dtype::DType;

pub(super) const CODEC: Codec = Codec {
    dtype: DType::Q2_K,
    decode: codec::decode_blocks::<Q2_K, 256, 84>,
    quantize: None,
    is_valid: |block| codec::finite_f16(block, 80) && codec::finite_f16(block, 82),
};

#[allow(non_camel_case_types)] // The type's own spelling.
struct Q2_K;

impl DecodeBlock<256, 84> for Q2_K {
    #[inline(always)]
    fn decode_block(block: &[u8; 84], out: &mut [f32; 256]) {
        let d = read_f16(block, 80);
        let dmin = read_f16(block, 82);
        for j in 0..16 {
            let scale = d * f32::from(block[j] & 15);
            let min = dmin * f32::from(block[j] >> 4);
            // Sub-block j lies in quarter (j / 2) % 4 of half j / 8.
            let codes = 16 + 32 * (j / 8) + 16 * (j % 2);
            let shift = 2 * ((j / 2) % 4);
            for i in 0..16 {
                out[16 * j + i] = scale * f32::from((block[codes + i] >> shift) & 3) - min;
            }
        }
    }
}
