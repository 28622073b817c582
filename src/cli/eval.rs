//! `aqueduct eval SOURCE... -f TEXT`: perplexity, and the distance from a reference model.

use super::options::{ConvertArguments, MemoryArgument, Rounding, positive};
use super::{Context, show};
use crate::base::output;
use crate::build::{Calibration, Source};
use crate::measure::evaluate::{self, Against, Keep, Subject};
use crate::model::convert::OutputType;
use crate::report;
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Tell the perplexity of a text, and how far models are from a reference.
#[derive(Args)]
pub(super) struct Arguments {
    /// Recipes, Hugging Face folders or GGUF files, quantized ones too.
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<PathBuf>,
    /// The text to evaluate on; may be given several times. Not the one that calibrated the models.
    #[arg(
        short = 'f',
        long = "file",
        value_name = "TEXT",
        required_unless_present = "against_logits"
    )]
    texts: Vec<PathBuf>,
    /// Compare all others with this model: Kullback-Leibler divergence, changes of probability, same
    /// top token. It is evaluated once, whatever the number of sources.
    #[arg(long, value_name = "SOURCE", conflicts_with = "against_logits")]
    against: Option<PathBuf>,
    /// Compare with log-probabilities in a file, as --save-logits or llama-perplexity's
    /// --kl-divergence-base writes it. The text is in it too.
    #[arg(long, value_name = "FILE", conflicts_with = "save_logits")]
    against_logits: Option<PathBuf>,
    /// Write the log-probabilities of the reference, or of the only source, to a file that
    /// --against-logits and llama-perplexity read.
    #[arg(long, value_name = "FILE")]
    save_logits: Option<PathBuf>,
    /// Tokens in a chunk [default: 512, or what --against-logits has].
    #[arg(long, value_name = "N", value_parser = positive)]
    ctx: Option<usize>,
    /// Use at most this many chunks [default: all]. Of several texts each gets a share by its length.
    #[arg(long, value_name = "N", value_parser = positive)]
    chunks: Option<usize>,
    /// What the factors of matrix products are rounded to. bf16 is faster where the processor multiplies it, and
    /// adds to the divergence of models that are close to the reference.
    #[arg(long, value_enum, default_value = "f32")]
    precision: Rounding,
    #[command(flatten)]
    memory: MemoryArgument,
    #[command(flatten)]
    convert: ConvertArguments,
    /// Replace the file of --save-logits if it exists.
    #[arg(long)]
    force: bool,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<()> {
        let started = Instant::now();
        let keep = self.save_logits.clone().map(|path| Keep { path, force: self.force });
        if let Some(Keep { path, force }) = &keep {
            output::check_file_target(path, *force)?;
            output::check_not_input(path, &self.texts)?;
        }
        let names = names(&self.sources);
        let paths = self.sources.iter().zip(names);
        let subjects: Vec<_> = paths
            .map(|(path, name)| self.subject(context, path, name))
            .collect::<Result<_, _>>()?;
        let against = match (&self.against, &self.against_logits) {
            (Some(path), _) => Some(Against::Model(self.subject(context, path, name(path))?)),
            (None, Some(path)) => Some(Against::Logits(path.clone())),
            (None, None) => None,
        };
        let options = evaluate::Options {
            texts: Calibration::read(&self.texts)?.texts,
            ctx: self.ctx,
            chunks: self.chunks,
            against,
            keep,
            precision: self.precision.into(),
            memory: self.memory.bytes(),
        };
        context.progress().stage("evaluate", subjects.len() + usize::from(self.against.is_some()));
        let results = evaluate::evaluate(&subjects, &options, context.progress())?;
        let seconds = started.elapsed().as_secs_f64();
        if context.json {
            let mut value = json!(results);
            value["seconds"] = json!(seconds);
            return context.json(&value);
        }
        show::table(&report::evaluation_table(&results));
        if let Some(reference) = &results.reference {
            show::text(&format!("\ncompared with {reference}"));
        }
        show::text("");
        show::labelled("total", &context.spent().text(seconds));
        Ok(())
    }

    fn subject(&self, context: &Context, path: &Path, name: String) -> anyhow::Result<Subject> {
        let source = Source::open_with_progress(path, context.progress())?;
        if let Some(kept) = &self.save_logits {
            output::check_not_input(kept, source.files())?;
        }
        context.warn_of(&source);
        let model = source.to_gguf(&self.convert.options(OutputType::Auto), context.progress())?;
        Ok(Subject { name, model })
    }
}

/// The last part of a path.
fn name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into())
}

/// What to call each source: the last part of its path, or all of it where others end in the same.
fn names(sources: &[PathBuf]) -> Vec<String> {
    let short: Vec<_> = sources.iter().map(|path| name(path)).collect();
    let unique = |one: &String| short.iter().filter(|other| *other == one).count() == 1;
    let full = |path: &PathBuf| path.display().to_string();
    let both = short.iter().zip(sources);
    both.map(|(short, path)| if unique(short) { short.clone() } else { full(path) }).collect()
}
