//! How results look on stdout: JSON or tables.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Prints text on stdout. A reader that went away (`| head`) ends the printing, not the program.
pub fn text(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Prints `value` as JSON on stdout.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    text(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// A plain table: `headers`, and columns whose header starts with `>` right-aligned.
pub fn table<const N: usize>(
    headers: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headers.map(|h| h.trim_start_matches('>')));
    for row in rows {
        table.add_row(row);
    }
    for (column, header) in table.column_iter_mut().zip(headers) {
        column.set_padding((0, 2));
        if header.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_string()).collect::<Vec<_>>().join("\n")
}

/// The file to write for one TYPE of several: `Name-TYPE.gguf` in `folder`.
pub fn quant_path(folder: &Path, name: &str, ftype: aqueduct::quantize::Ftype) -> PathBuf {
    folder.join(format!("{name}-{ftype}.gguf"))
}
