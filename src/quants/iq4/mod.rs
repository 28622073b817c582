//! IQ4 types: 4-bit codes of sixteen levels that are closer together near zero, and the search for
//! the scale (`quantize_row_iq4_nl_impl` of llama.cpp).

pub(crate) mod iq4_nl;
pub(crate) mod iq4_xs;

use crate::quants::lanes::{F32s, LANES, Mask, U8s, importance_weights, squares, sum_of_squares};
use crate::quants::search::{NEGLIGIBLE, largest};

/// The level of each code, in units of the scale.
const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The midpoint of levels i and i + 1.
const fn midpoint(i: usize) -> f32 {
    (LEVELS[i] as f32 + LEVELS[i + 1] as f32) / 2.0
}

/// Decodes nibbles: value j from the low half of byte j, value j + 16 from the high half.
#[inline(always)]
pub(crate) fn decode(bytes: &[u8], scale: f32, out: &mut [f32]) {
    for i in 0..16 {
        out[i] = scale * f32::from(LEVELS[usize::from(bytes[i] & 15)]);
        out[i + 16] = scale * f32::from(LEVELS[usize::from(bytes[i] >> 4)]);
    }
}

/// The weights of the search in a sub-block, see [`importance_weights`]; x^2 without importance.
/// `sigma2` is twice the mean square of the whole block.
#[inline(always)]
pub(crate) fn search_weights(
    x: &[F32s; 32],
    importance: Option<&[F32s; 32]>,
    sigma2: &F32s,
) -> [F32s; 32] {
    if let Some(importance) = importance {
        return importance_weights(x, importance, sigma2);
    }
    squares(x)
}

/// Twice the mean square of each lane's block.
#[inline(always)]
pub(crate) fn twice_mean_square(weights: &[F32s]) -> F32s {
    let mut sigma2 = sum_of_squares(weights);
    for k in 0..LANES {
        sigma2[k] *= 2.0 / weights.len() as f32;
    }
    sigma2
}

/// Weighted search over inverse scales around the one that maps the value of largest magnitude to
/// the outermost level, with either sign. For each, the scale is fitted to the levels by least
/// squares. Returns the best scale, or 0 for a block of negligible values.
#[inline(always)]
pub(crate) fn fit(x: &[F32s; 32], weights: &[F32s; 32]) -> F32s {
    let (largest, magnitude) = largest(x);
    let mut inverse = F32s::ZERO;
    for k in 0..LANES {
        inverse[k] = 1.0 / (-largest[k] / f32::from(LEVELS[0]));
    }
    let (xl, l2) = sums(x, weights, &inverse);
    let (mut scale, mut best) = (F32s::ZERO, F32s::ZERO);
    for k in 0..LANES {
        scale[k] = if l2[k] > 0.0 { xl[k] / l2[k] } else { 0.0 };
        best[k] = scale[k] * xl[k];
    }
    let first = step_inverse(-STEPS, &largest);
    let terms = Terms::new(x, weights, &first, &step_inverse(STEPS, &largest));
    for step in -STEPS..=STEPS {
        let (xl, l2) = terms.sums(x, &step_inverse(step, &largest));
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

/// The number of steps that are tried in each direction.
const STEPS: i32 = 7;

/// The inverse scale that maps `largest` to the outermost level plus `step`.
#[inline(always)]
fn step_inverse(step: i32, largest: &F32s) -> F32s {
    let mut inverse = F32s::ZERO;
    for k in 0..LANES {
        inverse[k] = (step as f32 + f32::from(LEVELS[0])) / largest[k];
    }
    inverse
}

/// The terms of each value in the sums of a search, at its lower and its upper level.
///
/// The inverse scales of a search differ by less than 1/8, neighbouring midpoints of the same sign
/// by more than 1/5. So each value has at most two levels in a search, and their terms are computed
/// once.
struct Terms {
    /// A scaled value below this has the lower level.
    midpoint: [F32s; 32],
    /// Weight times level times value.
    xl: [Either; 32],
    /// Weight times level squared.
    l2: [Either; 32],
}

/// One of two values for each of the blocks.
///
/// Stores the bits of one and those in which the other differs: a choice between two values in
/// memory would be compiled to a choice of addresses, which is slow.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Either {
    upper: [u32; LANES],
    differing: [u32; LANES],
}

impl Either {
    const ZERO: Either = Either { upper: [0; LANES], differing: [0; LANES] };

    /// A choice between `lower` and `upper`.
    #[inline(always)]
    fn new(lower: &F32s, upper: &F32s) -> Either {
        let mut either = Either::ZERO;
        for k in 0..LANES {
            either.upper[k] = upper[k].to_bits();
            either.differing[k] = lower[k].to_bits() ^ upper[k].to_bits();
        }
        either
    }

    /// The lower value in the lanes where `low` holds, the upper one elsewhere.
    #[inline(always)]
    fn choose(&self, low: &Mask) -> F32s {
        let mut chosen = F32s::ZERO;
        for k in 0..LANES {
            chosen[k] = f32::from_bits(self.upper[k] ^ (self.differing[k] & low.0[k] as u32));
        }
        chosen
    }
}

impl Terms {
    /// The terms for inverse scales from `first` to `last`.
    #[inline(always)]
    fn new(x: &[F32s; 32], weights: &[F32s; 32], first: &F32s, last: &F32s) -> Terms {
        let mut terms =
            Terms { midpoint: [F32s::ZERO; 32], xl: [Either::ZERO; 32], l2: [Either::ZERO; 32] };
        for i in 0..32 {
            let (at_first, at_last) = (nearest_levels(&x[i], first), nearest_levels(&x[i], last));
            let (mut lower, mut upper) = (F32s::ZERO, F32s::ZERO);
            for k in 0..LANES {
                lower[k] = at_first[k].min(at_last[k]);
            }
            for k in 0..LANES {
                upper[k] = at_first[k].max(at_last[k]);
                terms.midpoint[i][k] = (lower[k] + upper[k]) / 2.0;
            }
            let (lower_xl, lower_l2) = products(&x[i], &weights[i], &lower);
            let (upper_xl, upper_l2) = products(&x[i], &weights[i], &upper);
            terms.xl[i] = Either::new(&lower_xl, &upper_xl);
            terms.l2[i] = Either::new(&lower_l2, &upper_l2);
        }
        terms
    }

    /// The weighted sums of x l and of l^2 over the levels l under an inverse scale.
    #[inline(always)]
    fn sums(&self, x: &[F32s; 32], inverse: &F32s) -> (F32s, F32s) {
        let (mut xl, mut l2) = (F32s::ZERO, F32s::ZERO);
        for i in 0..32 {
            let mut low = Mask::NONE;
            for k in 0..LANES {
                low.set(k, inverse[k] * x[i][k] < self.midpoint[i][k]);
            }
            let (more_xl, more_l2) = (self.xl[i].choose(&low), self.l2[i].choose(&low));
            for k in 0..LANES {
                xl[k] += more_xl[k];
                l2[k] += more_l2[k];
            }
        }
        (xl, l2)
    }
}

/// Weight times level times value, and weight times level squared.
#[inline(always)]
fn products(x: &F32s, weight: &F32s, level: &F32s) -> (F32s, F32s) {
    let (mut xl, mut l2) = (F32s::ZERO, F32s::ZERO);
    for k in 0..LANES {
        let weighted = weight[k] * level[k];
        xl[k] = weighted * x[k];
        l2[k] = weighted * level[k];
    }
    (xl, l2)
}

/// The sums of [`Terms::sums`] for a single inverse scale.
#[inline(always)]
fn sums(x: &[F32s; 32], weights: &[F32s; 32], inverse: &F32s) -> (F32s, F32s) {
    let (mut xl, mut l2) = (F32s::ZERO, F32s::ZERO);
    for i in 0..32 {
        let level = nearest_levels(&x[i], inverse);
        let (more_xl, more_l2) = products(&x[i], &weights[i], &level);
        for k in 0..LANES {
            xl[k] += more_xl[k];
            l2[k] += more_l2[k];
        }
    }
    (xl, l2)
}

/// The level nearest to each scaled value.
#[inline(always)]
fn nearest_levels(x: &F32s, inverse: &F32s) -> F32s {
    let mut levels = F32s::ZERO;
    for k in 0..LANES {
        levels[k] = nearest_level(inverse[k] * x[k]);
    }
    levels
}

/// The level of [`nearest_code`].
#[inline(always)]
fn nearest_level(value: f32) -> f32 {
    let mut level = f32::from(LEVELS[0]);
    for i in 0..15 {
        level = if value < midpoint(i) { level } else { f32::from(LEVELS[i + 1]) };
    }
    level
}

/// The code of the level nearest to `value`: the number of midpoints that are not above it. Of two
/// equally near levels, the higher; 15 for NaN (`best_index_int8`).
#[inline(always)]
fn nearest_code(value: f32) -> i32 {
    let mut code = 15;
    for i in 0..15 {
        code -= i32::from(value < midpoint(i));
    }
    code
}

/// The codes of values under an inverse scale.
#[inline(always)]
pub(crate) fn codes(x: &[F32s; 32], inverse: &F32s) -> [U8s; 32] {
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
pub(crate) fn inverse(scale: &F32s) -> F32s {
    let mut inverse = F32s::ZERO;
    for k in 0..LANES {
        inverse[k] = if scale[k] != 0.0 { 1.0 / scale[k] } else { 0.0 };
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    /// llama.cpp's binary search, which comparing with midpoints replaces.
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
    fn midpoints_agree_with_the_binary_search() {
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

    #[test]
    fn two_levels_per_value_suffice_at_every_step() {
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        for size in [1e-12, 0.02, 3e30] {
            for _ in 0..200 {
                let (mut x, mut weights) = ([F32s::ZERO; 32], [F32s::ZERO; 32]);
                for k in 0..LANES {
                    for i in 0..32 {
                        // Half of the values are very near to one that some step maps to a
                        // midpoint.
                        let value = midpoint(i % 15) / (120 + (i + k) as i32 % 15) as f32;
                        let near = value * (1.0 + uniform() * 4e-7);
                        x[i][k] = size * if i < 15 { near } else { uniform() };
                        weights[i][k] = uniform() + 0.5;
                    }
                    x[31][k] = if k % 2 == 0 { size } else { -size };
                }
                let (largest, _) = largest(&x);
                let (first, last) = (step_inverse(-STEPS, &largest), step_inverse(STEPS, &largest));
                let terms = Terms::new(&x, &weights, &first, &last);
                for step in -STEPS..=STEPS {
                    let inverse = step_inverse(step, &largest);
                    let found = terms.sums(&x, &inverse);
                    let expected = sums(&x, &weights, &inverse);
                    assert_eq!((found.0.0, found.1.0), (expected.0.0, expected.1.0), "{step}");
                }
            }
        }
    }
}
