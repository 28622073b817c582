//! Documents -> a validated [`MergePlan`](merge_plan::MergePlan).
//!
//! `planner` runs the steps: `stage_order` sorts the stages, `models` opens the members, `stage`
//! plans one stage with the help of `slices`, `tensors`, `param_values`, `compat`, `donors`,
//! `vocabulary`, `rows` and `chat`. `output_config` and `side_files` make the files beside the weights.
//!
//! Not here: arithmetic on weights, which is in [`crate::merge`].

mod chat;
mod compat;
mod donors;
pub(crate) mod merge_plan;
mod models;
pub(crate) mod output_config;
mod param_values;
pub(crate) mod planner;
pub(crate) mod rows;
mod side_files;
mod slices;
mod stage;
mod stage_order;
mod tensors;
pub(crate) mod vocabulary;
