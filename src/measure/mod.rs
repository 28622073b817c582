//! Everything that runs or compares models: importance matrices, perplexity and KL divergence,
//! generated calibration text, and differences between two models.

pub mod calibrate;
pub mod compare;
pub mod evaluate;
pub mod imatrix;
mod perplexity;
mod tokens;
