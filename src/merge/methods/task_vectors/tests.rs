//! Results by hand, and properties of random draws.

use super::*;
use crate::merge::methods::testing::{Case, close, noise};

/// By hand: two of five are kept of each, and the fourth of the second is against the sum.
#[test]
fn the_largest_are_kept_and_signs_must_agree() {
    let inputs: [&[f32]; 3] =
        [&[0.0; 5], &[0.5, -0.2, 0.1, 0.4, -0.3], &[-0.4, 0.3, 0.1, 0.2, 0.6]];
    let run = |normalize: f64| {
        let case = Case::new(&inputs).base(0).each("weight", &[0.0, 1.0, 0.5]);
        let case = case.each("density", &[1.0, 0.5, 0.5]);
        case.params(&[("normalize", normalize), ("lambda", 1.0)]).merge(&TIES)
    };
    close(&run(1.0), &[0.5, 0.0, 0.0, 0.4, 0.6]);
    close(&run(0.0), &[0.5, 0.0, 0.0, 0.4, 0.3]);
}

/// By hand, for a seed that keeps the first two of four.
#[test]
fn what_is_kept_makes_up_for_what_is_lost() {
    let inputs: [&[f32]; 2] = [&[0.0; 4], &[1.0, -2.0, 3.0, -4.0]];
    let run = |seed: u64, rescale: f64| {
        let case = Case::new(&inputs).base(0).seed(seed).each("weight", &[0.0, 1.0]);
        let case = case.each("density", &[1.0, 0.5]);
        case.params(&[("rescale", rescale), ("lambda", 1.0)]).merge(&DARE_LINEAR)
    };
    let first_two = |&seed: &u64| run(seed, 0.0) == [1.0, -2.0, 0.0, 0.0];
    let seed = (0..1000).find(first_two).expect("one seed in sixteen does");
    close(&run(seed, 1.0), &[10.0 / 3.0, -20.0 / 3.0, 0.0, 0.0]);
    close(&run(seed, 2.0), &[2.0, -4.0, 0.0, 0.0]);
}

/// The first draws for seed 42, computed in Python from the definition in [`crate::merge::random`]:
/// they must never change, or recipes would give other models.
#[test]
fn draws_stay_what_they_are() {
    let inputs: [&[f32]; 2] = [&[0.0; 16], &[1.0; 16]];
    let case = Case::new(&inputs).base(0).seed(42).each("weight", &[0.0, 1.0]);
    let case = case.each("density", &[1.0, 0.5]).params(&[("rescale", 0.0), ("lambda", 1.0)]);
    let kept: String =
        case.merge(&DARE_LINEAR).iter().map(|&x| if x == 0.0 { '0' } else { '1' }).collect();
    assert_eq!(kept, "1010000100100001");
}

fn run_breadcrumbs(values: &[f32], density: f64, gamma: f64) -> Vec<f32> {
    let zeros = vec![0.0; values.len()];
    let case = Case::new(&[&zeros[..], values]).base(0).each("weight", &[0.0, 1.0]);
    let case = case.each("density", &[1.0, density]).each("gamma", &[0.0, gamma]);
    case.params(&[("lambda", 1.0)]).merge(&BREADCRUMBS)
}

/// By hand: `int(gamma n)` are dropped from the top, and of the rest `int(density n)` kept.
#[test]
fn outliers_and_the_smallest_are_dropped() {
    let values = [5.0, -1.0, 3.0, -10.0, 2.0, 4.0, 0.5, -7.0, 6.0, 8.0];
    let kept = [5.0, 0.0, 0.0, 0.0, 0.0, 4.0, 0.0, -7.0, 6.0, 0.0];
    assert_eq!(run_breadcrumbs(&values, 0.4, 0.2), kept);
    // No outliers at all: mergekit's older versions would have dropped everything.
    let kept = [0.0, 0.0, 0.0, -10.0, 0.0, 0.0, 0.0, 0.0, 0.0, 8.0];
    assert_eq!(run_breadcrumbs(&values, 0.2, 0.05), kept);
    // Too many outliers for the density: fewer are dropped.
    let kept = [5.0, -1.0, 3.0, 0.0, 2.0, 4.0, 0.5, -7.0, 6.0, 8.0];
    assert_eq!(run_breadcrumbs(&values, 0.9, 0.5), kept);
    assert_eq!(run_breadcrumbs(&values, 1.0, 0.5), values);
    assert_eq!(run_breadcrumbs(&values, 0.0, 0.5), [0.0; 10]);
    assert_eq!(run_breadcrumbs(&[3.0], 0.5, 0.5), [3.0]);
}

fn run_della_linear(
    values: &[f32],
    shape: &[usize],
    density: f64,
    epsilon: f64,
    rescale: f64,
) -> Vec<f32> {
    let zeros = vec![0.0; values.len()];
    let case = Case::new(&[&zeros[..], values]).shape(shape).base(0);
    let case = case.each("weight", &[0.0, 1.0]).each("density", &[1.0, density]);
    let case = case.each("epsilon", &[0.0, epsilon]);
    case.params(&[("rescale", rescale), ("lambda", 1.0)]).merge(&DELLA_LINEAR)
}

/// The share kept is the density, and grows with the rank within the row: among the lower and the
/// upper half of each row it is a quarter of 2 epsilon off.
#[test]
fn larger_elements_are_kept_more_often() {
    let (rows, width) = (400, 500);
    let mut values = noise(5, rows * width);
    // Rows of different sizes: ranks are within the row.
    for (at, row) in values.chunks_mut(width).enumerate() {
        row.iter_mut().for_each(|v| *v *= 1.0 + at as f32);
    }
    let kept = run_della_linear(&values, &[rows, width], 0.6, 0.3, 0.0);
    let (mut low, mut high) = (0, 0);
    for (row, kept) in values.chunks(width).zip(kept.chunks(width)) {
        let mut sorted: Vec<f32> = row.iter().map(|v| v.abs()).collect();
        sorted.sort_by(f32::total_cmp);
        for (value, kept) in row.iter().zip(kept).filter(|(_, kept)| **kept != 0.0) {
            assert_eq!(value, kept);
            *(if value.abs() < sorted[width / 2] { &mut low } else { &mut high }) += 1;
        }
    }
    let half = (rows * width / 2) as f64;
    assert!((f64::from(low) / half - 0.45).abs() < 0.01, "{low}");
    assert!((f64::from(high) / half - 0.75).abs() < 0.01, "{high}");
}

#[test]
fn rescaling_restores_the_sum_or_the_mean() {
    let values: Vec<f32> = noise(6, 60_000).iter().map(|v| v + 2.0).collect();
    let sum = |values: &[f32]| values.iter().map(|&v| f64::from(v)).sum::<f64>();
    let whole = sum(&values);
    let l1 = sum(&run_della_linear(&values, &[60, 1000], 0.5, 0.2, 1.0));
    assert!((l1 / whole - 1.0).abs() < 1e-5, "{l1} {whole}");
    // Each element over its probability: right on average only.
    let unbiased = sum(&run_della_linear(&values, &[60, 1000], 0.5, 0.2, 2.0));
    assert!((unbiased / whole - 1.0).abs() < 0.03, "{unbiased} {whole}");
    assert!((unbiased / whole - 1.0).abs() > 1e-6);
    let none = sum(&run_della_linear(&values, &[60, 1000], 0.5, 0.2, 0.0));
    assert!((none / whole - 0.5).abs() < 0.05, "{none} {whole}");
}
