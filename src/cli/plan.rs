//! `aqueduct plan RECIPE|SOURCE`: what would be made of what, how large, with how much memory; as text and
//! as a picture.

use super::options::SeedArgument;
use super::pictures::{self, Picture, PictureArguments};
use super::quantize::distinct;
use super::{Context, colour, show};
use crate::Error;
use crate::build::{self, BuildOptions, Forecast, Kind, Source};
use crate::merge;
use crate::quantize::{Ftype, PlanOptions};
use crate::recipe::{self, Diagnostic, Folders, MemberLookup, MergePlan, PlanSummary, ShapesOnly};
use crate::report;
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;

/// Show what a build would make and need, without doing any of it.
#[derive(Args)]
pub(super) struct Arguments {
    /// A recipe, a Hugging Face folder, a GGUF file, or a name on the hub.
    source: PathBuf,
    /// Plan a recipe whose members are not on disk: shapes come from a config.json alone, or from a
    /// table of well-known model families by name.
    #[arg(long)]
    no_members: bool,
    /// Types to show sizes for, separated by commas.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "Q4_K_M,Q5_K_M,Q6_K,Q8_0"
    )]
    types: Vec<Ftype>,
    /// Show a line for each layer, with weights and parameters, instead of runs of layers.
    #[arg(long)]
    layers: bool,
    #[command(flatten)]
    seed: SeedArgument,
    #[command(flatten)]
    pictures: PictureArguments,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<()> {
        self.pictures.check(context.json)?;
        let place = recipe::locate_source(&self.source, context.progress())?;
        let source = match Kind::of(&place)? {
            Kind::Recipe => match self.plan_recipe(context)? {
                Ok(plan) => {
                    let plan = Arc::new(plan);
                    Source::Recipe { checkpoint: merge::open(plan.clone()), plan }
                }
                Err(problems) => return self.report_problems(context, &problems),
            },
            Kind::Folder | Kind::Gguf => self.seed.open(&place, context)?,
        };
        self.pictures.check_not_inputs(&source.files())?;
        let options = BuildOptions {
            types: distinct(&self.types),
            // Sizes of a source that is quantized already are worth knowing too.
            plan: PlanOptions { allow_requantize: true, ..PlanOptions::default() },
            ..BuildOptions::default()
        };
        let forecast = build::forecast(&source, &options)?;
        let summary = match &source {
            Source::Recipe { plan, .. } => Some(plan.summary()),
            Source::Folder(_) | Source::Gguf { .. } => None,
        };
        let written = self.draw(summary.as_ref(), &forecast.name)?;
        if context.json {
            return print_json(summary.as_ref(), &forecast, &written);
        }
        context.warn_of(&source);
        if self.pictures.on_stdout() {
            return Ok(());
        }
        if let Some(summary) = &summary {
            show::text(&match self.layers {
                true => report::render_merge(summary),
                false => report::render_stack(summary, colour::on_stdout()),
            });
            show::text("");
        }
        show::text(&forecast.render());
        pictures::report(&written);
        Ok(())
    }

    /// Writes the requested pictures.
    fn draw(&self, summary: Option<&PlanSummary>, title: &str) -> Result<Vec<Picture>, Error> {
        let Some(summary) = summary else {
            if !self.pictures.any() {
                return Ok(Vec::new());
            }
            let text = "a model, not a recipe; there is no stack to draw";
            return Err(Error::Usage(format!("{}: {text}", self.source.display())));
        };
        let svg = || report::stack_svg(summary, title);
        self.pictures.write(svg, || report::stack_html(summary, title))
    }

    /// The recipe's plan, or all that is wrong with it.
    fn plan_recipe(&self, context: &Context) -> Result<Result<MergePlan, Vec<Diagnostic>>, Error> {
        let path = self.source.as_path();
        let lookup: &dyn MemberLookup = match self.no_members {
            true => &ShapesOnly::beside(path, &[]),
            false => &Folders::beside(path, &[]).with_progress(context.progress()),
        };
        recipe::check(path, &merge::methods::specs(), lookup, self.seed.seed)
    }

    fn report_problems(&self, context: &Context, problems: &[Diagnostic]) -> anyhow::Result<()> {
        if context.json {
            show::json(&serde_json::json!({ "recipe": self.source, "problems": problems }))?;
        }
        Err(recipe::recipe_error(&self.source, problems).into())
    }
}

fn print_json(
    merge: Option<&PlanSummary>,
    forecast: &Forecast,
    pictures: &[Picture],
) -> anyhow::Result<()> {
    show::json(&serde_json::json!({
        "name": forecast.name,
        "merge": merge,
        "build": forecast,
        "pictures": pictures,
    }))
}
