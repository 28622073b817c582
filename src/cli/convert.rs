//! `aqueduct convert SOURCE -o FILE.gguf`: a source as one GGUF file of plain numbers.

use super::options::{ConvertArguments, SeedArgument};
use super::{Context, show};
use crate::base::output;
use crate::base::size;
use crate::build::Source;
use crate::formats::gguf;
use crate::model::convert::{ConvertOptions, OutputType};
use crate::quantize::{self, Ftype, Output, PlanOptions, QuantPlan, RunOptions};
use clap::Args;
use std::path::PathBuf;
use std::time::Instant;

/// Write a source as a GGUF file of floats.
#[derive(Args)]
pub(super) struct Arguments {
    /// A recipe, a Hugging Face folder, a GGUF file, or a name on the hub.
    source: PathBuf,
    /// The file to write.
    #[arg(short, long, value_name = "FILE.gguf")]
    output: PathBuf,
    /// Type of the matrices: f16, bf16, f32, or auto for that of the source's first matrix, with those
    /// stored as MXFP4 or NVFP4 kept so.
    #[arg(long = "type", value_name = "TYPE", default_value = "auto")]
    output_type: OutputType,
    #[command(flatten)]
    convert: ConvertArguments,
    #[command(flatten)]
    seed: SeedArgument,
    /// Replace the file if it exists.
    #[arg(long)]
    force: bool,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<()> {
        let started = Instant::now();
        let source = self.seed.open(&self.source, context)?;
        output::check_not_input(&self.output, source.files())?;
        context.warn_of(&source);
        let options =
            ConvertOptions { keep_blocks: true, ..self.convert.options(self.output_type) };
        let model = source.to_gguf(&options, context.progress())?;
        let target = match self.output_type {
            OutputType::F32 => Some(Ftype::F32),
            OutputType::F16 => Some(Ftype::F16),
            OutputType::BF16 => Some(Ftype::BF16),
            OutputType::Auto => None,
        };
        let written = match (&source, target) {
            // A GGUF file's matrices still have their own types, and may be quantized.
            (Source::Gguf { .. }, Some(ftype)) => {
                let options = PlanOptions { allow_requantize: true, ..PlanOptions::default() };
                let plan = QuantPlan::new(&model, ftype, None, &options)?;
                let output = Output { plan, path: self.output.clone() };
                let run = RunOptions { force: self.force, ..RunOptions::default() };
                let written =
                    quantize::run(&model, vec![output], None, run, None, context.progress())?;
                written.into_iter().map(|w| w.bytes).sum()
            }
            _ => gguf::write(&model, &self.output, self.force, context.progress())?,
        };
        let seconds = started.elapsed().as_secs_f64();
        let tensors = model.tensors.table().infos().len();
        if context.json {
            return context.json(&serde_json::json!({
                "path": self.output,
                "tensors": tensors,
                "bytes": written,
                "seconds": seconds,
            }));
        }
        let (path, bytes) = (self.output.display(), size::display(written));
        let spent = context.spent().text(seconds);
        show::text(&format!("{path}: {tensors} tensors, {bytes}, {spent}"));
        Ok(())
    }
}
