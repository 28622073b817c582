//! Arguments, one run, the error chain, the exit code: 0 done, 1 failed, 2 asked for wrongly.

mod cli;

use aqueduct::{Error, output, progress};
use clap::Parser;
use std::process::ExitCode;

/// Exit code of a failed run; usage errors exit as clap's own do.
fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<Error>() {
        Some(Error::Usage(_)) => 2,
        _ => 1,
    }
}

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
    let cli = cli::Cli::parse();
    let outcome = install_interrupt_handler().and_then(|()| cli.run());
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}
