//! compressed-tensors (llm-compressor, Neural Magic): `float-quantized`, `int-quantized`,
//! `naive-quantized`, `pack-quantized` and `mxfp8-quantized`, with any strategy, in one or several
//! groups.
//!
//! Groups assign schemes to modules by names and classes. The stored tensors decide here: their
//! types and shapes leave one scheme. Reads what compressed-tensors 0.20's decompressors read,
//! before they round to the type of the scales.

use super::integers::{self, Widths};
use super::{fp4, fp8};
use crate::base::error::Result;
use crate::formats::checkpoint::quantized::joining::Joining;
use crate::formats::checkpoint::quantized::settings::{self, QuantSettings};
use serde_json::{Map, Value};

/// The formats that are read. A mixed one is several of these.
const FORMATS: &[&str] = &[
    "dense",
    "float-quantized",
    "int-quantized",
    "mixed-precision",
    "mxfp4-pack-quantized",
    "mxfp8-quantized",
    "naive-quantized",
    "nvfp4-pack-quantized",
    "pack-quantized",
];

pub(super) fn accepts(settings: &QuantSettings) -> bool {
    let formats = groups(settings).filter_map(|group| group.get("format")?.as_str());
    let mut formats = settings.str("format").into_iter().chain(formats);
    settings.method == "compressed-tensors"
        && formats.all(|format| FORMATS.contains(&format))
        && !is_sparse(settings)
        && !is_transformed(settings)
}

pub(super) fn join(settings: &QuantSettings, joining: &mut Joining<'_>) -> Result<String> {
    let mut widths = Widths::default();
    for weights in groups(settings).filter_map(|group| group.get("weights")?.as_object()) {
        let size = |key: &str| weights.get(key).and_then(Value::as_u64);
        push(&mut widths.bits, size("num_bits").and_then(|bits| bits.try_into().ok()));
        let group = size("group_size").filter(|&size| size > 0);
        push(&mut widths.group_sizes, group.and_then(|size| size.try_into().ok()));
        let block = weights.get("block_structure").and_then(block_structure);
        push(&mut widths.blocks, block);
    }
    let block = widths.blocks.first().copied();
    let groups = widths.group_sizes.first().map(|&size| [1, size]);
    let mut kinds = fp4::join_all(joining);
    let before = joining.count();
    let floats = fp8::join_all(joining, block.or(groups));
    if joining.count() > before {
        kinds.push(floats);
    }
    let integers = integers::join_all(joining, &widths);
    if !integers.is_empty() {
        kinds.push(format!("integers ({})", integers.join("; ")));
    }
    Ok(format!("compressed-tensors {}", kinds.join(" and ")))
}

fn push<T: PartialEq>(list: &mut Vec<T>, value: Option<T>) {
    list.extend(value.filter(|value| !list.contains(value)));
}

fn groups(settings: &QuantSettings) -> impl Iterator<Item = &Map<String, Value>> {
    let groups = settings.options.get("config_groups").and_then(Value::as_object);
    groups.into_iter().flat_map(|groups| groups.values().filter_map(Value::as_object))
}

/// `[128, 128]`, or `"128x128"` as older versions wrote it.
fn block_structure(value: &Value) -> Option<[usize; 2]> {
    if let Some(text) = value.as_str() {
        let (rows, columns) = text.split_once('x')?;
        let size = |text: &str| text.trim().parse::<usize>().ok().filter(|&n| n > 0);
        return Some([size(rows)?, size(columns)?]);
    }
    settings::sizes(value)?.try_into().ok()
}

/// Whether zeros are left out of what is stored.
fn is_sparse(settings: &QuantSettings) -> bool {
    let format = settings.options.get("sparsity_config").and_then(|config| config.get("format"));
    format.and_then(Value::as_str).is_some_and(|format| format != "dense")
}

/// Whether activations are rotated while the model runs, which plain weights cannot tell.
fn is_transformed(settings: &QuantSettings) -> bool {
    let groups = settings.options.get("transform_config").and_then(|c| c.get("config_groups"));
    groups.and_then(Value::as_object).is_some_and(|groups| !groups.is_empty())
}
