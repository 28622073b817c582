//! What is in a model file: GGUF, safetensors or importance matrix, distinguished by content.

use crate::base::error::{Error, Result};
use crate::formats::checkpoint::{SafetensorsFile, looks_like_safetensors};
use crate::formats::file_kind::refuse_foreign;
use crate::formats::gguf::{self, Array, GgufFile, Value};
use crate::measure::imatrix::ImportanceMatrix;
use serde::Serialize;
use serde_json::{Number, Value as Json, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// What [`inspect`] found.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "format", rename_all = "lowercase")]
pub enum Inspection {
    Gguf(GgufReport),
    Safetensors(SafetensorsReport),
    Imatrix(ImatrixReport),
}

/// A GGUF file, perhaps one shard of a model.
#[derive(Clone, Debug, Serialize)]
pub struct GgufReport {
    pub path: String,
    pub file_bytes: u64,
    pub version: u32,
    pub alignment: u64,
    /// Number of this shard, from 1, and of all shards; absent if the model is in one file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard: Option<(u64, u64)>,
    pub metadata: Vec<MetadataRow>,
    #[serde(flatten)]
    pub weights: Weights,
}

/// A metadata entry.
#[derive(Clone, Debug, Serialize)]
pub struct MetadataRow {
    pub key: String,
    /// As gguf.md names the types; `string[]` for arrays.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Arrays by their first elements.
    pub value: Json,
    /// Number of elements of an array.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<usize>,
}

/// A safetensors file, perhaps one shard of a model.
#[derive(Clone, Debug, Serialize)]
pub struct SafetensorsReport {
    pub path: String,
    pub file_bytes: u64,
    pub metadata: BTreeMap<String, String>,
    #[serde(flatten)]
    pub weights: Weights,
}

/// The tensors of a file, and sums over them.
#[derive(Clone, Debug, Serialize)]
pub struct Weights {
    pub parameters: u64,
    pub tensor_bytes: u64,
    /// Bits per weight of the tensors' data; 0 if there are none.
    pub bits_per_weight: f64,
    /// The largest first.
    pub types: Vec<TypeTotal>,
    /// In file order.
    pub tensors: Vec<TensorRow>,
}

#[derive(Clone, Debug, Serialize)]
pub struct TensorRow {
    pub name: String,
    #[serde(rename = "type")]
    pub type_name: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    pub parameters: u64,
    pub bytes: u64,
}

/// All tensors of one type.
#[derive(Clone, Debug, Serialize)]
pub struct TypeTotal {
    #[serde(rename = "type")]
    pub type_name: String,
    pub tensors: usize,
    pub parameters: u64,
    pub bytes: u64,
}

/// An importance matrix file.
#[derive(Clone, Debug, Serialize)]
pub struct ImatrixReport {
    pub path: String,
    pub file_bytes: u64,
    /// `gguf`, or `dat` for the older layout.
    pub layout: &'static str,
    pub datasets: Vec<String>,
    pub chunks: u32,
    /// Tokens in a chunk; absent where the layout does not record it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk_size: Option<u32>,
    /// By name.
    pub entries: Vec<ImatrixRow>,
}

/// What was collected for one tensor. The statistics are those of llama-imatrix, see
/// [`crate::measure::imatrix::TensorStatistics`].
#[derive(Clone, Debug, Serialize)]
pub struct ImatrixRow {
    pub tensor: String,
    pub columns: usize,
    /// Matrices stacked in the tensor: experts.
    pub matrices: usize,
    /// Rows summed, of all matrices together; chunks in the older layout.
    pub count: i64,
    /// Sum over the columns of mean squared inputs; absent, as what follows, if nothing was counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sum_of_squares: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f32>,
    /// Share of columns with inputs that matter, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<f32>,
    /// Bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy: Option<f32>,
}

/// Examines the file at `path`. Only headers are read, except for importance matrices.
pub fn inspect(path: impl AsRef<Path>) -> Result<Inspection> {
    let path = path.as_ref();
    let file = File::open(path).map_err(Error::io(path, "open"))?;
    let meta = file.metadata().map_err(Error::io(path, "examine"))?;
    if meta.is_dir() {
        return Err(Error::format(path, "a folder; name one of the files in it"));
    }
    let mut head = Vec::new();
    file.take(16).read_to_end(&mut head).map_err(Error::io(path, "read"))?;
    if head.starts_with(gguf::MAGIC) {
        return inspect_gguf(path);
    }
    refuse_foreign(path)?;
    if looks_like_safetensors(&head, meta.len()) {
        return Ok(Inspection::Safetensors(inspect_safetensors(path)?));
    }
    // The older imatrix layout has no magic: what does not parse as one is nothing known.
    match ImportanceMatrix::read(path) {
        Ok(matrix) => Ok(Inspection::Imatrix(imatrix_report(path, meta.len(), "dat", &matrix))),
        Err(Error::Format { .. } | Error::Tensor { .. }) => {
            Err(Error::format(path, "no GGUF, safetensors or imatrix file, or a damaged one"))
        }
        Err(e) => Err(e),
    }
}

fn inspect_gguf(path: &Path) -> Result<Inspection> {
    let file = GgufFile::open(path)?;
    let header = file.header();
    if header.metadata.str("general.type") == Some("imatrix") {
        let matrix = ImportanceMatrix::read(path)?;
        return Ok(Inspection::Imatrix(imatrix_report(path, file.file_bytes(), "gguf", &matrix)));
    }
    let tensors = header.tensors.iter().map(|info| TensorRow {
        name: info.name.clone(),
        type_name: info.dtype.to_string(),
        shape: info.shape.clone(),
        parameters: info.elements() as u64,
        bytes: info.bytes().expect("checked at opening") as u64,
    });
    Ok(Inspection::Gguf(GgufReport {
        path: path.display().to_string(),
        file_bytes: file.file_bytes(),
        version: header.version,
        alignment: header.alignment,
        shard: file.split().map(|(no, count)| (no + 1, count)),
        metadata: header.metadata.iter().map(|(key, value)| metadata_row(key, value)).collect(),
        weights: Weights::new(tensors.collect()),
    }))
}

fn inspect_safetensors(path: &Path) -> Result<SafetensorsReport> {
    let file = SafetensorsFile::open(path)?;
    let tensors = file.entries().iter().map(|entry| TensorRow {
        name: entry.name.clone(),
        type_name: entry.dtype.to_string(),
        shape: entry.shape.clone(),
        parameters: entry.shape.iter().product::<usize>() as u64,
        bytes: entry.range.len() as u64,
    });
    Ok(SafetensorsReport {
        path: path.display().to_string(),
        file_bytes: file.file_bytes(),
        metadata: file.metadata().clone(),
        weights: Weights::new(tensors.collect()),
    })
}

impl Weights {
    fn new(tensors: Vec<TensorRow>) -> Weights {
        let mut types: Vec<TypeTotal> = Vec::new();
        for row in &tensors {
            let at = types.iter().position(|t| t.type_name == row.type_name).unwrap_or_else(|| {
                let type_name = row.type_name.clone();
                types.push(TypeTotal { type_name, tensors: 0, parameters: 0, bytes: 0 });
                types.len() - 1
            });
            let total = &mut types[at];
            total.tensors += 1;
            total.parameters = total.parameters.saturating_add(row.parameters);
            total.bytes += row.bytes;
        }
        types.sort_by_key(|total| std::cmp::Reverse(total.bytes));
        let parameters = types.iter().fold(0u64, |sum, t| sum.saturating_add(t.parameters));
        let tensor_bytes = types.iter().map(|t| t.bytes).sum();
        Weights {
            parameters,
            tensor_bytes,
            bits_per_weight: bits_per_weight(tensor_bytes, parameters),
            types,
            tensors,
        }
    }
}

/// Bits per weight; 0 without weights.
pub(super) fn bits_per_weight(bytes: u64, parameters: u64) -> f64 {
    if parameters == 0 { 0.0 } else { bytes as f64 * 8.0 / parameters as f64 }
}

fn imatrix_report(
    path: &Path,
    file_bytes: u64,
    layout: &'static str,
    matrix: &ImportanceMatrix,
) -> ImatrixReport {
    let statistics: BTreeMap<_, _> =
        matrix.statistics().into_iter().map(|s| (s.tensor.clone(), s)).collect();
    let row = |(name, entry): (&String, &crate::measure::imatrix::Entry)| {
        let known = statistics.get(name);
        ImatrixRow {
            tensor: name.clone(),
            columns: entry.sums.len() / entry.counts.len().max(1),
            matrices: entry.counts.len(),
            count: entry.counts.iter().fold(0i64, |sum, &n| sum.saturating_add(n)),
            sum_of_squares: known.map(|s| s.sum_of_squares),
            max: known.map(|s| s.max),
            active: known.map(|s| s.active),
            entropy: known.map(|s| s.entropy),
        }
    };
    ImatrixReport {
        path: path.display().to_string(),
        file_bytes,
        layout,
        datasets: matrix.datasets.clone(),
        chunks: matrix.chunk_count,
        chunk_size: (matrix.chunk_size > 0).then_some(matrix.chunk_size),
        entries: matrix.entries.iter().map(row).collect(),
    }
}

/// Elements of an array that a report shows.
const SHOWN: usize = 8;

pub(super) fn metadata_row(key: &str, value: &Value) -> MetadataRow {
    let (type_name, value, length) = match value {
        Value::U8(v) => ("u8", json!(v), None),
        Value::I8(v) => ("i8", json!(v), None),
        Value::U16(v) => ("u16", json!(v), None),
        Value::I16(v) => ("i16", json!(v), None),
        Value::U32(v) => ("u32", json!(v), None),
        Value::I32(v) => ("i32", json!(v), None),
        Value::F32(v) => ("f32", float(*v), None),
        Value::Bool(v) => ("bool", json!(v), None),
        Value::String(v) => ("string", json!(gguf::escape_invalid_utf8(v)), None),
        Value::U64(v) => ("u64", json!(v), None),
        Value::I64(v) => ("i64", json!(v), None),
        Value::F64(v) => ("f64", json!(v), None),
        Value::Array(array) => {
            let (type_name, first) = first_elements(array);
            (type_name, Json::Array(first), Some(array.len()))
        }
    };
    MetadataRow { key: key.to_string(), type_name: type_name.to_string(), value, length }
}

fn first_elements(array: &Array) -> (&'static str, Vec<Json>) {
    fn first<T: Serialize>(v: &[T]) -> Vec<Json> {
        v.iter().take(SHOWN).map(|element| json!(element)).collect()
    }
    match array {
        Array::U8(v) => ("u8[]", first(v)),
        Array::I8(v) => ("i8[]", first(v)),
        Array::U16(v) => ("u16[]", first(v)),
        Array::I16(v) => ("i16[]", first(v)),
        Array::U32(v) => ("u32[]", first(v)),
        Array::I32(v) => ("i32[]", first(v)),
        Array::F32(v) => ("f32[]", v.iter().take(SHOWN).map(|v| float(*v)).collect()),
        Array::Bool(v) => ("bool[]", first(v)),
        Array::String(v) => {
            let shown: Vec<_> =
                v.iter().take(SHOWN).map(|text| gguf::escape_invalid_utf8(text)).collect();
            ("string[]", first(&shown))
        }
        Array::U64(v) => ("u64[]", first(v)),
        Array::I64(v) => ("i64[]", first(v)),
        Array::F64(v) => ("f64[]", first(v)),
    }
}

/// `v` with the digits an f32 has: 0.00001, not 0.000009999999747378752. What JSON has no number for becomes
/// text.
fn float(v: f32) -> Json {
    let text = v.to_string();
    match text.parse().ok().and_then(Number::from_f64) {
        Some(number) => Json::Number(number),
        None => Json::String(text),
    }
}
