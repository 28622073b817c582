//! What IQ4_NL and IQ4_XS share: 4-bit codes for sixteen levels, closer together near zero, and the
//! search for the scale (`quantize_row_iq4_nl_impl`).

use super::lanes::{F32s, LANES, Mask, U8s, importance_weights, sum_of_squares};
use super::search::{NEGLIGIBLE, largest};

/// What the codes stand for, in units of the scale.
pub(super) const LEVELS: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Halfway between code i and the next.
const fn midpoint(i: usize) -> f32 {
    (LEVELS[i] as f32 + LEVELS[i + 1] as f32) / 2.0
}

/// Decodes nibbles: level j from the low half of byte j, level j + 16 from the high half.
#[inline(always)]
pub(super) fn decode(bytes: &[u8], scale: f32, out: &mut [f32]) {
    for i in 0..16 {
        out[i] = scale * f32::from(LEVELS[usize::from(bytes[i] & 15)]);
        out[i + 16] = scale * f32::from(LEVELS[usize::from(bytes[i] >> 4)]);
    }
}

/// The search's weights of a sub-block, see [`importance_weights`]; without importance, values weigh
/// their square. `sigma2` is twice the mean square of the whole block.
#[inline(always)]
pub(super) fn search_weights(
    x: &[F32s; 32],
    importance: Option<&[F32s; 32]>,
    sigma2: &F32s,
) -> [F32s; 32] {
    if let Some(importance) = importance {
        return importance_weights(x, importance, sigma2);
    }
    let mut weights = *x;
    for w in &mut weights {
        for k in 0..LANES {
            w[k] *= w[k];
        }
    }
    weights
}

/// Twice the mean square of each lane's block.
#[inline(always)]
pub(super) fn twice_mean_square(weights: &[F32s]) -> F32s {
    let mut sigma2 = sum_of_squares(weights);
    for k in 0..LANES {
        sigma2[k] *= 2.0 / weights.len() as f32;
    }
    sigma2
}

/// Weighted search over inverse scales around the one that maps the value of largest magnitude to
/// the outermost level, of either sign; at each, the scale is fitted to the levels by least squares.
/// Returns the scale, 0 for a block of negligible values.
#[inline(always)]
pub(super) fn fit(x: &[F32s; 32], weights: &[F32s; 32]) -> F32s {
    let outermost = f32::from(LEVELS[0]);
    let (largest, magnitude) = largest(x);
    let mut inverse = F32s::ZERO;
    for k in 0..LANES {
        inverse[k] = 1.0 / (-largest[k] / outermost);
    }
    let (xl, l2) = sums(x, weights, &inverse);
    let (mut scale, mut best) = (F32s::ZERO, F32s::ZERO);
    for k in 0..LANES {
        scale[k] = if l2[k] > 0.0 { xl[k] / l2[k] } else { 0.0 };
        best[k] = scale[k] * xl[k];
    }
    for step in -7..=7 {
        for k in 0..LANES {
            inverse[k] = (step as f32 + outermost) / largest[k];
        }
        let (xl, l2) = sums(x, weights, &inverse);
        let (mut fitted, mut gain, mut better) = (F32s::ZERO, F32s::ZERO, Mask::NONE);
        for k in 0..LANES {
            fitted[k] = xl[k] / l2[k];
        }
        for k in 0..LANES {
            gain[k] = fitted[k] * xl[k];
            better.set(k, (l2[k] > 0.0) & (xl[k] * xl[k] > best[k] * l2[k]));
        }
        scale = better.choose(&fitted, &scale);
        best = better.choose(&gain, &best);
    }
    for k in 0..LANES {
        scale[k] = if magnitude[k] < NEGLIGIBLE { 0.0 } else { scale[k] };
    }
    scale
}

/// Weighted sums of x l and of l^2 over the levels that an inverse scale gives.
#[inline(always)]
fn sums(x: &[F32s; 32], weights: &[F32s; 32], inverse: &F32s) -> (F32s, F32s) {
    let (mut xl, mut l2) = (F32s::ZERO, F32s::ZERO);
    for i in 0..32 {
        for k in 0..LANES {
            let level = nearest_level(inverse[k] * x[i][k]);
            let weighted = weights[i][k] * level;
            xl[k] += weighted * x[i][k];
            l2[k] += weighted * level;
        }
    }
    (xl, l2)
}

/// The level nearest to `value`, as [`nearest_code`] has it. The sum of small integers is exact.
#[inline(always)]
fn nearest_level(value: f32) -> f32 {
    let mut level = f32::from(LEVELS[0]);
    for i in 0..15 {
        let step = f32::from(LEVELS[i + 1]) - f32::from(LEVELS[i]);
        level += if value < midpoint(i) { 0.0 } else { step };
    }
    level
}

/// The code of the level nearest to `value`, the higher one of two as near, 15 for NaN
/// (`best_index_int8`): how many midpoints are not above it.
#[inline(always)]
fn nearest_code(value: f32) -> i32 {
    let mut code = 15;
    for i in 0..15 {
        code -= i32::from(value < midpoint(i));
    }
    code
}

/// Codes of the values at an inverse scale.
#[inline(always)]
pub(super) fn codes(x: &[F32s; 32], inverse: &F32s) -> [U8s; 32] {
    let mut codes = [[0; LANES]; 32];
    for i in 0..32 {
        for k in 0..LANES {
            codes[i][k] = nearest_code(inverse[k] * x[i][k]) as u8;
        }
    }
    codes
}

/// 1 / `scale`, or 0 for 0.
#[inline(always)]
pub(super) fn inverse(scale: &F32s) -> F32s {
    let mut inverse = F32s::ZERO;
    for k in 0..LANES {
        inverse[k] = if scale[k] != 0.0 { 1.0 / scale[k] } else { 0.0 };
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The search by halving that midpoints replace.
    fn searched(value: f32) -> usize {
        let level = |i: usize| f32::from(LEVELS[i]);
        if value <= level(0) {
            return 0;
        }
        if value >= level(15) {
            return 15;
        }
        let above = (1..15).find(|i| value < level(*i)).unwrap_or(15);
        if value - level(above - 1) < level(above) - value { above - 1 } else { above }
    }

    #[test]
    fn midpoints_find_what_the_search_finds() {
        let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 1e-45, -0.0];
        let halves = (-280..=280).map(|i| i as f32 / 2.0);
        let near = halves.flat_map(|half| {
            (-40..40).map(move |off| f32::from_bits(half.to_bits().wrapping_add_signed(off)))
        });
        let strided = (0..=u32::MAX).step_by(4099).map(f32::from_bits);
        for value in special.into_iter().chain(near).chain(strided) {
            let expected = searched(value);
            assert_eq!(nearest_code(value), expected as i32, "{value:e}");
            assert_eq!(nearest_level(value), f32::from(LEVELS[expected]), "{value:e}");
        }
    }
}
