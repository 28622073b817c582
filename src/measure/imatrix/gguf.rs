//! llama.cpp's imatrix layout inside GGUF: for each tensor `NAME.in_sum2` and `NAME.counts`, both F32.
//!
//! Source: llama.cpp `tools/imatrix/imatrix.cpp` and `common/imatrix-loader.cpp`, October 2026. Additional
//! keys record what the sums were computed from ([`Record`]); other readers ignore them.

use super::record::Record;
use super::{DEFAULT_CHUNK, Entry, ImportanceMatrix, check_entry};
use crate::base::dtype::DType;
use crate::base::error::{Error, Result};
use crate::formats::gguf::{Array, GgufFile, GgufWriter, Metadata, Value};
use crate::formats::source::TensorInfo;
use byteorder::{ByteOrder, LittleEndian};
use std::collections::BTreeMap;
use std::path::Path;

const TYPE: &str = "general.type";
const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// Reads the GGUF file `path`.
///
/// # Errors
/// If it is not an imatrix file, or a damaged one.
pub(super) fn read(path: &Path) -> Result<ImportanceMatrix> {
    let file = GgufFile::open(path)?;
    let metadata = &file.header().metadata;
    let number = |key: &str| metadata.u64(key).and_then(|n| u32::try_from(n).ok());
    let (Some(chunk_count), Some(chunk_size)) = (number(CHUNK_COUNT), number(CHUNK_SIZE)) else {
        let detail = format!(
            "this GGUF file is not an importance matrix: '{CHUNK_COUNT}' or '{CHUNK_SIZE}' is missing"
        );
        return Err(Error::format(path, detail));
    };
    let mut parts: BTreeMap<&str, [Option<usize>; 2]> = BTreeMap::new();
    for (index, info) in file.header().tensors.iter().enumerate() {
        for (slot, suffix) in [SUMS, COUNTS].into_iter().enumerate() {
            if let Some(name) = info.name.strip_suffix(suffix) {
                parts.entry(name).or_default()[slot] = Some(index);
            }
        }
    }
    let mut entries = BTreeMap::new();
    for (name, part) in parts {
        let [Some(sums), Some(counts)] = part else {
            let detail = format!("'{name}{SUMS}' or '{name}{COUNTS}' is missing");
            return Err(Error::format(path, detail));
        };
        let counts = floats(path, &file, counts)?;
        if let Some(count) = counts.iter().find(|count| !(0.0..9e15).contains(*count)) {
            let detail = format!("a count of {count}");
            return Err(Error::tensor(path.display().to_string(), name, detail));
        }
        let counts = counts.iter().map(|count| count.round() as i64).collect();
        let entry = Entry { sums: floats(path, &file, sums)?, counts };
        check_entry(path, name, &entry)?;
        entries.insert(name.to_string(), entry);
    }
    if entries.is_empty() {
        return Err(Error::format(path, "this importance matrix has no entries"));
    }
    if chunk_size == 0 {
        return Err(Error::format(path, format!("'{CHUNK_SIZE}' is 0")));
    }
    let datasets = metadata.strings(DATASETS).unwrap_or_default().to_vec();
    let record = Record::get(path, metadata, chunk_count)?;
    Ok(ImportanceMatrix { entries, datasets, chunk_count, chunk_size, record })
}

fn floats(path: &Path, file: &GgufFile, index: usize) -> Result<Vec<f32>> {
    let info = &file.header().tensors[index];
    if info.dtype != DType::F32 {
        let detail = format!("type {}, where F32 is needed", info.dtype);
        return Err(Error::tensor(path.display().to_string(), &info.name, detail));
    }
    let bytes = file.tensor_bytes(index);
    let mut values = vec![0.0; bytes.len() / 4];
    LittleEndian::read_f32_into(bytes, &mut values);
    Ok(values)
}

/// Writes `matrix` as the GGUF file `path`. A matrix counted in chunks is first converted to tokens, with
/// [`DEFAULT_CHUNK`].
pub(super) fn write(matrix: &ImportanceMatrix, path: &Path, force: bool) -> Result<()> {
    let matrix = &matrix.in_tokens(DEFAULT_CHUNK);
    let mut metadata = Metadata::new();
    metadata.set(TYPE, "imatrix");
    metadata.set(DATASETS, Value::Array(Array::String(matrix.datasets.clone())));
    metadata.set(CHUNK_COUNT, matrix.chunk_count);
    metadata.set(CHUNK_SIZE, matrix.chunk_size);
    if let Some(record) = &matrix.record {
        record.put(&mut metadata);
    }
    let mut tensors = Vec::new();
    for (name, entry) in &matrix.entries {
        let matrices = entry.counts.len();
        // A single matrix has no outer dimension, as llama.cpp writes it.
        let shape = |width: usize| match matrices {
            1 => vec![width],
            _ => vec![matrices, width],
        };
        let width = entry.sums.len() / matrices;
        tensors.push(TensorInfo::new(format!("{name}{SUMS}"), shape(width), DType::F32));
        tensors.push(TensorInfo::new(format!("{name}{COUNTS}"), shape(1), DType::F32));
    }
    let writer = GgufWriter::create(path, force, &metadata, tensors)?;
    for (index, entry) in matrix.entries.values().enumerate() {
        let sums: Vec<u8> = entry.sums.iter().flat_map(|v| v.to_le_bytes()).collect();
        let counts = entry.counts.iter().flat_map(|&n| (n as f32).to_le_bytes());
        writer.write_tensor(2 * index, &sums)?;
        writer.write_tensor(2 * index + 1, &counts.collect::<Vec<u8>>())?;
    }
    writer.finish()
}
