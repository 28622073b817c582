//! Aqueduct carries model weights from a merge recipe to distributable GGUF quants.
//!
//! Weights flow one tensor at a time through [`formats::source::TensorSource`]s; see ARCHITECTURE.md for the
//! layers and invariants. Modules in the order of the flow, bottom layer first.

pub mod base;
pub mod build;
#[doc(hidden)]
pub mod cli;
pub mod formats;
pub mod hub;
pub mod kernels;
pub mod measure;
pub mod merge;
pub mod model;
pub mod quantize;
pub mod quants;
pub mod recipe;
pub mod report;

pub use base::error::{Error, Result};
