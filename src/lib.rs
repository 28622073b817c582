//! Aqueduct carries model weights from a merge recipe to distributable GGUF quants.
//!
//! Weights flow one tensor at a time through [`source::TensorSource`]s; see ARCHITECTURE.md for the
//! layers and invariants. Modules in the order of the flow, bottom layer first.

pub mod arch;
pub mod calibrate;
pub mod checkpoint;
pub mod compare;
pub mod convert;
pub mod dtype;
pub mod error;
pub mod evaluate;
mod file_kind;
pub mod gguf;
mod hash;
pub mod hub;
pub mod imatrix;
pub mod kernels;
pub mod memory;
pub mod merge;
mod mmap;
pub mod model;
pub mod output;
pub mod pipeline;
pub mod progress;
pub mod publish;
pub mod quantize;
pub mod quants;
pub mod recipe;
pub mod report;
pub mod restore;
pub mod size;
pub mod source;
mod sync;
mod system;
pub mod tokenizer;
pub mod verify;

pub use error::{Error, Result};
