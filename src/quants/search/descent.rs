//! Search for a scale without minimum, by coordinate descent: codes change one at a time while the
//! fit improves.
//!
//! With A = sum w x l and B = sum w l^2, the best scale is A/B, and the error falls as A^2/B grows.

use super::symmetric::largest;
use super::{NEGLIGIBLE, nearest_int};
use crate::quants::lanes::{F32s, LANES, Mask, U8s};

/// The maximum number of passes over the codes.
const PASSES: usize = 5;

/// The state of a descent: codes with their A and B.
struct Descent<const N: usize> {
    levels: [[i32; LANES]; N],
    xl: F32s,
    l2: F32s,
}

/// The range of codes, and a difference between the two searches.
#[derive(Clone, Copy)]
struct Codes {
    /// The smallest code.
    low: i32,
    /// The largest code.
    high: i32,
    /// Whether codes are stored as bytes, so that negative ones wrap. A code then also stays if no
    /// other code has a weight.
    bytes: bool,
}

impl<const N: usize> Descent<N> {
    /// Improves codes until a pass changes none, or for [`PASSES`] passes.
    #[inline(always)]
    fn improve(&mut self, x: &[F32s; N], weights: &[F32s; N], codes: Codes) {
        for _ in 0..PASSES {
            let mut changed = [0i32; LANES];
            for i in 0..N {
                for k in 0..LANES {
                    let (x, w, old) = (x[i][k], weights[i][k], self.levels[i][k]);
                    let rest_xl = self.xl[k] - w * x * old as f32;
                    let rest_l2 = self.l2[k] - w * old as f32 * old as f32;
                    let free = (rest_xl > 0.0) & (!codes.bytes | (rest_l2 > 0.0));
                    let new = nearest_int(x * rest_l2 / rest_xl).clamp(codes.low, codes.high);
                    let xl = rest_xl + w * x * new as f32;
                    let l2 = rest_l2 + w * new as f32 * new as f32;
                    let better = xl * xl * self.l2[k] > self.xl[k] * self.xl[k] * l2;
                    let take = free & (new != old) & (l2 > 0.0) & better;
                    let stored = if codes.bytes { new & 0xff } else { new };
                    self.levels[i][k] = if take { stored } else { old };
                    self.xl[k] = if take { xl } else { self.xl[k] };
                    self.l2[k] = if take { l2 } else { self.l2[k] };
                    changed[k] |= i32::from(take);
                }
            }
            // A lane without a change would not change in another pass either.
            if changed.iter().fold(0, |any, c| any | c) == 0 {
                break;
            }
        }
    }

    /// The best scale for the codes; 0 in negligible lanes.
    #[inline(always)]
    fn scale(&self, negligible: &[bool; LANES]) -> F32s {
        let mut scale = F32s::ZERO;
        for k in 0..LANES {
            let fits = !negligible[k] & (self.l2[k] > 0.0);
            scale[k] = if fits { self.xl[k] / self.l2[k] } else { 0.0 };
        }
        scale
    }
}

/// Approximates x by `scale * (q - half)`, q in 0..2 half, with weights x^2 (`make_q3_quants`).
/// Returns the scale. A block of negligible values gets scale 0 and codes 0.
#[inline(always)]
pub(crate) fn fit_self_weighted<const N: usize>(
    x: &[F32s; N],
    half: i32,
    codes: &mut [U8s; N],
) -> F32s {
    let (largest, magnitude) = largest(x);
    let mut weights = [F32s::ZERO; N];
    let mut descent = Descent { levels: [[0; LANES]; N], xl: F32s::ZERO, l2: F32s::ZERO };
    let mut inverse = F32s::ZERO;
    for k in 0..LANES {
        inverse[k] = -half as f32 / largest[k];
    }
    for i in 0..N {
        for k in 0..LANES {
            let x = x[i][k];
            let w = x * x;
            let level = nearest_int(inverse[k] * x).clamp(-half, half - 1);
            weights[i][k] = w;
            descent.levels[i][k] = level;
            descent.xl[k] += w * x * level as f32;
            descent.l2[k] += w * level as f32 * level as f32;
        }
    }
    descent.improve(x, &weights, Codes { low: -half, high: half - 1, bytes: false });
    let mut negligible = [false; LANES];
    for k in 0..LANES {
        negligible[k] = magnitude[k] < NEGLIGIBLE;
    }
    for i in 0..N {
        for k in 0..LANES {
            let code = (descent.levels[i][k] + half) as u8;
            codes[i][k] = if negligible[k] { 0 } else { code };
        }
    }
    descent.scale(&negligible)
}

/// Approximates x, which is not negative, by `scale * q`, q in 0..=top. Tries nine inverse scales,
/// then improves the codes of the best (`make_qp_quants`). Returns the scale.
#[inline(always)]
pub(crate) fn fit_non_negative<const N: usize>(
    x: &[F32s; N],
    weights: &[F32s; N],
    top: i32,
    codes: &mut [U8s; N],
) -> F32s {
    let mut largest = F32s::ZERO;
    for x in x {
        for k in 0..LANES {
            largest[k] = if largest[k] > x[k] { largest[k] } else { x[k] };
        }
    }
    let mut inverse = F32s::ZERO;
    for k in 0..LANES {
        inverse[k] = top as f32 / largest[k];
    }
    let mut best = square_error(x, weights, &inverse, i32::MAX, 0xff);
    for step in (-4..=4).filter(|step| *step != 0) {
        let mut candidate = F32s::ZERO;
        for k in 0..LANES {
            candidate[k] = (0.1 * step as f32 + top as f32) / largest[k];
        }
        let error = square_error(x, weights, &candidate, top, -1);
        let mut better = Mask::NONE;
        for k in 0..LANES {
            better.set(k, error[k] < best[k]);
        }
        best = better.choose(&error, &best);
        inverse = better.choose(&candidate, &inverse);
    }
    let mut descent = Descent { levels: [[0; LANES]; N], xl: F32s::ZERO, l2: F32s::ZERO };
    for i in 0..N {
        for k in 0..LANES {
            let level = nearest_int(inverse[k] * x[i][k]).min(top);
            let w = weights[i][k];
            descent.levels[i][k] = level & 0xff;
            descent.xl[k] += w * x[i][k] * level as f32;
            descent.l2[k] += w * level as f32 * level as f32;
        }
    }
    descent.improve(x, weights, Codes { low: i32::MIN, high: top, bytes: true });
    let mut negligible = [false; LANES];
    for k in 0..LANES {
        negligible[k] = largest[k] < NEGLIGIBLE;
    }
    for i in 0..N {
        for k in 0..LANES {
            codes[i][k] = if negligible[k] { 0 } else { descent.levels[i][k] as u8 };
        }
    }
    descent.scale(&negligible)
}

/// The weighted square error of the codes under an inverse scale, capped at `top` and reduced to
/// the bits of `mask`.
#[inline(always)]
fn square_error<const N: usize>(
    x: &[F32s; N],
    weights: &[F32s; N],
    inverse: &F32s,
    top: i32,
    mask: i32,
) -> F32s {
    let (mut error, mut scale) = (F32s::ZERO, F32s::ZERO);
    for k in 0..LANES {
        scale[k] = 1.0 / inverse[k];
    }
    for i in 0..N {
        for k in 0..LANES {
            let level = nearest_int(inverse[k] * x[i][k]).min(top) & mask;
            let off = x[i][k] - scale[k] * level as f32;
            error[k] += weights[i][k] * off * off;
        }
    }
    error
}
