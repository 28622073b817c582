//! Merges against mergekit, and merges that were interrupted.

pub mod golden_merges;
pub mod methods;
pub mod resume;
