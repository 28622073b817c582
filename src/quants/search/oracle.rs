//! Plain scalar versions of the searches, for one block, against which the lanes are tested.

use super::{
    AffineGrid, NEGLIGIBLE, fit_affine, fit_non_negative, fit_self_weighted, fit_symmetric,
    nearest_int,
};
use crate::quants::lanes::{F32s, LANES};

fn affine(x: &[f32], w: &[f32], grid: AffineGrid) -> (f32, f32, Vec<u8>) {
    let mut min = x.iter().fold(x[0], |a, &b| if b < a { b } else { a });
    let max = x.iter().fold(x[0], |a, &b| if b > a { b } else { a });
    let sum_w = w[1..].iter().fold(w[0], |sum, w| sum + w);
    let sum_x = x[1..].iter().zip(&w[1..]).fold(w[0] * x[0], |sum, (x, w)| sum + w * x);
    min = if min > 0.0 { 0.0 } else { min };
    if max == min {
        return (0.0, -min, vec![0; x.len()]);
    }
    let codes = |inverse: f32, min: f32| -> Vec<i32> {
        x.iter().map(|x| nearest_int(inverse * (x - min)).clamp(0, grid.top)).collect()
    };
    let error = |codes: &[i32], scale: f32, min: f32| {
        let mut error = 0f32;
        for i in 0..x.len() {
            let off = scale * codes[i] as f32 + min - x[i];
            error += w[i] * if grid.absolute { off.abs() } else { off * off };
        }
        error
    };
    let inverse = grid.top as f32 / (max - min);
    let mut scale = 1.0 / inverse;
    let mut best_codes = codes(inverse, min);
    let mut best = error(&best_codes, scale, min);
    for step in 0..=grid.steps {
        let inverse = (grid.start + grid.step * step as f32 + grid.top as f32) / (max - min);
        let codes = codes(inverse, min);
        let (mut l1, mut l2, mut xl) = (0f32, 0f32, 0f32);
        for i in 0..x.len() {
            let l = codes[i] as f32;
            l1 += w[i] * l;
            l2 += w[i] * l * l;
            xl += w[i] * l * x[i];
        }
        let determinant = sum_w * l2 - l1 * l1;
        if determinant > 0.0 {
            let mut new_scale = (sum_w * xl - sum_x * l1) / determinant;
            let mut new_min = (l2 * sum_x - l1 * xl) / determinant;
            if new_min > 0.0 {
                new_min = 0.0;
                new_scale = xl / l2;
            }
            let error = error(&codes, new_scale, new_min);
            if error < best {
                (best, scale, min, best_codes) = (error, new_scale, new_min, codes);
            }
        }
    }
    (scale, -min, best_codes.iter().map(|&code| code as u8).collect())
}

fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |a, &b| if b.abs() > f32::abs(a) { b } else { a })
}

fn symmetric(x: &[f32], w: &[f32], half: i32) -> (f32, Vec<u8>) {
    let largest = largest(x);
    if largest.abs() < NEGLIGIBLE {
        return (0.0, vec![0; x.len()]);
    }
    let codes = |inverse: f32| -> Vec<i32> {
        x.iter().map(|x| nearest_int(inverse * x).clamp(-half, half - 1)).collect()
    };
    let sums = |codes: &[i32]| {
        let (mut xl, mut l2) = (0f32, 0f32);
        for i in 0..x.len() {
            xl += w[i] * x[i] * codes[i] as f32;
            l2 += w[i] * codes[i] as f32 * codes[i] as f32;
        }
        (xl, l2)
    };
    let mut best_codes = codes(-half as f32 / largest);
    let (xl, l2) = sums(&best_codes);
    let mut scale = if l2 != 0.0 { xl / l2 } else { 0.0 };
    let mut best = scale * xl;
    for step in (-9..=9).filter(|&step| step != 0) {
        let codes = codes(-(half as f32 + 0.1 * step as f32) / largest);
        let (xl, l2) = sums(&codes);
        if l2 > 0.0 && xl * xl > best * l2 {
            scale = xl / l2;
            best = scale * xl;
            best_codes = codes;
        }
    }
    (scale, best_codes.iter().map(|code| (code + half) as u8).collect())
}

fn self_weighted(x: &[f32], half: i32) -> (f32, Vec<u8>) {
    let largest = largest(x);
    if largest.abs() < NEGLIGIBLE {
        return (0.0, vec![0; x.len()]);
    }
    let clamp = |code: i32| code.clamp(-half, half - 1);
    let mut codes: Vec<i32> =
        x.iter().map(|x| clamp(nearest_int(-half as f32 / largest * x))).collect();
    let (mut xl, mut l2) = (0f32, 0f32);
    for i in 0..x.len() {
        let w = x[i] * x[i];
        xl += w * x[i] * codes[i] as f32;
        l2 += w * codes[i] as f32 * codes[i] as f32;
    }
    for _ in 0..5 {
        for i in 0..x.len() {
            let (w, old) = (x[i] * x[i], codes[i] as f32);
            let (mut new_xl, mut new_l2) = (xl - w * x[i] * old, l2 - w * old * old);
            if new_xl > 0.0 {
                let new = clamp(nearest_int(x[i] * new_l2 / new_xl));
                if new != codes[i] {
                    new_xl += w * x[i] * new as f32;
                    new_l2 += w * new as f32 * new as f32;
                    if new_l2 > 0.0 && new_xl * new_xl * l2 > xl * xl * new_l2 {
                        (codes[i], xl, l2) = (new, new_xl, new_l2);
                    }
                }
            }
        }
    }
    let scale = if l2 > 0.0 { xl / l2 } else { 0.0 };
    (scale, codes.iter().map(|code| (code + half) as u8).collect())
}

fn non_negative(x: &[f32], w: &[f32], top: i32) -> (f32, Vec<u8>) {
    let max = x.iter().fold(0f32, |a, &b| if a > b { a } else { b });
    if max < NEGLIGIBLE {
        return (0.0, vec![0; x.len()]);
    }
    let error = |inverse: f32, top: i32| {
        let mut error = 0f32;
        for i in 0..x.len() {
            let off = x[i] - 1.0 / inverse * nearest_int(inverse * x[i]).min(top) as f32;
            error += w[i] * off * off;
        }
        error
    };
    let mut inverse = top as f32 / max;
    let mut best = error(inverse, i32::MAX);
    for step in (-4..=4).filter(|&step| step != 0) {
        let candidate = (0.1 * step as f32 + top as f32) / max;
        let error = error(candidate, top);
        if error < best {
            (best, inverse) = (error, candidate);
        }
    }
    let mut codes: Vec<i32> = x.iter().map(|x| nearest_int(inverse * x).min(top)).collect();
    let (mut xl, mut l2) = (0f32, 0f32);
    for i in 0..x.len() {
        xl += w[i] * x[i] * codes[i] as f32;
        l2 += w[i] * codes[i] as f32 * codes[i] as f32;
    }
    for _ in 0..5 {
        for i in 0..x.len() {
            let old = codes[i] as f32;
            let (mut new_xl, mut new_l2) = (xl - w[i] * x[i] * old, l2 - w[i] * old * old);
            if new_xl > 0.0 && new_l2 > 0.0 {
                let new = nearest_int(x[i] * new_l2 / new_xl).min(top);
                if new != codes[i] {
                    new_xl += w[i] * x[i] * new as f32;
                    new_l2 += w[i] * new as f32 * new as f32;
                    if new_xl * new_xl * l2 > xl * xl * new_l2 {
                        (codes[i], xl, l2) = (new, new_xl, new_l2);
                    }
                }
            }
        }
    }
    let scale = if l2 > 0.0 { xl / l2 } else { 0.0 };
    (scale, codes.iter().map(|&code| code as u8).collect())
}

/// A panel whose lanes differ in kind: zero, constant, one-signed, one spike, few levels, tiny,
/// huge, denormal, and bell-shaped for the rest. `seed` varies all of them.
fn panel<const N: usize>(seed: u64) -> [F32s; N] {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let mut values = [F32s::ZERO; N];
    for i in 0..N {
        for k in 0..LANES {
            let v = uniform() + uniform() + uniform() + uniform();
            values[i][k] = match k {
                0 => 0.0,
                1 => 0.25,
                2 => -0.25,
                3 => v.abs(),
                4 => -v.abs(),
                5 => v * if i == 7 { 100.0 } else { 0.01 },
                6 => (2.0 * v).round(),
                7 => v * 1e-7,
                8 => v * 1e-18,
                9 => v * 1e18,
                10 => v * 1e-41,
                _ => v,
            };
        }
    }
    values
}

/// Weights of a search: positive, but zero for a fifth of the values and for all of lane 12.
fn weights<const N: usize>(seed: u64) -> [F32s; N] {
    let mut weights = panel::<N>(seed);
    for i in 0..N {
        for k in 0..LANES {
            let v = weights[i][if k < 11 { 15 } else { k }];
            weights[i][k] = if k == 12 || v.abs() < 0.1 { 0.0 } else { v * v };
        }
    }
    weights
}

fn lane<const N: usize>(values: &[F32s; N], lane: usize) -> Vec<f32> {
    values.iter().map(|v| v[lane]).collect()
}

/// The bits of `value`, the same for every NaN: which NaN an operation returns is not specified.
fn bits(value: f32) -> u32 {
    if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }
}

const SEEDS: u64 = 50;

fn check_affine<const N: usize>(grid: AffineGrid) {
    for seed in 0..SEEDS {
        let (x, w) = (panel::<N>(seed), weights::<N>(seed + 1000));
        let mut codes = [[0; LANES]; N];
        let (scale, min) = fit_affine(&x, &w, grid, &mut codes);
        for k in 0..LANES {
            let (expected_scale, expected_min, expected) = affine(&lane(&x, k), &lane(&w, k), grid);
            assert_eq!(bits(scale[k]), bits(expected_scale), "seed {seed} lane {k}");
            assert_eq!(bits(min[k]), bits(expected_min), "seed {seed} lane {k}");
            assert!(codes.iter().map(|c| c[k]).eq(expected), "seed {seed} lane {k}");
        }
    }
}

#[test]
fn affine_lanes_equal_the_oracle() {
    check_affine::<32>(AffineGrid { top: 15, start: -0.9, step: 0.05, steps: 36, absolute: false });
    check_affine::<16>(AffineGrid { top: 3, start: -0.5, step: 0.1, steps: 15, absolute: true });
}

fn check_symmetric<const N: usize>(half: i32) {
    for seed in 0..SEEDS {
        let (x, w) = (panel::<N>(seed), weights::<N>(seed + 1000));
        let mut codes = [[0; LANES]; N];
        let scale = fit_symmetric(&x, &w, half, &mut codes);
        let mut own_codes = [[0; LANES]; N];
        let own_scale = fit_self_weighted(&x, half, &mut own_codes);
        for k in 0..LANES {
            let (expected_scale, expected) = symmetric(&lane(&x, k), &lane(&w, k), half);
            assert_eq!(bits(scale[k]), bits(expected_scale), "seed {seed} lane {k}");
            assert!(codes.iter().map(|c| c[k]).eq(expected), "seed {seed} lane {k}");
            let (expected_scale, expected) = self_weighted(&lane(&x, k), half);
            assert_eq!(bits(own_scale[k]), bits(expected_scale), "seed {seed} lane {k}");
            assert!(own_codes.iter().map(|c| c[k]).eq(expected), "seed {seed} lane {k}");
        }
    }
}

#[test]
fn symmetric_lanes_equal_the_oracle() {
    check_symmetric::<32>(8);
    check_symmetric::<16>(32);
    check_symmetric::<16>(4);
}

#[test]
fn non_negative_lanes_equal_the_oracle() {
    for seed in 0..SEEDS {
        let (mut x, w) = (panel::<16>(seed), weights::<16>(seed + 1000));
        for v in &mut x {
            v.0 = v.0.map(f32::abs);
        }
        let mut codes = [[0; LANES]; 16];
        let scale = fit_non_negative(&x, &w, 15, &mut codes);
        for k in 0..LANES {
            let (expected_scale, expected) = non_negative(&lane(&x, k), &lane(&w, k), 15);
            assert_eq!(bits(scale[k]), bits(expected_scale), "seed {seed} lane {k}");
            assert!(codes.iter().map(|c| c[k]).eq(expected), "seed {seed} lane {k}");
        }
    }
}

#[test]
fn nearest_int_rounds_ties_to_even_and_wraps() {
    let cases = [(0.5, 0), (1.5, 2), (-0.5, 0), (-1.5, -2), (2.5000002, 3), (-7.9, -8)];
    for (value, expected) in cases {
        assert_eq!(nearest_int(value), expected, "{value}");
    }
    assert_eq!(nearest_int(f32::NAN), 0);
    assert_eq!(nearest_int(f32::INFINITY), -0x40_0000);
}
