//! The library's public interface: a few types and functions over the rooms below, re-exported at the
//! crate's root.
//!
//! Everything here takes plain paths and options, and hides how the stages are connected. Not here:
//! logic; what a function here does is a call or two into the room that owns it.

mod build;
mod evaluate;
mod imatrix;
mod merge;
mod model;
mod quantize;
mod verify;

pub use build::{BuildOptions, BuildReport, build};
pub use evaluate::{EvaluateOptions, evaluate};
pub use imatrix::{Imatrix, ImatrixOptions, collect_imatrix};
pub use merge::{Merge, MergeOptions, MergeReport};
pub use model::Model;
pub use quantize::{QuantizeOptions, QuantizedFile, quantize};
pub use verify::{Verification, verify};

/// Adds a method that sets a field and returns the options, so that calls can be chained.
macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty),* $(,)?) => {
        $(
            $(#[$doc])*
            #[must_use]
            pub fn $name(mut self, $name: $type) -> Self {
                self.$name = $name;
                self
            }
        )*
    };
}
use setters;
