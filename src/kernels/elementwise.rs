//! Element-wise loops of the forward pass, vectorized by the compiler for each SIMD level.
//!
//! They use no fused multiply-add and a fixed number of lanes for sums, so that every level gives
//! the same bits.

use crate::base::simd::levels;

/// The lanes of a sum, which are added pairwise at the end.
const LANES: usize = 16;

levels! {
    /// Returns whether all values are finite.
    pub fn all_finite(values: &[f32]) -> bool = all_finite_body;
}

levels! {
    /// `out = x / sqrt(mean(x^2) + eps) * weight`, for one row.
    ///
    /// # Panics
    /// If the slices differ in length.
    pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = rms_norm_body;
}

levels! {
    /// Adds a part of a row to its softmax: replaces `x` by `e^(scale * x - state.max)`, where
    /// `state.max` is the largest value so far. Returns the factor by which results of earlier
    /// parts must be multiplied, as their maximum may have been less; 1 if `x` is empty.
    ///
    /// The softmax is the results of all parts, divided by `state.sum`. Exponentials are within 2
    /// units in the last place. Source: Milakov and Gimelshein, "Online normalizer calculation for
    /// softmax", 2018.
    pub fn softmax_part(x: &mut [f32], scale: f32, state: &mut SoftmaxState) -> f32 = softmax_part_body;
}

levels! {
    /// `x = factor * x`.
    pub fn scale(x: &mut [f32], factor: f32) = scale_body;
}

levels! {
    /// `gate = silu(gate) * up`, where `silu(v) = v / (1 + e^-v)`.
    ///
    /// # Panics
    /// If the slices differ in length.
    pub fn swiglu(gate: &mut [f32], up: &[f32]) = swiglu_body;
}

levels! {
    /// `gate = gelu(gate) * up`, where
    /// `gelu(v) = v / 2 (1 + tanh(sqrt(2 / pi) (v + 0.044715 v^3)))`.
    ///
    /// # Panics
    /// If the slices differ in length.
    pub fn geglu(gate: &mut [f32], up: &[f32]) = geglu_body;
}

levels! {
    /// `x = cap * tanh(factor * x / cap)`, within 2e-7 of `cap`.
    pub fn soft_cap(x: &mut [f32], factor: f32, cap: f32) = soft_cap_body;
}

levels! {
    /// `sum = sum + factor * x`.
    ///
    /// # Panics
    /// If the slices differ in length.
    pub fn add_scaled(x: &[f32], factor: f32, sum: &mut [f32]) = add_scaled_body;
}

levels! {
    /// Rotates the pairs `(x[i], x[i + n])`, where `n` is the number of `turns`: `(a, b)` becomes
    /// `(a cos - b sin, a sin + b cos)`, where cosine and sine are the `i`-th turn. Elements from
    /// `2 n` on stay unchanged.
    ///
    /// # Panics
    /// If `x` has fewer than `2 n` elements.
    pub fn rotate_halves(x: &mut [f32], turns: &[[f32; 2]]) = rotate_halves_body;
}

levels! {
    /// Rotates adjacent pairs of `x`: the `i`-th pair `(a, b)` becomes
    /// `(a cos - b sin, a sin + b cos)`, where cosine and sine are the `i`-th turn. Pairs without a
    /// turn stay unchanged.
    pub fn rotate_pairs(x: &mut [f32], turns: &[[f32; 2]]) = rotate_pairs_body;
}

levels! {
    /// `sums[i] += x[i]^2`, up to the shorter length.
    pub fn add_squares(x: &[f32], sums: &mut [f32]) = add_squares_body;
}

levels! {
    /// `log(sum of e^x)`, with exponentials in f32 and their sum in f64.
    pub fn log_sum_exp(x: &[f32]) -> f64 = log_sum_exp_body;
}

/// The state of a softmax over the parts of a row, see [`softmax_part`].
#[derive(Clone, Copy, Debug)]
pub struct SoftmaxState {
    /// The largest value so far, times its scale.
    pub max: f32,
    /// The sum of all exponentials, relative to `e^max`.
    pub sum: f32,
}

impl Default for SoftmaxState {
    fn default() -> SoftmaxState {
        SoftmaxState { max: f32::NEG_INFINITY, sum: 0.0 }
    }
}

/// `e^x` within 2 units in the last place. The argument is clamped so that results are between
/// 1.2e-38 and 1.7e38; NaN stays NaN.
///
/// `e^x = 2^n e^r`, where `n` is the integer nearest to `x / ln 2`, and `e^r` its Taylor series up
/// to the seventh power: |r| <= ln 2 / 2, so the remainder is less than 6e-9.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding it rounds to the nearest integer, which the low bits of the mantissa hold.
    const ROUND: f32 = 12582912.0;
    // ln 2 in two parts. n times the first part is exact.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Comparisons, because min and max would replace NaN.
    let x = if x < -87.33 { -87.33 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut series = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * r + coefficient;
    }
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    series * f32::from_bits(exponent << 23)
}

#[inline(always)]
fn all_finite_body(values: &[f32]) -> bool {
    // The exponent of NaN and of infinity is all ones.
    const INFINITY: u32 = 0x7f80_0000;
    let worst = |values: &[f32]| {
        values.iter().fold(0u32, |worst, v| worst.max(v.to_bits() & INFINITY)) < INFINITY
    };
    values.chunks(1024).all(worst)
}

/// Sums `f` over `x` in lanes.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (body, tail) = x.split_at(x.len() - x.len() % LANES);
    for part in body.chunks_exact(LANES) {
        for (lane, &v) in lanes.iter_mut().zip(part) {
            *lane += f(v);
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(tail) {
        *lane += f(v);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The largest value. NaN may be ignored.
#[inline(always)]
fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let pick = |lane: &mut f32, v: f32| *lane = if v > *lane { v } else { *lane };
    let (body, tail) = x.split_at(x.len() - x.len() % LANES);
    for part in body.chunks_exact(LANES) {
        lanes.iter_mut().zip(part).for_each(|(lane, &v)| pick(lane, v));
    }
    lanes.iter_mut().zip(tail).for_each(|(lane, &v)| pick(lane, v));
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

#[inline(always)]
fn rms_norm_body(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len());
    let mean = sum(x, |v| v * v) / x.len() as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    for ((o, &v), &w) in out.iter_mut().zip(x).zip(weight) {
        *o = v * scale * w;
    }
}

#[inline(always)]
fn softmax_part_body(x: &mut [f32], scale: f32, state: &mut SoftmaxState) -> f32 {
    if x.is_empty() {
        return 1.0;
    }
    let before = state.max;
    let top = max(x) * scale;
    let top = if top > before { top } else { before };
    x.iter_mut().for_each(|v| *v = exp(*v * scale - top));
    let factor = if before < top { exp(before - top) } else { 1.0 };
    *state = SoftmaxState { max: top, sum: state.sum * factor + sum(x, |v| v) };
    factor
}

#[inline(always)]
fn scale_body(x: &mut [f32], factor: f32) {
    x.iter_mut().for_each(|v| *v *= factor);
}

#[inline(always)]
fn swiglu_body(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len());
    for (g, &u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + exp(-*g)) * u;
    }
}

/// `tanh x = 1 - 2 / (e^2x + 1)`. Near 0, the absolute error is that of a number near 1.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

#[inline(always)]
fn geglu_body(gate: &mut [f32], up: &[f32]) {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    assert_eq!(gate.len(), up.len());
    for (g, &u) in gate.iter_mut().zip(up) {
        let v = *g;
        *g = 0.5 * v * (1.0 + tanh(SQRT_2_OVER_PI * v * (1.0 + 0.044715 * v * v))) * u;
    }
}

#[inline(always)]
fn soft_cap_body(x: &mut [f32], factor: f32, cap: f32) {
    let inner = factor / cap;
    x.iter_mut().for_each(|v| *v = cap * tanh(*v * inner));
}

#[inline(always)]
fn add_scaled_body(x: &[f32], factor: f32, sum: &mut [f32]) {
    assert_eq!(x.len(), sum.len());
    sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += factor * x);
}

#[inline(always)]
fn rotate_halves_body(x: &mut [f32], turns: &[[f32; 2]]) {
    let (first, rest) = x.split_at_mut(turns.len());
    let second = &mut rest[..turns.len()];
    for ((a, b), [cos, sin]) in first.iter_mut().zip(second).zip(turns) {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    }
}

#[inline(always)]
fn rotate_pairs_body(x: &mut [f32], turns: &[[f32; 2]]) {
    let (pairs, _) = x.as_chunks_mut::<2>();
    for ([a, b], [cos, sin]) in pairs.iter_mut().zip(turns) {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    }
}

#[inline(always)]
fn add_squares_body(x: &[f32], sums: &mut [f32]) {
    sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x * x);
}

#[inline(always)]
fn log_sum_exp_body(x: &[f32]) -> f64 {
    let top = max(x);
    // Short runs in f32 and their sums in f64: as accurate as f64 throughout, and vectorized.
    let total: f64 = x.chunks(512).map(|part| sum(part, |v| exp(v - top)) as f64).sum();
    top as f64 + total.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_everywhere() {
        for i in -8700..=8800 {
            let x = i as f32 * 0.01;
            let expected = (x as f64).exp();
            let error = (exp(x) as f64 - expected).abs() / expected;
            assert!(error < 2.5e-7, "e^{x}: {} for {expected}", exp(x));
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 2e-38 && exp(1000.0) > 1e38);
    }

    #[test]
    fn all_levels_give_the_same_bits() {
        let x: Vec<f32> = (0..1003).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.21).collect();
        let (mut a, mut b) = (x.clone(), x.clone());
        let (mut of_a, mut of_b) = (SoftmaxState::default(), SoftmaxState::default());
        softmax_part(&mut a, 0.3, &mut of_a);
        softmax_part_body(&mut b, 0.3, &mut of_b);
        assert_eq!(a, b);
        assert_eq!((of_a.max, of_a.sum), (of_b.max, of_b.sum));
        let (mut a, mut b) = (x.clone(), x.clone());
        swiglu(&mut a, &x);
        swiglu_body(&mut b, &x);
        assert_eq!(a, b);
        let (mut a, mut b) = (x.clone(), x.clone());
        geglu(&mut a, &x);
        geglu_body(&mut b, &x);
        assert_eq!(a, b);
        let (mut a, mut b) = (x.clone(), x.clone());
        soft_cap(&mut a, 0.7, 5.0);
        soft_cap_body(&mut b, 0.7, 5.0);
        assert_eq!(a, b);
        let (mut a, mut b) = (x.clone(), x.clone());
        add_scaled(&x, 0.3, &mut a);
        add_scaled_body(&x, 0.3, &mut b);
        assert_eq!(a, b);
        let turns: Vec<_> = x[..300].iter().map(|v| [v.cos(), v.sin()]).collect();
        let (mut a, mut b) = (x.clone(), x.clone());
        rotate_pairs(&mut a, &turns);
        rotate_pairs_body(&mut b, &turns);
        assert_eq!(a, b);
        let expected = x[2] * turns[1][1] + x[3] * turns[1][0];
        assert!((a[3] - expected).abs() < 1e-5 && a[600..] == x[600..]);
        let (mut a, mut b) = (x.clone(), x.clone());
        rotate_halves(&mut a, &turns);
        rotate_halves_body(&mut b, &turns);
        assert_eq!(a, b);
        let expected = x[1] * turns[1][1] + x[301] * turns[1][0];
        assert!((a[301] - expected).abs() < 1e-5 && a[600..] == x[600..]);
        let (mut a, mut b) = (vec![1.0; 1003], vec![1.0; 1003]);
        add_squares(&x, &mut a);
        add_squares_body(&x, &mut b);
        assert_eq!(a, b);
        assert_eq!(a[7], 1.0 + x[7] * x[7]);
        assert_eq!(log_sum_exp(&x).to_bits(), log_sum_exp_body(&x).to_bits());
        let expected = x.iter().map(|&v| (v as f64).exp()).sum::<f64>().ln();
        assert!((log_sum_exp(&x) - expected).abs() < 1e-6);
    }

    #[test]
    fn gelu_and_caps_follow_their_formulas() {
        let x: Vec<f32> = (-400..=400).map(|i| i as f32 * 0.05).collect();
        let (mut gelu, mut capped) = (x.clone(), x.clone());
        geglu(&mut gelu, &vec![2.0; x.len()]);
        soft_cap(&mut capped, 3.0, 7.0);
        for ((&v, gelu), capped) in x.iter().zip(gelu).zip(capped) {
            let v = v as f64;
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (v + 0.044715 * v * v * v);
            let expected = v * (1.0 + inner.tanh());
            assert!(
                (gelu as f64 - expected).abs() < 4e-6 * (1.0 + v.abs()),
                "gelu {v}: {gelu} {expected}"
            );
            let expected = 7.0 * (3.0 * v / 7.0).tanh();
            assert!((capped as f64 - expected).abs() < 3e-6, "cap {v}: {capped} {expected}");
        }
    }

    #[test]
    fn a_softmax_in_parts_equals_the_whole_softmax() {
        let x: Vec<f32> = (0..300).map(|i| ((i * 89 % 307) as f32 - 150.0) * 0.5).collect();
        let exponentials: Vec<f64> = x.iter().map(|&v| (v as f64 * 0.25).exp()).collect();
        let total: f64 = exponentials.iter().sum();
        let (mut got, mut state) = (x.clone(), SoftmaxState::default());
        // The largest value rises in one part and stays in another; one part is empty.
        for (start, end) in [(0, 1), (1, 70), (70, 70), (70, 300)] {
            let factor = softmax_part(&mut got[start..end], 0.25, &mut state);
            scale(&mut got[..start], factor);
        }
        scale(&mut got, 1.0 / state.sum);
        for (got, expected) in got.iter().zip(&exponentials) {
            assert!((*got as f64 - expected / total).abs() < 1e-6 * (expected / total) + 1e-30);
        }
    }

    #[test]
    fn non_finite_values_are_found_wherever_they_are() {
        let mut x = vec![1e38f32; 3000];
        assert!(all_finite(&x) && all_finite(&[]));
        for (at, value) in [(0, f32::NAN), (1500, f32::INFINITY), (2999, f32::NEG_INFINITY)] {
            let finite = std::mem::replace(&mut x[at], value);
            assert!(!all_finite(&x));
            x[at] = finite;
        }
    }

    #[test]
    fn a_nan_survives_softmax_and_swiglu() {
        for x in [[1.0, f32::NAN, 2.0], [f32::NAN; 3], [1.0, f32::INFINITY, 2.0]] {
            let (mut x, mut state) = (x, SoftmaxState::default());
            softmax_part(&mut x, 1.0, &mut state);
            assert!(state.sum.is_nan() && !all_finite(&x));
        }
        let mut gate = [f32::NAN];
        swiglu(&mut gate, &[1.0]);
        assert!(gate[0].is_nan());
    }
}
