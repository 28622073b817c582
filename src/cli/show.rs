//! How results look on stdout: JSON or tables.

use aqueduct::quantize::Written;
use aqueduct::{report, size};
use serde::Serialize;
use std::io::Write;

/// Prints text on stdout. A reader that went away (`| head`) ends the printing, not the program.
pub fn text(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Prints `value` as JSON on stdout.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    text(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// The files that were written, one line each.
pub fn files_table(files: &[Written]) -> String {
    let rows = files.iter().map(|file| {
        vec![
            file.path.display().to_string(),
            format!("{:.2}", file.bits_per_weight),
            size::display(file.bytes),
            format!("{:.2}", file.seconds),
        ]
    });
    report::table(&["file", ">bits per weight", ">size", ">seconds"], rows)
}

/// A number of parameters as people say it: `135M`, `17.7B`.
pub fn parameters(n: u64) -> String {
    let n = n as f64;
    match n {
        _ if n >= 9.995e8 => format!("{:.1}B", n / 1e9),
        _ if n >= 9.995e6 => format!("{:.0}M", n / 1e6),
        _ if n >= 1e6 => format!("{:.1}M", n / 1e6),
        _ => format!("{:.0}K", n / 1e3),
    }
}
