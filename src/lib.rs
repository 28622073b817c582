//! Aqueduct carries model weights from a merge recipe to importance-weighted GGUF quants.
//!
//! Weights flow one tensor at a time. A [`Model`] is a recipe, a Hugging Face folder or a GGUF file; it
//! gives names, shapes and types of tensors and computes one tensor's data when it is read. So every
//! function takes any of the three, and memory stays bounded by a few tensors.
//!
//! | to | use |
//! |---|---|
//! | open a source and read tensors | [`Model::open`] |
//! | plan and write a merge | [`Merge::plan`], [`Merge::write`] |
//! | collect an importance matrix | [`collect_imatrix`] |
//! | quantize | [`quantize`](fn@quantize) |
//! | measure perplexity and divergence | [`evaluate`] |
//! | do all of it, into a folder to publish | [`build`](fn@build) |
//! | check finished files | [`verify`] |
//!
//! Long operations report to a [`Progress`] and stop at the next tensor after [`interrupt`]. Nothing is
//! printed. Outputs are written under a hidden name and renamed when they are complete.
//!
//! # Examples
//! From a recipe to a Q4_K_M file with an importance matrix, without writing the merged model:
//! ```
//! use aqueduct::{Ftype, ImatrixOptions, Model, QuantizeOptions, Silent, collect_imatrix, quantize};
//!
//! let model = Model::open("recipes/demo.yml")?;
//! let imatrix = collect_imatrix(&model, &ImatrixOptions::default().chunks(Some(2)), &Silent)?;
//! # let folder = tempfile::tempdir().unwrap();
//! # let folder = folder.path();
//! let options = QuantizeOptions::default();
//! let files = quantize(&model, &[Ftype::Q4_K_M], Some(&imatrix), folder, &options, &Silent)?;
//! println!("{} ({} bytes)", files[0].path.display(), files[0].bytes);
//! # Ok::<(), aqueduct::Error>(())
//! ```
//!
//! # Features
//! - `hub`: download a recipe's members from the Hugging Face hub, and upload folders.

#![cfg_attr(not(feature = "internals"), warn(missing_docs))]
// Without `internals`, items that only tests and benchmarks use look dead and public ones unreachable.
#![cfg_attr(not(feature = "internals"), allow(dead_code, unreachable_pub, unused_imports))]

mod api;
#[doc(hidden)]
pub mod cli;

// Private to users of the library; its tests and benchmarks see them with the feature `internals`.
#[cfg(not(feature = "internals"))]
mod base;
#[cfg(feature = "internals")]
pub mod base;
#[cfg(not(feature = "internals"))]
mod build;
#[cfg(feature = "internals")]
pub mod build;
#[cfg(not(feature = "internals"))]
mod formats;
#[cfg(feature = "internals")]
pub mod formats;
#[cfg(not(feature = "internals"))]
mod hub;
#[cfg(feature = "internals")]
pub mod hub;
#[cfg(not(feature = "internals"))]
mod kernels;
#[cfg(feature = "internals")]
pub mod kernels;
#[cfg(not(feature = "internals"))]
mod measure;
#[cfg(feature = "internals")]
pub mod measure;
#[cfg(not(feature = "internals"))]
mod merge;
#[cfg(feature = "internals")]
pub mod merge;
#[cfg(not(feature = "internals"))]
mod model;
#[cfg(feature = "internals")]
pub mod model;
#[cfg(not(feature = "internals"))]
mod quantize;
#[cfg(feature = "internals")]
pub mod quantize;
#[cfg(not(feature = "internals"))]
mod quants;
#[cfg(feature = "internals")]
pub mod quants;
#[cfg(not(feature = "internals"))]
mod recipe;
#[cfg(feature = "internals")]
pub mod recipe;
#[cfg(not(feature = "internals"))]
mod report;
#[cfg(feature = "internals")]
pub mod report;

pub use api::*;
pub use base::dtype::DType;
pub use base::error::{Error, RecipeProblem, Result};
pub use base::progress::{Progress, Silent, Unit, interrupt};
pub use build::Kind;
pub use build::verify::Problem;
pub use formats::gguf::{Array, Metadata, Value};
pub use formats::source::TensorInfo;
pub use measure::evaluate::{Distribution, Divergence, Estimate, Evaluation, Percentile};
pub use quantize::Ftype;
