//! What a build has made.

use crate::measure::evaluate::Evaluations;
use crate::quantize::Written;
use std::path::PathBuf;

/// The outputs of a build, and what was measured of them.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Build {
    /// The beginning of all file names.
    pub name: String,
    /// The merged model's folder, if it was written.
    pub stack: Option<PathBuf>,
    /// The importance matrix file.
    pub imatrix: PathBuf,
    /// Its size in bytes.
    pub imatrix_bytes: u64,
    /// The seconds that computing it took.
    pub imatrix_seconds: f64,
    /// The number of chunks of calibration text.
    pub chunks: usize,
    /// The unquantized model's perplexity on the calibration text.
    pub perplexity: f64,
    /// The standard error of the perplexity.
    pub perplexity_error: f64,
    /// The quantized files, in the order of the types.
    pub files: Vec<Written>,
    /// The seconds that quantizing took in this run.
    pub quantize_seconds: f64,
    /// Perplexity and KL divergence of each file, if an evaluation text was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<Evaluations>,
    /// The seconds that evaluating took in this run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation_seconds: Option<f64>,
    /// Outputs of an earlier build that were used again.
    pub reused: Vec<PathBuf>,
    /// The model card, the report, and for a merge the recipe and its picture.
    pub documents: Vec<PathBuf>,
    /// The list of SHA-256 checksums of all outputs.
    pub checksums: PathBuf,
    /// The seconds that this run took.
    pub seconds: f64,
}
