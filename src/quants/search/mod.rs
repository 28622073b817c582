//! Searches for the scale, the minimum and the codes of a block, sixteen blocks at a time.
//!
//! Formulas, constants and the order of operations are those of llama.cpp's `ggml/src/ggml-quants.c`,
//! whose name for a search stands with it here; they decide the bytes of a file. Branches of the
//! scalar algorithms are selections here: a lane that would have left early goes on computing values
//! that are then not used, NaN and infinity included.

mod affine;
mod descent;
#[cfg(test)]
mod oracle;
mod symmetric;

pub(super) use affine::{AffineGrid, fit_affine};
pub(super) use descent::{fit_non_negative, fit_self_weighted};
pub(super) use symmetric::{fit_symmetric, largest};

/// A block whose largest magnitude is below this counts as zero (`GROUP_MAX_EPS`).
pub(super) const NEGLIGIBLE: f32 = 1e-15;

/// The integer nearest to `value`, ties to even, for magnitudes up to 2^22; beyond, the low bits of
/// the sum's mantissa, which is what files hold then (`nearest_int`).
#[inline(always)]
pub(super) fn nearest_int(value: f32) -> i32 {
    // 1.5 * 2^23: the sum's last place is 1, so adding rounds, and its mantissa holds the integer.
    let bits = (value + 12_582_912.0).to_bits();
    (bits & 0x007f_ffff) as i32 - 0x0040_0000
}

/// [`nearest_int`], capped, as a float; of no meaning for magnitudes beyond 2^22.
///
/// The sum's bits ascend with the integer, so that they can be capped as they are: fewer operations, and
/// those on integers, which are cheaper than caps of floats.
#[inline(always)]
fn nearest_within(value: f32, low: i32, high: i32) -> f32 {
    let zero = 12_582_912f32;
    let bits = (value + zero).to_bits() as i32;
    let zero_bits = zero.to_bits() as i32;
    f32::from_bits(bits.clamp(zero_bits + low, zero_bits + high) as u32) - zero
}
