//! How results look on stdout: JSON or tables.

use super::colour::{self, STRONG, paint};
use crate::Result;
use crate::base::size;
use crate::formats::gguf::GgufModel;
use crate::quantize::{QuantPlan, Written};
use crate::report;
use serde::Serialize;
use serde_json::{Value as Json, json};
use std::io::Write;

/// Prints text on stdout, without its styles where they are not wanted. A reader that went away (`| head`) ends the
/// printing, not the program.
pub(super) fn text(text: &str) {
    let _ = writeln!(colour::out().lock(), "{text}");
}

/// Prints `text` after a label of at most 8 letters.
pub(super) fn labelled(label: &str, value: &str) {
    text(&format!(
        "{}{} {value}",
        paint(STRONG, label),
        " ".repeat(8_usize.saturating_sub(label.len()))
    ));
}

/// Prints a table whose first line is its header.
pub(super) fn table(table: &str) {
    let (header, rows) = table.split_once('\n').unwrap_or((table, ""));
    text(&paint(STRONG, header));
    if !rows.is_empty() {
        text(rows);
    }
}

/// Prints `value` as JSON on stdout.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    text(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// The files that were written, one line each.
pub(super) fn files_table(files: &[Written]) -> String {
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

/// What `plans`, all for `model`, would make: every tensor's type in each file and, of a file in
/// several shards, the number of its shard, from 1; then sizes.
pub(super) fn plans(as_json: bool, model: &GgufModel, plans: &[QuantPlan]) -> anyhow::Result<()> {
    if as_json {
        return json(&plans.iter().map(plan_json).collect::<Result<Vec<_>>>()?);
    }
    let Some(first) = plans.first() else { return Ok(()) };
    table(&types_table(model, first, plans));
    let rows = plans.iter().map(|plan| {
        let bytes = plan.file_bytes()?;
        let bits = format!("{:.2}", plan.bits_per_weight());
        Ok(vec![plan.ftype.to_string(), bits, bytes.to_string(), size::display(bytes)])
    });
    let rows = rows.collect::<Result<Vec<_>>>()?;
    text("");
    table(&report::table(&["type", ">bits per weight", ">bytes", ">size"], rows));
    let rows = plans.iter().filter(|plan| plan.shards.count() > 1).map(shard_rows);
    let rows: Vec<_> = rows.collect::<Result<Vec<_>>>()?.concat();
    if !rows.is_empty() {
        text("");
        table(&report::table(&["type", ">shard", ">tensors", ">bytes", ">size"], rows));
    }
    Ok(())
}

/// A row for each tensor of all plans, which have them in the same order.
fn types_table(model: &GgufModel, first: &QuantPlan, plans: &[QuantPlan]) -> String {
    let mut heads = vec!["tensor".to_string(), "source".to_string()];
    for plan in plans {
        heads.push(plan.ftype.to_string());
        heads.extend((plan.shards.count() > 1).then(|| ">shard".to_string()));
    }
    let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    let rows = first.tensors.iter().enumerate().map(|(index, tensor)| {
        let source = &model.tensors.table().infos()[tensor.source];
        let mut row = vec![source.name.clone(), source.dtype.to_string()];
        for QuantPlan { tensors, shards, .. } in plans {
            row.push(tensors[index].info.dtype.to_string());
            row.extend((shards.count() > 1).then(|| (shards.number(index) + 1).to_string()));
        }
        row
    });
    report::table(&heads, rows)
}

/// Tensors in each shard of `plan`.
fn shard_tensors(plan: &QuantPlan) -> Vec<usize> {
    let mut tensors = vec![0; plan.shards.count()];
    (0..plan.tensors.len()).for_each(|index| tensors[plan.shards.number(index)] += 1);
    tensors
}

fn shard_rows(plan: &QuantPlan) -> Result<Vec<Vec<String>>> {
    let sizes = plan.shard_bytes()?.into_iter().zip(shard_tensors(plan)).enumerate();
    let row = |(no, (bytes, tensors)): (usize, (u64, usize))| {
        let numbers = [(no + 1).to_string(), tensors.to_string(), bytes.to_string()];
        [plan.ftype.to_string()].into_iter().chain(numbers).chain([size::display(bytes)]).collect()
    };
    Ok(sizes.map(row).collect())
}

fn plan_json(plan: &QuantPlan) -> Result<Json> {
    let tensors = plan.tensors.iter().enumerate().map(|(index, tensor)| {
        json!({
            "name": tensor.info.name,
            "type": tensor.info.dtype.name(),
            "bytes": tensor.info.bytes(),
            "weighted": tensor.weighted,
            "shard": plan.shards.number(index) + 1,
        })
    });
    let shard_bytes = plan.shard_bytes()?;
    Ok(json!({
        "ftype": plan.ftype.name(),
        "bytes": shard_bytes.iter().sum::<u64>(),
        "shards": plan.shards.count(),
        "shard_bytes": shard_bytes,
        "bits_per_weight": plan.bits_per_weight(),
        "tensors": tensors.collect::<Vec<_>>(),
    }))
}
