//! Multi-SLERP: the barycentre of any number of tensors on the sphere; with a base model, of their
//! differences from it.
//!
//! With `u = x / (|x| + eps)` and `m` the unit vector along `sum(w u)`, the vectors are projected onto
//! the plane that touches the sphere at `m`, averaged there and brought back:
//! `(m cos|v| + v sin|v| / |v|) * sum(w |x|)` with `v = sum(w (u - (u.m) m))`. But `sum(w u)` is `|sum(w
//! u)| m`, so `v` is zero but for rounding, and the result is `m * sum(w |x|)`, which is what is computed.
//! <https://goddard.blog/posts/multislerp-wow-what-a-cool-idea>; details as in mergekit's
//! `merge_methods/multislerp.py`, 0.1.5.

use super::MergeMethod;
use crate::base::error::{Error, Result};
use crate::merge::chunks::{CHUNK, Job, MergedTensor};
use crate::merge::sums;
use crate::recipe::{BaseRule, MethodSpec, ParamDefault, ParamSpec, TensorPlan};

pub(super) struct MultiSlerp;

static SPEC: MethodSpec = MethodSpec {
    name: "multislerp",
    reference: "https://goddard.blog/posts/multislerp-wow-what-a-cool-idea",
    base: BaseRule::Optional,
    lone_source_is_copied: true,
    params: &[
        ParamSpec::source("weight", ParamDefault::Required),
        ParamSpec::tensor("normalize_weights", ParamDefault::Value(1.0)),
        ParamSpec::tensor("eps", ParamDefault::Value(1e-8)).within(0.0, f64::INFINITY),
    ],
    normalized_by: Some("normalize_weights"),
    ..MethodSpec::PLAIN
};

impl MergeMethod for MultiSlerp {
    fn spec(&self) -> &'static MethodSpec {
        &SPEC
    }

    /// A single tensor is the result, whatever the base.
    fn copies(&self, plan: &TensorPlan) -> Option<usize> {
        let mut tuned = (0..plan.inputs.len()).filter(|&at| plan.base != Some(at));
        match (tuned.next(), tuned.next()) {
            (None, _) => plan.base,
            (only, None) => only,
            _ => None,
        }
    }

    fn combine(&self, job: &Job<'_>) -> Result<MergedTensor> {
        let tuned = job.tuned();
        let weight = |&at: &usize| job.plan.inputs[at].params.need("weight");
        let mut weights: Vec<f64> = tuned.iter().map(weight).collect();
        if job.plan.params.flag("normalize_weights") {
            let sum: f64 = weights.iter().sum();
            weights.iter_mut().for_each(|w| *w /= sum);
        }
        let factors = factors(job, &tuned, &weights)?;
        job.map_at(CHUNK, |_, inputs, out| {
            centre(job, &tuned, inputs);
            for (&at, factor) in tuned.iter().zip(&factors) {
                out.iter_mut().zip(&inputs[at]).for_each(|(y, x)| *y += factor * x);
            }
            if let Some(base) = job.plan.base {
                out.iter_mut().zip(&inputs[base]).for_each(|(y, base)| *y += base);
            }
        })
    }
}

/// Makes differences of the values, if there is a base.
fn centre(job: &Job<'_>, tuned: &[usize], inputs: &mut [Vec<f32>]) {
    if let Some(base) = job.plan.base {
        let base_values = std::mem::take(&mut inputs[base]);
        tuned.iter().for_each(|&at| sums::subtract(&mut inputs[at], &base_values));
        inputs[base] = base_values;
    }
}

/// What each tensor is multiplied by.
fn factors(job: &Job<'_>, tuned: &[usize], weights: &[f64]) -> Result<Vec<f32>> {
    let eps = job.plan.params.need("eps");
    let all = job.all();
    let squares = job.each(&all, CHUNK, |_, inputs| {
        centre(job, tuned, inputs);
        tuned.iter().map(|&at| sums::dot(&inputs[at], &inputs[at])).collect::<Vec<f64>>()
    })?;
    let mut norms = vec![0f64; tuned.len()];
    for squares in squares {
        norms.iter_mut().zip(squares).for_each(|(norm, square)| *norm += square);
    }
    norms.iter_mut().for_each(|norm| *norm = norm.sqrt());
    // A tensor of zeros has no direction.
    let per_length = |(w, norm): (&f64, &f64)| if *norm > 0.0 { w / (norm + eps) } else { 0.0 };
    let unit: Vec<f64> = weights.iter().zip(&norms).map(per_length).collect();
    let [square] = job.sums(&all, CHUNK, |_, inputs| {
        centre(job, tuned, inputs);
        let mut mean = vec![0f64; inputs[tuned[0]].len()];
        for (&at, factor) in tuned.iter().zip(&unit) {
            mean.iter_mut().zip(&inputs[at]).for_each(|(m, &x)| *m += factor * f64::from(x));
        }
        [mean.iter().map(|m| m * m).sum()]
    })?;
    let length = square.sqrt();
    let scale: f64 = weights.iter().zip(&norms).map(|(w, norm)| w * norm).sum();
    if norms.iter().all(|&norm| norm == 0.0) {
        return Ok(vec![0.0; tuned.len()]);
    }
    // What the length would be if all directions were one: close to 1, unless all tensors are tiny.
    let attainable: f64 = unit.iter().zip(&norms).map(|(factor, norm)| factor.abs() * norm).sum();
    if length < eps * attainable || length == 0.0 {
        if tuned.len() == 2 {
            return Ok(weights.iter().map(|&w| w as f32).collect());
        }
        let detail = "the directions of the models cancel out, so their mean has none; change the \
                      weights, or leave one of them out";
        return Err(Error::tensor(job.origin, &job.info.name, detail));
    }
    Ok(unit.iter().map(|factor| (factor / length * scale) as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::methods::testing::{Case, close};

    const DEFAULT: &[(&str, f64)] = &[("normalize_weights", 1.0), ("eps", 1e-8)];

    /// Expected values: the whole formula in float64, projection and all.
    #[test]
    fn the_barycentre_of_axes() {
        let axes: [&[f32]; 3] = [&[1.0, 0.0, 0.0], &[0.0, 2.0, 0.0], &[0.0, 0.0, 3.0]];
        let case = Case::new(&axes).each("weight", &[1.0, 1.0, 2.0]).params(DEFAULT);
        close(&case.merge(&MultiSlerp), &[0.918559, 0.918559, 1.837117]);
    }

    #[test]
    fn opposites_are_a_line_for_two_and_an_error_for_more() {
        let (a, b): ([f32; 2], [f32; 2]) = ([1.0, 2.0], [-1.0, -2.0]);
        let two = Case::new(&[&a, &b]).each("weight", &[1.0, 1.0]).params(DEFAULT);
        close(&two.merge(&MultiSlerp), &[0.0, 0.0]);
        let four = Case::new(&[&a, &b, &b, &a]).each("weight", &[1.0; 4]).params(DEFAULT);
        assert!(four.error(&MultiSlerp).contains("cancel out"));
        let zeros = Case::new(&[&[0.0f32; 2], &[0.0; 2], &[0.0; 2]]).each("weight", &[1.0; 3]);
        close(&zeros.params(DEFAULT).merge(&MultiSlerp), &[0.0, 0.0]);
    }

    #[test]
    fn a_base_is_the_centre_and_a_single_model_is_copied() {
        let inputs: [&[f32]; 3] = [&[1.0, 1.0], &[2.0, 1.0], &[1.0, 2.0]];
        let case = Case::new(&inputs).base(0).each("weight", &[0.0, 1.0, 1.0]).params(DEFAULT);
        let half = 0.5f64.sqrt();
        close(&case.merge(&MultiSlerp), &[1.0 + half, 1.0 + half]);
        let single = Case::new(&inputs[..2]).base(0).each("weight", &[0.0, 1.0]);
        assert_eq!(single.run(|job| MultiSlerp.copies(job.plan)), Some(1));
    }
}
