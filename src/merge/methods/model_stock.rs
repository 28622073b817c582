//! Model Stock: towards the mean of the tuned models as far as the angle between them says,
//! `t mean + (1 - t) base` with `t = N c / (1 + (N - 1) c)` and `c` the mean cosine between two
//! differences from the base.
//!
//! "Model Stock: all we need is just a few fine-tuned models", Jang, Yun and Han 2024,
//! <https://arxiv.org/abs/2403.19522>, with one `t` for the tensor or, with `filter_wise`, for each row of
//! the last dimension. Details as in mergekit's `merge_methods/model_stock.py`, 0.1.5: where the
//! denominator vanishes the base stays.

use super::MergeMethod;
use crate::base::error::Result;
use crate::merge::chunks::{CHUNK, Job, MergedTensor, step_of_rows};
use crate::merge::sums;
use crate::recipe::{BaseRule, MethodSpec, ParamDefault, ParamSpec};

pub(super) struct ModelStock;

static SPEC: MethodSpec = MethodSpec {
    name: "model_stock",
    reference: "https://arxiv.org/abs/2403.19522",
    base: BaseRule::Required,
    sources: 3..=usize::MAX,
    lone_source_is_copied: true,
    params: &[ParamSpec::tensor("filter_wise", ParamDefault::Value(0.0))],
    ..MethodSpec::PLAIN
};

/// Products of lengths smaller than this are not divided by.
const SMALLEST_PRODUCT: f64 = 1e-6;
/// Denominators smaller than this leave no estimate.
const SINGULAR: f64 = 1e-6;

impl MergeMethod for ModelStock {
    fn spec(&self) -> &'static MethodSpec {
        &SPEC
    }

    fn combine(&self, job: &Job<'_>) -> Result<MergedTensor> {
        let tuned = job.tuned();
        if job.plan.params.flag("filter_wise") {
            let row = job.row().max(1);
            return job.map_at(step_of_rows(row), |_, inputs, out| {
                for (at, out) in out.chunks_mut(row).enumerate() {
                    let range = at * row..at * row + out.len();
                    let t = ratio(tuned.len(), &products(job, &tuned, inputs, range.clone()));
                    blend(job, &tuned, inputs, range, t, out);
                }
            });
        }
        let partials = job.each(&job.all(), CHUNK, |_, inputs| {
            products(job, &tuned, inputs, 0..inputs[0].len())
        })?;
        let mut total = vec![0f64; tuned.len() * (tuned.len() + 1) / 2];
        for partial in partials {
            total.iter_mut().zip(partial).for_each(|(sum, value)| *sum += value);
        }
        let t = ratio(tuned.len(), &total);
        job.map_at(CHUNK, |_, inputs, out| blend(job, &tuned, inputs, 0..out.len(), t, out))
    }
}

/// Scalar products `(i, j)` with `j <= i` of the differences from the base, row by row.
fn products(
    job: &Job<'_>,
    tuned: &[usize],
    inputs: &[Vec<f32>],
    range: std::ops::Range<usize>,
) -> Vec<f64> {
    let base = &inputs[job.base()][range.clone()];
    let offset = |&at: &usize| {
        let mut values = inputs[at][range.clone()].to_vec();
        sums::subtract(&mut values, base);
        values
    };
    let offsets: Vec<Vec<f32>> = tuned.iter().map(offset).collect();
    let pairs = (0..offsets.len()).flat_map(|i| (0..=i).map(move |j| (i, j)));
    pairs.map(|(i, j)| sums::dot(&offsets[i], &offsets[j])).collect()
}

/// How far to go from the base to the mean.
fn ratio(n: usize, products: &[f64]) -> f32 {
    let product = |i: usize, j: usize| products[i * (i + 1) / 2 + j];
    let pairs = (0..n).flat_map(|i| (0..i).map(move |j| (i, j)));
    let cosine = |(i, j): (usize, usize)| {
        let lengths = (product(i, i) * product(j, j)).sqrt();
        (product(i, j) / lengths.max(SMALLEST_PRODUCT)).clamp(-1.0, 1.0)
    };
    let mean = pairs.map(cosine).sum::<f64>() / (n * (n - 1) / 2) as f64;
    let n = n as f64;
    let denominator = 1.0 + (n - 1.0) * mean;
    if denominator.abs() < SINGULAR { 0.0 } else { (n * mean / denominator) as f32 }
}

fn blend(
    job: &Job<'_>,
    tuned: &[usize],
    inputs: &[Vec<f32>],
    range: std::ops::Range<usize>,
    t: f32,
    out: &mut [f32],
) {
    for &at in tuned {
        out.iter_mut().zip(&inputs[at][range.clone()]).for_each(|(y, x)| *y += x);
    }
    let count = tuned.len() as f32;
    for (y, base) in out.iter_mut().zip(&inputs[job.base()][range]) {
        *y = t * (*y / count) + (1.0 - t) * base;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::methods::testing::{Case, close, noise};

    /// Expected values: the formula in float64.
    #[test]
    fn the_angle_between_the_differences_decides() {
        let inputs: [&[f32]; 3] = [&[0.0, 0.0], &[1.0, 0.0], &[1.0, 1.0]];
        for filter_wise in [0.0, 1.0] {
            let case = Case::new(&inputs).base(0).params(&[("filter_wise", filter_wise)]);
            close(&case.merge(&ModelStock), &[0.828427, 0.414214]);
        }
    }

    #[test]
    fn opposed_or_equal_models_leave_the_base() {
        let base: &[f32] = &[1.0, 2.0];
        let run = |a: &[f32], b: &[f32]| {
            let case = Case::new(&[base, a, b]).base(0).params(&[("filter_wise", 0.0)]);
            case.merge(&ModelStock)
        };
        close(&run(&[2.0, 2.0], &[0.0, 2.0]), &[1.0, 2.0]);
        close(&run(base, base), &[1.0, 2.0]);
        // The same direction: all the way to the mean.
        close(&run(&[2.0, 2.0], &[4.0, 2.0]), &[3.0, 2.0]);
    }

    #[test]
    fn rows_are_filters() {
        let (rows, width) = (4, 9);
        let data: Vec<Vec<f32>> = (0..3).map(|seed| noise(seed, rows * width)).collect();
        let run = |range: std::ops::Range<usize>, shape: &[usize], filter_wise: f64| {
            let inputs: Vec<&[f32]> = data.iter().map(|values| &values[range.clone()]).collect();
            let case = Case::new(&inputs).shape(shape).base(1);
            case.params(&[("filter_wise", filter_wise)]).merge(&ModelStock)
        };
        let whole = run(0..rows * width, &[rows, width], 1.0);
        for row in 0..rows {
            let range = row * width..(row + 1) * width;
            assert_eq!(whole[range.clone()], run(range, &[width], 0.0));
        }
    }
}
