//! K-quants: super-blocks of 256 weights in sub-blocks whose scales are quantized as well.

mod affine;
mod packed_scales;
pub(crate) mod q2_k;
pub(crate) mod q3_k;
pub(crate) mod q4_k;
pub(crate) mod q5_k;
pub(crate) mod q6_k;
