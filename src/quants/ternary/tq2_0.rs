//! TQ2_0: 256 weights, an F16 scale and ternary codes of 2 bits: `d * (q - 1)`. Importance is
//! ignored.
//!
//! Bytes: codes (64), F16 `d` (2). In each half of 128 weights, byte l of 32 holds the weights l,
//! l + 32, l + 64 and l + 96, from the lowest bits up.

use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock, EncodeBlock};
use crate::quants::floats::f16::{f16_bytes, read_f16};

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::TQ2_0,
    decode: codec::decode_blocks::<TQ2_0, 256, 66>,
    quantize: Some(codec::encode_blocks::<TQ2_0, 256, 66>),
    is_valid: |block| codec::finite_f16(block, 64),
};

#[allow(non_camel_case_types)] // As GGUF spells it.
struct TQ2_0;

impl DecodeBlock<256, 66> for TQ2_0 {
    #[inline(always)]
    fn decode_block(block: &[u8; 66], out: &mut [f32; 256]) {
        let d = read_f16(block, 64);
        for (half, out) in out.chunks_exact_mut(128).enumerate() {
            let codes = &block[32 * half..][..32];
            for (quarter, out) in out.chunks_exact_mut(32).enumerate() {
                for (out, code) in out.iter_mut().zip(codes) {
                    *out = (i32::from(code >> (2 * quarter) & 3) - 1) as f32 * d;
                }
            }
        }
    }
}

/// As `quantize_row_tq2_0_ref` of llama.cpp.
impl EncodeBlock<256, 66> for TQ2_0 {
    #[inline(always)]
    fn encode_block(weights: &[f32; 256], out: &mut [u8; 66]) {
        let (d, codes) = super::encode(weights, 1);
        out[64..].copy_from_slice(&f16_bytes(d));
        for (half, codes) in codes.chunks_exact(128).enumerate() {
            for l in 0..32 {
                out[32 * half + l] =
                    codes[l] | codes[l + 32] << 2 | codes[l + 64] << 4 | codes[l + 96] << 6;
            }
        }
    }
}
