//! Colours of what is printed, and when there are any.
//!
//! Text is always written with its styles; the streams here drop them where they are not wanted. Members of a merge have
//! colours of their own, see `report::render_stack`.

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use std::io::{IsTerminal, Stderr, Stdout, stderr, stdout};
use std::sync::OnceLock;

// Of the sixteen colours that every terminal has, red and magenta are those that common schemes, xterm's own first of all,
// show with enough contrast on black and on white alike. Yellow, green and cyan vanish on white, blue on black; faint
// text on either. All else differs by weight, in the terminal's own colour.

/// The word `error`.
pub(super) const ERROR: Style = AnsiColor::Red.on_default().bold();
/// The word `warning`; yellow would be usual, and cannot be read on white.
pub(super) const WARNING: Style = AnsiColor::Magenta.on_default().bold();
/// Headers of tables, names of stages, labels.
pub(super) const STRONG: Style = Style::new().bold();

static ASKED: OnceLock<clap::ColorChoice> = OnceLock::new();

/// Sets what `--color` asks for, once.
pub(super) fn choose(choice: clap::ColorChoice) {
    // A second time changes nothing; there is one command line.
    let _ = ASKED.set(choice);
}

/// Whether a stream may have colours: as `--color` asks; else on a terminal, unless the environment says otherwise.
/// There NO_COLOR (<https://no-color.org>) comes first, then CLICOLOR_FORCE and CLICOLOR
/// (<https://bixense.com/clicolors>).
fn wanted(stream: &impl IsTerminal) -> bool {
    match ASKED.get() {
        Some(clap::ColorChoice::Always) => return true,
        Some(clap::ColorChoice::Never) => return false,
        Some(clap::ColorChoice::Auto) | None => {}
    }
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let is = |name: &str, value: &str| set(name).is_some_and(|found| found == value);
    if set("NO_COLOR").is_some() {
        return false;
    }
    if set("CLICOLOR_FORCE").is_some() && !is("CLICOLOR_FORCE", "0") {
        return true;
    }
    !is("CLICOLOR", "0") && !is("TERM", "dumb") && stream.is_terminal()
}

/// Whether text on stdout may have colours.
pub(super) fn on_stdout() -> bool {
    wanted(&stdout())
}

/// Whether text on stderr may have colours.
pub(super) fn on_stderr() -> bool {
    wanted(&stderr())
}

fn choice(wanted: bool) -> ColorChoice {
    if wanted { ColorChoice::Always } else { ColorChoice::Never }
}

/// Stdout, without colours where they are not wanted.
pub(super) fn out() -> AutoStream<Stdout> {
    AutoStream::new(stdout(), choice(on_stdout()))
}

/// Stderr, without colours where they are not wanted.
pub(super) fn err() -> AutoStream<Stderr> {
    AutoStream::new(stderr(), choice(on_stderr()))
}

/// `text` in `style`.
pub(super) fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}
