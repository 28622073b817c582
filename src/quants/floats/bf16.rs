//! BF16: the upper half of an F32. Encoding rounds to nearest, ties to even.

use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock, EncodeBlock};

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::BF16,
    decode: codec::decode_blocks::<BF16, 1, 2>,
    quantize: Some(codec::encode_blocks::<BF16, 1, 2>),
    is_valid: |bytes| u16::from_le_bytes([bytes[0], bytes[1]]) & 0x7f80 != 0x7f80,
};

struct BF16;

impl DecodeBlock<1, 2> for BF16 {
    #[inline(always)]
    fn decode_block(bytes: &[u8; 2], out: &mut [f32; 1]) {
        out[0] = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    }
}

impl EncodeBlock<1, 2> for BF16 {
    #[inline(always)]
    fn encode_block(value: &[f32; 1], out: &mut [u8; 2]) {
        let bits = value[0].to_bits();
        let odd = (bits >> 16) & 1;
        let rounded = bits.wrapping_add(0x7fff + odd) >> 16;
        // A NaN must neither round to infinity nor lose all its mantissa bits.
        let nan = (bits >> 16) | 0x40;
        let half = if value[0].is_nan() { nan } else { rounded } as u16;
        *out = half.to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_agrees_with_the_half_crate() {
        for bits in (0..=u32::MAX)
            .step_by(4099)
            .chain((0..=u16::MAX).map(|h| (u32::from(h) << 16) + 0x8000))
        {
            let value = f32::from_bits(bits);
            let mut out = [0; 2];
            BF16::encode_block(&[value], &mut out);
            assert_eq!(u16::from_le_bytes(out), half::bf16::from_f32(value).to_bits(), "{value:e}");
        }
    }
}
