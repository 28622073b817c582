//! From a model in GGUF terms to quantized GGUF files.
//!
//! [`QuantPlan::new`] decides every tensor's type and every file's metadata without reading a weight;
//! [`run`] reads each tensor once and writes it to all the files that were planned.

mod eligible;
mod facts;
mod ftype;
mod groups;
mod importance;
mod journals;
mod mix;
mod options;
mod plan;
pub mod presets;
mod prune;
mod resume;
mod run;

pub use eligible::{allows_quantization, requires_imatrix};
pub use facts::{Family, ModelFacts};
pub use ftype::Ftype;
pub use groups::{Group, groups_of};
pub use importance::Importance;
pub use journals::OutputJournals;
pub use mix::{Choice, Mix};
pub use options::{PlanOptions, Sharding, TensorType, writable};
pub use plan::{PlannedTensor, QuantPlan};
pub use prune::Pruning;
pub use resume::{TensorHashes, TensorJournal};
pub use run::{AHEAD_BYTES, Output, RunOptions, Written, run};
