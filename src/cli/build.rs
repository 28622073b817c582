//! `aqueduct build SOURCE -o DIR`: everything, one pass over the stages.

use super::options::{CalibrationArguments, ConvertArguments, RunArguments, positive};
use super::quantize::distinct;
use super::{Context, show};
use aqueduct::convert::OutputType;
use aqueduct::pipeline::{self, BuildOptions, Source};
use aqueduct::quantize::{Ftype, PlanOptions};
use aqueduct::size;
use clap::Args;
use std::path::PathBuf;

/// Do everything: merge in flight, collect an importance matrix, write the quantized files.
#[derive(Args)]
pub struct Arguments {
    /// A recipe, a Hugging Face folder or a GGUF file.
    source: PathBuf,
    /// The folder to write into.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// The types to write, with commas between them.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "Q4_K_M,Q5_K_M,Q6_K,Q8_0"
    )]
    types: Vec<Ftype>,
    #[command(flatten)]
    texts: CalibrationArguments,
    /// Tokens in a chunk of calibration text.
    #[arg(long, value_name = "N", default_value = "512", value_parser = positive)]
    ctx: usize,
    /// Use at most this many chunks [default: all].
    #[arg(long, value_name = "N", value_parser = positive)]
    chunks: Option<usize>,
    /// Write the merged model too, as a Hugging Face folder.
    #[arg(long)]
    keep_stack: bool,
    /// Largest size of a safetensors shard of the stack.
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = size::parse)]
    max_shard_size: u64,
    /// Accept a source that is quantized already, though quality suffers twice.
    #[arg(long)]
    allow_requantize: bool,
    #[command(flatten)]
    convert: ConvertArguments,
    #[command(flatten)]
    run: RunArguments,
}

impl Arguments {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let source = Source::open(&self.source)?;
        context.warn_of(&source);
        let options = BuildOptions {
            types: distinct(&self.types),
            calibration: self.texts.choose()?,
            ctx: self.ctx,
            chunks: self.chunks,
            keep_stack: self.keep_stack.then_some(self.max_shard_size),
            force: self.run.force,
            memory: self.run.options().memory,
            forward_memory: self.run.forward_memory(),
            convert: self.convert.options(OutputType::Auto),
            plan: PlanOptions { allow_requantize: self.allow_requantize, ..PlanOptions::default() },
        };
        if self.keep_stack && source.checkpoint().is_none() {
            context.warn_all(["--keep-stack does nothing for a GGUF file".to_string()]);
        }
        let built = pipeline::build(&source, &self.output, &options, context.progress())?;
        if context.json {
            return show::json(&built);
        }
        show::text(&show::files_table(&built.files));
        show::text(&format!(
            "\nimatrix  {} ({}), {} chunks, perplexity {:.4} +- {:.4}, {:.1} s",
            built.imatrix.display(),
            size::display(built.imatrix_bytes),
            built.chunks,
            built.perplexity,
            built.perplexity_error,
            built.imatrix_seconds,
        ));
        if let Some(stack) = &built.stack {
            show::text(&format!("stack    {}", stack.display()));
        }
        show::text(&format!("total    {:.1} s", built.seconds));
        Ok(())
    }
}
