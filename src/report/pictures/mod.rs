//! Pictures as SVG, and HTML pages around them: the stack of a merge, heat maps of importance and of
//! differences, scatter plots and maps of tensor types.
//!
//! Not here: the figures that are drawn (`tables`).

pub(crate) mod difference;
pub(crate) mod importance;
mod layer_frame;
mod page;
mod palette;
mod scale;
pub(crate) mod scatter;
pub(crate) mod stack;
mod svg;
pub(crate) mod type_map;

pub use difference::difference_svg;
pub use importance::imatrix_svg;
pub use page::{difference_html, imatrix_html, page, stack_html};
pub use stack::{render_stack, stack_svg};
pub use svg::{Rect, Svg, escape};
pub use type_map::TypedTensor;
