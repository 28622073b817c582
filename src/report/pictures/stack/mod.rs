//! The stack of a merge: which layers of which member make up each row of the result, as SVG and as
//! coloured text for a terminal.

mod labels;
mod layout;
mod picture;
mod rows;
mod terminal;

pub use picture::stack_svg;
pub(crate) use picture::{DARK_STYLE, drawn};
pub use terminal::render_stack;
