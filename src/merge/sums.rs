//! Sums over the values of a chunk, in f64.
//!
//! Eight independent lanes, so that a sum does not wait for the one before it; the lanes are fixed, so
//! the result does not depend on the machine. Products of two f32 are exact in f64.

const LANES: usize = 8;

/// The scalar product of two equally long slices.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0f64; LANES];
    let (wide_a, rest_a) = a.as_chunks::<LANES>();
    let (wide_b, rest_b) = b.as_chunks::<LANES>();
    for (a, b) in wide_a.iter().zip(wide_b) {
        for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += f64::from(a) * f64::from(b);
        }
    }
    let rest: f64 = rest_a.iter().zip(rest_b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    lanes.iter().sum::<f64>() + rest
}

/// The sum of the magnitudes.
pub(super) fn magnitudes(values: &[f32]) -> f64 {
    let mut lanes = [0f64; LANES];
    let (wide, rest) = values.as_chunks::<LANES>();
    for values in wide {
        for (lane, &value) in lanes.iter_mut().zip(values) {
            *lane += f64::from(value.abs());
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|v| f64::from(v.abs())).sum::<f64>()
}

/// `values -= base`, elementwise.
pub(super) fn subtract(values: &mut [f32], base: &[f32]) {
    for (x, base) in values.iter_mut().zip(base) {
        *x -= base;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_integers() {
        let a: Vec<f32> = (0..21).map(|i| i as f32 - 10.0).collect();
        assert_eq!(dot(&a, &a), 770.0);
        assert_eq!(magnitudes(&a), 110.0);
        let mut b = a.clone();
        subtract(&mut b, &a);
        assert_eq!(magnitudes(&b), 0.0);
    }
}
