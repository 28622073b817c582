//! Everything: from a source to its importance matrix and a set of quantized files.

use super::calibration::Calibration;
use super::source::Source;
use crate::checkpoint::{self, CARD_FILE, ModelCard};
use crate::convert::ConvertOptions;
use crate::error::{Error, Result};
use crate::gguf::GgufModel;
use crate::imatrix::{self, Computed, Format};
use crate::output;
use crate::progress::Progress;
use crate::quantize::{self, Ftype, Importance, PlanOptions, QuantPlan, RunOptions, Written};
use crate::tokenizer::Tokenizer;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What to build, and how.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    pub types: Vec<Ftype>,
    pub calibration: Calibration,
    /// Tokens in a chunk of calibration text.
    pub ctx: usize,
    /// Use no more chunks than this.
    pub chunks: Option<usize>,
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
    pub seconds: f64,
}

/// A name as it may stand in a file name: no separators, no spaces, no leading dots.
pub fn file_stem(name: &str) -> String {
    let kept = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    let stem: String = name.trim().chars().map(|c| if kept(c) { c } else { '-' }).collect();
    let stem = stem.trim_matches(['.', '-']);
    if stem.is_empty() { "model".to_string() } else { stem.to_string() }
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
    let name = source.name();
    let model = source.to_gguf(&options.convert)?;
    let paths = Paths::new(dir, &name, options);
    let calibration = Prepared::new(&model, options)?;
    paths.check(source, &model, options)?;

    let stack = paths.write_stack(source, options, progress)?;
    let imatrix_started = Instant::now();
    let computed = calibration.compute(&model, progress)?;
    computed.imatrix.write(&paths.imatrix, Format::Gguf, options.force)?;
    progress.note(&format!("wrote {}", paths.imatrix.display()));
    let imatrix_seconds = imatrix_started.elapsed().as_secs_f64();
    let files = paths.quantize(&model, &computed, options, progress)?;
    let imatrix_bytes =
        std::fs::metadata(&paths.imatrix).map_err(Error::io(&paths.imatrix, "examine"))?.len();
    Ok(Build {
        name,
        stack,
        imatrix: paths.imatrix,
        imatrix_bytes,
        imatrix_seconds,
        chunks: computed.perplexity.running.len(),
        perplexity: computed.perplexity.estimate,
        perplexity_error: computed.perplexity.error,
        files,
        seconds: started.elapsed().as_secs_f64(),
    })
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
        let options = imatrix::Options {
            ctx: options.ctx,
            chunks: options.chunks,
            bos,
            datasets: options.calibration.names.clone(),
            memory: options.forward_memory,
            ..imatrix::Options::default()
        };
        imatrix::chunk_tokens(&tokens, &options)?;
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
    /// One for each type.
    quants: Vec<PathBuf>,
}

impl Paths {
    fn new(dir: &Path, name: &str, options: &BuildOptions) -> Paths {
        let quant = |ftype: &Ftype| dir.join(format!("{name}-{ftype}.gguf"));
        Paths {
            stack: dir.join(format!("{name}-stack")),
            imatrix: dir.join(format!("{name}-imatrix.gguf")),
            quants: options.types.iter().map(quant).collect(),
        }
    }

    /// Refuses what would fail after hours of work: files that exist, a disk that is too small, types
    /// that cannot be made of this source.
    fn check(&self, source: &Source, model: &GgufModel, options: &BuildOptions) -> Result<()> {
        for path in self.quants.iter().chain([&self.imatrix]) {
            output::check_file_target(path, options.force)?;
        }
        if options.keep_stack.is_some() && source.checkpoint().is_some() {
            output::check_dir_target(&self.stack, options.force)?;
        }
        let mut bytes = 0;
        for &ftype in &options.types {
            bytes += QuantPlan::expecting_imatrix(model, ftype, &options.plan)?.file_bytes()?;
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
            let plan = QuantPlan::new(model, ftype, Some(&importance), &options.plan)?;
            plan.warnings.iter().for_each(|w| progress.warn(w));
            outputs.push(quantize::Output { plan, path: path.clone() });
        }
        let run = RunOptions { force: options.force, memory: options.memory };
        quantize::run(model, outputs, Some(&importance), run, progress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_file_names() {
        assert_eq!(file_stem("Aqueducts 18B"), "Aqueducts-18B");
        assert_eq!(file_stem("../../etc/passwd"), "etc-passwd");
        assert_eq!(file_stem("..."), "model");
    }
}
