//! Arithmetic kernels: matrix products against packed weights, and element-wise loops.
//!
//! The basis of the forward pass: f32 accumulation within an error budget. Results are equal at any
//! number of threads: work is split by shape, and one task sums each output in a fixed order.
//! Matrix products may differ in the last bits between instruction sets. `unsafe` is allowed here.
//! Not here: exact arithmetic, which is in `merge` and `quants`.

mod elementwise;
mod matmul;
mod pack;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use elementwise::{
    SoftmaxState, add_scaled, add_squares, all_finite, exp, geglu, log_sum_exp, rms_norm,
    rotate_halves, rotate_pairs, scale, soft_cap, softmax_part, swiglu,
};
pub use matmul::{Multiply, NonFinite, Scratch, multiply, multiply_part};
pub use pack::{PANEL, PackedMatrix, Precision, Rows, Spare};
