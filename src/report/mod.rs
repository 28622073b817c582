//! What people read: results as tables and as JSON.
//!
//! Reports are data first (serializable), text second; nothing here prints.

mod inspect;
mod plan;
mod readme;
mod render;
mod table;

pub use inspect::{
    GgufReport, ImatrixReport, ImatrixRow, Inspection, MetadataRow, SafetensorsReport, TensorRow,
    TypeTotal, Weights, inspect,
};
pub use plan::render_merge;
pub use readme::merge_readme;
pub use table::table;
