//! NuSLERP: spherical interpolation of two tensors by their weights, `t = w1 / (w0 + w1)`; with a base
//! model, of their differences from it.
//!
//! As in [`super::slerp`] `(sin((1-t) a) v0 + sin(t a) v1) / sin(a)`, but with a straight line only where
//! `sin(a)` vanishes. A vector is the whole tensor, or without `nuslerp_flatten` each row of the last
//! dimension, or with `nuslerp_row_wise` each column, which runs along the first (mergekit's names).
//! After mergekit's `merge_methods/nuslerp.py`, 0.1.5; angles are measured in f64.

use super::MergeMethod;
use crate::base::error::Result;
use crate::merge::chunks::{CHUNK, Job, MergedTensor, step_of_rows};
use crate::merge::sums;
use crate::recipe::{BaseRule, MethodSpec, ParamDefault, ParamSpec};

pub(super) struct NuSlerp;

static SPEC: MethodSpec = MethodSpec {
    name: "nuslerp",
    reference: "https://github.com/arcee-ai/mergekit/blob/main/docs/merge_methods.md",
    base: BaseRule::Optional,
    sources: 2..=2,
    lone_source_is_copied: true,
    params: &[
        ParamSpec::source("weight", ParamDefault::Required),
        ParamSpec::tensor("nuslerp_flatten", ParamDefault::Value(1.0)),
        ParamSpec::tensor("nuslerp_row_wise", ParamDefault::Value(0.0)),
    ],
    ..MethodSpec::PLAIN
};

/// Sums of weights smaller than this say nothing; halfway is taken.
const SMALLEST_SUM: f64 = 1e-6;
/// Shorter vectors are divided by this instead of their length.
const SHORTEST: f64 = 1e-7;
/// Angles with smaller sines are taken for none.
const PARALLEL: f64 = 1e-8;
/// The same for vectors that point away from each other. There the factors grow without bound, so
/// the angle must be more than the rounding of sums.
const OPPOSITE: f64 = 1e-6;

impl MergeMethod for NuSlerp {
    fn spec(&self) -> &'static MethodSpec {
        &SPEC
    }

    fn combine(&self, job: &Job<'_>) -> Result<MergedTensor> {
        let tuned = job.tuned();
        let (first, second) = (tuned[0], tuned[1]);
        let weight = |at: usize| job.plan.inputs[at].params.need("weight");
        let sum = weight(first) + weight(second);
        let t = if sum.abs() < SMALLEST_SUM { 0.5 } else { weight(second) / sum };
        let pair = Pair { job, first, second, t };
        if job.plan.params.flag("nuslerp_flatten") {
            return pair.whole();
        }
        match job.plan.params.flag("nuslerp_row_wise") && job.info.shape.len() > 1 {
            true => pair.columns(),
            false => pair.rows(),
        }
    }
}

/// The two tensors and the place between them.
struct Pair<'a> {
    job: &'a Job<'a>,
    first: usize,
    second: usize,
    t: f64,
}

impl Pair<'_> {
    /// Makes differences of the two tensors' values, if there is a base.
    fn centre(&self, inputs: &mut [Vec<f32>]) {
        if let Some(base) = self.job.plan.base {
            let base_values = std::mem::take(&mut inputs[base]);
            sums::subtract(&mut inputs[self.first], &base_values);
            sums::subtract(&mut inputs[self.second], &base_values);
            inputs[base] = base_values;
        }
    }

    /// Computes the result; `blend` gets the index of the first element and the centred values.
    fn map(
        &self,
        step: usize,
        blend: impl Fn(usize, &[f32], &[f32], &mut [f32]) + Sync,
    ) -> Result<MergedTensor> {
        self.job.map_at(step, |start, inputs, out| {
            self.centre(inputs);
            blend(start, &inputs[self.first], &inputs[self.second], out);
            if let Some(base) = self.job.plan.base {
                out.iter_mut().zip(&inputs[base]).for_each(|(y, base)| *y += base);
            }
        })
    }

    fn whole(&self) -> Result<MergedTensor> {
        let products = self.job.sums(&self.job.all(), CHUNK, |_, inputs| {
            self.centre(inputs);
            products(&inputs[self.first], &inputs[self.second])
        })?;
        let (s0, s1) = factors(self.t, products);
        self.map(CHUNK, |_, a, b, out| blend(s0, s1, a, b, out))
    }

    fn rows(&self) -> Result<MergedTensor> {
        let row = self.job.row().max(1);
        self.map(step_of_rows(row), |_, a, b, out| {
            for ((a, b), out) in a.chunks(row).zip(b.chunks(row)).zip(out.chunks_mut(row)) {
                let (s0, s1) = factors(self.t, products(a, b));
                blend(s0, s1, a, b, out);
            }
        })
    }

    fn columns(&self) -> Result<MergedTensor> {
        let rows = self.job.info.shape[0].max(1);
        let width = (self.job.info.elements() / rows).max(1);
        let factors: Vec<(f32, f32)> =
            self.column_products(width)?.into_iter().map(|p| factors(self.t, p)).collect();
        self.map(step_of_rows(width), |_, a, b, out| {
            for ((a, b), out) in a.chunks(width).zip(b.chunks(width)).zip(out.chunks_mut(width)) {
                for (((y, a), b), (s0, s1)) in out.iter_mut().zip(a).zip(b).zip(&factors) {
                    *y = s0 * a + s1 * b;
                }
            }
        })
    }

    /// The products of each column, summed over blocks of rows in their order.
    fn column_products(&self, width: usize) -> Result<Vec<[f64; 3]>> {
        let job = self.job;
        // Blocks of a fixed number of rows, so large that their sums are small beside their values.
        let step = step_of_rows(width) * 32;
        let blocks = job.each(&job.all(), step, |_, inputs| {
            self.centre(inputs);
            let mut sums = vec![[0f64; 3]; width];
            let (a, b) = (&inputs[self.first], &inputs[self.second]);
            for (a, b) in a.chunks(width).zip(b.chunks(width)) {
                for ((sums, &a), &b) in sums.iter_mut().zip(a).zip(b) {
                    let (a, b) = (f64::from(a), f64::from(b));
                    sums[0] += a * a;
                    sums[1] += b * b;
                    sums[2] += a * b;
                }
            }
            sums
        })?;
        let mut total = vec![[0f64; 3]; width];
        for block in blocks {
            for (total, sums) in total.iter_mut().zip(block) {
                (0..3).for_each(|i| total[i] += sums[i]);
            }
        }
        Ok(total)
    }
}

fn blend(s0: f32, s1: f32, a: &[f32], b: &[f32], out: &mut [f32]) {
    for ((y, a), b) in out.iter_mut().zip(a).zip(b) {
        *y = s0 * a + s1 * b;
    }
}

/// Squares of the lengths, and the scalar product.
fn products(a: &[f32], b: &[f32]) -> [f64; 3] {
    [sums::dot(a, a), sums::dot(b, b), sums::dot(a, b)]
}

/// What the two vectors are multiplied by.
fn factors(t: f64, [square0, square1, dot]: [f64; 3]) -> (f32, f32) {
    let lengths = square0.sqrt().max(SHORTEST) * square1.sqrt().max(SHORTEST);
    let angle = (dot / lengths).clamp(-1.0, 1.0).acos();
    let sine = angle.sin();
    if sine < if dot < 0.0 { OPPOSITE } else { PARALLEL } {
        return ((1.0 - t) as f32, t as f32);
    }
    ((((1.0 - t) * angle).sin() / sine) as f32, ((t * angle).sin() / sine) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::methods::testing::{Case, close, noise};

    fn run(t: f64, a: &[f32], b: &[f32], shape: &[usize], mode: (f64, f64)) -> Vec<f32> {
        Case::new(&[a, b])
            .shape(shape)
            .each("weight", &[1.0 - t, t])
            .params(&[("nuslerp_flatten", mode.0), ("nuslerp_row_wise", mode.1)])
            .merge(&NuSlerp)
    }

    const WHOLE: (f64, f64) = (1.0, 0.0);
    const ROWS: (f64, f64) = (0.0, 0.0);
    const COLUMNS: (f64, f64) = (0.0, 1.0);

    /// Expected values: the formulas in float64.
    #[test]
    fn nearly_parallel_vectors_follow_the_arc_and_opposite_ones_the_line() {
        let a = [1.0, 2.0, 3.0, 4.0];
        let near = [1.1, 2.0, 3.0, 4.1];
        close(&run(0.25, &a, &near, &[4], WHOLE), &[1.025037, 2.000071, 3.000106, 4.025143]);
        let opposite = a.map(|x: f32| -x);
        close(&run(0.5, &a, &opposite, &[4], WHOLE), &[0.0; 4]);
        close(&run(0.25, &a, &opposite, &[4], WHOLE), &a.map(|x| f64::from(x) / 2.0));
        close(&run(0.5, &[0.0; 4], &a, &[4], WHOLE), &a.map(|x| f64::from(x) * 0.5f64.sqrt()));
        close(&run(0.3, &a, &a, &[4], WHOLE), &a.map(f64::from));
        close(&run(0.3, &[0.0; 4], &[0.0; 4], &[4], WHOLE), &[0.0; 4]);
        // Weights that cancel give the middle.
        let cancelled = Case::new(&[&a, &near]).each("weight", &[1.0, -1.0]);
        let cancelled = cancelled.params(&[("nuslerp_flatten", 1.0)]).merge(&NuSlerp);
        close(
            &cancelled,
            &run(0.5, &a, &near, &[4], WHOLE).into_iter().map(f64::from).collect::<Vec<_>>(),
        );
    }

    /// Rows and columns each equal the interpolation of the vectors on their own.
    #[test]
    fn rows_and_columns_are_vectors_of_their_own() {
        let (rows, width) = (5, 7);
        let (a, b) = (noise(1, rows * width), noise(2, rows * width));
        let by_row = run(0.3, &a, &b, &[rows, width], ROWS);
        for row in 0..rows {
            let range = row * width..(row + 1) * width;
            let alone = run(0.3, &a[range.clone()], &b[range.clone()], &[width], WHOLE);
            assert_eq!(by_row[range], alone);
        }
        let column = |values: &[f32], at: usize| -> Vec<f32> {
            values.chunks(width).map(|row| row[at]).collect()
        };
        let by_column = run(0.3, &a, &b, &[rows, width], COLUMNS);
        for at in 0..width {
            let alone = run(0.3, &column(&a, at), &column(&b, at), &[rows], WHOLE);
            let alone: Vec<f64> = alone.into_iter().map(f64::from).collect();
            close(&column(&by_column, at), &alone);
        }
        // A vector has one row and is its own column.
        for mode in [ROWS, COLUMNS] {
            assert_eq!(run(0.3, &a, &b, &[35], mode), run(0.3, &a, &b, &[35], WHOLE));
        }
    }

    #[test]
    fn a_base_is_the_centre_of_the_sphere() {
        let case = Case::new(&[&[2.0, 1.0], &[1.0, 2.0], &[1.0, 1.0]]).base(2);
        let case = case.each("weight", &[1.0, 1.0, 0.0]).params(&[("nuslerp_flatten", 1.0)]);
        let half = 0.5f64.sqrt();
        close(&case.merge(&NuSlerp), &[1.0 + half, 1.0 + half]);
    }
}
