//! `aqueduct diff A B`: how two models differ.

use super::options::{ConvertArguments, positive};
use super::pictures::{self, Picture, PictureArguments};
use super::{Context, show};
use crate::build::Source;
use crate::measure::compare;
use crate::model::convert::OutputType;
use crate::report::{self, ModelDifference};
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// Tell how two models differ: metadata, tensors, types, and the error of each tensor's values.
///
/// Both are compared in GGUF terms; a quantized tensor stands for the values that its blocks mean.
#[derive(Args)]
pub(super) struct Arguments {
    /// The model to compare with: a recipe, a Hugging Face folder or a GGUF file.
    first: PathBuf,
    /// The one that is compared, of any of these kinds.
    second: PathBuf,
    /// How many tensors to list, those that differ most first. JSON has all.
    #[arg(long, value_name = "N", default_value = "20", value_parser = positive)]
    worst: usize,
    #[command(flatten)]
    convert: ConvertArguments,
    #[command(flatten)]
    pictures: PictureArguments,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    report: &'a ModelDifference,
    pictures: Vec<Picture>,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<()> {
        self.pictures.check(context.json)?;
        let options = self.convert.options(OutputType::Auto);
        let mut models = Vec::with_capacity(2);
        for path in [&self.first, &self.second] {
            let source = Source::open_with_progress(path, context.progress())?;
            self.pictures.check_not_inputs(&source.files())?;
            context.warn_of(&source);
            models.push(source.to_gguf(&options, context.progress())?);
        }
        let comparison = compare::models(&models[0], &models[1], context.progress())?;
        let names = [&self.first, &self.second].map(|path| path.display().to_string());
        let report = ModelDifference::new(&comparison, &names[0], &names[1]);
        let svg = || report::difference_svg(&report);
        let written = self.pictures.write(svg, || report::difference_html(&report))?;
        if context.json {
            return show::json(&Shown { report: &report, pictures: written });
        }
        if !self.pictures.on_stdout() {
            show::text(&report.render(self.worst));
            pictures::report(&written);
        }
        Ok(())
    }
}
