//! The contents of the card and page of a folder of quants, as data: [`published_readme`](super::published_readme) writes the model
//! card of it, [`published_html`](super::published_html) the page with pictures.

use crate::measure::evaluate::Estimate;
use crate::recipe::PlanSummary;
use crate::report::pictures::TypedTensor;
use crate::report::tables::ImatrixStatistics;

/// The stage in [`Published::timings`] that each file has a share of.
pub const QUANTIZING: &str = "quantizing, all types";

/// A folder of quants.
pub struct Published {
    /// The model's name, as files have it.
    pub name: String,
    pub quantized_by: Option<String>,
    pub architecture: String,
    pub parameters: u64,
    /// Names on the hub.
    pub base_models: Vec<String>,
    pub license: Option<String>,
    /// Which member has which licence, where they differ.
    pub licenses: Vec<(String, String)>,
    /// Which models had quantized weights, and what these were.
    pub quantized_sources: Vec<(String, String)>,
    pub tags: Vec<String>,
    pub languages: Vec<String>,
    pub pipeline_tag: String,
    /// In the requested order.
    pub files: Vec<PublishedFile>,
    pub imatrix: PublishedImatrix,
    pub evaluation: Option<PublishedEvaluation>,
    /// A system prompt and a question in the model's own format, with placeholders.
    pub prompt: Option<String>,
    /// The recipe, if it is a merge.
    pub merge: Option<PublishedMerge>,
    /// The name of the file of checksums.
    pub checksums: &'static str,
    /// Stages and how many seconds they took.
    pub timings: Vec<(&'static str, f64)>,
}

/// A quantized model in one file or several.
pub struct PublishedFile {
    pub names: Vec<String>,
    pub ftype: String,
    pub bytes: u64,
    pub bits_per_weight: f64,
    pub seconds: f64,
    pub advice: &'static str,
    pub figures: Option<Figures>,
    /// Of matrices, in the order of the file.
    pub tensors: Vec<TypedTensor>,
}

/// What was measured of a file.
#[derive(Clone, Copy)]
pub struct Figures {
    pub perplexity: Estimate,
    /// Mean Kullback-Leibler divergence from the source, in nats.
    pub kld: Estimate,
    /// Share of tokens with the source's likeliest token, 0 to 1.
    pub same_top: Estimate,
}

/// The importance matrix that all files were made with.
pub struct PublishedImatrix {
    pub file: String,
    pub bytes: u64,
    pub chunks: usize,
    pub ctx: usize,
    pub texts: Vec<String>,
    pub statistics: ImatrixStatistics,
}

/// How files were measured.
pub struct PublishedEvaluation {
    pub text: String,
    pub tokens: usize,
    pub ctx: usize,
    /// Of the source.
    pub perplexity: Estimate,
}

/// The merge that the model is.
pub struct PublishedMerge {
    pub summary: PlanSummary,
    pub recipe: String,
    /// Names of the recipe's copy, and of the picture of its plan.
    pub recipe_file: &'static str,
    pub picture: &'static str,
}
