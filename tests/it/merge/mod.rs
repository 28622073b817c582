//! Merges against mergekit, and merges that were interrupted.

pub(crate) mod golden_merges;
pub(crate) mod methods;
pub(crate) mod resume;
