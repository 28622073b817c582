//! Q8_0: 32 weights, an F16 scale and signed bytes: `d * q`. Importance is ignored.
//!
//! Bytes: scale (2), then the 32 codes in order.

use super::largest_magnitude;
use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock, EncodeBlock};
use crate::quants::floats::f16::{f16_bytes, read_f16};
use crate::quants::search::nearest_int;

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::Q8_0,
    decode: codec::decode_blocks::<Q8_0, 32, 34>,
    quantize: Some(codec::encode_blocks::<Q8_0, 32, 34>),
    is_valid: |block| codec::finite_f16(block, 0),
};

struct Q8_0;

impl DecodeBlock<32, 34> for Q8_0 {
    #[inline(always)]
    fn decode_block(block: &[u8; 34], out: &mut [f32; 32]) {
        let d = read_f16(block, 0);
        for i in 0..32 {
            out[i] = f32::from(block[2 + i] as i8) * d;
        }
    }
}

impl EncodeBlock<32, 34> for Q8_0 {
    #[inline(always)]
    fn encode_block(weights: &[f32; 32], out: &mut [u8; 34]) {
        let d = largest_magnitude(weights) / 127.0;
        let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
        out[..2].copy_from_slice(&f16_bytes(d));
        for i in 0..32 {
            out[2 + i] = round_half_away(weights[i] * inverse) as u8;
        }
    }
}

/// `roundf` of C as an integer: nearest, ties away from zero. `f32::round` would be a library call
/// for every weight at the baseline. A value that does not fit becomes i32::MIN, as on x86-64.
#[inline(always)]
fn round_half_away(value: f32) -> i32 {
    let even = nearest_int(value);
    let off = value - even as f32;
    let up = (off == 0.5) & (value > 0.0);
    let down = (off == -0.5) & (value < 0.0);
    let away = even + i32::from(up) - i32::from(down);
    if value.abs() < 4_194_304.0 { away } else { i32::MIN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_half_away_from_zero() {
        for i in -2_000_000..=2_000_000 {
            let value = i as f32 / 8192.0;
            assert_eq!(round_half_away(value), value.round() as i32, "{value}");
            let next = f32::from_bits(value.to_bits() + 1);
            assert_eq!(round_half_away(next), next.round() as i32, "{next}");
        }
        assert_eq!(round_half_away(f32::INFINITY) as u8, 0);
        assert_eq!(round_half_away(f32::NAN) as u8, 0);
    }
}
