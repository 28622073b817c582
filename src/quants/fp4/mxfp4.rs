//! MXFP4: 32 weights, 4-bit floats with a power of two as their scale. Importance is ignored.
//!
//! Bytes: exponent of the scale, E8M0 (1), then 16 bytes with weight i in the low nibble and weight
//! i + 16 in the high one.

use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock, EncodeBlock};
use crate::quants::legacy::largest_magnitude;

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::MXFP4,
    decode: codec::decode_blocks::<MXFP4, 32, 17>,
    quantize: Some(codec::encode_blocks::<MXFP4, 32, 17>),
    is_valid: |block| block[0] != 0xff,
};

struct MXFP4;

impl DecodeBlock<32, 17> for MXFP4 {
    #[inline(always)]
    fn decode_block(block: &[u8; 17], out: &mut [f32; 32]) {
        super::decode(&block[1..], half_of_e8m0(block[0]), out);
    }
}

/// As `quantize_row_mxfp4_ref` of llama.cpp.
impl EncodeBlock<32, 17> for MXFP4 {
    #[inline(always)]
    fn encode_block(weights: &[f32; 32], out: &mut [u8; 17]) {
        let magnitude = largest_magnitude(weights);
        // The largest value of E2M1 has exponent 2. In blocks of denormals, this wraps around as in
        // C.
        let exponent = (floor_log2(magnitude) - 2 + 127) as u8;
        out[0] = if magnitude > 0.0 && magnitude < f32::INFINITY { exponent } else { 0 };
        super::encode(weights, magnitude, half_of_e8m0(out[0]), &mut out[1..]);
    }
}

/// `2^(exponent - 128)`. The two smallest are denormal.
#[inline(always)]
fn half_of_e8m0(exponent: u8) -> f32 {
    let normal = u32::from(exponent).wrapping_sub(1) << 23;
    f32::from_bits(if exponent < 2 { 0x0020_0000 << exponent } else { normal })
}

/// `floor(log2f(value))` of C for positive finite values: the exponent, except just below a power
/// of two, where the logarithm rounds up. Does not call `log2`, which differs between C libraries.
#[inline(always)]
fn floor_log2(value: f32) -> i32 {
    const TWO_POW_24: f32 = 16_777_216.0;
    let denormal = value < f32::MIN_POSITIVE;
    let bits = (if denormal { value * TWO_POW_24 } else { value }).to_bits() as i32;
    let exponent = (bits >> 23) - 127 - if denormal { 24 } else { 0 };
    // n units of 2^-24 below a power of two, the logarithm is n / ln 2 units below an integer. It
    // rounds to the integer if that is less than half the spacing of floats there.
    let below = 0x0080_0000 - (bits & 0x007f_ffff);
    let size = (exponent ^ (exponent >> 31)) as u32;
    let spacing = if size > 0 { 1 << (31 - size.leading_zeros()) } else { 0 };
    exponent + i32::from((below as f32) < std::f32::consts::LN_2 * spacing as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn exponents_are_those_of_the_c_library() {
        let strided = (1..f32::INFINITY.to_bits()).step_by(1013);
        let powers = (-149..128).flat_map(|exponent| {
            let bits = 2f64.powi(exponent) as f32;
            (-200..200).filter_map(move |off| bits.to_bits().checked_add_signed(off))
        });
        let top = f32::MAX.to_bits() - 200..f32::INFINITY.to_bits();
        for value in strided.chain(powers).chain(top).map(f32::from_bits).filter(|v| *v > 0.0) {
            assert_eq!(floor_log2(value), value.log2().floor() as i32, "{value:e}");
        }
    }

    #[test]
    fn scales_are_powers_of_two() {
        for exponent in 0..=254 {
            assert_eq!(f64::from(half_of_e8m0(exponent)), 2f64.powi(i32::from(exponent) - 128));
        }
    }
}
