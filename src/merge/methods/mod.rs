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
