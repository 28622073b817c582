//! The forward pass of the architectures in [`crate::model::arch`].
//!
//! [`run`] takes all chunks of a text through one layer at a time, so a model far larger than
//! memory can be evaluated; all logits come at the very end. [`decode`] takes several sequences
//! through all layers token by token, with a key-value cache.
//!
//! Not here: choosing tokens, quantized arithmetic, and what observers compute.

mod observer;

mod run;

mod decode;

mod pass;

mod attention;
mod cache;
mod chunks;
mod experts;
mod hidden;
mod rope;
mod weights;
mod work;

mod memory;

pub use cache::Feed;
pub use decode::{DecodeOptions, Footprint, decode};
pub use memory::memory_estimate;
pub use observer::{Activations, Expert, Logits, Observer, Resumed, Snapshot};
pub use run::{Options, check, default_memory, run};
