//! Types of one to two bits that are encoded without a search: TQ1_0, TQ2_0 and Q2_0, whose scale
//! is the largest magnitude and whose codes 0, 1 and 2 are -1, 0 and 1 times it; and Q1_0, signs
//! alone.

pub(crate) mod q1_0;
pub(crate) mod q2_0;
pub(crate) mod tq1_0;
pub(crate) mod tq2_0;

use crate::quants::legacy::largest_magnitude;

/// The scale and the codes: `weight / scale` rounded, ties away from zero, plus 1.
///
/// If the inverse of the scale overflows, as in blocks of denormals, codes are `overflow`: the
/// result of llama.cpp's conversion of infinity.
#[inline(always)]
pub(crate) fn encode<const N: usize>(weights: &[f32; N], overflow: u8) -> (f32, [u8; N]) {
    let d = largest_magnitude(weights);
    let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
    let mut codes = [0; N];
    for i in 0..N {
        let value = weights[i] * inverse;
        let code = 1 + i32::from(value >= 0.5) - i32::from(value <= -0.5);
        codes[i] = if value.abs() < 2.0 { code as u8 } else { overflow };
    }
    (d, codes)
}
