//! Everything: from a source to a folder that people can download: quantized files, their importance matrix,
//! what is told of them, and checksums.
//!
//! Deliberately absent: uploading the folder.

use super::calibration::Calibration;
use super::naming::{conventional_stem, file_stem};
use super::origins::Origins;
use super::source::Source;
use super::stages::Stages;
use super::state::State;
use crate::base::error::{Error, Result};
use crate::base::progress::Progress;
use crate::formats::checkpoint::{CARD_FILE, ModelCard};
use crate::formats::gguf::GgufModel;
use crate::measure::evaluate::Evaluations;
use crate::measure::imatrix;
use crate::model::convert::ConvertOptions;
use crate::model::forward;
use crate::model::tokenizer::{Date, Tokenizer};
use crate::quantize::{Ftype, PlanOptions, QuantPlan, RunOptions, Sharding, Written};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The largest file that the hub takes.
const LARGEST_FILE: u64 = 50_000_000_000;

/// What to build, and how.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    pub types: Vec<Ftype>,
    /// What files and model are called; made from metadata and source if it is not told.
    pub name: Option<String>,
    /// Who makes the files, for their metadata.
    pub quantized_by: Option<String>,
    /// Of the result; else what the members agree on.
    pub license: Option<String>,
    /// Names on the hub, in place of those that are found.
    pub base_models: Vec<String>,
    /// The date that chat templates see, for the card's prompt.
    pub date: Date,
    pub calibration: Calibration,
    /// Tokens in a chunk of calibration text.
    pub ctx: usize,
    /// Use no more chunks than this.
    pub chunks: Option<usize>,
    /// Measure every file on this text, against the source.
    pub eval: Option<EvalText>,
    /// The files that the texts above were read from, which no output may replace.
    pub texts: Vec<PathBuf>,
    /// Divide files with more tensor data than this.
    pub max_file_bytes: u64,
    /// Write the merged model too, as a Hugging Face folder of shards no larger than this.
    pub keep_stack: Option<u64>,
    /// Replace files that exist and that a build does not know, or made of something else.
    pub force: bool,
    /// Use nothing that an earlier build has left.
    pub restart: bool,
    /// How long to work between one saving of the state and the next.
    pub save_every: Duration,
    /// Bytes of computed tensors that quantizing may hold, see [`RunOptions::memory`].
    pub memory: u64,
    /// Bytes that the whole process may take while the importance matrix is computed.
    pub forward_memory: u64,
    pub convert: ConvertOptions,
    pub plan: PlanOptions,
}

impl Default for BuildOptions {
    /// No types yet; the text that comes with the program, shares of the machine's memory.
    fn default() -> BuildOptions {
        BuildOptions {
            types: Vec::new(),
            name: None,
            quantized_by: None,
            license: None,
            base_models: Vec::new(),
            date: Date::default(),
            calibration: Calibration::built_in(),
            ctx: 512,
            chunks: None,
            eval: None,
            texts: Vec::new(),
            max_file_bytes: LARGEST_FILE,
            keep_stack: None,
            force: false,
            restart: false,
            save_every: Duration::from_secs(30),
            memory: RunOptions::default().memory,
            forward_memory: forward::default_memory(),
            convert: ConvertOptions::default(),
            plan: PlanOptions::default(),
        }
    }
}

/// What files are measured on.
#[derive(Clone, Debug)]
pub struct EvalText {
    /// What it is called.
    pub name: String,
    pub text: String,
    /// Use no more chunks than this.
    pub chunks: Option<usize>,
}

/// What was built.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Build {
    pub name: String,
    /// The merged model's folder, if it was kept.
    pub stack: Option<PathBuf>,
    pub imatrix: PathBuf,
    pub imatrix_bytes: u64,
    pub imatrix_seconds: f64,
    /// Chunks of calibration text, and what the model made of them.
    pub chunks: usize,
    pub perplexity: f64,
    pub perplexity_error: f64,
    pub files: Vec<Written>,
    pub quantize_seconds: f64,
    /// Perplexity and divergence of each of the files, if a text was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<Evaluations>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation_seconds: Option<f64>,
    /// What an earlier build had made, and this one did not need to.
    pub reused: Vec<PathBuf>,
    /// What is written for people: the model card, the report, the recipe and its picture.
    pub documents: Vec<PathBuf>,
    /// SHA-256 of everything in the folder.
    pub checksums: PathBuf,
    pub seconds: f64,
}

/// Runs all stages on `source` and writes into the folder `dir`, creating it if need be.
///
/// What can be known before the first weight is read is checked first: types, existing files, the
/// calibration text, space on the disk. What an earlier build has left in the folder is used as far as it is made of
/// the same ([`super::state`]); what is whole but made of something else is made anew only with
/// [`BuildOptions::force`].
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
        state.farewell(progress);
    }
    built
}

/// A plan for each type, which may count on an importance matrix.
fn plan_types(model: &GgufModel, options: &BuildOptions) -> Result<Vec<QuantPlan>> {
    let plan = |&ftype: &Ftype| QuantPlan::expecting_imatrix(model, ftype, &plan_options(options));
    options.types.iter().map(plan).collect()
}

pub(super) fn plan_options(options: &BuildOptions) -> PlanOptions {
    PlanOptions { sharding: Sharding::MaxBytes(options.max_file_bytes), ..options.plan.clone() }
}

/// The source in GGUF terms, under the name that was asked for.
pub(super) fn named_model(
    source: &Source,
    options: &BuildOptions,
    progress: &dyn Progress,
) -> Result<GgufModel> {
    let mut convert = options.convert.clone();
    convert.name = options.name.clone().or(convert.name);
    convert.keep_blocks = options.types.iter().any(|ftype| ftype.keeps_blocks());
    let mut model = source.to_gguf(&convert, progress)?;
    if let (Source::Gguf { .. }, Some(name)) = (source, &options.name) {
        model.metadata.set("general.name", name.as_str());
    }
    Ok(model)
}

/// What files are called before their type.
pub(super) fn stem(source: &Source, model: &GgufModel, options: &BuildOptions) -> String {
    match &options.name {
        Some(name) => file_stem(name),
        None => conventional_stem(&model.metadata).unwrap_or_else(|| source.name()),
    }
}

/// Where the model comes from, corrected by what the user told.
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
            "where on the hub {} come from is not known; --base-model tells it to the model card",
            origins.unnamed.join(", ")
        ));
    }
    origins
}

/// The files that go beside the weights of a merged model: the recipe and a README.
pub fn recipe_files(source: &Source) -> Vec<(String, Vec<u8>)> {
    let Source::Recipe { plan, checkpoint } = source else { return Vec::new() };
    let mut files = vec![("recipe.yml".to_string(), plan.text.clone().into_bytes())];
    if let Some(ModelCard::Text(card)) = &checkpoint.card {
        files.push((CARD_FILE.to_string(), card.clone().into_bytes()));
    }
    files
}

/// The calibration text as tokens, known to suffice.
pub(super) struct Prepared {
    pub tokens: Vec<u32>,
    pub options: imatrix::Options,
}

impl Prepared {
    fn new(model: &GgufModel, options: &BuildOptions) -> Result<Prepared> {
        let tokenizer = Tokenizer::from_metadata(model.origin(), &model.metadata)?;
        let Calibration { names, texts } = &options.calibration;
        let (texts, bos) = imatrix::named_tokens(&tokenizer, names, texts, false)?;
        let (eval, ctx) = (options.eval.as_ref(), options.ctx);
        let mut options = imatrix::Options {
            ctx,
            chunks: options.chunks,
            bos,
            memory: options.forward_memory,
            ..imatrix::Options::default()
        };
        let tokens = imatrix::arrange(texts, &mut options)?;
        imatrix::chunk_tokens(&tokens, &options)?;
        if let Some(text) = eval {
            let (tokens, _) =
                imatrix::tokenize(&tokenizer, std::slice::from_ref(&text.text), false)?;
            if tokens.len() < ctx {
                let (name, found) = (&text.name, tokens.len());
                let detail = format!(
                    "{name}: {found} tokens are no chunk of {ctx}; give more text, or a smaller --ctx"
                );
                return Err(Error::Usage(detail));
            }
        }
        Ok(Prepared { tokens, options })
    }
}
