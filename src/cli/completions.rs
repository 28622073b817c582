//! `aqueduct completions SHELL`: what makes a shell complete the words of a command line, on stdout.

use super::{Cli, Context};
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::io::{self, Write};

/// Print the completions of a shell.
///
/// For bash: aqueduct completions bash > ~/.local/share/bash-completion/completions/aqueduct
#[derive(Args)]
pub(super) struct Arguments {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

impl Arguments {
    pub(super) fn run(self, _context: &Context) -> anyhow::Result<()> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "aqueduct", &mut text);
        Ok(io::stdout().write_all(&text)?)
    }
}
