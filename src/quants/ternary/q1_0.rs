//! Q1_0: 128 weights, an F16 scale and one sign each: `d` or `-d`. Importance is ignored.
//!
//! Bytes: scale (2), then 16 bytes of eight signs each, in order from the lowest bit up; 1 means
//! positive.

use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock, EncodeBlock};
use crate::quants::floats::f16::{f16_bytes, read_f16};

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::Q1_0,
    decode: codec::decode_blocks::<Q1_0, 128, 18>,
    quantize: Some(codec::encode_blocks::<Q1_0, 128, 18>),
    is_valid: |block| codec::finite_f16(block, 0),
};

struct Q1_0;

impl DecodeBlock<128, 18> for Q1_0 {
    #[inline(always)]
    fn decode_block(block: &[u8; 18], out: &mut [f32; 128]) {
        let d = read_f16(block, 0);
        for i in 0..128 {
            let positive = (block[2 + i / 8] >> (i % 8)) & 1 != 0;
            out[i] = if positive { d } else { -d };
        }
    }
}

/// As `quantize_row_q1_0_ref` of llama.cpp: the scale is the mean magnitude, summed left to right.
impl EncodeBlock<128, 18> for Q1_0 {
    #[inline(always)]
    fn encode_block(weights: &[f32; 128], out: &mut [u8; 18]) {
        let mut sum = 0.0;
        for weight in weights {
            sum += weight.abs();
        }
        out[..2].copy_from_slice(&f16_bytes(sum / 128.0));
        let (eights, _) = weights.as_chunks::<8>();
        for (out, weights) in out[2..].iter_mut().zip(eights) {
            *out = 0;
            for (i, weight) in weights.iter().enumerate() {
                *out |= u8::from(*weight >= 0.0) << i;
            }
        }
    }
}
