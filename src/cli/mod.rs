//! The command line: one file for each subcommand.
//!
//! The only place that prints, draws progress or decides about exit codes. Each subcommand turns what
//! was typed into one library call and shows what came back: results on stdout (as JSON with
//! `--json`), everything else on stderr (as events with `--json`) and, with `--log`, in a file.

mod build;
mod calibrate;
mod colour;
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
mod publish;
mod quantize;
mod shell;
mod show;
mod split;
mod summary;
mod verify;

use crate::Error;
use crate::base::output;
use crate::base::progress::{self as signal, Progress};
use crate::build::Source;
use clap::{Args, ColorChoice, CommandFactory, Parser, Subcommand};
use progress::{Log, Reporter};
use serde::Serialize;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use summary::Spent;

/// The declaration of the command line, from which the reference pages are generated.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command that the process's arguments name, and returns its exit code.
pub fn main() -> ExitCode {
    ExitCode::from(Cli::parse().run(install_interrupt_handler))
}

/// Ctrl-C asks the work to stop at the next tensor; a second one removes unfinished outputs and exits
/// at once.
fn install_interrupt_handler() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if signal::check_interrupted().is_err() {
            output::remove_unfinished();
            std::process::exit(INTERRUPTED.into());
        }
        signal::interrupt();
    })?;
    Ok(())
}

/// Carries model weights from a merge recipe to iMatrix-weighted GGUF quants.
///
/// SOURCE is a merge recipe (YAML), a Hugging Face model folder, or a GGUF file: every command takes
/// any of the three; their content decides. A name on the hub (org/name, org/name@revision)
/// or an address there is found in the hub's cache.
#[derive(Parser)]
#[command(name = "aqueduct", version, max_term_width = 100)]
pub(crate) struct Cli {
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
    /// Print the result as JSON on stdout, and progress, warnings and errors as JSON on stderr, an event a line.
    #[arg(long, global = true)]
    json: bool,
    /// Write what happens to a file too, with times; one that exists is continued.
    #[arg(long, global = true, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Use colours; auto is on terminals, where NO_COLOR is not set.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,
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
    Publish(publish::Arguments),
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
    progress: Reporter,
    json: bool,
}

impl Context {
    fn progress(&self) -> &dyn Progress {
        &self.progress
    }

    /// What the command took so far; its stages are over.
    fn spent(&self) -> Spent {
        let (stages, peak_memory_bytes) = self.progress.stages_done();
        Spent { stages, peak_memory_bytes }
    }

    /// Prints `result` as JSON on stdout, with what it took.
    fn json(&self, result: &impl Serialize) -> anyhow::Result<()> {
        show::json(&summary::WithSpent { result, spent: self.spent() })
    }

    /// Names what one would do next, to people.
    fn next(&self, commands: &[String]) {
        if !self.progress.is_quiet() {
            summary::next(commands);
        }
    }

    fn warn_all(&self, warnings: impl IntoIterator<Item = String>) {
        warnings.into_iter().for_each(|w| self.progress.warn(&w));
    }

    /// Shows what opening the source found: the warnings of a recipe's plan or of a folder.
    fn warn_of(&self, source: &Source) {
        self.warn_all(source.warnings());
    }
}

/// The exit code after an interruption: 128 and the number of SIGINT, as shells report it.
const INTERRUPTED: u8 = 130;

/// Returns the exit code of a failed run; usage errors have that of clap's own.
fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<Error>() {
        Some(Error::Usage(_)) => 2,
        Some(Error::Interrupted) => INTERRUPTED,
        _ => 1,
    }
}

impl Cli {
    /// Runs the command after `prepare`, reports an error, and returns the exit code.
    pub(crate) fn run(self, prepare: impl FnOnce() -> anyhow::Result<()>) -> u8 {
        let Global { threads, quiet, json, log, color } = self.global;
        colour::choose(color);
        let (log, opened) = match log.map(|path| Log::open(&path)).transpose() {
            Ok(log) => (log, Ok(())),
            Err(error) => (None, Err(error.into())),
        };
        let context = Context { progress: Reporter::new(quiet, json, log), json };
        let outcome = opened.and_then(|()| prepare()).and_then(|()| {
            if let Some(threads) = threads {
                rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global()?;
            }
            self.command.run(&context)
        });
        let code = outcome.as_ref().err().map_or(0, exit_code);
        context.progress.finish(outcome.err().map(|error| format!("{error:#}")), code);
        code
    }
}

impl Command {
    fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Command::Plan(arguments) => arguments.run(context),
            Command::Merge(arguments) => arguments.run(context),
            Command::Convert(arguments) => arguments.run(context),
            Command::Imatrix(arguments) => arguments.run(context),
            Command::Quantize(arguments) => arguments.run(context),
            Command::Eval(arguments) => arguments.run(context),
            Command::Calibrate(arguments) => arguments.run(context),
            Command::Build(arguments) => arguments.run(context),
            Command::Publish(arguments) => arguments.run(context),
            Command::Inspect(arguments) => arguments.run(context),
            Command::Completions(arguments) => arguments.run(context),
            Command::Man(arguments) => arguments.run(context),
            Command::Diff(arguments) => arguments.run(context),
            Command::Verify(arguments) => arguments.run(context),
            Command::Split(arguments) => arguments.run(context),
            Command::Join(arguments) => arguments.run(context),
        }
    }
}
