//! The whole flow: from a source to a folder to publish, with quantized files, their importance
//! matrix, documents and checksums.
//!
//! Not here: the work of each stage (`stages`), what is resumed (`state`), and uploading (`publish`).

use super::options::BuildOptions;
use super::prepare::{Prepared, named_model, plan_types, stem};
use super::provenance::Origins;
use super::result::Build;
use super::source::Source;
use super::stages::Stages;
use super::state::State;
use crate::base::error::Result;
use crate::base::progress::Progress;
use std::path::Path;
use std::time::Instant;

/// Runs all stages on `source` and writes the outputs into the folder `dir`, which is created if it
/// does not exist.
///
/// Outputs of an earlier build are used again if they were made from the same inputs. One that was
/// made from something else is replaced only with [`BuildOptions::force`].
///
/// # Errors
/// Before the first weight is read: types that do not fit the model, files in the way, too little
/// calibration text, too little disk space. Then those of each stage.
pub fn build(
    source: &Source,
    dir: &Path,
    options: &BuildOptions,
    progress: &dyn Progress,
) -> Result<Build> {
    let started = Instant::now();
    let model = named_model(source, options, progress)?;
    let name = stem(source, &model, options);
    let calibration = Prepared::new(&model, options)?;
    let plans = plan_types(&model, options)?;
    let state = State::open(dir, options.restart, progress)?;
    let stages = Stages::new(source, &model, dir, &name, options, &state, progress);
    let built = stages.refuse_foreign(&plans).and_then(|()| {
        let origins = origins(source, options, progress);
        stages.run(&calibration, &plans, &origins, started)
    });
    if built.is_err() {
        state.report_kept(progress);
    }
    built
}

/// Where the model comes from, corrected by what `options` say.
fn origins(source: &Source, options: &BuildOptions, progress: &dyn Progress) -> Origins {
    let mut origins = Origins::of(source);
    origins.warnings.iter().for_each(|warning| progress.warn(warning));
    if let (None, Some(conflict)) = (&options.license, origins.conflict()) {
        progress.warn(&conflict);
    }
    if options.license.is_some() {
        origins.license = options.license.clone();
    }
    if !options.base_models.is_empty() {
        origins.base_models = options.base_models.clone();
        origins.unnamed.clear();
    } else if !origins.unnamed.is_empty() {
        progress.note(&format!(
            "the model card cannot link {}: their names on the hub are unknown; give them with \
             --base-model",
            origins.unnamed.join(", ")
        ));
    }
    origins
}
