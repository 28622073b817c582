//! Arithmetic kernels: matrix products against packed weights, and element-wise loops.
//!
//! The bottom of the tolerant side of the arithmetic (see ARCHITECTURE.md, "two numeric classes"):
//! f32 accumulation, results within an error budget of exact arithmetic, and equal at any number of
//! threads, because work is split by shape alone and every output is summed by one task in one order.
//! Results may differ in the last bits between instruction sets. Exact arithmetic (merging, quantizing)
//! is not here. With the memory map, the only place for `unsafe`.

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
