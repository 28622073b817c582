//! TQ1_0: 256 weights, an F16 scale and ternary codes, five per byte: `d * (q - 1)`. Importance is
//! ignored.
//!
//! Bytes: a run of 32 bytes and one of 16 with five codes each, one of 4 with four codes each, F16
//! `d` (2). Byte l of a run of n holds the weights l, l + n, l + 2 n and so on: the digits of a
//! fraction in base 3, rounded up to eight bits.

use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock, EncodeBlock};
use crate::quants::floats::f16::{f16_bytes, read_f16};

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::TQ1_0,
    decode: codec::decode_blocks::<TQ1_0, 256, 54>,
    quantize: Some(codec::encode_blocks::<TQ1_0, 256, 54>),
    is_valid: |block| codec::finite_f16(block, 52),
};

/// Runs of bytes: first byte, number of bytes, first weight.
const RUNS: [(usize, usize, usize); 3] = [(0, 32, 0), (32, 16, 160), (48, 4, 240)];

/// The value of each digit in units of 1/243, which is 3 to the power of -5.
const PLACES: [u16; 5] = [81, 27, 9, 3, 1];

#[allow(non_camel_case_types)] // As GGUF spells it.
struct TQ1_0;

impl DecodeBlock<256, 54> for TQ1_0 {
    #[inline(always)]
    fn decode_block(block: &[u8; 54], out: &mut [f32; 256]) {
        let d = read_f16(block, 52);
        for (start, bytes, first) in RUNS {
            let fractions = &block[start..start + bytes];
            let digits = if bytes == 4 { 4 } else { 5 };
            let mut power = 1u8;
            for out in out[first..][..bytes * digits].chunks_exact_mut(bytes) {
                for (out, fraction) in out.iter_mut().zip(fractions) {
                    // Multiplying by the power drops the digits before this one; by 3, moves it to
                    // bit 8.
                    let digit = (u16::from(fraction.wrapping_mul(power)) * 3) >> 8;
                    *out = (i32::from(digit) - 1) as f32 * d;
                }
                power = power.wrapping_mul(3);
            }
        }
    }
}

/// As `quantize_row_tq1_0_ref` of llama.cpp.
impl EncodeBlock<256, 54> for TQ1_0 {
    #[inline(always)]
    fn encode_block(weights: &[f32; 256], out: &mut [u8; 54]) {
        let (d, codes) = super::encode(weights, 1);
        for (start, bytes, first) in RUNS {
            let mut numbers = [0u16; 32];
            let codes = &codes[first..256.min(first + 5 * bytes)];
            for (codes, place) in codes.chunks_exact(bytes).zip(PLACES) {
                for (number, code) in numbers.iter_mut().zip(codes) {
                    *number += place * u16::from(*code);
                }
            }
            for (out, number) in out[start..start + bytes].iter_mut().zip(numbers) {
                *out = (number * 256).div_ceil(243) as u8;
            }
        }
        out[52..].copy_from_slice(&f16_bytes(d));
    }
}
