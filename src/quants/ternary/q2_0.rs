//! Q2_0: 64 weights, an F16 scale and 2-bit codes: `d * (q - 1)`. Importance is ignored.
//!
//! Bytes: scale (2), then 16 bytes of four codes each, in order from the lowest bits up. Code 3,
//! twice the scale, is never written.

use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock, EncodeBlock};
use crate::quants::floats::f16::{f16_bytes, read_f16};

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::Q2_0,
    decode: codec::decode_blocks::<Q2_0, 64, 18>,
    quantize: Some(codec::encode_blocks::<Q2_0, 64, 18>),
    is_valid: |block| codec::finite_f16(block, 0),
};

struct Q2_0;

impl DecodeBlock<64, 18> for Q2_0 {
    #[inline(always)]
    fn decode_block(block: &[u8; 18], out: &mut [f32; 64]) {
        let d = read_f16(block, 0);
        for i in 0..64 {
            let code = block[2 + i / 4] >> (2 * (i % 4)) & 3;
            out[i] = (i32::from(code) - 1) as f32 * d;
        }
    }
}

/// As `quantize_row_q2_0_ref` of llama.cpp.
impl EncodeBlock<64, 18> for Q2_0 {
    #[inline(always)]
    fn encode_block(weights: &[f32; 64], out: &mut [u8; 18]) {
        let (d, codes) = super::encode(weights, 0);
        out[..2].copy_from_slice(&f16_bytes(d));
        let (codes, _) = codes.as_chunks::<4>();
        for (out, codes) in out[2..].iter_mut().zip(codes) {
            *out = codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6;
        }
    }
}
