//! `aqueduct merge RECIPE -o DIR`: the merged model as a Hugging Face folder.

use super::options::{ResumeArguments, SeedArgument};
use super::{Context, shell, show};
use crate::Error;
use crate::base::output;
use crate::base::size;
use crate::build::{Source, recipe_files};
use crate::formats::checkpoint::{self, WriteOptions};
use crate::merge;
use clap::Args;
use std::path::PathBuf;
use std::time::Instant;

/// Write the merged model as a Hugging Face folder.
///
/// A merge of several shards that is interrupted, by Ctrl-C, an error or a crash, leaves the whole
/// shards in the hidden folder .NAME.part beside DIR. The same command then verifies them and makes the
/// rest; if the recipe, a member or the shard size has changed meanwhile, it starts anew and says so.
/// To discard what is left, give --restart, or remove that folder.
#[derive(Args)]
pub(super) struct Arguments {
    /// The merge recipe (YAML in mergekit's dialect).
    recipe: PathBuf,
    /// The folder to write.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Largest size of a safetensors shard.
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = size::parse)]
    max_shard_size: u64,
    /// Memory for merged tensors on their way to the disk; one tensor may take more [default: a quarter
    /// of the machine's].
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory: Option<u64>,
    #[command(flatten)]
    seed: SeedArgument,
    #[command(flatten)]
    resume: ResumeArguments,
    /// Replace the folder if it exists.
    #[arg(long)]
    force: bool,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<()> {
        let started = Instant::now();
        let source = self.seed.open(&self.recipe, context)?;
        let Source::Recipe { plan, checkpoint } = &source else {
            let text = format!(
                "{}: a model, not a recipe; there is nothing to merge",
                self.recipe.display()
            );
            return Err(Error::Usage(text).into());
        };
        output::check_not_input(&self.output, source.files())?;
        context.warn_of(&source);
        let default = WriteOptions::default();
        let options = WriteOptions {
            max_shard_bytes: self.max_shard_size,
            extra: recipe_files(&source),
            force: self.force,
            memory: self.memory.unwrap_or(default.memory),
            checkpointing: merge::fingerprints(plan)
                .map(|fingerprints| self.resume.checkpointing(fingerprints)),
        };
        context.progress().stage("merge", 1);
        let written = checkpoint::write(checkpoint, &self.output, &options, context.progress())?;
        let seconds = started.elapsed().as_secs_f64();
        if context.json {
            return context.json(&serde_json::json!({
                "path": self.output,
                "shards": written.shards,
                "kept_shards": written.kept_shards,
                "tensors": written.tensors,
                "parameters": written.parameters,
                "bytes": written.bytes,
                "seconds": seconds,
            }));
        }
        show::text(&format!(
            "{}: {} tensors, {} parameters, {} in {} shard{}, {}",
            self.output.display(),
            written.tensors,
            size::count(written.parameters),
            size::display(written.bytes),
            written.shards,
            if written.shards == 1 { "" } else { "s" },
            context.spent().text(seconds),
        ));
        context.next(&[format!("aqueduct build {} -o DIR", shell::quoted(&self.output))]);
        Ok(())
    }
}
