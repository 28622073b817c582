//! F16: IEEE half precision, little-endian; and the conversions that block formats use for scales.
//!
//! The conversions have no branches, so that the compiler vectorizes them; those of the `half`
//! crate detect the CPU at each call. The results are equal except for NaN, which always becomes
//! 0x7E00 with its sign, as in llama.cpp (`ggml/src/ggml-impl.h`).

use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock, EncodeBlock};

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::F16,
    decode: codec::decode_blocks::<F16, 1, 2>,
    quantize: Some(codec::encode_blocks::<F16, 1, 2>),
    is_valid: |bytes| codec::finite_f16(bytes, 0),
};

struct F16;

impl DecodeBlock<1, 2> for F16 {
    #[inline(always)]
    fn decode_block(bytes: &[u8; 2], out: &mut [f32; 1]) {
        out[0] = f16_to_f32(u16::from_le_bytes(*bytes));
    }
}

impl EncodeBlock<1, 2> for F16 {
    #[inline(always)]
    fn encode_block(value: &[f32; 1], out: &mut [u8; 2]) {
        *out = f32_to_f16(value[0]).to_le_bytes();
    }
}

/// The bits of the F16 nearest to `value`, ties to even.
#[inline(always)]
pub(crate) fn f32_to_f16(value: f32) -> u16 {
    const INFINITY: u32 = 0x7f80_0000;
    const TWO_POW_16: u32 = 0x4780_0000;
    const TWO_POW_MINUS_14: u32 = 0x3880_0000;
    let bits = value.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    // The exponent's bias changes from 127 to 15. A carry out of the mantissa increments it.
    let odd = (magnitude >> 13) & 1;
    let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + odd) >> 13;
    // A unit in the last place of 0.5 is 2^-24, the step of F16's subnormals, so the sum rounds to
    // it.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let finite = if magnitude < TWO_POW_MINUS_14 { subnormal } else { normal };
    let large = if magnitude > INFINITY { 0x7e00 } else { 0x7c00 };
    (sign | if magnitude >= TWO_POW_16 { large } else { finite }) as u16
}

/// The F16 nearest to `value` as little-endian bytes.
#[inline(always)]
pub(crate) fn f16_bytes(value: f32) -> [u8; 2] {
    f32_to_f16(value).to_le_bytes()
}

/// The value of the F16 with the bits `half`.
#[inline(always)]
pub(crate) fn f16_to_f32(half: u16) -> f32 {
    let sign = (u32::from(half) & 0x8000) << 16;
    let magnitude = u32::from(half) & 0x7fff;
    let normal = (magnitude << 13) + (112 << 23);
    let subnormal = (f32::from_bits(0.5f32.to_bits() + magnitude) - 0.5).to_bits();
    let special = 0x7f80_0000 | (magnitude << 13);
    let finite = if magnitude < 0x0400 { subnormal } else { normal };
    f32::from_bits(sign | if magnitude >= 0x7c00 { special } else { finite })
}

/// The value of the F16 at `offset` of a block.
#[inline(always)]
pub(crate) fn read_f16<const BYTES: usize>(block: &[u8; BYTES], offset: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[offset], block[offset + 1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_decodes_as_the_half_crate_does() {
        for bits in 0..=u16::MAX {
            let expected = half::f16::from_bits(bits).to_f32();
            let found = f16_to_f32(bits);
            assert!(found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan());
            if !expected.is_nan() {
                assert_eq!(f32_to_f16(found), bits);
            }
        }
    }

    #[test]
    fn rounding_agrees_with_the_half_crate_except_on_nan() {
        // Every 4,099th f32, and the values around every halfway point.
        let strided = (0..=u32::MAX).step_by(4099);
        let halfway = (0..=u16::MAX).flat_map(|h| {
            (-1..=1).map(move |d| ((u32::from(h) << 16) + 0x1000).wrapping_add_signed(d))
        });
        for bits in strided.chain(halfway) {
            let value = f32::from_bits(bits);
            if value.is_nan() {
                assert_eq!(f32_to_f16(value) & 0x7fff, 0x7e00);
            } else {
                assert_eq!(f32_to_f16(value), half::f16::from_f32(value).to_bits(), "{value:e}");
            }
        }
    }
}
