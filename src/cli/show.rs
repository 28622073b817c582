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
