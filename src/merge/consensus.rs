//! The sign consensus of TIES: of the task vectors' elements, those count whose sign is that of the sum.
//!
//! "TIES-Merging: resolving interference when merging models", Yadav et al. 2023,
//! <https://arxiv.org/abs/2306.01708>; details as in mergekit's `generalized_task_arithmetic.py`: a sum
//! of zero counts as positive, and an element of zero agrees with nothing.

/// Elementwise sums, in the order of the vectors, into `total`.
pub(super) fn total(vectors: &[&[f32]], total: &mut Vec<f32>) {
    total.clear();
    total.resize(vectors.first().map_or(0, |vector| vector.len()), 0.0);
    for vector in vectors {
        for (sum, x) in total.iter_mut().zip(*vector) {
            *sum += x;
        }
    }
}

/// Whether an element counts where the elements of all vectors add up to `total`.
#[inline(always)]
pub(super) fn agrees(element: f32, total: f32) -> bool {
    if total >= 0.0 { element > 0.0 } else { element < 0.0 }
}

/// Adds to `out`, elementwise, the vectors' elements that agree, divided by the sum of their vectors'
/// weights if `normalize`; a sum of zero does not divide.
pub(super) fn mix(vectors: &[&[f32]], weights: &[f32], normalize: bool, out: &mut [f32]) {
    let mut totals = Vec::new();
    total(vectors, &mut totals);
    let mut divisors = vec![0f32; out.len()];
    for (vector, &weight) in vectors.iter().zip(weights) {
        let elements = out.iter_mut().zip(&mut divisors).zip(*vector).zip(&totals);
        for (((y, divisor), &x), &total) in elements {
            let agrees = agrees(x, total);
            *y += if agrees { x } else { 0.0 };
            *divisor += if agrees { weight } else { 0.0 };
        }
    }
    if normalize {
        for (y, &divisor) in out.iter_mut().zip(&divisors) {
            *y /= if divisor == 0.0 { 1.0 } else { divisor };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked out by hand: the majority by sum, a balance counts as positive, zeros agree with nothing.
    #[test]
    fn elements_against_the_majority_are_left_out() {
        let (a, b, c) = ([3.0, -1.0, 2.0, 0.0], [-1.0, -2.0, -2.0, 0.0], [1.0, 4.0, 0.0, 0.0]);
        let mixed = |normalize| {
            let mut out = [0.0; 4];
            mix(&[&a, &b, &c], &[1.0, 2.0, 0.5], normalize, &mut out);
            out
        };
        assert_eq!(mixed(false), [4.0, 4.0, 2.0, 0.0]);
        assert_eq!(mixed(true), [4.0 / 1.5, 8.0, 2.0, 0.0]);
    }
}
