//! Karcher mean: the point of the sphere from which the squared distances to all tensors' directions are
//! least, times the mean of their lengths.
//!
//! From the mean direction on, steps along `sum(a th / sin(th) (u - cos(th) m))` until they are shorter
//! than `tol`, `max_iter` at the most. All steps stay in the span of the tensors, so they are taken in
//! coefficients: the scalar products of the tensors, in f64, are all that is needed of their values.
//! Directions straight away from the mean pull nowhere.
//! H. Karcher, "Riemannian center of mass and mollifier smoothing", 1977; as a merge
//! <https://arxiv.org/abs/2603.04972>. Details as in mergekit's `merge_methods/karcher.py`, 0.1.5.

use super::MergeMethod;
use crate::base::error::Result;
use crate::merge::chunks::{CHUNK, Job, MergedTensor};
use crate::merge::sums;
use crate::recipe::{MethodSpec, ParamDefault, ParamSpec};

pub(super) struct Karcher;

static SPEC: MethodSpec = MethodSpec {
    name: "karcher",
    reference: "https://arxiv.org/abs/2603.04972",
    lone_source_is_copied: true,
    params: &[
        ParamSpec::tensor("max_iter", ParamDefault::Value(10.0)).within(0.0, 100_000.0),
        ParamSpec::tensor("tol", ParamDefault::Value(1e-5)).within(0.0, f64::INFINITY),
    ],
    ..MethodSpec::PLAIN
};

/// Sines of angles beyond a right one that are taken for zero: the pull grows without bound there, so
/// they must be more than the rounding of cosines.
const OPPOSITE: f64 = 1e-6;
/// Lengths of combinations come from scalar products and are uncertain by about a tenth of this, so
/// smaller ones are taken for zero, whatever `tol` is.
const SHORTEST: f64 = 1e-7;

impl MergeMethod for Karcher {
    fn spec(&self) -> &'static MethodSpec {
        &SPEC
    }

    fn combine(&self, job: &Job<'_>) -> Result<MergedTensor> {
        let n = job.inputs.len();
        let partials = job.each(&job.all(), CHUNK, |_, inputs| {
            let pairs = (0..n).flat_map(|i| (0..=i).map(move |j| (i, j)));
            pairs.map(|(i, j)| sums::dot(&inputs[i], &inputs[j])).collect::<Vec<f64>>()
        })?;
        let mut products = vec![0f64; n * (n + 1) / 2];
        for partial in partials {
            products.iter_mut().zip(partial).for_each(|(sum, value)| *sum += value);
        }
        let params = &job.plan.params;
        let factors = factors(n, &products, params.need("max_iter") as usize, params.need("tol"));
        job.map(|inputs, out| {
            for (values, factor) in inputs.iter().zip(&factors) {
                out.iter_mut().zip(values).for_each(|(y, x)| *y += factor * x);
            }
        })
    }
}

/// The scalar products of unit vectors.
struct Gram {
    n: usize,
    cosines: Vec<f64>,
}

impl Gram {
    /// The product of the combinations `a` and `b`.
    fn product(&self, a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(self.cosines.chunks(self.n)).map(|(a, row)| a * dot(row, b)).sum()
    }

    fn length(&self, a: &[f64]) -> f64 {
        self.product(a, a).max(0.0).sqrt()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// What each tensor is multiplied by, from the scalar products `(i, j)` with `j <= i`, row by row.
fn factors(n: usize, products: &[f64], max_iter: usize, tol: f64) -> Vec<f32> {
    let product = |i: usize, j: usize| {
        let (i, j) = (i.max(j), i.min(j));
        products[i * (i + 1) / 2 + j]
    };
    let norms: Vec<f64> = (0..n).map(|i| product(i, i).sqrt()).collect();
    let valid: Vec<usize> = (0..n).filter(|&i| norms[i] > tol).collect();
    let cosine = |i: usize, j: usize| {
        if i == j { 1.0 } else { product(i, j) / (norms[i] * norms[j]) }
    };
    let cosines = valid.iter().flat_map(|&i| valid.iter().map(move |&j| cosine(i, j))).collect();
    let gram = Gram { n: valid.len(), cosines };
    let mut out = vec![0f32; n];
    if valid.is_empty() {
        return out;
    }
    let mean = mean(&gram, max_iter, tol);
    // Tensors without a direction count in the mean length.
    let scale = norms.iter().sum::<f64>() / n as f64;
    for (&i, coefficient) in valid.iter().zip(&mean) {
        out[i] = (scale * coefficient / norms[i]) as f32;
    }
    out
}

/// The mean direction as a combination of the unit vectors.
fn mean(gram: &Gram, max_iter: usize, tol: f64) -> Vec<f64> {
    let shortest = tol.max(SHORTEST);
    let share = 1.0 / gram.n as f64;
    let mut mean = vec![share; gram.n];
    let length = gram.length(&mean);
    if length < shortest {
        mean.fill(0.0);
        mean[0] = 1.0;
    } else {
        mean.iter_mut().for_each(|c| *c /= length);
    }
    for _ in 0..max_iter {
        let mut step = vec![0f64; gram.n];
        for (i, row) in gram.cosines.chunks(gram.n).enumerate() {
            let cosine = dot(row, &mean).clamp(-1.0, 1.0);
            let angle = cosine.acos();
            let sine = angle.sin();
            if angle < tol || angle == 0.0 || (cosine < 0.0 && sine < OPPOSITE) {
                continue;
            }
            let pull = share * angle / sine;
            step.iter_mut().zip(&mean).for_each(|(s, m)| *s -= pull * cosine * m);
            step[i] += pull;
        }
        let length = gram.length(&step);
        if length < shortest {
            break;
        }
        let (sine, cosine) = length.sin_cos();
        mean.iter_mut().zip(&step).for_each(|(m, s)| *m = cosine * *m + sine * s / length);
        let length = gram.length(&mean);
        if length > shortest {
            mean.iter_mut().for_each(|c| *c /= length);
        }
    }
    mean
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::methods::testing::{Case, close};

    const DEFAULT: &[(&str, f64)] = &[("max_iter", 10.0), ("tol", 1e-5)];

    #[test]
    fn two_vectors_meet_halfway_on_the_arc() {
        let case = Case::new(&[&[2.0, 0.0], &[0.0, 4.0]]).params(DEFAULT);
        let half = 0.5f64.sqrt();
        close(&case.merge(&Karcher), &[3.0 * half, 3.0 * half]);
        let equal = Case::new(&[&[3.0f32, 4.0]; 3]).params(DEFAULT);
        close(&equal.merge(&Karcher), &[3.0, 4.0]);
    }

    /// On a circle the mean direction has the mean angle: 0, 20 and 100 degrees give 40.
    #[test]
    fn angles_on_a_circle_are_averaged() {
        let at = |degrees: f32| [degrees.to_radians().cos(), degrees.to_radians().sin()];
        let (a, b, c) = (at(0.0), at(20.0), at(100.0));
        let case = Case::new(&[&a, &b, &c]);
        let merged = case.params(&[("max_iter", 50.0), ("tol", 1e-7)]).merge(&Karcher);
        let angle = f64::from(merged[1]).atan2(f64::from(merged[0])).to_degrees();
        assert!((angle - 40.0).abs() < 1e-4, "{angle}");
    }

    #[test]
    fn zeros_count_in_the_length_and_opposites_pull_nowhere() {
        let zero = Case::new(&[&[2.0f32, 0.0], &[0.0, 0.0]]).params(DEFAULT);
        close(&zero.merge(&Karcher), &[1.0, 0.0]);
        close(&Case::new(&[&[0.0f32; 2]; 2]).params(DEFAULT).merge(&Karcher), &[0.0, 0.0]);
        let opposite = Case::new(&[&[1.0f32, 2.0], &[-1.0, -2.0]]).params(DEFAULT);
        close(&opposite.merge(&Karcher), &[1.0, 2.0]);
    }
}
