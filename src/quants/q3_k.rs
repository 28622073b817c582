//! Q3_K: 256 weights in 16 sub-blocks, 3-bit codes: `d * (scale - 32) * (q - 4)`.
//!
//! Bytes: high bits (32; bit k of byte l is that of weight 32 k + l), low two bits as in Q2_K (64), packed
//! six-bit scales (12), F16 `d` (2).

use super::codec::{self, Codec, DecodeBlock};
use super::f16::read_f16;
use super::scales6::signed_scale;
use crate::dtype::DType;

pub(super) const CODEC: Codec = Codec {
    dtype: DType::Q3_K,
    decode: codec::decode_blocks::<Q3_K, 256, 110>,
    quantize: None,
    is_valid: |block| codec::finite_f16(block, 108),
};

#[allow(non_camel_case_types)] // The type's own spelling.
struct Q3_K;

impl DecodeBlock<256, 110> for Q3_K {
    #[inline(always)]
    fn decode_block(block: &[u8; 110], out: &mut [f32; 256]) {
        let d = read_f16(block, 108);
        for j in 0..16 {
            let scale = d * signed_scale(&block[96..108], j) as f32;
            let high = 16 * (j % 2);
            let low = 32 + 32 * (j / 8) + high;
            let shift = 2 * ((j / 2) % 4);
            for i in 0..16 {
                let two = (block[low + i] >> shift) & 3;
                let third = (block[high + i] >> (j / 2)) & 1;
                out[16 * j + i] = scale * (i32::from(two | third << 2) - 4) as f32;
            }
        }
    }
}
