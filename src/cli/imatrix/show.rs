//! `aqueduct imatrix show FILE`: statistics of an importance matrix, as text and as a picture.

use super::super::pictures::{self, Picture, PictureArguments};
use super::super::{Context, show as print};
use crate::Error;
use crate::report::{self, ImatrixStatistics};
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// Show the statistics of an importance matrix, by tensor and by layer, and draw a heat map.
#[derive(Args)]
pub(super) struct Arguments {
    /// An imatrix file, in either layout.
    file: PathBuf,
    /// Show layers only, and not every tensor.
    #[arg(long)]
    layers: bool,
    #[command(flatten)]
    pictures: PictureArguments,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    report: &'a ImatrixStatistics,
    pictures: Vec<Picture>,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<()> {
        self.pictures.check(context.json)?;
        self.pictures.check_not_inputs(&[&self.file])?;
        let report = report::imatrix_statistics(&self.file)?;
        if self.pictures.any() && report.layers.is_empty() {
            let detail = "no tensor of a layer met an input; there is nothing to draw";
            return Err(Error::format(&self.file, detail).into());
        }
        let svg = || report::imatrix_svg(&report);
        let written = self.pictures.write(svg, || report::imatrix_html(&report))?;
        if context.json {
            return print::json(&Shown { report: &report, pictures: written });
        }
        if !self.pictures.on_stdout() {
            print::text(&report.render(!self.layers));
            pictures::report(&written);
        }
        Ok(())
    }
}
