//! Q6_K: 256 weights in 16 sub-blocks, 6-bit codes: `d * scale * (q - 32)`.
//!
//! Bytes: low nibbles (128), high two bits (64), a signed scale a sub-block (16), F16 `d` (2). In each half
//! of 128 weights, low byte l of 64 holds the weights l and l + 64; high byte l of 32 holds the
//! weights l, l + 32, l + 64 and l + 96.

use super::codec::{self, Codec, DecodeBlock};
use super::f16::read_f16;
use crate::dtype::DType;

pub(super) const CODEC: Codec = Codec {
    dtype: DType::Q6_K,
    decode: codec::decode_blocks::<Q6_K, 256, 210>,
    quantize: None,
    is_valid: |block| codec::finite_f16(block, 208),
};

#[allow(non_camel_case_types)] // The type's own spelling.
struct Q6_K;

impl DecodeBlock<256, 210> for Q6_K {
    #[inline(always)]
    fn decode_block(block: &[u8; 210], out: &mut [f32; 256]) {
        let d = read_f16(block, 208);
        for j in 0..16 {
            let scale = d * f32::from(block[192 + j] as i8);
            // Sub-block j lies in quarter `quarter` of half j / 8.
            let quarter = (j / 2) % 4;
            let low = 64 * (j / 8) + 32 * (quarter % 2) + 16 * (j % 2);
            let high = 128 + 32 * (j / 8) + 16 * (j % 2);
            for i in 0..16 {
                let nibble = (block[low + i] >> (4 * (quarter / 2))) & 15;
                let two = (block[high + i] >> (2 * quarter)) & 3;
                out[16 * j + i] = scale * (i32::from(nibble | two << 4) - 32) as f32;
            }
        }
    }
}
