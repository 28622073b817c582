//! Element-wise loops of the forward pass, written over independent lanes so that the compiler
//! vectorizes them, and compiled twice: for the target's baseline and for AVX2.
//!
//! No fused multiply-add and fixed lanes for sums, so both versions give the same bits.

use super::simd::Level;

/// Lanes of a sum; added pairwise at the end.
const LANES: usize = 16;

/// Defines `$name` as `$body`, compiled for AVX2 too and dispatched at run time.
macro_rules! two_levels {
    ($(#[$doc:meta])* $name:ident ($($arg:ident: $type:ty),*) $(-> $ret:ty)? = $body:ident) => {
        $(#[$doc])*
        pub fn $name($($arg: $type),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $type),*) $(-> $ret)? {
                    $body($($arg),*)
                }
                if Level::current() >= Level::Avx2 {
                    // SAFETY: the level says that the processor has AVX2.
                    return unsafe { avx2($($arg),*) };
                }
            }
            $body($($arg),*)
        }
    };
}

two_levels! {
    /// Whether no value is NaN or infinite.
    all_finite(values: &[f32]) -> bool = all_finite_body
}

two_levels! {
    /// `out = x / sqrt(mean(x^2) + eps) * weight`, for one row.
    ///
    /// # Panics
    /// If the slices differ in length.
    rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = rms_norm_body
}

two_levels! {
    /// Replaces `x` by `softmax(scale * x)`. An empty slice stays empty.
    softmax(x: &mut [f32], scale: f32) = softmax_body
}

two_levels! {
    /// `gate = silu(gate) * up`, where `silu(v) = v / (1 + e^-v)`.
    ///
    /// # Panics
    /// If the slices differ in length.
    swiglu(gate: &mut [f32], up: &[f32]) = swiglu_body
}

two_levels! {
    /// `log(sum of e^x)`, exponentials in f32 and their sum in f64.
    log_sum_exp(x: &[f32]) -> f64 = log_sum_exp_body
}

/// `e^x` within 2 units in the last place, from 1.2e-38 up to infinity's edge; NaN stays NaN.
///
/// `e^x = 2^n e^r` with `n` the integer nearest to `x / ln 2`, and the Taylor series of `e^r` to the
/// seventh power: |r| <= ln 2 / 2, so what is cut off is less than 6e-9.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding it leaves an integer in the low bits of the mantissa, rounded to nearest.
    const ROUND: f32 = 12582912.0;
    // ln 2 in two parts; n times the first is exact.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Comparisons, not min and max, which would lose a NaN.
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
    // The exponent of NaN and infinity is all ones.
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

/// The largest value; NaN may be passed over.
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
fn softmax_body(x: &mut [f32], scale: f32) {
    let top = max(x) * scale;
    x.iter_mut().for_each(|v| *v = exp(*v * scale - top));
    let inverse = 1.0 / sum(x, |v| v);
    x.iter_mut().for_each(|v| *v *= inverse);
}

#[inline(always)]
fn swiglu_body(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len());
    for (g, &u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + exp(-*g)) * u;
    }
}

#[inline(always)]
fn log_sum_exp_body(x: &[f32]) -> f64 {
    let top = max(x);
    // Short runs in f32, their sums in f64: as good as f64 throughout, and vectorized.
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
            let want = (x as f64).exp();
            let error = (exp(x) as f64 - want).abs() / want;
            assert!(error < 2.5e-7, "e^{x}: {} for {want}", exp(x));
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 2e-38 && exp(1000.0) > 1e38);
    }

    #[test]
    fn both_levels_give_the_same_bits() {
        let x: Vec<f32> = (0..1003).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.21).collect();
        let (mut a, mut b) = (x.clone(), x.clone());
        softmax(&mut a, 0.3);
        softmax_body(&mut b, 0.3);
        assert_eq!(a, b);
        assert!((a.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        let (mut a, mut b) = (x.clone(), x.clone());
        swiglu(&mut a, &x);
        swiglu_body(&mut b, &x);
        assert_eq!(a, b);
        assert_eq!(log_sum_exp(&x).to_bits(), log_sum_exp_body(&x).to_bits());
        let want = x.iter().map(|&v| (v as f64).exp()).sum::<f64>().ln();
        assert!((log_sum_exp(&x) - want).abs() < 1e-6);
    }

    #[test]
    fn non_finite_values_are_found_wherever_they_are() {
        let mut x = vec![1e38f32; 3000];
        assert!(all_finite(&x) && all_finite(&[]));
        for (at, value) in [(0, f32::NAN), (1500, f32::INFINITY), (2999, f32::NEG_INFINITY)] {
            let kept = std::mem::replace(&mut x[at], value);
            assert!(!all_finite(&x));
            x[at] = kept;
        }
    }

    #[test]
    fn a_nan_survives_softmax_and_swiglu() {
        let mut x = [1.0, f32::NAN, 2.0];
        softmax(&mut x, 1.0);
        assert!(!all_finite(&x));
        let mut gate = [f32::NAN];
        swiglu(&mut gate, &[1.0]);
        assert!(gate[0].is_nan());
    }
}
