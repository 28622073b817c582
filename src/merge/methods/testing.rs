//! What the methods' tests share: merging slices without files, and values to merge.

use super::MergeMethod;
use crate::base::dtype::DType;
use crate::formats::source::{TensorData, TensorInfo};
use crate::merge::chunks::{Job, JobInput, MergedTensor};
use crate::recipe::{ParamValue, ParamValues, PlanInput, StackPlace, TensorInput, TensorPlan};

/// A tensor to be merged as F32.
pub(crate) struct Case<'a> {
    inputs: Vec<&'a [f32]>,
    shape: Vec<usize>,
    base: Option<usize>,
    params: Vec<(&'static str, f64)>,
    each: Vec<Vec<(&'static str, f64)>>,
    seed: u64,
}

fn values(pairs: &[(&'static str, f64)]) -> ParamValues {
    ParamValues(
        pairs.iter().map(|&(name, value)| ParamValue { name, value, filter: None }).collect(),
    )
}

impl<'a> Case<'a> {
    /// The tensors `inputs` as vectors.
    pub(crate) fn new<T: AsRef<[f32]> + ?Sized>(inputs: &[&'a T]) -> Case<'a> {
        let inputs: Vec<&[f32]> = inputs.iter().map(|input| (*input).as_ref()).collect();
        let shape = vec![inputs[0].len()];
        let each = vec![Vec::new(); inputs.len()];
        Case { inputs, shape, base: None, params: Vec::new(), each, seed: 0 }
    }

    pub(crate) fn shape(self, shape: &[usize]) -> Case<'a> {
        Case { shape: shape.to_vec(), ..self }
    }

    pub(crate) fn base(self, base: usize) -> Case<'a> {
        Case { base: Some(base), ..self }
    }

    pub(crate) fn seed(self, seed: u64) -> Case<'a> {
        Case { seed, ..self }
    }

    /// More tensor-scoped parameters.
    pub(crate) fn params(mut self, params: &[(&'static str, f64)]) -> Case<'a> {
        self.params.extend(params);
        self
    }

    /// A source-scoped parameter, one value for each input.
    pub(crate) fn each(mut self, name: &'static str, values: &[f64]) -> Case<'a> {
        assert_eq!(values.len(), self.inputs.len());
        self.each.iter_mut().zip(values).for_each(|(each, &value)| each.push((name, value)));
        self
    }

    /// Hands the job to `use_it`.
    pub(crate) fn run<R>(&self, use_it: impl FnOnce(&Job<'_>) -> R) -> R {
        let from = PlanInput::Member(0);
        let inputs = self.each.iter().map(|each| TensorInput {
            from,
            index: 0,
            layer: None,
            params: values(each),
        });
        let plan = TensorPlan {
            place: StackPlace::FinalNorm,
            inputs: inputs.collect(),
            base: self.base,
            params: values(&self.params),
        };
        let inputs: Vec<JobInput<'_>> = self
            .inputs
            .iter()
            .enumerate()
            .map(|(at, data)| JobInput {
                data: TensorData::from_f32(self.shape.clone(), data),
                origin: "test".to_string(),
                tensor: "x".to_string(),
                model: format!("model-{at}"),
                check: true,
            })
            .collect();
        let info = TensorInfo::new("x", self.shape.clone(), DType::F32);
        use_it(&Job {
            plan: &plan,
            inputs: &inputs,
            info: &info,
            origin: "test",
            seed: self.seed,
            sink: None,
        })
    }

    pub(crate) fn merge(&self, method: &dyn MergeMethod) -> Vec<f32> {
        let made = self.run(|job| method.combine(job)).unwrap();
        let MergedTensor::Whole(bytes) = made else { panic!("there is no sink") };
        TensorData { dtype: DType::F32, shape: self.shape.clone(), bytes: bytes.into() }
            .to_f32()
            .unwrap()
    }

    /// The message with which merging fails.
    pub(crate) fn error(&self, method: &dyn MergeMethod) -> String {
        self.run(|job| method.combine(job)).err().expect("an error").to_string()
    }
}

pub(crate) fn close(actual: &[f32], expected: &[f64]) {
    assert_eq!(actual.len(), expected.len());
    let near = |(a, e): (&f32, &f64)| (f64::from(*a) - e).abs() <= 1e-6 * e.abs().max(1.0);
    assert!(actual.iter().zip(expected).all(near), "{actual:?} is not {expected:?}");
}

/// Numbers from -1 to 1, the same for the same seed.
pub(crate) fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
