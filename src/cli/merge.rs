//! `aqueduct merge RECIPE -o DIR`: the merged model as a Hugging Face folder.

use super::{Context, show};
use aqueduct::checkpoint::{self, WriteOptions};
use aqueduct::pipeline::{Source, recipe_files};
use aqueduct::{Error, size};
use clap::Args;
use std::path::PathBuf;
use std::time::Instant;

/// Write the merged model as a Hugging Face folder.
#[derive(Args)]
pub struct Arguments {
    /// The merge recipe (YAML in mergekit's dialect).
    recipe: PathBuf,
    /// The folder to write.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Largest size of a safetensors shard.
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = size::parse)]
    max_shard_size: u64,
    /// Replace the folder if it exists.
    #[arg(long)]
    force: bool,
}

impl Arguments {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let started = Instant::now();
        let source = Source::open(&self.recipe)?;
        let Source::Recipe { checkpoint, .. } = &source else {
            let text = format!(
                "{}: a model, not a recipe; there is nothing to merge",
                self.recipe.display()
            );
            return Err(Error::Usage(text).into());
        };
        context.warn_of(&source);
        let options = WriteOptions {
            max_shard_bytes: self.max_shard_size,
            extra: recipe_files(&source),
            force: self.force,
        };
        let written = checkpoint::write(checkpoint, &self.output, &options, context.progress())?;
        let seconds = started.elapsed().as_secs_f64();
        if context.json {
            return show::json(&serde_json::json!({
                "path": self.output,
                "shards": written.shards,
                "tensors": written.tensors,
                "parameters": written.parameters,
                "bytes": written.bytes,
                "seconds": seconds,
            }));
        }
        show::text(&format!(
            "{}: {} tensors, {} parameters, {} in {} shard{}, {seconds:.1} s",
            self.output.display(),
            written.tensors,
            size::count(written.parameters),
            size::display(written.bytes),
            written.shards,
            if written.shards == 1 { "" } else { "s" },
        ));
        Ok(())
    }
}
