//! The merge methods and their registry: a file for each, and a table of those that add task vectors.
//!
//! A method is a [`MethodSpec`] (what recipes must know: name, parameters, number of models) and the
//! arithmetic on one tensor. Adding one is a file here and a line in `ALL`.

mod arcee_fusion;
mod karcher;
mod linear;
mod model_stock;
mod multislerp;
mod nearswap;
mod nuslerp;
mod passthrough;
#[cfg(test)]
mod properties;
mod ram;
mod ramplus_tl;
mod sce;
mod slerp;
mod task_vectors;
#[cfg(test)]
pub(super) mod testing;

use super::chunks::{Job, MergedTensor};
use crate::base::error::Result;
use crate::recipe::{MethodSpec, TensorPlan};

/// Every method.
static ALL: &[&dyn MergeMethod] = &[
    &arcee_fusion::ArceeFusion,
    &task_vectors::BREADCRUMBS,
    &task_vectors::BREADCRUMBS_TIES,
    &task_vectors::DARE_LINEAR,
    &task_vectors::DARE_TIES,
    &task_vectors::DELLA,
    &task_vectors::DELLA_LINEAR,
    &karcher::Karcher,
    &linear::Linear,
    &model_stock::ModelStock,
    &multislerp::MultiSlerp,
    &nearswap::NearSwap,
    &nuslerp::NuSlerp,
    &passthrough::Passthrough,
    &ram::Ram,
    &ramplus_tl::RamPlusTl,
    &sce::Sce,
    &slerp::Slerp,
    &task_vectors::TASK_ARITHMETIC,
    &task_vectors::TIES,
];

/// A merge method.
pub trait MergeMethod: Sync {
    fn spec(&self) -> &'static MethodSpec;

    /// Which input the result equals, if it is one of them unchanged; its bytes are then handed through
    /// where the type allows.
    fn copies(&self, plan: &TensorPlan) -> Option<usize> {
        (self.spec().lone_source_is_copied && plan.inputs.len() == 1).then_some(0)
    }

    /// The encoded result, or that it went to the job's sink.
    fn combine(&self, job: &Job<'_>) -> Result<MergedTensor>;
}

/// The specifications of all methods, for [`crate::recipe::load`].
pub fn specs() -> Vec<&'static MethodSpec> {
    ALL.iter().map(|method| method.spec()).collect()
}

/// The method of `spec`.
///
/// # Panics
/// If `spec` is none of [`specs`].
pub fn find(spec: &MethodSpec) -> &'static dyn MergeMethod {
    *ALL.iter()
        .find(|method| method.spec().name == spec.name)
        .expect("plans use registered methods")
}

#[cfg(test)]
mod tests {
    use super::testing::{Case, close};
    use super::*;
    use crate::merge::chunks::CHUNK;

    /// Expected values: the formulas in float64.
    #[test]
    fn slerp_follows_the_arc_and_falls_back_to_the_line() {
        let run = |t: f64, a: &[f32], b: &[f32]| {
            Case::new(&[a, b]).base(0).params(&[("t", t)]).merge(&slerp::Slerp)
        };
        let a = [1.0, 2.0, 3.0, 4.0];
        let expected = [3.977322, -0.729225, 4.037540, 4.067649];
        close(&run(0.3, &a, &[8.0, -6.0, 4.0, 2.0]), &expected);
        close(&run(0.25, &a, &[1.1, 2.0, 3.0, 4.1]), &[1.025, 2.0, 3.0, 4.025]);
        close(&run(0.5, &a, &[-1.0, -2.0, -3.0, -4.0]), &[0.0; 4]);
        let half = 0.5f64.sqrt();
        close(&run(0.5, &[0.0; 4], &a), &[half, 2.0 * half, 3.0 * half, 4.0 * half]);
        // t = 0 is the base model, wherever it stands.
        let second = Case::new(&[&a, &[2.0; 4]]).base(1).params(&[("t", 0.0)]);
        let second = second.merge(&slerp::Slerp);
        close(&second, &[2.0; 4]);
    }

    #[test]
    fn slerp_measures_the_angle_over_all_chunks() {
        // Two vectors of three and a bit chunks, at a right angle only as a whole.
        let n = 3 * CHUNK + 10;
        let a: Vec<f32> = vec![1.0; n];
        let b: Vec<f32> = (0..n).map(|i| if i < n / 2 { 1.0 } else { -1.0 }).collect();
        let out = Case::new(&[&a, &b]).base(0).params(&[("t", 0.5)]).merge(&slerp::Slerp);
        let half = 0.5f64.sqrt();
        close(&out[..2], &[2.0 * half, 2.0 * half]);
        close(&out[n - 2..], &[0.0, 0.0]);
    }

    #[test]
    fn linear_is_the_weighted_mean_or_sum() {
        let run = |normalize: f64| {
            let case = Case::new(&[&[1.0, -2.0], &[5.0, 2.0]]).each("weight", &[3.0, 1.0]);
            case.params(&[("normalize", normalize)]).merge(&linear::Linear)
        };
        close(&run(1.0), &[2.0, -1.0]);
        close(&run(0.0), &[8.0, -4.0]);
    }

    #[test]
    fn task_arithmetic_adds_weighted_differences() {
        let run = |normalize: f64, lambda: f64| {
            let params = [("normalize", normalize), ("lambda", lambda)];
            let case = Case::new(&[&[1.0, 1.0], &[2.0, 1.0], &[1.0, 5.0]]).base(0);
            let case = case.each("weight", &[0.0, 0.5, -1.0]).params(&params);
            case.merge(&task_vectors::TASK_ARITHMETIC)
        };
        close(&run(0.0, 1.0), &[1.5, -3.0]);
        close(&run(0.0, 2.0), &[2.0, -7.0]);
        close(&run(1.0, 1.0), &[0.0, 9.0]);
    }

    #[test]
    fn passthrough_scales() {
        let out = Case::new(&[&[3.0, -1.0]]).each("scale", &[0.5]).merge(&passthrough::Passthrough);
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
