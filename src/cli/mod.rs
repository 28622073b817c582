//! The command line: one file for each subcommand.
//!
//! The only place that prints, draws progress or decides about exit codes. Each subcommand turns what
//! was typed into one library call and shows what came back: results on stdout (as JSON with
//! `--json`), everything else on stderr.

mod build;
mod calibrate;
mod completions;
mod convert;
mod diff;
mod eval;
mod imatrix;
mod inspect;
mod join;
mod man;
mod merge;
mod mix;
mod options;
mod pictures;
mod plan;
mod progress;
mod quantize;
mod show;
mod split;
mod verify;

use aqueduct::pipeline::Source;
use aqueduct::progress::Progress;
use clap::{Args, Parser, Subcommand};
use std::num::NonZeroUsize;

/// Carries model weights from a merge recipe to iMatrix-weighted GGUF quants.
///
/// SOURCE is a merge recipe (YAML), a Hugging Face model folder, or a GGUF file: every command takes
/// any of the three and tells them apart by their content.
#[derive(Parser)]
#[command(name = "aqueduct", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

/// Flags that every command takes.
#[derive(Args)]
struct Global {
    /// Worker threads [default: one per core]. The output does not depend on it.
    #[arg(long, global = true, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Show no progress and no notes, only results, warnings and errors.
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Print the result as JSON on stdout.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    Plan(plan::Arguments),
    Merge(merge::Arguments),
    Convert(convert::Arguments),
    Imatrix(imatrix::Arguments),
    Quantize(quantize::Arguments),
    Eval(eval::Arguments),
    Calibrate(calibrate::Arguments),
    Build(build::Arguments),
    Inspect(inspect::Arguments),
    Completions(completions::Arguments),
    Man(man::Arguments),
    Diff(diff::Arguments),
    Verify(verify::Arguments),
    Split(split::Arguments),
    Join(join::Arguments),
}

/// What a subcommand needs besides its own arguments.
struct Context {
    progress: progress::Terminal,
    json: bool,
}

impl Context {
    fn progress(&self) -> &dyn Progress {
        &self.progress
    }

    fn warn_all(&self, warnings: impl IntoIterator<Item = String>) {
        warnings.into_iter().for_each(|w| self.progress.warn(&w));
    }

    /// Shows the warnings of a recipe's plan.
    fn warn_of(&self, source: &Source) {
        if let Source::Recipe { plan, .. } = source {
            let at = |w: &aqueduct::recipe::Diagnostic| {
                format!("{}:{}: {}{}", plan.path.display(), w.pos, w.message, w.marked())
            };
            self.warn_all(plan.warnings.iter().map(at));
        }
    }
}

impl Cli {
    /// Runs the command that was asked for.
    pub fn run(self) -> anyhow::Result<()> {
        if let Some(threads) = self.global.threads {
            rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global()?;
        }
        let quiet = self.global.quiet;
        let context = Context { progress: progress::Terminal::new(quiet), json: self.global.json };
        match self.command {
            Command::Plan(arguments) => arguments.run(&context),
            Command::Merge(arguments) => arguments.run(&context),
            Command::Convert(arguments) => arguments.run(&context),
            Command::Imatrix(arguments) => arguments.run(&context),
            Command::Quantize(arguments) => arguments.run(&context),
            Command::Eval(arguments) => arguments.run(&context),
            Command::Calibrate(arguments) => arguments.run(&context),
            Command::Build(arguments) => arguments.run(&context),
            Command::Inspect(arguments) => arguments.run(&context),
            Command::Completions(arguments) => arguments.run(&context),
            Command::Man(arguments) => arguments.run(&context),
            Command::Diff(arguments) => arguments.run(&context),
            Command::Verify(arguments) => arguments.run(&context),
            Command::Split(arguments) => arguments.run(&context),
            Command::Join(arguments) => arguments.run(&context),
        }
    }
}
