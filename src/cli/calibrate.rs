//! `aqueduct calibrate SOURCE -o TEXT`: calibration text that the model writes itself.

use super::options::{ConvertArguments, Rounding, positive};
use super::{Context, show};
use crate::base::output;
use crate::base::size;
use crate::build::Source;
use crate::kernels::Precision;
use crate::measure::calibrate::{self, Options, Sampling};
use crate::model::convert::OutputType;
use crate::model::forward;
use clap::Args;
use std::path::PathBuf;
use std::time::Instant;

/// Let the model write calibration text, for `imatrix -f` and `build -f`.
#[derive(Args)]
pub(super) struct Arguments {
    /// A recipe, a Hugging Face folder, a GGUF file, or a name on the hub.
    source: PathBuf,
    /// The text to write.
    #[arg(short, long, value_name = "TEXT")]
    output: PathBuf,
    /// Tokens to write in all.
    #[arg(long, value_name = "N", default_value = "25600", value_parser = positive)]
    tokens: usize,
    /// Tokens of a sequence, at most; then, or where the model ends it, another begins.
    #[arg(long, value_name = "N", default_value = "512", value_parser = positive)]
    length: usize,
    /// What the random choices begin with: the same seed writes the same text.
    #[arg(long, value_name = "S", default_value = "0")]
    seed: u64,
    /// Below 1 likely tokens get likelier; 0 takes the likeliest.
    #[arg(long, value_name = "T", default_value = "1")]
    temperature: f32,
    /// Choose among the K likeliest tokens only [default: all].
    #[arg(long, value_name = "K", default_value = "0", hide_default_value = true)]
    top_k: usize,
    /// Choose among the likeliest tokens that have a probability of P together [default: all].
    #[arg(long, value_name = "P", default_value = "1", hide_default_value = true)]
    top_p: f32,
    /// What the factors of matrix products are rounded to [default: bf16 where the processor multiplies
    /// it, f32 elsewhere].
    #[arg(long, value_enum)]
    precision: Option<Rounding>,
    /// Memory that the program may take [default: half of the machine's]. Where the weights do not fit, they
    /// are read anew for every token.
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory: Option<u64>,
    #[command(flatten)]
    convert: ConvertArguments,
    /// Replace the file if it exists.
    #[arg(long)]
    force: bool,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<()> {
        let started = Instant::now();
        output::check_file_target(&self.output, self.force)?;
        let source = Source::open_with_progress(&self.source, context.progress())?;
        output::check_not_input(&self.output, source.files())?;
        context.warn_of(&source);
        let gguf = source.to_gguf(&self.convert.options(OutputType::Auto), context.progress())?;
        let (temperature, top_k, top_p) = (self.temperature, self.top_k, self.top_p);
        let options = Options {
            tokens: self.tokens,
            length: self.length,
            seed: self.seed,
            sampling: Sampling { temperature, top_k, top_p },
            precision: self.precision.map_or_else(Precision::fastest, Precision::from),
            memory: self.memory.unwrap_or_else(forward::default_memory),
        };
        let written = calibrate::write(&gguf, &options, context.progress())?;
        output::write_file(&self.output, written.text.as_bytes(), self.force)?;
        let seconds = started.elapsed().as_secs_f64();
        if context.json {
            return context.json(&serde_json::json!({
                "path": self.output,
                "bytes": written.text.len(),
                "tokens": written.tokens,
                "sequences": written.sequences,
                "seconds": seconds,
            }));
        }
        show::text(&format!(
            "{}: {}, {} tokens in {} sequences, {}",
            self.output.display(),
            size::display(written.text.len() as u64),
            written.tokens,
            written.sequences,
            context.spent().text(seconds),
        ));
        Ok(())
    }
}
