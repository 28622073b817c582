//! `aqueduct imatrix merge FILE... -o FILE`: shards of an importance matrix, added.

use super::super::{Context, show as print};
use super::Layout;
use crate::Error;
use crate::base::output;
use crate::measure::imatrix::{ImportanceMatrix, merge_shards, ranges_text};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Add the shards of an importance matrix.
///
/// Shards record what they were computed from: those of different models, texts or settings are refused, and
/// so are two that hold the same chunk. Requested chunks that no shard contains cause a warning.
#[derive(Args)]
pub(super) struct Arguments {
    /// The files to add.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Add whatever has the same tensors, of different texts or by other programs too. It is not checked then
    /// whether the sums belong together.
    #[arg(long)]
    unchecked: bool,
    /// Layout of the file.
    #[arg(long, value_enum, default_value = "gguf")]
    format: Layout,
    /// Replace the file if it exists.
    #[arg(long)]
    force: bool,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<()> {
        output::check_file_target(&self.output, self.force)?;
        output::check_not_input(&self.output, &self.files)?;
        let read = |path: &PathBuf| Ok((path.clone(), ImportanceMatrix::read(path)?));
        let shards = self.files.iter().map(read).collect::<Result<Vec<_>, Error>>()?;
        let merged = match self.unchecked {
            true => None,
            false => Some(merge_shards(&shards)?),
        };
        let missing = merged.as_ref().map(|m| m.missing.clone()).unwrap_or_default();
        if !missing.is_empty() {
            let chunks = ranges_text(&missing);
            context
                .warn_all([format!("chunks {chunks} were requested and are in none of the files")]);
        }
        let perplexity = merged.as_ref().map(|merged| merged.perplexity.clone());
        let matrix = match merged {
            Some(merged) => merged.imatrix,
            None => add_unchecked(&shards)?,
        };
        matrix.write(&self.output, self.format.into(), self.force)?;
        if context.json {
            return print::json(&json!({
                "path": self.output,
                "files": self.files,
                "entries": matrix.entries.len(),
                "chunks": matrix.chunk_count,
                "chunk_size": matrix.chunk_size,
                "missing": missing,
                "perplexity": perplexity.as_ref().map(|p| p.estimate),
                "perplexity_error": perplexity.as_ref().map(|p| p.error),
            }));
        }
        let perplexity = perplexity
            .map_or(String::new(), |p| format!(", perplexity {:.4} +- {:.4}", p.estimate, p.error));
        print::text(&format!(
            "{}: {} files, {} entries from {} chunks of {} tokens{perplexity}",
            self.output.display(),
            self.files.len(),
            matrix.entries.len(),
            matrix.chunk_count,
            matrix.chunk_size,
        ));
        Ok(())
    }
}

/// Adds the matrices one by one, as they come.
fn add_unchecked(shards: &[(PathBuf, ImportanceMatrix)]) -> Result<ImportanceMatrix, Error> {
    let (_, first) = &shards[0];
    let mut sum = first.clone();
    sum.record = None;
    for (path, matrix) in &shards[1..] {
        let at = |e: Error| match e {
            Error::Tensor { tensor, detail, .. } => {
                Error::tensor(path.display().to_string(), tensor, detail)
            }
            e => e,
        };
        sum.merge(matrix).map_err(at)?;
    }
    Ok(sum)
}
