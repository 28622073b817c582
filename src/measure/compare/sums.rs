//! Sums from which the errors of a tensor are computed.

/// Sums over pairs of values (a, b), in f64. The sums of a group of tensors are the sums of theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Number of pairs.
    pub count: u64,
    /// Sum of (a - b)².
    pub errors: f64,
    /// Sum of a².
    pub first: f64,
    /// Sum of b².
    pub second: f64,
    /// Sum of a · b.
    pub products: f64,
    /// Greatest |a - b|.
    pub max_abs: f64,
}

/// Number of lanes in which sums are collected. The lanes are added in their order at the end.
const LANES: usize = 8;

impl Sums {
    /// Returns the sums over all pairs of `a` and `b`, which have the same length.
    pub fn of(a: &[f32], b: &[f32]) -> Sums {
        let mut lanes = [[0f64; LANES]; 5];
        let (a_whole, a_rest) = a.as_chunks::<LANES>();
        let (b_whole, b_rest) = b.as_chunks::<LANES>();
        for (a, b) in a_whole.iter().zip(b_whole) {
            for lane in 0..LANES {
                add(&mut lanes, lane, a[lane], b[lane]);
            }
        }
        for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
            add(&mut lanes, lane, *a, *b);
        }
        let sum = |lanes: [f64; LANES]| lanes.into_iter().sum::<f64>();
        let [errors, first, second, products, max] = lanes;
        Sums {
            count: a.len().min(b.len()) as u64,
            errors: sum(errors),
            first: sum(first),
            second: sum(second),
            products: sum(products),
            max_abs: max.into_iter().fold(0.0, f64::max),
        }
    }

    /// Returns the sums over both groups of pairs.
    pub fn plus(self, other: Sums) -> Sums {
        Sums {
            count: self.count + other.count,
            errors: self.errors + other.errors,
            first: self.first + other.first,
            second: self.second + other.second,
            products: self.products + other.products,
            max_abs: self.max_abs.max(other.max_abs),
        }
    }

    /// Returns the root of the mean squared error; 0 without pairs.
    pub fn rmse(&self) -> f64 {
        if self.count == 0 { 0.0 } else { (self.errors / self.count as f64).sqrt() }
    }

    /// Returns |a - b| / |a| with L2 norms; infinite if only a is all zeros.
    pub fn relative_error(&self) -> f64 {
        if self.errors == 0.0 { 0.0 } else { (self.errors / self.first).sqrt() }
    }

    /// Returns a · b / (|a| |b|); `None` if one of them is all zeros.
    pub fn cosine(&self) -> Option<f64> {
        let norms = self.first.sqrt() * self.second.sqrt();
        if self.errors == 0.0 && norms > 0.0 {
            return Some(1.0);
        }
        (norms > 0.0).then(|| self.products / norms)
    }
}

#[inline(always)]
fn add(lanes: &mut [[f64; LANES]; 5], lane: usize, a: f32, b: f32) {
    let (a, b) = (f64::from(a), f64::from(b));
    let error = a - b;
    lanes[0][lane] += error * error;
    lanes[1][lane] += a * a;
    lanes[2][lane] += b * b;
    lanes[3][lane] += a * b;
    lanes[4][lane] = lanes[4][lane].max(error.abs());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_those_of_the_definitions() {
        let a: Vec<f32> = (0..11).map(|i| i as f32).collect();
        let b: Vec<f32> = (0..11).map(|i| i as f32 + if i == 10 { 3.0 } else { 0.0 }).collect();
        let sums = Sums::of(&a, &b);
        assert_eq!((sums.count, sums.max_abs), (11, 3.0));
        assert_eq!(sums.rmse(), (9f64 / 11.0).sqrt());
        assert_eq!(sums.relative_error(), (9f64 / 385.0).sqrt());
        let cosine = 415.0 / (385f64.sqrt() * 454f64.sqrt());
        assert!((sums.cosine().unwrap() - cosine).abs() < 1e-15);
        let halves = Sums::of(&a[..4], &b[..4]).plus(Sums::of(&a[4..], &b[4..]));
        assert_eq!(halves, sums, "whole numbers add up exactly");
    }

    #[test]
    fn zeros_and_what_is_no_number_have_answers() {
        let sums = Sums::of(&[0.0, 0.0], &[0.0, 1.0]);
        assert_eq!((sums.relative_error(), sums.cosine()), (f64::INFINITY, None));
        assert_eq!(Sums::default().rmse(), 0.0);
        assert!(Sums::of(&[f32::NAN], &[1.0]).rmse().is_nan());
        assert_eq!(Sums::of(&[0.1], &[0.1]).cosine(), Some(1.0));
    }
}
