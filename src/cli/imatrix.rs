//! `aqueduct imatrix SOURCE -f TEXT -o FILE`: an importance matrix, and the text's perplexity.

use super::options::{ConvertArguments, MemoryArgument, Rounding, positive};
use super::{Context, show};
use aqueduct::convert::OutputType;
use aqueduct::imatrix::{self, Format};
use aqueduct::kernels::Precision;
use aqueduct::output;
use aqueduct::pipeline::{Calibration, Source};
use aqueduct::tokenizer::Tokenizer;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Instant;

/// Collect an importance matrix over calibration text.
#[derive(Args)]
pub struct Arguments {
    /// A recipe, a Hugging Face folder or a GGUF file.
    source: PathBuf,
    /// A calibration text; may be given several times [default: the text that comes with Aqueduct].
    #[arg(short = 'f', long = "file", value_name = "TEXT")]
    texts: Vec<PathBuf>,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Tokens in a chunk.
    #[arg(long, value_name = "N", default_value = "512", value_parser = positive)]
    ctx: usize,
    /// Use at most this many chunks [default: all].
    #[arg(long, value_name = "N", value_parser = positive)]
    chunks: Option<usize>,
    /// Layout of the file.
    #[arg(long, value_enum, default_value = "gguf")]
    format: Layout,
    /// Collect for output.weight too.
    #[arg(long)]
    process_output: bool,
    /// What the factors of matrix products are rounded to [default: bf16 where the processor multiplies
    /// it, f32 elsewhere].
    #[arg(long, value_enum)]
    precision: Option<Rounding>,
    #[command(flatten)]
    memory: MemoryArgument,
    #[command(flatten)]
    convert: ConvertArguments,
    /// Replace the file if it exists.
    #[arg(long)]
    force: bool,
}

/// The layouts of imatrix files.
#[derive(Clone, Copy, ValueEnum)]
enum Layout {
    /// GGUF, as llama-imatrix writes by default.
    Gguf,
    /// The older binary layout, for older programs.
    Dat,
}

impl Arguments {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let started = Instant::now();
        output::check_file_target(&self.output, self.force)?;
        let source = Source::open(&self.source)?;
        context.warn_of(&source);
        let calibration = Calibration::read_or_built_in(&self.texts)?;
        let model = source.to_gguf(&self.convert.options(OutputType::Auto))?;
        let tokenizer = Tokenizer::from_metadata(model.origin(), &model.metadata)?;
        let (tokens, bos) = imatrix::tokenize(&tokenizer, &calibration.texts)?;
        let precision = self.precision.map_or_else(Precision::fastest, Precision::from);
        let options = imatrix::Options {
            ctx: self.ctx,
            chunks: self.chunks,
            process_output: self.process_output,
            bos,
            precision,
            memory: self.memory.bytes(),
            datasets: calibration.names,
        };
        let computed = imatrix::compute(&model, &tokens, &options, context.progress())?;
        let format = match self.format {
            Layout::Gguf => Format::Gguf,
            Layout::Dat => Format::Dat,
        };
        computed.imatrix.write(&self.output, format, self.force)?;
        let seconds = started.elapsed().as_secs_f64();
        let perplexity = &computed.perplexity;
        if context.json {
            return show::json(&serde_json::json!({
                "path": self.output,
                "entries": computed.imatrix.entries.len(),
                "chunks": computed.imatrix.chunk_count,
                "chunk_size": computed.imatrix.chunk_size,
                "perplexity": perplexity.estimate,
                "perplexity_error": perplexity.error,
                "running_perplexity": perplexity.running,
                "seconds": seconds,
            }));
        }
        show::text(&format!(
            "{}: {} entries from {} chunks of {} tokens, perplexity {:.4} +- {:.4}, {seconds:.1} s",
            self.output.display(),
            computed.imatrix.entries.len(),
            computed.imatrix.chunk_count,
            computed.imatrix.chunk_size,
            perplexity.estimate,
            perplexity.error,
        ));
        Ok(())
    }
}
