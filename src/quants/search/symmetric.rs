//! Search for a scale without minimum: x is approximated by `scale * (q - half)`, q in 0..2 half.

use super::{NEGLIGIBLE, nearest_int, nearest_within};
use crate::quants::lanes::{F32s, LANES, Mask, U8s};

/// Weighted search over nineteen inverse scales around the one that maps the value of largest
/// magnitude to -half. For each, the scale is fitted to the codes by least squares
/// (`make_qx_quants` with weights). Returns the scale.
///
/// A block of negligible values gets scale 0 and codes 0, not `half`.
#[inline(always)]
pub(crate) fn fit_symmetric<const N: usize>(
    x: &[F32s; N],
    weights: &[F32s; N],
    half: i32,
    codes: &mut [U8s; N],
) -> F32s {
    let (largest, magnitude) = largest(x);
    let mut code_inverse = F32s::ZERO;
    for k in 0..LANES {
        code_inverse[k] = -half as f32 / largest[k];
    }
    let (xl, l2) = sums(x, weights, half, &code_inverse);
    let (mut scale, mut best) = (F32s::ZERO, F32s::ZERO);
    for k in 0..LANES {
        scale[k] = if l2[k] != 0.0 { xl[k] / l2[k] } else { 0.0 };
        best[k] = scale[k] * xl[k];
    }
    for step in (-9..=9).filter(|step| *step != 0) {
        let mut inverse = F32s::ZERO;
        for k in 0..LANES {
            inverse[k] = -(half as f32 + 0.1 * step as f32) / largest[k];
        }
        let (xl, l2) = sums(x, weights, half, &inverse);
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
        code_inverse = better.choose(&inverse, &code_inverse);
    }
    for i in 0..N {
        for k in 0..LANES {
            let code = nearest_int(code_inverse[k] * x[i][k]).clamp(-half, half - 1) + half;
            codes[i][k] = if magnitude[k] < NEGLIGIBLE { 0 } else { code as u8 };
        }
    }
    for k in 0..LANES {
        scale[k] = if magnitude[k] < NEGLIGIBLE { 0.0 } else { scale[k] };
    }
    scale
}

/// The value of largest magnitude, the first if several are equal, and its magnitude.
#[inline(always)]
pub(crate) fn largest<const N: usize>(x: &[F32s; N]) -> (F32s, F32s) {
    let (mut value, mut magnitude) = (F32s::ZERO, F32s::ZERO);
    for x in x {
        for k in 0..LANES {
            let larger = x[k].abs() > magnitude[k];
            magnitude[k] = if larger { x[k].abs() } else { magnitude[k] };
            value[k] = if larger { x[k] } else { value[k] };
        }
    }
    (value, magnitude)
}

/// The weighted sums of x l and of l^2 over the codes l under an inverse scale.
///
/// Codes are rounded and clamped as floats. If magnitudes are not negligible, scaled values are far
/// below 2^22, and the result equals that of [`nearest_int`], with fewer operations.
#[inline(always)]
fn sums<const N: usize>(
    x: &[F32s; N],
    weights: &[F32s; N],
    half: i32,
    inverse: &F32s,
) -> (F32s, F32s) {
    let (mut xl, mut l2) = (F32s::ZERO, F32s::ZERO);
    for i in 0..N {
        for k in 0..LANES {
            let level = nearest_within(inverse[k] * x[i][k], -half, half - 1);
            xl[k] += weights[i][k] * x[i][k] * level;
            l2[k] += weights[i][k] * level * level;
        }
    }
    (xl, l2)
}
