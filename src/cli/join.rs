//! `aqueduct join FIRST-SHARD.gguf -o FILE.gguf`: a split GGUF model to one file.

use super::{Context, show};
use crate::base::output;
use crate::base::size;
use crate::formats::gguf;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Put the files of a split GGUF model together, which gives the file that was split.
#[derive(Args)]
pub(super) struct Arguments {
    /// Any of the files; the others lie beside it.
    shard: PathBuf,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Keep the split.* keys, with a split.count of 0: byte for byte what llama.cpp's gguf-split --merge
    /// writes.
    #[arg(long)]
    keep_split_keys: bool,
    /// Replace a file that exists.
    #[arg(long)]
    force: bool,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<()> {
        output::check_file_target(&self.output, self.force)?;
        let model = gguf::joined(&self.shard, self.keep_split_keys)?;
        output::check_not_input(&self.output, model.tensors.files().unwrap_or_default())?;
        let bytes = gguf::write(&model, &self.output, self.force, context.progress())?;
        let shards = model.tensors.files().map_or(1, |files| files.len());
        let tensors = model.tensors.table().infos().len();
        if context.json {
            let report = json!({
                "file": self.output, "shards": shards, "tensors": tensors, "bytes": bytes,
            });
            return show::json(&report);
        }
        let (path, size) = (self.output.display(), size::display(bytes));
        show::text(&format!("{path}: {tensors} tensors of {shards} files, {size}"));
        Ok(())
    }
}
