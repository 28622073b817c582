//! Search for scale and minimum: x is approximated by `scale * q - min`, q in 0..=top.

use super::nearest_int;
use crate::quants::lanes::{F32s, LANES, Mask, U8s};

/// The inverse scales to try, `(top + start + step * i) / range` for i in 0..=steps, and the
/// measure of their error.
#[derive(Clone, Copy)]
pub(crate) struct AffineGrid {
    /// The largest code.
    pub top: i32,
    /// The first offset from `top`.
    pub start: f32,
    /// The distance of neighbouring offsets.
    pub step: f32,
    /// The number of steps.
    pub steps: i32,
    /// Whether the error is the absolute deviation instead of its square.
    pub absolute: bool,
}

/// The best fit found so far, in each lane.
struct Best {
    error: F32s,
    scale: F32s,
    min: F32s,
    /// The inverse scale and minimum that codes are computed with. `scale` and `min` are then
    /// fitted to the codes.
    code_inverse: F32s,
    code_min: F32s,
}

/// Weighted search over a grid of inverse scales. For each, scale and minimum are fitted to the
/// codes by least squares (`make_qkx2_quants`, `make_qkx3_quants`). Returns the scale and the
/// minimum, which is subtracted and never negative.
#[inline(always)]
pub(crate) fn fit_affine<const N: usize>(
    x: &[F32s; N],
    weights: &[F32s; N],
    grid: AffineGrid,
    codes: &mut [U8s; N],
) -> (F32s, F32s) {
    let (mut low, mut high) = (x[0], x[0]);
    let mut sum_w = weights[0];
    let mut sum_x = F32s::ZERO;
    for k in 0..LANES {
        sum_x[k] = weights[0][k] * x[0][k];
    }
    for i in 1..N {
        for k in 0..LANES {
            let v = x[i][k];
            low[k] = if v < low[k] { v } else { low[k] };
            high[k] = if v > high[k] { v } else { high[k] };
            sum_w[k] += weights[i][k];
            sum_x[k] += weights[i][k] * v;
        }
    }
    for k in 0..LANES {
        low[k] = if low[k] > 0.0 { 0.0 } else { low[k] };
    }
    let mut best = first_guess(x, weights, &grid, &low, &high);
    let problem = Problem { x, weights, grid, high, sum_w, sum_x };
    let mut levels = [F32s::ZERO; N];
    for step in 0..=grid.steps {
        problem.try_step(step, &mut best, &mut levels);
    }

    let (mut scale, mut min) = (best.scale, F32s::ZERO);
    for i in 0..N {
        for k in 0..LANES {
            let code = nearest_int(best.code_inverse[k] * (x[i][k] - best.code_min[k]));
            let code = code.clamp(0, grid.top) as u8;
            codes[i][k] = if high[k] == low[k] { 0 } else { code };
        }
    }
    for k in 0..LANES {
        let flat = high[k] == low[k];
        scale[k] = if flat { 0.0 } else { scale[k] };
        min[k] = -(if flat { low[k] } else { best.min[k] });
    }
    (scale, min)
}

/// The fit whose codes divide the range evenly.
#[inline(always)]
fn first_guess<const N: usize>(
    x: &[F32s; N],
    weights: &[F32s; N],
    grid: &AffineGrid,
    low: &F32s,
    high: &F32s,
) -> Best {
    let mut inverse = F32s::ZERO;
    let mut scale = F32s::ZERO;
    for k in 0..LANES {
        inverse[k] = grid.top as f32 / (high[k] - low[k]);
        scale[k] = 1.0 / inverse[k];
    }
    let mut error = F32s::ZERO;
    for i in 0..N {
        for k in 0..LANES {
            let code = nearest_int(inverse[k] * (x[i][k] - low[k])).clamp(0, grid.top);
            let off = scale[k] * code as f32 + low[k] - x[i][k];
            error[k] += weights[i][k] * if grid.absolute { off.abs() } else { off * off };
        }
    }
    Best { error, scale, min: *low, code_inverse: inverse, code_min: *low }
}

/// The inputs that all steps share.
struct Problem<'a, const N: usize> {
    x: &'a [F32s; N],
    weights: &'a [F32s; N],
    grid: AffineGrid,
    high: F32s,
    /// The sums of the weights and of the weighted values.
    sum_w: F32s,
    sum_x: F32s,
}

impl<const N: usize> Problem<'_, N> {
    /// Tries one inverse scale of the grid. `levels` is scratch space.
    #[inline(always)]
    fn try_step(&self, step: i32, best: &mut Best, levels: &mut [F32s; N]) {
        let Problem { x, weights, grid, high, sum_w, sum_x } = self;
        let reach = grid.start + grid.step * step as f32 + grid.top as f32;
        let mut inverse = F32s::ZERO;
        let min = best.min;
        for k in 0..LANES {
            inverse[k] = reach / (high[k] - min[k]);
        }
        let (mut sum_l, mut sum_l2, mut sum_xl) = (F32s::ZERO, F32s::ZERO, F32s::ZERO);
        for i in 0..N {
            for k in 0..LANES {
                let code = nearest_int(inverse[k] * (x[i][k] - min[k])).clamp(0, grid.top);
                let level = code as f32;
                levels[i][k] = level;
                let wl = weights[i][k] * level;
                sum_l[k] += wl;
                sum_l2[k] += wl * level;
                sum_xl[k] += wl * x[i][k];
            }
        }
        let Line { determinant, scale: new_scale, min: new_min } =
            fit_line((sum_w, sum_x), (&sum_l, &sum_l2, &sum_xl));
        let mut error = F32s::ZERO;
        for i in 0..N {
            for k in 0..LANES {
                let off = new_scale[k] * levels[i][k] + new_min[k] - x[i][k];
                error[k] += weights[i][k] * if grid.absolute { off.abs() } else { off * off };
            }
        }
        let mut better = Mask::NONE;
        for k in 0..LANES {
            better.set(k, (determinant[k] > 0.0) & (error[k] < best.error[k]));
        }
        best.error = better.choose(&error, &best.error);
        best.scale = better.choose(&new_scale, &best.scale);
        best.min = better.choose(&new_min, &best.min);
        best.code_inverse = better.choose(&inverse, &best.code_inverse);
        best.code_min = better.choose(&min, &best.code_min);
    }
}

/// The least-squares fit of x = scale * l + min. Valid only if the determinant is positive.
struct Line {
    determinant: F32s,
    scale: F32s,
    min: F32s,
}

/// Fits a line, given the sums over weights and values and those over levels.
///
/// Each loop has one kind of operation and no condition on a division: the compiler does not
/// vectorize loops that mix them.
#[inline(always)]
fn fit_line(
    (sum_w, sum_x): (&F32s, &F32s),
    (sum_l, sum_l2, sum_xl): (&F32s, &F32s, &F32s),
) -> Line {
    let mut line = Line { determinant: F32s::ZERO, scale: F32s::ZERO, min: F32s::ZERO };
    let mut scale_alone = F32s::ZERO;
    for k in 0..LANES {
        line.determinant[k] = sum_w[k] * sum_l2[k] - sum_l[k] * sum_l[k];
        line.scale[k] = sum_w[k] * sum_xl[k] - sum_x[k] * sum_l[k];
        line.min[k] = sum_l2[k] * sum_x[k] - sum_l[k] * sum_xl[k];
        scale_alone[k] = sum_xl[k] / sum_l2[k];
    }
    for k in 0..LANES {
        line.scale[k] /= line.determinant[k];
        line.min[k] /= line.determinant[k];
    }
    // A minimum above zero cannot be stored; use the best scale without a minimum.
    let mut positive = Mask::NONE;
    for k in 0..LANES {
        positive.set(k, line.min[k] > 0.0);
    }
    line.scale = positive.choose(&scale_alone, &line.scale);
    line.min = positive.choose(&F32s::ZERO, &line.min);
    line
}
