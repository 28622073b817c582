//! Slerp: spherical interpolation between two tensors, each taken as one long vector.
//!
//! `(sin((1-t) a) v0 + sin(t a) v1) / sin(a)`, where `a` is the angle between the vectors; `t = 0` is
//! the base model. The lengths are kept: only the angle is measured on unit vectors. Nearly parallel
//! vectors (either way) are interpolated linearly, since `sin(a)` vanishes there.
//! K. Shoemake, "Animating rotation with quaternion curves", 1985; thresholds as in mergekit's
//! `merge_methods/slerp.py`, June 2026.

use super::Method;
use crate::error::Result;
use crate::merge::chunks::{CHUNK, Job};
use crate::merge::sums::dot;
use crate::recipe::{BaseRule, MethodSpec, ParamDefault, ParamSpec};

pub struct Slerp;

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

impl Method for Slerp {
    fn spec(&self) -> &'static MethodSpec {
        &SPEC
    }

    fn combine(&self, job: &Job) -> Result<Vec<u8>> {
        let base = job.plan.base.unwrap_or(0);
        let other = 1 - base;
        let [square0, square1, dot] = job.sums(&job.all(), CHUNK, |_, inputs| {
            let (a, b) = (&inputs[base], &inputs[other]);
            [dot(a, a), dot(b, b), dot(a, b)]
        })?;
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
