//! The whole way from a source to a folder of quants.

use super::{Model, QuantizedFile, setters};
use crate::base::error::Result;
use crate::base::progress::Progress;
use crate::build::{self, Calibration, EvalText};
use crate::quantize::Ftype;
use std::path::{Path, PathBuf};

/// What to build.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BuildOptions {
    /// The file types to write.
    pub types: Vec<Ftype>,
    /// The model's name; derived from the source if `None`.
    pub name: Option<String>,
    /// Who makes the files, for their metadata.
    pub quantized_by: Option<String>,
    /// Calibration texts; the project's own if empty.
    pub texts: Vec<PathBuf>,
    /// The number of chunks of calibration text to use at most.
    pub chunks: Option<usize>,
    /// A text to measure every file on, against the source.
    pub evaluation_text: Option<PathBuf>,
    /// Replace files that this build did not write, or wrote from something else.
    pub force: bool,
}

impl BuildOptions {
    setters! {
        /// Sets [`BuildOptions::types`].
        types: Vec<Ftype>,
        /// Sets [`BuildOptions::name`].
        name: Option<String>,
        /// Sets [`BuildOptions::quantized_by`].
        quantized_by: Option<String>,
        /// Sets [`BuildOptions::texts`].
        texts: Vec<PathBuf>,
        /// Sets [`BuildOptions::chunks`].
        chunks: Option<usize>,
        /// Sets [`BuildOptions::evaluation_text`].
        evaluation_text: Option<PathBuf>,
        /// Sets [`BuildOptions::force`].
        force: bool,
    }
}

/// What [`build`] made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BuildReport {
    /// The model's name.
    pub name: String,
    /// The importance matrix.
    pub imatrix: PathBuf,
    /// The GGUF files.
    pub files: Vec<QuantizedFile>,
    /// Files that an earlier build had made and this one kept.
    pub reused: Vec<PathBuf>,
    /// Model card, report, recipe and picture.
    pub documents: Vec<PathBuf>,
    /// The file of SHA-256 checksums.
    pub checksums: PathBuf,
}

/// Builds the folder `dir` from `model`: importance matrix, quantized GGUF files, model card, report
/// and checksums. A build that was interrupted continues with what is complete.
///
/// # Errors
/// Before any weight is read: unusable options, files in the way, too little space. Later: what the
/// stages find.
///
/// # Examples
/// ```
/// use aqueduct::{BuildOptions, Ftype, Model, Silent, build};
///
/// let model = Model::open("recipes/demo.yml")?;
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path().join("quants");
/// let options = BuildOptions::default().types(vec![Ftype::Q4_K_M]).chunks(Some(2));
/// let report = build(&model, &folder, &options, &Silent)?;
/// assert!(report.files[0].path.exists());
/// assert!(report.checksums.exists());
/// # Ok::<(), aqueduct::Error>(())
/// ```
pub fn build(
    model: &Model,
    dir: impl AsRef<Path>,
    options: &BuildOptions,
    progress: &dyn Progress,
) -> Result<BuildReport> {
    let eval = match &options.evaluation_text {
        None => None,
        Some(path) => {
            let read = Calibration::read(std::slice::from_ref(path))?;
            let (name, text) = (read.names.concat(), read.texts.concat());
            Some(EvalText { name, text, chunks: options.chunks })
        }
    };
    let run = build::BuildOptions {
        types: options.types.clone(),
        name: options.name.clone(),
        quantized_by: options.quantized_by.clone(),
        calibration: Calibration::choose(&[], &options.texts)?,
        texts: options.texts.iter().chain(&options.evaluation_text).cloned().collect(),
        chunks: options.chunks,
        eval,
        force: options.force,
        ..build::BuildOptions::default()
    };
    let built = build::build(&model.source, dir.as_ref(), &run, progress)?;
    Ok(BuildReport {
        name: built.name,
        imatrix: built.imatrix,
        files: built.files.into_iter().map(QuantizedFile::from).collect(),
        reused: built.reused,
        documents: built.documents,
        checksums: built.checksums,
    })
}
