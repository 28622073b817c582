//! `aqueduct quantize SOURCE -o FILE|DIR TYPE...`: quantized GGUF files in one pass.

use super::options::{ConvertArguments, RunArguments};
use super::{Context, show};
use anyhow::Context as _;
use aqueduct::convert::OutputType;
use aqueduct::imatrix::ImportanceMatrix;
use aqueduct::pipeline::Source;
use aqueduct::quantize::{self, Ftype, Importance, Output, PlanOptions, QuantPlan, RunOptions};
use aqueduct::{Error, output, size};
use clap::Args;
use std::path::{Path, PathBuf};

/// Write quantized GGUF files, all types in one pass over the weights.
#[derive(Args)]
pub struct Arguments {
    /// A recipe, a Hugging Face folder or a GGUF file.
    source: PathBuf,
    /// The types to write: Q4_K_M, Q5_K_M, Q6_K, Q8_0 and others, in any case.
    #[arg(required = true, value_name = "TYPE")]
    types: Vec<Ftype>,
    /// An importance matrix, as `aqueduct imatrix` or llama-imatrix writes it.
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// The file to write, or a folder, where files are named Name-TYPE.gguf. Several types need a
    /// folder; with one, a path that ends in .gguf is a file.
    #[arg(short, long, value_name = "FILE|DIR")]
    output: PathBuf,
    /// Accept a source that is quantized already, though quality suffers twice.
    #[arg(long)]
    allow_requantize: bool,
    #[command(flatten)]
    convert: ConvertArguments,
    /// Write several files, NAME-00001-of-0000N.gguf, with at most this much tensor data in each.
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    max_shard_size: Option<u64>,
    #[command(flatten)]
    run: RunArguments,
}

impl Arguments {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let types = distinct(&self.types);
        let source = Source::open(&self.source)?;
        context.warn_of(&source);
        let importance = self.imatrix.as_deref().map(read_importance).transpose()?;
        let model = source.to_gguf(&self.convert.options(OutputType::Auto))?;
        let options = PlanOptions { allow_requantize: self.allow_requantize };
        let mut outputs = Vec::with_capacity(types.len());
        for (ftype, path) in types.iter().zip(self.paths(&types, &source)?) {
            let plan = QuantPlan::new(&model, *ftype, importance.as_ref(), options)?;
            context.warn_all(plan.warnings.clone());
            outputs.push(Output { plan, path });
        }
        let needed = outputs.iter().map(|o| o.plan.file_bytes()).sum::<Result<u64, _>>()?;
        output::check_space(&self.output, needed)?;
        let run = RunOptions { max_shard_bytes: self.max_shard_size, ..self.run.options() };
        let written = quantize::run(&model, outputs, importance.as_ref(), run, context.progress())?;
        if context.json {
            return show::json(&written);
        }
        show::text(&show::files_table(&written));
        Ok(())
    }

    /// Where each type goes.
    fn paths(&self, types: &[Ftype], source: &Source) -> Result<Vec<PathBuf>, Error> {
        let is_file = self.output.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
        if is_file && !self.output.is_dir() {
            if types.len() == 1 {
                return Ok(vec![self.output.clone()]);
            }
            let text = format!("{}: several types need a folder", self.output.display());
            return Err(Error::Usage(text));
        }
        // With one type, any path that is no folder yet may be meant as a file; only a slash at the
        // end or an existing folder says otherwise.
        let folder = self.output.is_dir() || self.output.to_string_lossy().ends_with('/');
        if types.len() == 1 && !folder {
            return Ok(vec![self.output.clone()]);
        }
        let name = source.name();
        Ok(types.iter().map(|t| self.output.join(format!("{name}-{t}.gguf"))).collect())
    }
}

/// The types, each once, in the order given.
pub fn distinct(types: &[Ftype]) -> Vec<Ftype> {
    let mut kept = Vec::new();
    for &ftype in types {
        if !kept.contains(&ftype) {
            kept.push(ftype);
        }
    }
    kept
}

fn read_importance(path: &Path) -> anyhow::Result<Importance> {
    let matrix = ImportanceMatrix::read(path).context("the importance matrix cannot be used")?;
    Ok(Importance::new(&matrix, &path.display().to_string())?)
}
