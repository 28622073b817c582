//! The reference of commands, docs/reference/commands, which is generated from clap's declarations.
//!
//! To renew the pages: `AQUEDUCT_UPDATE_DOCS=1 cargo test --locked --test it docs::commands`.

use crate::support::files::entries;
use crate::support::program::shipped;
use clap::{Arg, Command};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

const FOLDER: &str = "docs/reference/commands";
/// The variable that makes the test write the pages.
const UPDATE: &str = "AQUEDUCT_UPDATE_DOCS";
const NOTE: &str = "<!-- Generated from the program's help; see tests/it/docs/commands.rs. -->\n\n";

/// `text` with characters escaped that Markdown would interpret; code spans stay as they are.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for (index, part) in text.split('`').enumerate() {
        if index % 2 == 1 {
            write!(out, "`{part}`").unwrap();
            continue;
        }
        for c in part.chars() {
            if matches!(c, '<' | '>' | '*' | '[' | ']' | '|' | '\\') {
                out.push('\\');
            }
            out.push(c);
        }
    }
    out
}

/// The long help of an argument, or else the short one.
fn help(arg: &Arg) -> String {
    let help = arg.get_long_help().or(arg.get_help());
    help.map_or_else(String::new, ToString::to_string)
}

/// The name of an argument as it is typed: `-o, --output <DIR>`.
fn signature(arg: &Arg) -> String {
    let names: Vec<String> =
        arg.get_value_names().unwrap_or_default().iter().map(|name| format!("<{name}>")).collect();
    let many = if arg.is_positional() && arg.get_num_args().is_some_and(|n| n.max_values() > 1) {
        "..."
    } else {
        ""
    };
    let values = match arg.get_action().takes_values() {
        true => format!("{}{many}", names.join(" ")),
        false => String::new(),
    };
    let flags: Vec<String> = [
        arg.get_short().map(|short| format!("-{short}")),
        arg.get_long().map(|long| format!("--{long}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    match flags.is_empty() {
        true => values,
        false => format!("{} {values}", flags.join(", ")).trim_end().to_string(),
    }
}

/// One argument as an item of a list: help, default, aliases and possible values.
fn item(arg: &Arg) -> String {
    let mut text = escaped(&help(arg));
    let sentence = |text: &mut String, more: String| {
        if !text.is_empty() && !text.ends_with(['.', ':']) {
            text.push('.');
        }
        write!(text, " {more}").unwrap();
    };
    let quoted = |values: Vec<String>| {
        let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
        values.join(", ")
    };
    if arg.get_action().takes_values() && !arg.is_hide_default_value_set() {
        let defaults = arg.get_default_values().iter();
        let defaults: Vec<String> =
            defaults.map(|value| value.to_string_lossy().into_owned()).collect();
        if !defaults.is_empty() {
            sentence(&mut text, format!("Default: {}.", quoted(defaults)));
        }
    }
    let aliases = arg.get_visible_aliases().unwrap_or_default();
    if !aliases.is_empty() {
        let aliases = aliases.iter().map(|alias| format!("--{alias}")).collect();
        sentence(&mut text, format!("Alias: {}.", quoted(aliases)));
    }
    let values: Vec<_> =
        arg.get_possible_values().into_iter().filter(|v| !v.is_hide_set()).collect();
    let described = values.iter().any(|value| value.get_help().is_some());
    if !values.is_empty() && !described && arg.get_action().takes_values() {
        let names = values.iter().map(|value| value.get_name().to_string()).collect();
        sentence(&mut text, format!("Values: {}.", quoted(names)));
    }
    let mut out = format!("- `{}`\\\n", signature(arg));
    for line in text.trim().lines() {
        match line.is_empty() {
            true => out.push('\n'),
            false => writeln!(out, "  {line}").unwrap(),
        }
    }
    for value in values.iter().filter(|_| described) {
        let help = value.get_help().map_or_else(String::new, ToString::to_string);
        writeln!(out, "  - `{}`: {}", value.get_name(), escaped(&help)).unwrap();
    }
    out
}

/// The arguments of `command` that have no place on the page of the whole program.
fn own(command: &Command) -> Vec<&Arg> {
    let shown = |arg: &&Arg| {
        !arg.is_hide_set()
            && !arg.is_global_set()
            && !["help", "version"].contains(&arg.get_id().as_str())
    };
    command.get_arguments().filter(shown).collect()
}

/// The parts of a command's description: paragraphs of its long help, or else its short one.
fn about(command: &Command) -> String {
    let about = command.get_long_about().or(command.get_about());
    escaped(&about.map_or_else(String::new, ToString::to_string))
}

/// The arguments, first positional ones, then options by heading, in the order of declaration.
fn lists(command: &Command, options: &str) -> String {
    let mut sections: Vec<(String, Vec<String>)> = Vec::new();
    let (positional, flags): (Vec<&Arg>, Vec<&Arg>) =
        own(command).into_iter().partition(|arg| arg.is_positional());
    let headed = |arg: &Arg, default: &str| arg.get_help_heading().unwrap_or(default).to_string();
    let all = positional.iter().map(|arg| (headed(arg, "Arguments"), arg));
    for (heading, arg) in all.chain(flags.iter().map(|arg| (headed(arg, options), arg))) {
        match sections.iter_mut().find(|(known, _)| *known == heading) {
            Some((_, items)) => items.push(item(arg)),
            None => sections.push((heading, vec![item(arg)])),
        }
    }
    let text =
        |(heading, items): &(String, Vec<String>)| format!("\n## {heading}\n\n{}", items.concat());
    sections.iter().map(text).collect()
}

/// What stands below the options in the help, such as examples, as a section with a block of code.
fn more(command: &Command) -> String {
    let more = command.get_after_long_help().or(command.get_after_help());
    let Some(more) = more.map(ToString::to_string) else { return String::new() };
    match more.trim().split_once(":\n") {
        Some((heading, lines)) if !heading.contains('\n') => {
            let lines: Vec<&str> = lines.lines().map(str::trim).collect();
            format!("\n## {heading}\n\n```sh\n{}\n```\n", lines.join("\n").trim())
        }
        _ => format!("\n{}\n", escaped(more.trim())),
    }
}

fn file_name(command: &Command) -> String {
    let name = command.get_display_name().unwrap_or(command.get_name());
    format!("{}.md", name.trim_start_matches("aqueduct-"))
}

/// Commands below `command` that people see.
fn visible(command: &Command) -> Vec<&Command> {
    command.get_subcommands().filter(|below| !below.is_hide_set()).collect()
}

/// A table of the commands below `command` with links to their pages.
fn table(command: &Command) -> String {
    let mut out = String::from("| command | description |\n|---|---|\n");
    for below in visible(command) {
        let name = below.get_bin_name().unwrap_or(below.get_name());
        let about = below.get_about().map_or_else(String::new, ToString::to_string);
        let about = escaped(about.lines().next().unwrap_or_default());
        writeln!(out, "| [`{name}`]({}) | {about} |", file_name(below)).unwrap();
    }
    out
}

fn page(command: &Command) -> String {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let usage = command.clone().render_usage().to_string();
    let usage: Vec<&str> = usage.trim_start_matches("Usage:").lines().map(str::trim).collect();
    let mut out = format!(
        "# {name}\n\n{NOTE}{}\n\n```text\n{}\n```\n",
        about(command),
        usage.join("\n").trim()
    );
    if command.has_subcommands() {
        write!(out, "\n## Commands\n\n{}", table(command)).unwrap();
    }
    out.push_str(&lists(command, "Options"));
    out.push_str(
        "\nThe [options of all commands](README.md#options-of-all-commands) apply as well.\n",
    );
    out.push_str(&more(command));
    out
}

fn first_page(program: &Command) -> String {
    let global = program.get_arguments().filter(|arg| arg.is_global_set() && !arg.is_hide_set());
    let options: String = global.map(item).collect();
    format!(
        "# Commands\n\n{NOTE}{}\n\n{}\n## Options of all commands\n\n{options}{}",
        about(program),
        table(program),
        more(program)
    )
}

fn add_pages(command: &Command, pages: &mut BTreeMap<String, String>) {
    for below in visible(command) {
        pages.insert(file_name(below), page(below));
        add_pages(below, pages);
    }
}

/// All pages by file name.
fn pages() -> BTreeMap<String, String> {
    let mut program = aqueduct::cli::command().disable_help_subcommand(true);
    program.build();
    let mut pages = BTreeMap::from([("README.md".to_string(), first_page(&program))]);
    add_pages(&program, &mut pages);
    pages
}

#[test]
fn pages_of_commands_are_up_to_date() {
    let folder = shipped(FOLDER);
    let pages = pages();
    if std::env::var_os(UPDATE).is_some() {
        for name in entries(&folder).iter().filter(|name| !pages.contains_key(*name)) {
            fs::remove_file(folder.join(name)).unwrap();
        }
        for (name, text) in &pages {
            fs::write(folder.join(name), text).unwrap();
        }
    }
    let renew = format!("{UPDATE}=1 cargo test --locked --test it docs::commands");
    assert_eq!(entries(&folder), pages.keys().cloned().collect::<Vec<_>>(), "run {renew}");
    for (name, text) in &pages {
        let shown = fs::read_to_string(folder.join(name)).unwrap();
        assert!(shown == *text, "{FOLDER}/{name} is out of date; run {renew}");
    }
}

#[test]
fn help_is_escaped_for_markdown() {
    assert_eq!(escaped("a <b> `c <d>` *e* [f]"), "a \\<b\\> `c <d>` \\*e\\* \\[f\\]");
    assert_eq!(escaped(r"blk\.0"), r"blk\\.0");
}
