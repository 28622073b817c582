//! Float types: F32, F16 and BF16, and the eight-bit floats of checkpoints.

pub(crate) mod bf16;
pub(crate) mod f16;
pub(crate) mod f32;
pub(crate) mod finite;
pub mod fp8;
