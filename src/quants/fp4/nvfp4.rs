//! NVFP4: 64 weights in 4 sub-blocks, 4-bit floats with 8-bit floats as scales. Importance is
//! ignored.
//!
//! Bytes: a scale per sub-block, UE4M3 (4), then 8 bytes per sub-block with weight i in the low
//! nibble and weight i + 8 in the high one.

use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock, EncodeBlock};
use crate::quants::legacy::largest_magnitude;

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::NVFP4,
    decode: codec::decode_blocks::<NVFP4, 64, 36>,
    quantize: Some(codec::encode_blocks::<NVFP4, 64, 36>),
    // UE4M3 has no infinity, and the code of NaN is decoded as zero.
    is_valid: |_| true,
};

struct NVFP4;

impl DecodeBlock<64, 36> for NVFP4 {
    #[inline(always)]
    fn decode_block(block: &[u8; 36], out: &mut [f32; 64]) {
        for j in 0..4 {
            let codes = &block[4 + 8 * j..][..8];
            super::decode(codes, half_of_ue4m3(block[j]), &mut out[16 * j..][..16]);
        }
    }
}

/// As `quantize_row_nvfp4_ref` of llama.cpp.
impl EncodeBlock<64, 36> for NVFP4 {
    #[inline(always)]
    fn encode_block(weights: &[f32; 64], out: &mut [u8; 36]) {
        let (sub_blocks, _) = weights.as_chunks::<16>();
        for (j, weights) in sub_blocks.iter().enumerate() {
            let magnitude = largest_magnitude(weights);
            out[j] = ue4m3(magnitude / 6.0);
            let scale = half_of_ue4m3(out[j]);
            super::encode(weights, magnitude, scale, &mut out[4 + 8 * j..][..8]);
        }
    }
}

/// Half the value of a UE4M3: four bits of exponent, three of mantissa. The highest bit is ignored.
#[inline(always)]
fn half_of_ue4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (u32::from(code >> 3) & 15, u32::from(code) & 7);
    let normal = f32::from_bits((exponent + 127 - 8) << 23 | mantissa << 20);
    let subnormal = mantissa as f32 * (1.0 / 1024.0);
    let value = if exponent == 0 { subnormal } else { normal };
    if code == 0x7f { 0.0 } else { value }
}

/// The UE4M3 nearest to `value`, which is not negative; ties are rounded up (`ggml_fp32_to_ue4m3`).
/// From 248 on, where the exponent is the highest, the result is the largest value, 448.
#[inline(always)]
fn ue4m3(value: f32) -> u8 {
    const LARGEST: u32 = 0x7e;
    const TWO_POW_MINUS_6: f32 = 1.0 / 64.0;
    // A carry out of the mantissa increments the exponent.
    let rounded = (value.to_bits() >> 19).wrapping_add(1) >> 1;
    let normal = rounded.wrapping_sub((127 - 7) << 3);
    let normal = if normal < 15 << 3 { normal } else { LARGEST };
    // A value just below the smallest normal one stays subnormal, as in llama.cpp.
    let subnormal = ((value.min(1.0) * 512.0 + 0.5) as u32).min(7);
    (if value < TWO_POW_MINUS_6 { subnormal } else { normal }) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_rounded_to_the_nearest() {
        for code in 0..0x78 {
            let value = 2.0 * half_of_ue4m3(code);
            assert_eq!(ue4m3(value), code);
            if code > 0 {
                let middle = half_of_ue4m3(code - 1) + half_of_ue4m3(code);
                // Between the subnormal and the normal numbers, nothing is rounded up.
                assert_eq!(ue4m3(middle), if code == 8 { 7 } else { code }, "{middle}");
                assert_eq!(ue4m3(f32::from_bits(middle.to_bits() - 2)), code - 1);
            }
        }
        assert_eq!(ue4m3(f32::from_bits((1.0f32 / 64.0).to_bits() - 1)), 7);
        for large in [248.0, 256.0, 447.0, 449.0, f32::MAX, f32::INFINITY] {
            assert_eq!(ue4m3(large), 0x7e);
        }
        assert_eq!(half_of_ue4m3(0x7f), 0.0);
    }
}
