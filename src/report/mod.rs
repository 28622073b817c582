//! What people read: results as tables and as JSON.
//!
//! Reports are data first (serializable), text second; nothing here prints.

mod inspect;
mod render;

pub use inspect::{
    GgufReport, ImatrixReport, ImatrixRow, Inspection, MetadataRow, SafetensorsReport, TensorRow,
    TypeTotal, Weights, inspect,
};
