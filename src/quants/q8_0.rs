//! Q8_0: 32 weights, an F16 scale and signed bytes: `d * q`. An importance matrix has no use here.
//!
//! Bytes: scale (2), then the 32 codes in order.

use super::codec::{self, Codec, DecodeBlock, EncodeBlock};
use super::f16::{f32_to_f16, read_f16};
use crate::dtype::DType;

pub(super) const CODEC: Codec = Codec {
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
        let mut largest = 0f32;
        for w in weights {
            largest = if w.abs() > largest { w.abs() } else { largest };
        }
        let d = largest / 127.0;
        let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
        out[..2].copy_from_slice(&f32_to_f16(d).to_le_bytes());
        for i in 0..32 {
            out[2 + i] = round_half_away(weights[i] * inverse) as u8;
        }
    }
}

/// C's `roundf` and conversion to an integer as x86-64 does it: i32::MIN for what does not fit, which a
/// block of denormals gives. `f32::round` would be a library call a weight on the baseline.
#[inline(always)]
fn round_half_away(value: f32) -> i32 {
    let whole = value as i32;
    let fraction = value - whole as f32;
    let rounded = whole + i32::from(fraction >= 0.5) - i32::from(fraction <= -0.5);
    if value.abs() < 8_388_608.0 { rounded } else { i32::MIN }
}
