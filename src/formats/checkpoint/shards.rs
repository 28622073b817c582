//! Plans of safetensors shards: which tensors each file holds, its header and its hash.
//!
//! Not here: writing the files (`write`, `parts`) and resuming them (`resume`).

use super::weights::SAFETENSORS;
use crate::base::dtype::DType;
use crate::base::error::{Error, Result};
use crate::base::hash;
use crate::formats::source::{PART_BYTES, TensorInfo, TensorTable};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::sync::OnceLock;
use xxhash_rust::xxh3::xxh3_128;

/// The plan of one safetensors file.
#[derive(Clone, Debug)]
pub struct Shard {
    /// File name.
    pub name: String,
    /// Its tensors, as indices into the table, in the order of their data.
    pub tensors: Vec<usize>,
    /// Size of the file in bytes.
    pub file_bytes: u64,
    /// Length and JSON, up to the data.
    pub(super) header: Vec<u8>,
    /// Where each tensor's data begin in the file.
    pub(super) starts: Vec<u64>,
}

/// Divides the tensors of `table` among shards of at most `max_shard_bytes`, in the table's order; a
/// larger tensor gets its own shard. The sizes are exact. `origin` names the model in errors.
///
/// Recipes have their tables in the order embedding, layers, head. So a shard holds consecutive layers,
/// and sources are read from front to back.
///
/// # Errors
/// A tensor of a type that safetensors lacks.
pub fn plan_shards(origin: &str, table: &TensorTable, max_shard_bytes: u64) -> Result<Vec<Shard>> {
    let fixed = header_json(&[], &[]).len() as u64 + 8 + HEADER_ALIGNMENT as u64;
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for (index, info) in table.infos().iter().enumerate() {
        dtype_name(origin, info)?;
        let bytes = info.bytes().expect("checked by TensorTable") as u64;
        // Offsets of the largest possible width, so that the real entry is no longer.
        let entry = header_entry(info, u64::MAX, u64::MAX).to_string();
        let name = Value::from(info.name.as_str()).to_string();
        let needed = bytes.saturating_add((name.len() + ":,".len() + entry.len()) as u64);
        match groups.last_mut() {
            Some(group) if needed <= room => group.push(index),
            _ => {
                groups.push(vec![index]);
                room = max_shard_bytes.saturating_sub(fixed);
            }
        }
        room = room.saturating_sub(needed);
    }
    let names = match groups.len() {
        0 | 1 => vec![SAFETENSORS.single.to_string()],
        n => SAFETENSORS.shards("model", n as u32),
    };
    if groups.is_empty() {
        groups.push(Vec::new());
    }
    Ok(names.into_iter().zip(groups).map(|(name, group)| lay_out(name, table, group)).collect())
}

const HEADER_ALIGNMENT: usize = 8;

fn lay_out(name: String, table: &TensorTable, mut tensors: Vec<usize>) -> Shard {
    let infos = table.infos();
    // Wider elements first, as the safetensors crate writes them, so that all are aligned.
    tensors.sort_by_key(|&i| std::cmp::Reverse(infos[i].dtype.block_bytes()));
    let mut ends = Vec::with_capacity(tensors.len());
    let mut end = 0u64;
    for &i in &tensors {
        end += infos[i].bytes().expect("checked by TensorTable") as u64;
        ends.push(end);
    }
    let selected: Vec<_> = tensors.iter().map(|&i| &infos[i]).collect();
    let mut json = header_json(&selected, &ends);
    while !json.len().is_multiple_of(HEADER_ALIGNMENT) {
        json.push(' ');
    }
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(json.as_bytes());
    let data_start = header.len() as u64;
    let starts = std::iter::once(0).chain(ends).map(|offset| data_start + offset);
    let starts = starts.take(tensors.len()).collect();
    Shard { name, tensors, file_bytes: data_start + end, header, starts }
}

fn header_entry(info: &TensorInfo, start: u64, end: u64) -> Value {
    json!({ "dtype": info.dtype.name(), "shape": info.shape, "data_offsets": [start, end] })
}

/// The header of tensors whose data end at `ends`.
fn header_json(infos: &[&TensorInfo], ends: &[u64]) -> String {
    let mut map = Map::new();
    // Transformers refuses files that do not say that they come from PyTorch.
    map.insert("__metadata__".to_string(), json!({ "format": "pt" }));
    let mut start = 0;
    for (info, &end) in infos.iter().zip(ends) {
        map.insert(info.name.clone(), header_entry(info, start, end));
        start = end;
    }
    Value::Object(map).to_string()
}

/// Checks that safetensors has the type; its names are the same.
fn dtype_name(origin: &str, info: &TensorInfo) -> Result<&'static str> {
    use DType::{BF16, F16, F32, F64, I8, I16, I32, I64};
    match info.dtype {
        F32 | F16 | BF16 | F64 | I8 | I16 | I32 | I64 => Ok(info.dtype.name()),
        other => {
            let detail = format!("safetensors files cannot hold type {other}");
            Err(Error::tensor(origin, &info.name, detail))
        }
    }
}

/// Returns the text of the index of `shards`, as transformers writes it.
pub(super) fn index_json(table: &TensorTable, shards: &[Shard]) -> String {
    let mut entries: Vec<_> = (shards.iter())
        .flat_map(|s| s.tensors.iter().map(|&i| (table.infos()[i].name.as_str(), s.name.as_str())))
        .collect();
    entries.sort_unstable();
    let map: Map<_, _> =
        entries.into_iter().map(|(name, file)| (name.to_string(), file.into())).collect();
    let total: u64 = table.infos().iter().filter_map(|info| info.bytes()).map(|b| b as u64).sum();
    let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
    let mut text = serde_json::to_string_pretty(&index).expect("JSON values serialize");
    text.push('\n');
    text
}

/// The hashes of a shard's parts, filled in as the parts are written or read.
pub(super) struct PartHashes {
    /// By tensor of the shard, and by part of the tensor.
    parts: Vec<Vec<OnceLock<[u8; 16]>>>,
}

impl PartHashes {
    pub(super) fn new(shard: &Shard, table: &TensorTable) -> PartHashes {
        let bytes = |&index: &usize| table.infos()[index].bytes().unwrap_or(0);
        let slots = |bytes: usize| (0..bytes.div_ceil(PART_BYTES)).map(|_| OnceLock::new());
        PartHashes { parts: shard.tensors.iter().map(|i| slots(bytes(i)).collect()).collect() }
    }

    /// Hashes the part at `offset` of the shard's tensor number `position`.
    pub(super) fn add(&self, position: usize, offset: usize, part: &[u8]) {
        if let Some(slot) = self.parts[position].get(offset / PART_BYTES) {
            // Detects damage, not forgery. SHA-256 would take a third of the time that a tensor takes
            // from source to disk.
            slot.get_or_init(|| xxh3_128(part).to_le_bytes());
        }
    }

    /// Returns the shard's hash, or `None` if a part is missing: SHA-256 of its header and of the XXH3
    /// (128 bits) of each part ([`PART_BYTES`]) of each tensor, in the order of the file. Parts are hashed
    /// separately, so that threads can take them in any order.
    pub(super) fn finish(&self, shard: &Shard) -> Option<String> {
        let mut hasher = Sha256::new();
        hasher.update(&shard.header);
        for part in self.parts.iter().flatten() {
            hasher.update(part.get()?);
        }
        Some(hash::hex(hasher.finalize()))
    }
}
