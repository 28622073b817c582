//! The layout of the source, and properties over random inputs.

pub mod layering;
pub mod properties;
