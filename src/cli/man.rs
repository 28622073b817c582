//! `aqueduct man -o DIR`: manual pages, one for the program and one for each of its commands.

use super::{Cli, Context, show};
use crate::base::output;
use clap::{Args, CommandFactory};
use serde_json::json;
use std::path::PathBuf;

/// Write manual pages.
///
/// They are read with `man -l DIR/aqueduct.1`, or by their names from a folder man1 of the manual path.
#[derive(Args)]
pub(super) struct Arguments {
    /// The folder to write them into; it is made if it is not there.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Replace files that exist.
    #[arg(long)]
    force: bool,
}

/// A page's file name and text.
type Page = (String, Vec<u8>);

impl Arguments {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<()> {
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        let mut pages = Vec::new();
        render(command, &mut pages)?;
        for (name, _) in &pages {
            output::check_file_target(&self.output.join(name), self.force)?;
        }
        for (name, text) in &pages {
            output::write_file(self.output.join(name), text, self.force)?;
        }
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        if context.json {
            return show::json(&json!({ "path": self.output, "pages": names }));
        }
        show::text(&format!("{}: {} pages", self.output.display(), names.len()));
        Ok(())
    }
}

/// The page of `command`, then those of the commands below it. Built commands have full names: `aqueduct-imatrix-show`.
fn render(command: clap::Command, pages: &mut Vec<Page>) -> anyhow::Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_string();
    let below: Vec<clap::Command> =
        command.get_subcommands().filter(|c| !c.is_hide_set()).cloned().collect();
    let mut text = Vec::new();
    clap_mangen::Man::new(command).title(name.to_uppercase()).render(&mut text)?;
    pages.push((format!("{name}.1"), text));
    below.into_iter().try_for_each(|command| render(command, pages))
}
