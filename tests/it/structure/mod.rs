//! The layout of the source, and properties over random inputs.

pub(crate) mod layering;
pub(crate) mod properties;
