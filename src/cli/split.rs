//! `aqueduct split FILE.gguf -o DIR|PREFIX`: one GGUF file to several.

use super::{Context, show};
use crate::Error;
use crate::base::output;
use crate::base::size;
use crate::formats::gguf::{self, Shards};
use clap::Args;
use serde::Serialize;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// Divide a GGUF file into several, NAME-00001-of-0000N.gguf, byte for byte as llama.cpp's gguf-split.
#[derive(Args)]
pub(super) struct Arguments {
    /// The GGUF file. Any shard of a split model stands for all, which are divided anew.
    file: PathBuf,
    /// A folder that is there or whose name ends in a slash, where the files have FILE's name; or the
    /// beginning of their names.
    #[arg(short, long, value_name = "DIR|PREFIX")]
    output: PathBuf,
    /// At most this much tensor data in each file. A tensor that is larger has a file of its own.
    #[arg(long, value_name = "SIZE", value_parser = size::parse, conflicts_with = "max_tensors")]
    max_shard_size: Option<u64>,
    /// At most so many tensors in each file.
    #[arg(long, value_name = "N", default_value = "128")]
    max_tensors: NonZeroUsize,
    /// Put the metadata into a first file without tensors.
    #[arg(long)]
    no_tensor_first_split: bool,
    /// Replace files that exist.
    #[arg(long)]
    force: bool,
}

/// What was written.
#[derive(Serialize)]
struct Report {
    files: Vec<PathBuf>,
    tensors: usize,
    bytes: u64,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<()> {
        let model = gguf::open(&self.file)?;
        let infos = model.tensors.table().infos();
        let origin = model.origin();
        let shards = match self.max_shard_size {
            Some(max) => Shards::by_size(origin, infos.iter(), max),
            None => Shards::by_count(origin, infos.len(), self.max_tensors),
        }?;
        let shards = shards.like_gguf_split();
        let shards = match self.no_tensor_first_split {
            true => shards.after_metadata(origin)?,
            false => shards,
        };
        let prefix = prefix(&self.output, &self.file)?;
        let inputs = model.tensors.files().unwrap_or_default();
        gguf::shard_paths(&prefix, &shards)
            .iter()
            .try_for_each(|path| output::check_not_input(path, &inputs))?;
        let needed = infos.iter().filter_map(|info| info.bytes()).sum::<usize>() as u64;
        output::check_space(&prefix, needed)?;
        let (files, bytes) =
            gguf::write_shards(&model, &prefix, &shards, self.force, context.progress())?;
        let report = Report { files, tensors: infos.len(), bytes };
        if context.json {
            return show::json(&report);
        }
        report.files.iter().for_each(|path| show::text(&path.display().to_string()));
        let (files, tensors) = (report.files.len(), report.tensors);
        show::text(&format!("{files} files, {tensors} tensors, {}", size::display(bytes)));
        Ok(())
    }
}

/// What the files' names begin with, `.gguf` at its end or not: that is never a part of it.
fn prefix(output: &Path, file: &Path) -> Result<PathBuf, Error> {
    if !output.is_dir() && !output.to_string_lossy().ends_with('/') {
        return Ok(output.to_path_buf());
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let stem = gguf::without_shard(name.strip_suffix(".gguf").unwrap_or(&name));
    Ok(output.join(stem))
}
