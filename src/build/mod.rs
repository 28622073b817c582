//! The whole flow, and the one question that comes before it: what is this SOURCE?
//!
//! [`Source::open`] tells a recipe, a Hugging Face folder and a GGUF file apart by content, and turns
//! any of them into the GGUF terms that the later stages work on. [`build`] runs all stages, and continues.
//! Deliberately absent: uploading.

mod calibration;
mod chats;
pub(crate) mod checksums;
mod corpus;
mod documents;
mod forecast;
mod inputs;
mod naming;
mod origins;
mod provenance;
pub mod publish;
mod run;
mod source;
mod stages;
mod state;
pub mod verify;

pub use calibration::Calibration;
pub use chats::Chats;
pub use corpus::{CORPUS, Part, parts as calibration_parts};
pub use forecast::{Forecast, ForecastFile, StageMemory, forecast};
pub use naming::file_stem;
pub use run::{Build, BuildOptions, EvalText, build, recipe_files};
pub use source::{Kind, Source};
pub use state::STATE_FILE;
