//! Searches for the scale, the minimum and the codes of a block, sixteen blocks at a time.
//!
//! Formulas, constants and the order of operations are those of llama.cpp's
//! `ggml/src/ggml-quants.c`: they decide the bytes of a file. Each search gives the name of its
//! original. Branches of the scalar algorithms become selections: a lane that would exit early
//! continues with values that are not used and may be NaN or infinite.

mod affine;
mod descent;
#[cfg(test)]
mod oracle;
mod symmetric;

pub(super) use affine::{AffineGrid, fit_affine};
pub(super) use descent::{fit_non_negative, fit_self_weighted};
pub(super) use symmetric::{fit_symmetric, largest};

/// A block whose largest magnitude is below this counts as zero (`GROUP_MAX_EPS` of llama.cpp).
pub(super) const NEGLIGIBLE: f32 = 1e-15;

/// The integer nearest to `value`, ties to even, for magnitudes up to 2^22. Beyond, the low bits of
/// a mantissa, which llama.cpp writes as well (`nearest_int`).
#[inline(always)]
pub(super) fn nearest_int(value: f32) -> i32 {
    // 1.5 * 2^23: adding it rounds to an integer, which the mantissa of the sum holds.
    let bits = (value + 12_582_912.0).to_bits();
    (bits & 0x007f_ffff) as i32 - 0x0040_0000
}

/// [`nearest_int`] clamped to `low..=high`, as a float. Undefined for magnitudes beyond 2^22.
///
/// The bits of the sum ascend with the integer, so they are clamped directly: fewer operations, on
/// integers, which are cheaper to clamp than floats.
#[inline(always)]
fn nearest_within(value: f32, low: i32, high: i32) -> f32 {
    let zero = 12_582_912f32;
    let bits = (value + zero).to_bits() as i32;
    let zero_bits = zero.to_bits() as i32;
    f32::from_bits(bits.clamp(zero_bits + low, zero_bits + high) as u32) - zero
}
