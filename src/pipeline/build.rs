//! Everything: from a source to a folder that people can download: quantized files, their importance matrix,
//! what is told of them, and checksums.
//!
//! Deliberately absent: uploading the folder.

use super::calibration::Calibration;
use super::checksums::{self, SUMS_FILE};
use super::documents;
use super::naming::{conventional_stem, file_stem};
use super::origins::Origins;
use super::provenance;
use super::source::Source;
use crate::checkpoint::{self, CARD_FILE, ModelCard};
use crate::convert::{self, ConvertOptions};
use crate::error::{Error, Result};
use crate::evaluate::{self, Against, Evaluations, Subject};
use crate::gguf::{self, GgufModel};
use crate::imatrix::{self, Computed, Format};
use crate::model;
use crate::output;
use crate::progress::Progress;
use crate::quantize::{
    self, Ftype, Importance, PlanOptions, QuantPlan, RunOptions, Sharding, Written,
};
use crate::tokenizer::Tokenizer;
use std::path::{Path, PathBuf};
use std::time::Instant;

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
    pub calibration: Calibration,
    /// Tokens in a chunk of calibration text.
    pub ctx: usize,
    /// Use no more chunks than this.
    pub chunks: Option<usize>,
    /// Measure every file on this text, against the source.
    pub eval: Option<EvalText>,
    /// Divide files with more tensor data than this.
    pub max_file_bytes: u64,
    /// Write the merged model too, as a Hugging Face folder of shards no larger than this.
    pub keep_stack: Option<u64>,
    /// Replace files that exist.
    pub force: bool,
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
            calibration: Calibration::built_in(),
            ctx: 512,
            chunks: None,
            eval: None,
            max_file_bytes: LARGEST_FILE,
            keep_stack: None,
            force: false,
            memory: RunOptions::default().memory,
            forward_memory: model::default_memory(),
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
    /// What is written for people: the model card, the report, the recipe and its picture.
    pub documents: Vec<PathBuf>,
    /// SHA-256 of everything in the folder.
    pub checksums: PathBuf,
    pub seconds: f64,
}

/// Runs all stages on `source` and writes into the folder `dir`, creating it if need be.
///
/// What can be known before the first weight is read is checked first: types, existing files, the
/// calibration text, space on the disk.
pub fn build(
    source: &Source,
    dir: &Path,
    options: &BuildOptions,
    progress: &dyn Progress,
) -> Result<Build> {
    let started = Instant::now();
    let model = named_model(source, options)?;
    let name = stem(source, &model, options);
    let paths = Paths::new(source, dir, &name, options);
    let calibration = Prepared::new(&model, options)?;
    paths.check(source, &model, options)?;
    let origins = origins(source, options, progress)?;

    let stack = paths.write_stack(source, options, progress)?;
    let imatrix_started = Instant::now();
    let computed = calibration.compute(&model, progress)?;
    computed.imatrix.write(&paths.imatrix, Format::Gguf, options.force)?;
    progress.note(&format!("wrote {}", paths.imatrix.display()));
    let imatrix_seconds = imatrix_started.elapsed().as_secs_f64();
    let branded = brand(&model, source, &origins, options, &paths.imatrix)?;
    let quantize_started = Instant::now();
    let files = paths.quantize(&branded, &computed, options, progress)?;
    let quantize_seconds = quantize_started.elapsed().as_secs_f64();
    let evaluation_started = Instant::now();
    let evaluation = evaluate_files(&name, &model, &files, options, progress)?;
    let evaluation_seconds =
        evaluation.as_ref().map(|_| evaluation_started.elapsed().as_secs_f64());
    let imatrix_bytes =
        std::fs::metadata(&paths.imatrix).map_err(Error::io(&paths.imatrix, "examine"))?.len();
    let mut built = Build {
        name,
        stack,
        imatrix: paths.imatrix,
        imatrix_bytes,
        imatrix_seconds,
        chunks: computed.perplexity.running.len(),
        perplexity: computed.perplexity.estimate,
        perplexity_error: computed.perplexity.error,
        files,
        quantize_seconds,
        evaluation,
        evaluation_seconds,
        documents: Vec::new(),
        checksums: paths.sums,
        seconds: started.elapsed().as_secs_f64(),
    };
    built.documents = documents::write(source, dir, &branded, &origins, &built, options)?;
    let mut all: Vec<PathBuf> = built.files.iter().flat_map(Written::paths).collect();
    all.extend(built.documents.iter().chain([&built.imatrix]).chain(&built.stack).cloned());
    checksums::write(dir, &all, options.force, progress)?;
    built.seconds = started.elapsed().as_secs_f64();
    Ok(built)
}

/// The source in GGUF terms, under the name that was asked for.
pub(super) fn named_model(source: &Source, options: &BuildOptions) -> Result<GgufModel> {
    let mut convert = options.convert.clone();
    convert.name = options.name.clone().or(convert.name);
    let mut model = source.to_gguf(&convert)?;
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
fn origins(source: &Source, options: &BuildOptions, progress: &dyn Progress) -> Result<Origins> {
    let mut origins = Origins::of(source)?;
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
    Ok(origins)
}

/// `model` with what the files' metadata tell besides the model's own.
fn brand(
    model: &GgufModel,
    source: &Source,
    origins: &Origins,
    options: &BuildOptions,
    imatrix: &Path,
) -> Result<GgufModel> {
    let mut model = model.clone();
    if let Some(license) = &origins.license {
        model.metadata.set("general.license", license.as_str());
    }
    // Of a model that is no merge, its own card tells.
    if matches!(source, Source::Recipe { .. }) && origins.all_named() {
        convert::write_base_models(&origins.base_models, &mut model.metadata);
    }
    let hash = checksums::of_file(imatrix, |_| {})?;
    provenance::record(&mut model.metadata, source, options, &hash);
    Ok(model)
}

/// Measures `files` against `model`, which they were made of, if a text was given.
fn evaluate_files(
    name: &str,
    model: &GgufModel,
    files: &[Written],
    options: &BuildOptions,
    progress: &dyn Progress,
) -> Result<Option<Evaluations>> {
    let Some(eval) = &options.eval else { return Ok(None) };
    let subject = |file: &Written| {
        let name = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Subject { name, model: gguf::open(&file.path)? })
    };
    let subjects = files.iter().map(subject).collect::<Result<Vec<_>>>()?;
    let reference = Subject { name: name.to_string(), model: model.clone() };
    let how = evaluate::Options {
        texts: vec![eval.text.clone()],
        ctx: Some(options.ctx),
        chunks: eval.chunks,
        against: Some(Against::Model(reference)),
        memory: options.forward_memory,
        ..evaluate::Options::default()
    };
    evaluate::evaluate(&subjects, &how, progress).map(Some)
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
struct Prepared {
    tokens: Vec<u32>,
    options: imatrix::Options,
}

impl Prepared {
    fn new(model: &GgufModel, options: &BuildOptions) -> Result<Prepared> {
        let tokenizer = Tokenizer::from_metadata(model.origin(), &model.metadata)?;
        let (tokens, bos) = imatrix::tokenize(&tokenizer, &options.calibration.texts, false)?;
        let (eval, ctx) = (options.eval.as_ref(), options.ctx);
        let options = imatrix::Options {
            ctx,
            chunks: options.chunks,
            bos,
            datasets: options.calibration.names.clone(),
            memory: options.forward_memory,
            ..imatrix::Options::default()
        };
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

    fn compute(&self, model: &GgufModel, progress: &dyn Progress) -> Result<Computed> {
        imatrix::compute(model, &self.tokens, &self.options, progress)
    }
}

/// Where everything goes.
struct Paths {
    stack: PathBuf,
    imatrix: PathBuf,
    sums: PathBuf,
    documents: Vec<PathBuf>,
    /// One for each type.
    quants: Vec<PathBuf>,
}

impl Paths {
    fn new(source: &Source, dir: &Path, name: &str, options: &BuildOptions) -> Paths {
        let quant = |ftype: &Ftype| dir.join(format!("{name}-{ftype}.gguf"));
        Paths {
            stack: dir.join(format!("{name}-stack")),
            imatrix: dir.join(format!("{name}-imatrix.gguf")),
            sums: dir.join(SUMS_FILE),
            documents: documents::targets(source, dir),
            quants: options.types.iter().map(quant).collect(),
        }
    }

    /// Refuses what would fail after hours of work: files that exist, a disk that is too small, types
    /// that cannot be made of this source.
    fn check(&self, source: &Source, model: &GgufModel, options: &BuildOptions) -> Result<()> {
        for path in self.quants.iter().chain([&self.imatrix, &self.sums]).chain(&self.documents) {
            output::check_file_target(path, options.force)?;
        }
        if options.keep_stack.is_some() && source.checkpoint().is_some() {
            output::check_dir_target(&self.stack, options.force)?;
        }
        let mut bytes = 0;
        for &ftype in &options.types {
            bytes +=
                QuantPlan::expecting_imatrix(model, ftype, &plan_options(options))?.file_bytes()?;
        }
        if let (Some(_), Some(stack)) = (options.keep_stack, source.checkpoint()) {
            let infos = stack.tensors.table().infos();
            bytes += infos.iter().filter_map(|t| t.bytes()).sum::<usize>() as u64;
        }
        output::check_space(&self.imatrix, bytes)
    }

    fn write_stack(
        &self,
        source: &Source,
        options: &BuildOptions,
        progress: &dyn Progress,
    ) -> Result<Option<PathBuf>> {
        let (Some(max_shard_bytes), Some(stack)) = (options.keep_stack, source.checkpoint()) else {
            return Ok(None);
        };
        let extra = recipe_files(source);
        let (force, memory) = (options.force, options.memory);
        let write =
            checkpoint::WriteOptions { max_shard_bytes, extra, force, memory, resume: None };
        checkpoint::write(stack, &self.stack, &write, progress)?;
        progress.note(&format!("wrote {}", self.stack.display()));
        Ok(Some(self.stack.clone()))
    }

    fn quantize(
        &self,
        model: &GgufModel,
        computed: &Computed,
        options: &BuildOptions,
        progress: &dyn Progress,
    ) -> Result<Vec<Written>> {
        let recorded = self.imatrix.file_name().map(|n| n.to_string_lossy().into_owned());
        let importance = Importance::new(&computed.imatrix, &recorded.unwrap_or_default())?;
        let mut outputs = Vec::with_capacity(options.types.len());
        for (&ftype, path) in options.types.iter().zip(&self.quants) {
            let plan = QuantPlan::new(model, ftype, Some(&importance), &plan_options(options))?;
            plan.warnings.iter().for_each(|w| progress.warn(w));
            outputs.push(quantize::Output { plan, path: path.clone() });
        }
        let run = RunOptions { force: options.force, memory: options.memory };
        quantize::run(model, outputs, Some(&importance), run, progress)
    }
}

fn plan_options(options: &BuildOptions) -> PlanOptions {
    PlanOptions { sharding: Sharding::MaxBytes(options.max_file_bytes), ..options.plan.clone() }
}
