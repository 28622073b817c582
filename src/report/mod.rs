//! What people read: results as tables and as JSON.
//!
//! Reports are data first (serializable), text second; nothing here prints.

mod evaluation;
mod html;
mod inspect;
mod palette;
mod plan;
mod readme;
mod render;
mod stack;
mod stack_labels;
mod stack_layout;
mod stack_picture;
mod stack_text;
mod svg;
mod table;

pub use evaluation::evaluation_table;
pub use html::{page, stack_html};
pub use inspect::{
    GgufReport, ImatrixReport, ImatrixRow, Inspection, MetadataRow, SafetensorsReport, TensorRow,
    TypeTotal, Weights, inspect,
};
pub use plan::render_merge;
pub use readme::merge_readme;
pub use stack_picture::stack_svg;
pub use stack_text::render_stack;
pub use svg::{Rect, Svg, escape};
pub use table::table;
