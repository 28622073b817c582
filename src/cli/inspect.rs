//! `aqueduct inspect FILE`: what is in a GGUF, safetensors or imatrix file.

use super::{Context, show};
use crate::recipe::locate_source;
use crate::report;
use clap::Args;
use std::path::PathBuf;

/// Show what is in a GGUF, safetensors or imatrix file.
#[derive(Args)]
pub(super) struct Arguments {
    /// The file, or its address on the hub; its content decides its kind.
    file: PathBuf,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<()> {
        let file = locate_source(&self.file, context.progress())?;
        let inspection = report::inspect(&file)?;
        if context.json {
            return show::json(&inspection);
        }
        show::text(inspection.render().trim_end());
        Ok(())
    }
}
