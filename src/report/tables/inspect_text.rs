//! Inspections as text.

use super::inspect::{
    GgufReport, ImatrixReport, Inspection, MetadataRow, SafetensorsReport, Weights, bits_per_weight,
};
use super::table::table;
use crate::base::size;
use crate::report::text::{one_line, significant};
use serde_json::Value as Json;

impl Inspection {
    /// The report as tables, without a newline at the end.
    pub fn render(&self) -> String {
        match self {
            Inspection::Gguf(report) => render_gguf(report),
            Inspection::Safetensors(report) => render_safetensors(report),
            Inspection::Imatrix(report) => render_imatrix(report),
        }
    }
}

fn render_gguf(report: &GgufReport) -> String {
    let shard = match report.shard {
        Some((number, count)) => format!(", shard {number} of {count}"),
        None => String::new(),
    };
    let mut parts = vec![format!(
        "{}: GGUF version {}{shard}, {}, data aligned to {} bytes",
        report.path,
        report.version,
        size::display(report.file_bytes),
        report.alignment
    )];
    if !report.metadata.is_empty() {
        let rows = report.metadata.iter();
        let rows = rows.map(|row| vec![one_line(&row.key), row.type_name.clone(), value_text(row)]);
        parts.push(table(&["metadata", "type", "value"], rows));
    }
    render_weights(&report.weights, &mut parts);
    parts.join("\n\n")
}

fn render_safetensors(report: &SafetensorsReport) -> String {
    let bytes = size::display(report.file_bytes);
    let mut parts = vec![format!("{}: safetensors, {bytes}", report.path)];
    if !report.metadata.is_empty() {
        let rows = report.metadata.iter().map(|(key, value)| vec![one_line(key), one_line(value)]);
        parts.push(table(&["metadata", "value"], rows));
    }
    render_weights(&report.weights, &mut parts);
    parts.join("\n\n")
}

fn render_imatrix(report: &ImatrixReport) -> String {
    let chunk_size = report.chunk_size.map_or(String::new(), |n| format!(" of {n} tokens"));
    let mut parts = vec![format!(
        "{}: importance matrix ({} layout), {}, {} entries from {} chunks{chunk_size}",
        report.path,
        report.layout,
        size::display(report.file_bytes),
        report.entries.len(),
        report.chunks,
    )];
    if !report.datasets.is_empty() {
        let datasets: Vec<_> = report.datasets.iter().map(|d| one_line(d)).collect();
        parts.push(format!("computed from {}", datasets.join(", ")));
    }
    let number = |v: Option<f32>| v.map_or("-".to_string(), significant);
    let rows = report.entries.iter().map(|row| {
        vec![
            one_line(&row.tensor),
            match row.matrices {
                1 => row.columns.to_string(),
                n => format!("{n} x {}", row.columns),
            },
            row.count.to_string(),
            number(row.sum_of_squares),
            number(row.max),
            row.active.map_or("-".to_string(), |v| format!("{:.1}%", v * 100.0)),
            row.entropy.map_or("-".to_string(), |v| format!("{v:.2}")),
        ]
    });
    let headers = [">columns", ">count", ">sum of squares", ">max", ">active", ">entropy"];
    parts.push(table(&[&["tensor"][..], &headers].concat(), rows));
    parts.join("\n\n")
}

fn render_weights(weights: &Weights, parts: &mut Vec<String>) {
    let rows = weights.tensors.iter().map(|row| {
        vec![
            one_line(&row.name),
            row.type_name.clone(),
            shape_text(&row.shape),
            size::display(row.bytes),
        ]
    });
    parts.push(table(&["tensor", "type", ">shape", ">size"], rows));
    let total = |name: &str, tensors: usize, parameters: u64, bytes: u64| {
        vec![
            name.to_string(),
            tensors.to_string(),
            parameters.to_string(),
            size::display(bytes),
            format!("{:.3}", bits_per_weight(bytes, parameters)),
        ]
    };
    let mut rows: Vec<_> = (weights.types.iter())
        .map(|t| total(&t.type_name, t.tensors, t.parameters, t.bytes))
        .collect();
    if rows.len() != 1 {
        rows.push(total("all", weights.tensors.len(), weights.parameters, weights.tensor_bytes));
    }
    parts.push(table(&["type", ">tensors", ">parameters", ">size", ">bits per weight"], rows));
}

pub(super) fn shape_text(shape: &[usize]) -> String {
    let dims: Vec<_> = shape.iter().map(usize::to_string).collect();
    if dims.is_empty() { "scalar".to_string() } else { dims.join(" x ") }
}

/// A metadata value on one line.
pub(super) fn value_text(row: &MetadataRow) -> String {
    let plain = |value: &Json| match value {
        Json::String(text) => one_line(text),
        other => other.to_string(),
    };
    match (&row.value, row.length) {
        (Json::Array(first), Some(length)) => {
            let shown: Vec<_> = first.iter().map(plain).collect();
            let more = if length > first.len() { ", …" } else { "" };
            format!("{length}: {}", one_line(&format!("{}{more}", shown.join(", "))))
        }
        (value, _) => plain(value),
    }
}
