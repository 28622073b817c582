//! Arguments that several subcommands share.

use super::Context;
use crate::base::resume::{Checkpointing, Fingerprint};
use crate::base::size;
use crate::build::{Calibration, Source};
use crate::kernels::Precision;
use crate::model::convert::{ConvertOptions, OutputType};
use crate::model::forward;
use crate::model::tokenizer::Date;
use crate::quantize::RunOptions;
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How a model folder or a merge is converted to GGUF terms on the fly.
#[derive(Args)]
pub(super) struct ConvertArguments {
    /// Name the tokenizer's pre-tokenizer (tokenizer.ggml.pre) where it cannot be recognised.
    #[arg(long, value_name = "NAME")]
    pre_tokenizer: Option<String>,
    /// The model's name in the metadata [default: as its README.md says, or made from the recipe's or folder's name].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

impl ConvertArguments {
    /// The model's name, if one is given.
    pub(super) fn name(&self) -> Option<String> {
        self.name.clone()
    }

    pub(super) fn options(&self, output_type: OutputType) -> ConvertOptions {
        ConvertOptions {
            output_type,
            name: self.name.clone(),
            pre_tokenizer: self.pre_tokenizer.clone(),
            keep_blocks: false,
        }
    }
}

/// The seed of a recipe.
#[derive(Args)]
pub(super) struct SeedArgument {
    /// Draw what a recipe leaves to chance (dare, della) from this seed instead of the recipe's own.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

impl SeedArgument {
    /// Opens the source at `path`, a recipe with this seed, and shows what that found.
    pub(super) fn open(
        &self,
        path: &Path,
        context: &Context,
    ) -> crate::base::error::Result<Source> {
        let source = Source::open_seeded(path, self.seed, context.progress())?;
        if self.seed.is_some() && !matches!(source, Source::Recipe { .. }) {
            let path = path.display();
            context.warn_all([format!("--seed does nothing: {path} is a model, not a recipe")]);
        }
        Ok(source)
    }
}

/// The text that an importance matrix is collected over.
#[derive(Args)]
pub(super) struct CalibrationArguments {
    /// A calibration text; may be given several times.
    #[arg(short = 'f', long = "file", value_name = "TEXT")]
    files: Vec<PathBuf>,
    /// Parts or groups of the texts that come with Aqueduct, with commas between them: general, code,
    /// languages, formats, maths, random, mixed, all; calibration/README.md lists the parts
    /// [default: all, unless other text is given].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    calibration: Vec<String>,
}

impl CalibrationArguments {
    /// Whether nothing was chosen.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.calibration.is_empty()
    }

    /// The files that were given.
    pub(super) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Takes `words` and `files` where nothing was chosen.
    pub(super) fn complete(&mut self, words: &[String], files: Vec<PathBuf>) {
        if self.is_empty() {
            (self.calibration, self.files) = (words.to_vec(), files);
        }
    }

    /// What was chosen, or the default.
    pub(super) fn choose(&self) -> crate::base::error::Result<Calibration> {
        Calibration::choose(&self.calibration, &self.files)
    }
}

/// Whether a run resumes an earlier one, and how often it saves its progress.
#[derive(Args)]
pub(super) struct ResumeArguments {
    /// Discard what an interrupted run has left, and start anew.
    #[arg(long)]
    pub restart: bool,
    /// Save progress after this much work; an interrupted run loses no more.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub save_every: Duration,
}

impl ResumeArguments {
    /// How to save the progress of work with these fingerprints.
    pub(super) fn checkpointing(&self, fingerprints: Vec<Fingerprint>) -> Checkpointing {
        Checkpointing { fingerprints, restart: self.restart, every: self.save_every }
    }
}

/// Parses a number of seconds: 0 or more.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map(Duration::try_from_secs_f64);
    match seconds {
        Ok(Ok(seconds)) => Ok(seconds),
        _ => Err("expected a number of seconds".to_string()),
    }
}

/// The date that chat templates see.
#[derive(Args)]
pub(super) struct DateArgument {
    /// Tell chat templates that ask for the date that today is this day [default: 2024-07-26, so that
    /// results do not depend on the day].
    #[arg(long, value_name = "YYYY-MM-DD")]
    date: Option<Date>,
}

impl DateArgument {
    pub(super) fn today(&self) -> Date {
        self.date.unwrap_or_default()
    }
}

/// How quantized files are written.
#[derive(Args)]
pub(super) struct RunArguments {
    /// Replace files that exist.
    #[arg(long)]
    pub force: bool,
    /// Memory for merged or converted tensors on their way into the files; one tensor may take more
    /// [default: a quarter of the machine's]. Where an importance matrix is computed, that takes no more
    /// either [default: half of the machine's].
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory: Option<u64>,
}

impl RunArguments {
    pub(super) fn options(&self) -> RunOptions {
        let memory = self.memory.unwrap_or(RunOptions::default().memory);
        RunOptions { force: self.force, memory }
    }

    /// Memory that a forward pass may take.
    pub(super) fn forward_memory(&self) -> u64 {
        self.memory.unwrap_or_else(forward::default_memory)
    }
}

/// A bound on the memory of a forward pass.
#[derive(Args)]
pub(super) struct MemoryArgument {
    /// Memory that the program may take; what does not fit goes to a temporary file in TMPDIR
    /// [default: half of the machine's].
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory: Option<u64>,
}

impl MemoryArgument {
    pub(super) fn bytes(&self) -> u64 {
        self.memory.unwrap_or_else(forward::default_memory)
    }
}

/// The precisions of matrix products.
#[derive(Clone, Copy, ValueEnum)]
pub enum Rounding {
    /// Twice as fast with AVX-512 BF16; sums of squares within 1 % of f32's.
    Bf16,
    /// The reference.
    F32,
}

impl From<Rounding> for Precision {
    fn from(rounding: Rounding) -> Precision {
        match rounding {
            Rounding::Bf16 => Precision::Bf16,
            Rounding::F32 => Precision::F32,
        }
    }
}

/// Parses a number of tokens or chunks: 1 or more.
pub(super) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a number of 1 or more".to_string()),
        Ok(n) => Ok(n),
    }
}
