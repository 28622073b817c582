//! From documents to a validated [`merge_plan::MergePlan`].
//!
//! `planner` sorts the stages and opens the members; `stage` plans the tensors of one stage with the
//! help of `slices`, `values`, `compat`, `vocabulary`, `rows`, `donors` and `chat`. `output_config`
//! and `side_files` make the files beside the weights.
//!
//! Not here: arithmetic on weights, which is in [`crate::merge`].

mod chat;
mod compat;
mod donors;
pub(crate) mod merge_plan;
pub(crate) mod output_config;
pub(crate) mod planner;
pub(crate) mod rows;
mod side_files;
mod slices;
mod stage;
mod values;
pub(crate) mod vocabulary;
