//! F32: IEEE single precision, little-endian.

use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock, EncodeBlock};

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::F32,
    decode: codec::decode_blocks::<F32, 1, 4>,
    quantize: Some(codec::encode_blocks::<F32, 1, 4>),
    is_valid: |bytes| bytes.as_chunks::<4>().0.iter().all(|b| f32::from_le_bytes(*b).is_finite()),
};

struct F32;

impl DecodeBlock<1, 4> for F32 {
    #[inline(always)]
    fn decode_block(bytes: &[u8; 4], out: &mut [f32; 1]) {
        out[0] = f32::from_le_bytes(*bytes);
    }
}

impl EncodeBlock<1, 4> for F32 {
    #[inline(always)]
    fn encode_block(value: &[f32; 1], out: &mut [u8; 4]) {
        *out = value[0].to_le_bytes();
    }
}
