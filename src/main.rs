//! Arguments, one run, the exit code: 0 done, 1 failed, 2 asked for wrongly.

mod cli;

use aqueduct::base::output;
use aqueduct::base::progress;
use clap::Parser;
use std::process::ExitCode;

/// Ctrl-C asks the work to stop at the next tensor; a second one removes what is unfinished and
/// leaves at once.
fn install_interrupt_handler() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if progress::check_interrupted().is_err() {
            output::remove_unfinished();
            std::process::exit(1);
        }
        progress::interrupt();
    })?;
    Ok(())
}

fn main() -> ExitCode {
    ExitCode::from(cli::Cli::parse().run(install_interrupt_handler))
}
