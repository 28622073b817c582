//! `aqueduct imatrix SOURCE -f TEXT -o FILE`: an importance matrix, and the text's perplexity; and the
//! tools for what it wrote, a file each below `imatrix/`.
//!
//! The tools' names come before sources: a SOURCE named `show` is written `./show`.

mod diff;
mod merge;
mod show;

use super::options::{
    CalibrationArguments, ConvertArguments, DateArgument, MemoryArgument, ResumeArguments,
    Rounding, SeedArgument, positive,
};
use super::{Context, shell, show as print};
use crate::Error;
use crate::base::output;
use crate::build::{Calibration, Chats};
use crate::kernels::Precision;
use crate::measure::imatrix::{self, Computed, Format, LayerCheckpoints, NamedTokens, Shard};
use crate::model::convert::OutputType;
use crate::model::tokenizer::{ChatTemplate, Tokenizer};
use clap::{Args, Subcommand, ValueEnum};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Collect an importance matrix over calibration text, or work with such files.
///
/// A run that is interrupted, by Ctrl-C, an error or a crash, leaves the layers that are done in the
/// hidden file .NAME.layers.part beside the output. The same command continues after them and ends with
/// the same bytes.
#[derive(Args)]
#[command(
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    override_usage = "aqueduct imatrix [OPTIONS] -o <FILE> <SOURCE>\n       \
                      aqueduct imatrix <merge|show|diff> ..."
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    tool: Option<Tool>,
    /// A recipe, a Hugging Face folder, a GGUF file, or a name on the hub.
    #[arg(required = true)]
    source: Option<PathBuf>,
    #[command(flatten)]
    texts: CalibrationArguments,
    /// The file to write.
    #[arg(short, long, value_name = "FILE", required = true)]
    output: Option<PathBuf>,
    /// Calibrate on conversations, written by the model's own chat template: a file of JSON lines, each
    /// {"messages": [{"role": ..., "content": ...}, ...]} or such a list alone; may be given several times.
    #[arg(long = "chat", value_name = "FILE.jsonl")]
    chats: Vec<PathBuf>,
    #[command(flatten)]
    date: DateArgument,
    /// Read special tokens that the text spells out, such as <|im_start|>, as these tokens.
    #[arg(long)]
    parse_special: bool,
    /// Tokens in a chunk.
    #[arg(long, value_name = "N", default_value = "512", value_parser = positive)]
    ctx: usize,
    /// Skip so many chunks at the beginning of the text.
    #[arg(long, value_name = "N", default_value = "0")]
    from_chunk: usize,
    /// Use at most this many chunks [default: all]. Of several texts each gets a share by its length.
    #[arg(long, value_name = "N", value_parser = positive)]
    chunks: Option<usize>,
    /// Compute only the I-th of N parts of these chunks, 1/N to N/N; `aqueduct imatrix merge` adds the
    /// parts, which may come from several machines.
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    #[command(flatten)]
    resume: ResumeArguments,
    /// Layout of the file.
    #[arg(long, value_enum, default_value = "gguf")]
    format: Layout,
    /// Collect for output.weight too, or for token_embd.weight where that is the output.
    #[arg(long)]
    process_output: bool,
    /// What the factors of matrix products are rounded to [default: bf16 where the processor multiplies
    /// it, f32 elsewhere].
    #[arg(long, value_enum)]
    precision: Option<Rounding>,
    #[command(flatten)]
    memory: MemoryArgument,
    #[command(flatten)]
    seed: SeedArgument,
    #[command(flatten)]
    convert: ConvertArguments,
    /// Replace the file if it exists.
    #[arg(long)]
    force: bool,
}

/// What can be done with importance matrices that exist.
#[derive(Subcommand)]
enum Tool {
    Merge(merge::Arguments),
    Show(show::Arguments),
    Diff(diff::Arguments),
}

/// The layouts of imatrix files.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Layout {
    /// GGUF, as llama-imatrix writes by default.
    Gguf,
    /// The older binary layout, for older programs.
    Dat,
}

impl From<Layout> for Format {
    fn from(layout: Layout) -> Format {
        match layout {
            Layout::Gguf => Format::Gguf,
            Layout::Dat => Format::Dat,
        }
    }
}

impl Arguments {
    pub(super) fn run(mut self, context: &Context) -> anyhow::Result<()> {
        match (self.tool.take(), self.source.take(), self.output.take()) {
            (None, Some(source), Some(output)) => self.compute(&source, &output, context),
            (Some(tool), None, None) if self.texts.is_empty() && self.chats.is_empty() => {
                match tool {
                    Tool::Merge(arguments) => arguments.run(context),
                    Tool::Show(arguments) => arguments.run(context),
                    Tool::Diff(arguments) => arguments.run(context),
                }
            }
            _ => {
                let text = "what comes before merge, show or diff belongs to computing an importance matrix; \
                            if one of them is the name of a model, write ./NAME";
                Err(Error::Usage(text.to_string()).into())
            }
        }
    }

    fn compute(self, path: &Path, target: &Path, context: &Context) -> anyhow::Result<()> {
        let started = Instant::now();
        if self.shard.is_some() && self.format == Layout::Dat {
            let text = "--shard needs the gguf layout: the older layout does not record which parts belong together";
            return Err(Error::Usage(text.to_string()).into());
        }
        output::check_file_target(target, self.force)?;
        let source = self.seed.open(path, context)?;
        let texts = self.texts.files().iter().chain(&self.chats).cloned();
        output::check_not_input(target, source.files().into_iter().chain(texts))?;
        context.warn_of(&source);
        let chats =
            self.chats.iter().map(|path| Chats::read(path)).collect::<Result<Vec<_>, _>>()?;
        let calibration = match chats.is_empty() || !self.texts.is_empty() {
            true => self.texts.choose()?,
            false => Calibration::read(&[])?,
        };
        let model = source.to_gguf(&self.convert.options(OutputType::Auto), context.progress())?;
        let tokenizer = Tokenizer::from_metadata(model.origin(), &model.metadata)?;
        let Calibration { names, texts } = &calibration;
        let (mut texts, bos) = imatrix::named_tokens(&tokenizer, names, texts, self.parse_special)?;
        if !chats.is_empty() {
            let template =
                ChatTemplate::from_metadata(model.origin(), &model.metadata, self.date.today())?;
            for chats in &chats {
                let tokens = chats.tokens(&template, &tokenizer)?;
                texts.push(NamedTokens { name: chats.name(), tokens });
            }
        }
        let mut options = self.options(bos);
        let tokens = imatrix::arrange(texts, &mut options)?;
        let progress = context.progress();
        let guard = || Ok(());
        let checkpoints = source.fingerprints().map(|fingerprints| {
            LayerCheckpoints::new(target, self.resume.checkpointing(fingerprints), &guard)
        });
        let checkpoints = checkpoints.transpose()?;
        let computed = imatrix::compute(&model, &tokens, &options, checkpoints.as_ref(), progress);
        if let (Err(_), Some(checkpoints)) = (&computed, &checkpoints) {
            checkpoints.report_kept(progress);
        }
        let computed = computed?;
        computed.imatrix.write(target, self.format.into(), self.force)?;
        checkpoints.iter().try_for_each(LayerCheckpoints::finish)?;
        print_result(target, &computed, started.elapsed().as_secs_f64(), context)?;
        if !context.json {
            context.next(&[self.next_command(path, target)]);
        }
        Ok(())
    }

    /// The options of the computation; `bos` is the token at the beginning of each chunk.
    fn options(&self, bos: Option<u32>) -> imatrix::Options {
        let precision = self.precision.map_or_else(Precision::fastest, Precision::from);
        imatrix::Options {
            ctx: self.ctx,
            from_chunk: self.from_chunk,
            chunks: self.chunks,
            shard: self.shard,
            process_output: self.process_output,
            bos,
            precision,
            memory: self.memory.bytes(),
            datasets: Vec::new(),
        }
    }

    /// The command that uses the importance matrix `target` of the model `source`.
    fn next_command(&self, source: &Path, target: &Path) -> String {
        let matrix = shell::quoted(target);
        match self.shard {
            Some(_) => format!("aqueduct imatrix merge {matrix} ... -o FILE"),
            None => {
                let source = shell::quoted(source);
                format!("aqueduct quantize {source} --imatrix {matrix} -o DIR Q4_K_M")
            }
        }
    }
}

/// Shows what was computed and written to `target`.
fn print_result(
    target: &Path,
    computed: &Computed,
    seconds: f64,
    context: &Context,
) -> anyhow::Result<()> {
    let (matrix, perplexity) = (&computed.imatrix, &computed.perplexity);
    let record = matrix.record.as_ref();
    let covered = record.map(|record| record.covered.clone()).unwrap_or_default();
    let wanted = record.map(|record| record.wanted.clone()).unwrap_or_default();
    if context.json {
        return context.json(&serde_json::json!({
            "path": target,
            "entries": matrix.entries.len(),
            "chunks": matrix.chunk_count,
            "chunk_size": matrix.chunk_size,
            "covered": covered,
            "wanted": wanted,
            "kept_layers": computed.kept_layers,
            "perplexity": perplexity.estimate,
            "perplexity_error": perplexity.error,
            "running_perplexity": perplexity.running,
            "seconds": seconds,
        }));
    }
    let part = match covered == wanted {
        true => String::new(),
        false => {
            let [covered, wanted] = [covered, wanted].map(|ranges| imatrix::ranges_text(&ranges));
            format!(" ({covered} of {wanted})")
        }
    };
    print::text(&format!(
        "{}: {} entries from {} chunks{part} of {} tokens, perplexity {:.4} +- {:.4}, {}",
        target.display(),
        matrix.entries.len(),
        matrix.chunk_count,
        matrix.chunk_size,
        perplexity.estimate,
        perplexity.error,
        context.spent().text(seconds),
    ));
    Ok(())
}
