//! From a model in GGUF terms to quantized GGUF files.
//!
//! [`plan`](QuantPlan::new) decides every tensor's type and every file's exact layout without reading
//! a weight; [`run`] reads each tensor once and writes it to all the files that were planned.

mod ftype;
mod mix;

pub use ftype::Ftype;
pub use mix::{Choice, Mix, ModelFacts};
