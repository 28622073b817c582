//! Q5_K: 256 weights in 8 sub-blocks, 5-bit codes: `d * scale * q - dmin * min`.
//!
//! Bytes: F16 `d` and `dmin` (4), packed six-bit scales and minima (12), fifth bits (32; bit j of byte l is
//! that of weight 32 j + l), low nibbles as in Q4_K (128).

use super::codec::{self, Codec, DecodeBlock};
use super::f16::read_f16;
use super::scales6::scale_and_min;
use crate::dtype::DType;

pub(super) const CODEC: Codec = Codec {
    dtype: DType::Q5_K,
    decode: codec::decode_blocks::<Q5_K, 256, 176>,
    quantize: None,
    is_valid: |block| codec::finite_f16(block, 0) && codec::finite_f16(block, 2),
};

#[allow(non_camel_case_types)] // The type's own spelling.
struct Q5_K;

impl DecodeBlock<256, 176> for Q5_K {
    #[inline(always)]
    fn decode_block(block: &[u8; 176], out: &mut [f32; 256]) {
        let d = read_f16(block, 0);
        let dmin = read_f16(block, 2);
        for j in 0..8 {
            let (scale, min) = scale_and_min(&block[4..16], j);
            let scale = d * f32::from(scale);
            let min = dmin * f32::from(min);
            let codes = 48 + 32 * (j / 2);
            let shift = 4 * (j % 2);
            for i in 0..32 {
                let low = (block[codes + i] >> shift) & 15;
                let high = (block[16 + i] >> j) & 1;
                out[32 * j + i] = scale * f32::from(low | high << 4) - min;
            }
        }
    }
}
