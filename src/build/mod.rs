//! The whole flow, from a source to a folder to publish, and the checks of such a folder.
//!
//! [`Source::open`] recognizes a recipe, a Hugging Face folder or a GGUF file and presents it in GGUF
//! terms. [`build`] runs all stages on it and resumes an interrupted build; [`forecast()`] predicts
//! their sizes and memory. [`verify`] checks the files, [`publish`] prepares their upload.

mod source;

mod calibration;
mod options;
mod prepare;
mod run;

mod stages;
mod state;

mod checksums;
mod documents;
mod file_names;
mod provenance;
mod result;

mod forecast;
pub mod publish;
pub mod verify;

pub use calibration::{CORPUS, Calibration, Chats, CorpusPart, calibration_parts};
pub use file_names::file_stem;
pub use forecast::{Forecast, ForecastFile, StageMemory, forecast};
pub use options::{BuildOptions, EvalText};
pub use prepare::recipe_files;
pub use result::Build;
pub use run::build;
pub use source::{Kind, Source};
pub use state::STATE_FILE;
