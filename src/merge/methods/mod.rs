//! The merge methods, one a file, and their registry.
//!
//! A method is a [`MethodSpec`] (what recipes must know: name, parameters, number of models) and the
//! arithmetic on one tensor. Adding one is a file here and a line in [`ALL`].

mod linear;
mod passthrough;
mod slerp;
mod task_arithmetic;

use super::chunks::Job;
use crate::error::Result;
use crate::recipe::{MethodSpec, TensorPlan};

/// Every method.
static ALL: &[&dyn Method] =
    &[&linear::Linear, &passthrough::Passthrough, &slerp::Slerp, &task_arithmetic::TaskArithmetic];

/// A merge method.
pub trait Method: Sync {
    fn spec(&self) -> &'static MethodSpec;

    /// Which input the result equals, if it is one of them unchanged; its bytes are then handed through
    /// where the type allows.
    fn copies(&self, plan: &TensorPlan) -> Option<usize> {
        (self.spec().lone_source_is_copied && plan.inputs.len() == 1).then_some(0)
    }

    /// The encoded result.
    fn combine(&self, job: &Job) -> Result<Vec<u8>>;
}

/// The specifications of all methods, for [`crate::recipe::load`].
pub fn specs() -> Vec<&'static MethodSpec> {
    ALL.iter().map(|method| method.spec()).collect()
}

/// The method of `spec`.
///
/// # Panics
/// If `spec` is none of [`specs`].
pub fn find(spec: &MethodSpec) -> &'static dyn Method {
    *ALL.iter()
        .find(|method| method.spec().name == spec.name)
        .expect("plans use registered methods")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::merge::chunks::{CHUNK, JobInput};
    use crate::recipe::{Input, Place, TensorInput, Value, Values};
    use crate::source::{TensorData, TensorInfo};

    /// An input's values and its parameters.
    type Given<'a> = (&'a [f32], &'a [(&'static str, f64)]);

    fn values(pairs: &[(&'static str, f64)]) -> Values {
        Values(pairs.iter().map(|&(name, value)| Value { name, value, filter: None }).collect())
    }

    /// Merges `inputs` as F32.
    fn merge(
        method: &dyn Method,
        inputs: &[Given],
        base: Option<usize>,
        params: &[(&'static str, f64)],
    ) -> Vec<f32> {
        let shape = vec![inputs[0].0.len()];
        let from = Input::Member(0);
        let plan = TensorPlan {
            place: Place::FinalNorm,
            inputs: inputs
                .iter()
                .map(|(_, params)| TensorInput {
                    from,
                    index: 0,
                    layer: None,
                    params: values(params),
                })
                .collect(),
            base,
            params: values(params),
        };
        let job_inputs: Vec<JobInput> = inputs
            .iter()
            .map(|(data, _)| JobInput {
                data: TensorData::from_f32(shape.clone(), data),
                origin: "test".to_string(),
                tensor: "x".to_string(),
                check: true,
            })
            .collect();
        let info = TensorInfo::new("x", shape.clone(), DType::F32);
        let job = Job { plan: &plan, inputs: &job_inputs, info: &info, origin: "test" };
        let bytes = method.combine(&job).unwrap();
        TensorData { dtype: DType::F32, shape, bytes: bytes.into() }.to_f32().unwrap()
    }

    fn close(actual: &[f32], expected: &[f64]) {
        assert_eq!(actual.len(), expected.len());
        let near = |(a, e): (&f32, &f64)| (f64::from(*a) - e).abs() <= 1e-6 * e.abs().max(1.0);
        assert!(actual.iter().zip(expected).all(near), "{actual:?} is not {expected:?}");
    }

    /// Expected values: the formulas in float64.
    #[test]
    fn slerp_follows_the_arc_and_falls_back_to_the_line() {
        let run = |t: f64, a: &[f32], b: &[f32]| {
            merge(&slerp::Slerp, &[(a, &[]), (b, &[])], Some(0), &[("t", t)])
        };
        let a = [1.0, 2.0, 3.0, 4.0];
        let expected = [3.977322, -0.729225, 4.037540, 4.067649];
        close(&run(0.3, &a, &[8.0, -6.0, 4.0, 2.0]), &expected);
        close(&run(0.25, &a, &[1.1, 2.0, 3.0, 4.1]), &[1.025, 2.0, 3.0, 4.025]);
        close(&run(0.5, &a, &[-1.0, -2.0, -3.0, -4.0]), &[0.0; 4]);
        let half = 0.5f64.sqrt();
        close(&run(0.5, &[0.0; 4], &a), &[half, 2.0 * half, 3.0 * half, 4.0 * half]);
        // t = 0 is the base model, wherever it stands.
        let second = merge(&slerp::Slerp, &[(&a, &[]), (&[2.0; 4], &[])], Some(1), &[("t", 0.0)]);
        close(&second, &[2.0; 4]);
    }

    #[test]
    fn slerp_measures_the_angle_over_all_chunks() {
        // Two vectors of three and a bit chunks, at a right angle only as a whole.
        let n = 3 * CHUNK + 10;
        let a: Vec<f32> = vec![1.0; n];
        let b: Vec<f32> = (0..n).map(|i| if i < n / 2 { 1.0 } else { -1.0 }).collect();
        let out = merge(&slerp::Slerp, &[(&a, &[]), (&b, &[])], Some(0), &[("t", 0.5)]);
        let half = 0.5f64.sqrt();
        close(&out[..2], &[2.0 * half, 2.0 * half]);
        close(&out[n - 2..], &[0.0, 0.0]);
    }

    #[test]
    fn linear_is_the_weighted_mean_or_sum() {
        let inputs: &[Given] =
            &[(&[1.0, -2.0], &[("weight", 3.0)]), (&[5.0, 2.0], &[("weight", 1.0)])];
        close(&merge(&linear::Linear, inputs, None, &[("normalize", 1.0)]), &[2.0, -1.0]);
        close(&merge(&linear::Linear, inputs, None, &[("normalize", 0.0)]), &[8.0, -4.0]);
    }

    #[test]
    fn task_arithmetic_adds_weighted_differences() {
        let inputs: &[Given] = &[
            (&[1.0, 1.0], &[]),
            (&[2.0, 1.0], &[("weight", 0.5)]),
            (&[1.0, 5.0], &[("weight", -1.0)]),
        ];
        let run = |normalize: f64, lambda: f64| {
            let params = [("normalize", normalize), ("lambda", lambda)];
            merge(&task_arithmetic::TaskArithmetic, inputs, Some(0), &params)
        };
        close(&run(0.0, 1.0), &[1.5, -3.0]);
        close(&run(0.0, 2.0), &[2.0, -7.0]);
        close(&run(1.0, 1.0), &[0.0, 9.0]);
    }

    #[test]
    fn passthrough_scales() {
        let out = merge(&passthrough::Passthrough, &[(&[3.0, -1.0], &[("scale", 0.5)])], None, &[]);
        close(&out, &[1.5, -0.5]);
    }

    #[test]
    fn names_are_unique_and_found() {
        let specs = specs();
        for spec in &specs {
            assert_eq!(find(spec).spec().name, spec.name);
            assert_eq!(specs.iter().filter(|other| other.name == spec.name).count(), 1);
        }
    }
}
