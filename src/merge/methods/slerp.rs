//! Slerp: spherical interpolation between two tensors, each taken as one long vector.
//!
//! `(sin((1-t) a) v0 + sin(t a) v1) / sin(a)`, where `a` is the angle between the vectors; `t = 0` is
//! the base model. The lengths are kept: only the angle is measured on unit vectors. Nearly parallel
//! vectors (either way) are interpolated linearly, since `sin(a)` vanishes there.
//! K. Shoemake, "Animating rotation with quaternion curves", 1985; thresholds as in mergekit's
//! `merge_methods/slerp.py`, June 2026.

use super::MergeMethod;
use crate::base::error::Result;
use crate::merge::chunks::{Job, MergedTensor};
use crate::recipe::{BaseRule, MethodSpec, ParamDefault, ParamSpec};

pub(super) struct Slerp;

/// Independent sums of a scalar product.
const LANES: usize = 8;

static SPEC: MethodSpec = MethodSpec {
    name: "slerp",
    reference: "https://en.wikipedia.org/wiki/Slerp",
    base: BaseRule::Required,
    sources: 2..=2,
    lone_source_is_copied: true,
    params: &[ParamSpec::tensor("t", ParamDefault::Required).usually(0.0, 1.0)],
    ..MethodSpec::PLAIN
};

/// Cosines beyond this are taken for parallel.
const PARALLEL: f64 = 0.9995;
/// Shorter vectors are not divided by their length.
const SHORTEST: f64 = 1e-8;

impl MergeMethod for Slerp {
    fn spec(&self) -> &'static MethodSpec {
        &SPEC
    }

    fn combine(&self, job: &Job<'_>) -> Result<MergedTensor> {
        let base = job.plan.base.unwrap_or(0);
        let other = 1 - base;
        let sums = job.fold(&[base, other], Products::default, Products::add)?;
        let [square0, square1, dot] = Products::total(&sums);
        let (s0, s1) = factors(job.plan.params.need("t"), square0.sqrt(), square1.sqrt(), dot);
        job.map(|inputs, out| {
            for ((y, a), b) in out.iter_mut().zip(&inputs[base]).zip(&inputs[other]) {
                *y = s0 * a + s1 * b;
            }
        })
    }
}

/// What the two tensors are multiplied by, from their lengths and scalar product.
fn factors(t: f64, norm0: f64, norm1: f64, dot: f64) -> (f32, f32) {
    let unit = |norm: f64| if norm > SHORTEST { norm } else { 1.0 };
    let cosine = dot / (unit(norm0) * unit(norm1));
    if cosine.abs() > PARALLEL {
        return ((1.0 - t) as f32, t as f32);
    }
    let angle = cosine.acos();
    let sine = angle.sin();
    (((1.0 - t) * angle).sin() as f32 / sine as f32, (t * angle).sin() as f32 / sine as f32)
}

/// The scalar products of two tensors' elements with themselves and each other, exact and accumulated in f64.
#[derive(Default)]
struct Products {
    /// `a a`, `b b`, `a b` of elements [`LANES`] apart.
    lanes: [[f64; LANES]; 3],
    /// Of the elements that fill no lanes, the last ones.
    rest: [f64; 3],
}

impl Products {
    #[inline(always)]
    fn add(&mut self, inputs: &[Vec<f32>]) {
        // Locals: the compiler keeps them in registers.
        let [mut aa, mut bb, mut ab] = self.lanes;
        let (wide_a, rest_a) = inputs[0].as_chunks::<LANES>();
        let (wide_b, rest_b) = inputs[1].as_chunks::<LANES>();
        for (a, b) in wide_a.iter().zip(wide_b) {
            for lane in 0..LANES {
                let (x, y) = (f64::from(a[lane]), f64::from(b[lane]));
                aa[lane] += x * x;
                bb[lane] += y * y;
                ab[lane] += x * y;
            }
        }
        self.lanes = [aa, bb, ab];
        for (&x, &y) in rest_a.iter().zip(rest_b) {
            let (x, y) = (f64::from(x), f64::from(y));
            let [aa, bb, ab] = self.rest;
            self.rest = [aa + x * x, bb + y * y, ab + x * y];
        }
    }

    /// The sums of all chunks, in their order.
    fn total(chunks: &[Products]) -> [f64; 3] {
        let mut total = [0.0; 3];
        for Products { lanes, rest } in chunks {
            for (sum, (lanes, rest)) in total.iter_mut().zip(lanes.iter().zip(rest)) {
                *sum += lanes.iter().sum::<f64>() + rest;
            }
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::simd::{Level, Work};

    #[test]
    fn every_simd_level_gives_the_same_sums() {
        let a: Vec<f32> = (0..1003).map(|i| (i as f32 * 0.37).sin()).collect();
        let b: Vec<f32> = (0..1003).map(|i| (i as f32 * 0.11).cos() * 1e-3).collect();
        let plain: f64 = a.iter().zip(&b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
        let inputs = [a, b];
        let run = |level: Level| {
            let mut sums = Products::default();
            level.run(Added { sums: &mut sums, inputs: &inputs });
            Products::total(&[sums]).map(f64::to_bits)
        };
        let all: Vec<_> = Level::available().map(run).collect();
        assert!(all.iter().all(|sums| *sums == all[0]));
        assert!((f64::from_bits(all[0][2]) - plain).abs() < 1e-9, "{plain}");
    }

    struct Added<'a> {
        sums: &'a mut Products,
        inputs: &'a [Vec<f32>],
    }

    impl Work for Added<'_> {
        type Output = ();

        #[inline(always)]
        fn run(self) {
            self.sums.add(self.inputs);
        }
    }
}
