//! Progress as the terminal shows it: one bar for the current stage, on stderr.
//!
//! No bar is drawn when stderr is no terminal or `--quiet` is given; warnings always appear, notes
//! unless `--quiet`.

use aqueduct::progress::{Progress, Unit};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::Duration;

/// Draws [`Progress`] with indicatif.
pub struct Terminal {
    quiet: bool,
    draw: bool,
    bar: Mutex<ProgressBar>,
}

impl Terminal {
    pub fn new(quiet: bool) -> Terminal {
        let draw = !quiet && std::io::stderr().is_terminal();
        Terminal { quiet, draw, bar: Mutex::new(ProgressBar::hidden()) }
    }

    fn bar(&self) -> std::sync::MutexGuard<'_, ProgressBar> {
        // A thread that panicked while drawing leaves the bar usable.
        self.bar.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn style(unit: Unit) -> ProgressStyle {
    let counts = match unit {
        Unit::Bytes => "{bytes}/{total_bytes} {binary_bytes_per_sec}",
        Unit::Tokens => "{pos}/{len} layer-tokens {rate}",
        Unit::Items => "{pos}/{len} {rate}",
    };
    let template =
        format!("{{prefix:12}} [{{bar:28}}] {{percent:>3}}% {counts} ETA {{eta}} {{msg}}");
    ProgressStyle::with_template(&template)
        .expect("the template is constant and valid")
        .with_key("rate", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            // A rate that cannot be shown leaves a gap in the bar.
            let _ = write!(out, "{:.0}/s", state.per_sec());
        })
        .progress_chars("=> ")
}

impl Progress for Terminal {
    fn begin(&self, stage: &str, total: u64, unit: Unit) {
        let mut bar = self.bar();
        bar.finish_and_clear();
        if self.draw {
            *bar =
                ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(8));
            bar.set_style(style(unit));
            bar.set_prefix(stage.to_string());
            bar.enable_steady_tick(Duration::from_millis(250));
        }
    }

    fn advance(&self, units: u64) {
        self.bar().inc(units);
    }

    fn detail(&self, text: &str) {
        self.bar().set_message(text.to_string());
    }

    fn note(&self, text: &str) {
        if !self.quiet {
            self.bar().suspend(|| eprintln!("{text}"));
        }
    }

    fn warn(&self, text: &str) {
        self.bar().suspend(|| eprintln!("warning: {text}"));
    }

    fn end(&self) {
        self.bar().finish_and_clear();
    }
}
