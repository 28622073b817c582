//! `aqueduct imatrix diff A B`: how two importance matrices differ.

use super::super::options::positive;
use super::super::{Context, show as print};
use crate::report;
use clap::Args;
use std::path::PathBuf;

/// Tell how two importance matrices differ: two calibrations of one model, usually.
#[derive(Args)]
pub(super) struct Arguments {
    /// The importance matrix to compare with.
    first: PathBuf,
    /// The one that is compared.
    second: PathBuf,
    /// How many tensors to list, those that differ most first. JSON has all.
    #[arg(long, value_name = "N", default_value = "20", value_parser = positive)]
    worst: usize,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<()> {
        let report = report::imatrix_difference(&self.first, &self.second)?;
        if context.json {
            return print::json(&report);
        }
        print::text(&report.render(self.worst));
        Ok(())
    }
}
