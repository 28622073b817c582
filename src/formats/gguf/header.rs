//! Parsing and validating the header of a GGUF file.
//!
//! Layout: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. The limits are those of
//! llama.cpp (`ggml/src/gguf.cpp`, October 2026), so that llama.cpp loads every file that is
//! accepted here. Versions 2 and 3 differ only in that 3 allows big-endian files, which are
//! refused. Sizes are compared with the remaining bytes before anything is allocated.

use super::metadata::{Array, Metadata, Value};
use super::strings::{is_utf8, text_of_bytes};
use crate::base::dtype::DType;
use crate::base::error::{Error, Result};
use crate::formats::source::TensorInfo;
use std::collections::HashSet;
use std::path::Path;

/// The first bytes of every GGUF file.
pub const MAGIC: &[u8; 4] = b"GGUF";
/// The alignment of tensor data in bytes, for files without [`ALIGNMENT_KEY`].
pub const DEFAULT_ALIGNMENT: u64 = 32;
/// The metadata key for the alignment of tensor data.
pub const ALIGNMENT_KEY: &str = "general.alignment";
/// Limit for the lengths of strings and arrays (llama.cpp: `GGUF_MAX_STRING_LENGTH`).
const MAX_LENGTH: u64 = 1 << 30;
/// Tensor names are shorter than this, in bytes (llama.cpp: `GGML_MAX_NAME`).
pub(super) const MAX_NAME: usize = 64;
/// The largest number of dimensions of a tensor (llama.cpp: `GGML_MAX_DIMS`).
pub(super) const MAX_DIMS: usize = 4;

/// The part of a GGUF file before the tensor data.
#[derive(Clone, Debug)]
pub struct GgufHeader {
    /// Version of the format, 2 or 3.
    pub version: u32,
    /// Metadata, in the order of the file.
    pub metadata: Metadata,
    /// Alignment of the tensor data in bytes.
    pub alignment: u64,
    /// End of the header, in bytes from the start of the file. The data begin at the next aligned
    /// offset.
    pub end: u64,
    /// Tensors in the order of the file; shapes have the outermost dimension first.
    pub tensors: Vec<TensorInfo>,
    /// Offset of each tensor's data from the start of the file. All data are within the file.
    pub offsets: Vec<u64>,
}

impl GgufHeader {
    /// Parses and validates the header in `file`, the bytes of the whole file; `path` names it in
    /// errors.
    ///
    /// # Errors
    /// The first violation of the format, with its offset.
    pub fn parse(path: &Path, file: &[u8]) -> Result<GgufHeader> {
        let mut reader = HeaderReader { path, file, at: 0 };
        if reader.take(4, "the magic").ok() != Some(MAGIC) {
            return Err(Error::format(path, "not a GGUF file: it does not begin with 'GGUF'"));
        }
        let version = reader.u32("the version")?;
        check_version(path, version)?;
        let n_tensors = reader.count("tensors", MIN_TENSOR_BYTES)?;
        let n_entries = reader.count("metadata entries", MIN_ENTRY_BYTES)?;
        let entries = (0..n_entries).map(|i| reader.entry(i)).collect::<Result<Vec<_>>>()?;
        let metadata = Metadata::from_entries(entries)
            .map_err(|key| Error::format(path, format!("metadata key '{key}' occurs twice")))?;
        let alignment = alignment(&metadata).map_err(|text| Error::format(path, text))?;
        let raw = (0..n_tensors).map(|i| reader.tensor(i)).collect::<Result<Vec<_>>>()?;
        check_names(path, &raw)?;
        let offsets = data_offsets(&reader, alignment, &raw)?;
        let tensors = raw.into_iter().map(|(info, _)| info).collect();
        let end = reader.at as u64;
        Ok(GgufHeader { version, metadata, alignment, end, tensors, offsets })
    }
}

/// The alignment of tensor data by `metadata`.
pub(super) fn alignment(metadata: &Metadata) -> Result<u64, String> {
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(n)) if n.is_power_of_two() => Ok(u64::from(*n)),
        Some(v) => Err(format!("{ALIGNMENT_KEY} is {v:?}, not a power of two of type u32")),
    }
}

fn check_version(path: &Path, version: u32) -> Result<()> {
    let detail = match version {
        2 | 3 => return Ok(()),
        1 => "GGUF version 1 is obsolete and not supported; convert the model again".to_string(),
        // A small number in the upper bytes was written in the other byte order.
        v if v & 0xffff == 0 && v != 0 => {
            "a big-endian GGUF file; only little-endian files are supported".into()
        }
        v => format!("GGUF version {v} is not supported; versions 2 and 3 are"),
    };
    Err(Error::format(path, detail))
}

fn check_names(path: &Path, tensors: &[(TensorInfo, u64)]) -> Result<()> {
    let mut seen = HashSet::with_capacity(tensors.len());
    match tensors.iter().find(|(info, _)| !seen.insert(info.name.as_str())) {
        Some((info, _)) => {
            let origin = path.display().to_string();
            Err(Error::tensor(origin, &info.name, "the name occurs twice"))
        }
        None => Ok(()),
    }
}

/// Computes the offsets of the data. Every tensor must follow the previous one after its padding
/// and end within the file, which excludes overlaps and gaps, as in llama.cpp.
fn data_offsets(
    reader: &HeaderReader<'_>,
    alignment: u64,
    tensors: &[(TensorInfo, u64)],
) -> Result<Vec<u64>> {
    let file_bytes = reader.file.len() as u64;
    // Cannot overflow: positions in a file are below 2^63, alignments at most 2^31.
    let data_start = (reader.at as u64).next_multiple_of(alignment);
    let mut expected = 0u64;
    let mut offsets = Vec::with_capacity(tensors.len());
    for (info, offset) in tensors {
        let fail = |detail: String| {
            Err(Error::tensor(reader.path.display().to_string(), &info.name, detail))
        };
        if *offset != expected {
            return fail(format!("its data offset is {offset}, where {expected} is required"));
        }
        let bytes = info.bytes().expect("checked when the entry was read") as u64;
        let end = data_start.checked_add(expected).and_then(|start| start.checked_add(bytes));
        match end {
            Some(end) if end <= file_bytes => {}
            _ => {
                return fail(format!(
                    "its {bytes} bytes of data at offset {} run past the end of the file at \
                     {file_bytes}; the file is truncated",
                    data_start.saturating_add(expected)
                ));
            }
        }
        offsets.push(data_start + expected);
        expected = (expected + bytes).next_multiple_of(alignment);
    }
    Ok(offsets)
}

/// The smallest entry of a tensor: name length, name of one byte, n_dims, type, offset.
const MIN_TENSOR_BYTES: u64 = 8 + 1 + 4 + 4 + 8;
/// The smallest metadata entry: key length, key of one byte, type, value of one byte.
const MIN_ENTRY_BYTES: u64 = 8 + 1 + 4 + 1;

/// Reads the header from front to back.
struct HeaderReader<'a> {
    path: &'a Path,
    file: &'a [u8],
    at: usize,
}

impl<'a> HeaderReader<'a> {
    fn fail<T>(&self, detail: impl std::fmt::Display) -> Result<T> {
        Err(Error::format_at(self.path, self.at as u64, detail.to_string()))
    }

    fn remaining(&self) -> u64 {
        (self.file.len() - self.at) as u64
    }

    fn take(&mut self, bytes: u64, what: &str) -> Result<&'a [u8]> {
        if bytes > self.remaining() {
            return self.fail(format_args!(
                "truncated: {what} takes {bytes} bytes, {} are left",
                self.remaining()
            ));
        }
        let start = self.at;
        self.at += bytes as usize;
        Ok(&self.file[start..self.at])
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        Ok(self.take(N as u64, what)?.try_into().expect("take returns N bytes"))
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// Reads the number of `what`, each of which takes at least `min_bytes` of the remaining file.
    fn count(&mut self, what: &str, min_bytes: u64) -> Result<u64> {
        let n = self.u64(what)?;
        if n > self.remaining() / min_bytes {
            return self.fail(format_args!(
                "{n} {what} cannot be in the remaining {} bytes",
                self.remaining()
            ));
        }
        Ok(n)
    }

    /// Reads a name or key, which must be valid UTF-8.
    fn name(&mut self, what: &str) -> Result<String> {
        let text = self.string(what)?;
        match is_utf8(&text) {
            true => Ok(text),
            false => self.fail(format_args!("{what} is not valid UTF-8")),
        }
    }

    /// Reads a string, which may hold any bytes; see [`super::text_of_bytes`].
    fn string(&mut self, what: &str) -> Result<String> {
        let len = self.u64(what)?;
        if len > MAX_LENGTH {
            return self.fail(format_args!("{what} has {len} bytes, more than a string may have"));
        }
        Ok(text_of_bytes(self.take(len, what)?))
    }

    fn bool(&self, byte: u8) -> Result<bool> {
        match byte {
            0 => Ok(false),
            1 => Ok(true),
            other => self.fail(format_args!("{other} is not a boolean, 0 or 1")),
        }
    }

    /// Reads metadata entry `index`, a key and its value.
    fn entry(&mut self, index: u64) -> Result<(String, Value)> {
        let key = self.name(&format!("the key of metadata entry {index}"))?;
        if key.is_empty() {
            return self.fail(format_args!("the key of metadata entry {index} is empty"));
        }
        let what = format!("the value of '{key}'");
        let type_id = self.u32(&what)?;
        let value = match type_id {
            0 => Value::U8(u8::from_le_bytes(self.array(&what)?)),
            1 => Value::I8(i8::from_le_bytes(self.array(&what)?)),
            2 => Value::U16(u16::from_le_bytes(self.array(&what)?)),
            3 => Value::I16(i16::from_le_bytes(self.array(&what)?)),
            4 => Value::U32(self.u32(&what)?),
            5 => Value::I32(i32::from_le_bytes(self.array(&what)?)),
            6 => Value::F32(f32::from_le_bytes(self.array(&what)?)),
            7 => {
                let [byte] = self.array(&what)?;
                Value::Bool(self.bool(byte)?)
            }
            8 => Value::String(self.string(&what)?),
            9 => Value::Array(self.array_value(&what)?),
            10 => Value::U64(self.u64(&what)?),
            11 => Value::I64(i64::from_le_bytes(self.array(&what)?)),
            12 => Value::F64(f64::from_le_bytes(self.array(&what)?)),
            other => return self.fail(format_args!("{what} has the unknown type {other}")),
        };
        Ok((key, value))
    }

    fn array_value(&mut self, what: &str) -> Result<Array> {
        let type_id = self.u32(what)?;
        let n = self.u64(what)?;
        if n > MAX_LENGTH {
            return self.fail(format_args!("{what} has {n} elements, more than an array may have"));
        }
        Ok(match type_id {
            0 => Array::U8(self.take(n, what)?.to_vec()),
            1 => Array::I8(self.numbers(n, what, i8::from_le_bytes)?),
            2 => Array::U16(self.numbers(n, what, u16::from_le_bytes)?),
            3 => Array::I16(self.numbers(n, what, i16::from_le_bytes)?),
            4 => Array::U32(self.numbers(n, what, u32::from_le_bytes)?),
            5 => Array::I32(self.numbers(n, what, i32::from_le_bytes)?),
            6 => Array::F32(self.numbers(n, what, f32::from_le_bytes)?),
            7 => {
                let bytes = self.take(n, what)?;
                Array::Bool(bytes.iter().map(|&b| self.bool(b)).collect::<Result<_>>()?)
            }
            8 => Array::String(self.strings(n, what)?),
            9 => {
                return self
                    .fail(format_args!("{what} is an array of arrays, which is not supported"));
            }
            10 => Array::U64(self.numbers(n, what, u64::from_le_bytes)?),
            11 => Array::I64(self.numbers(n, what, i64::from_le_bytes)?),
            12 => Array::F64(self.numbers(n, what, f64::from_le_bytes)?),
            other => {
                return self.fail(format_args!("{what} has elements of the unknown type {other}"));
            }
        })
    }

    fn numbers<T, const N: usize>(
        &mut self,
        n: u64,
        what: &str,
        convert: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>> {
        // No overflow: `n` is at most 2^30 and N at most 8.
        let bytes = self.take(n * N as u64, what)?;
        let (chunks, _) = bytes.as_chunks::<N>();
        Ok(chunks.iter().map(|&chunk| convert(chunk)).collect())
    }

    fn strings(&mut self, n: u64, what: &str) -> Result<Vec<String>> {
        // Every string takes at least the 8 bytes of its length.
        if n > self.remaining() / 8 {
            return self.fail(format_args!("truncated: {what} cannot have {n} strings"));
        }
        (0..n).map(|_| self.string(what)).collect()
    }

    /// Reads the entry of tensor `index` and the offset of its data.
    fn tensor(&mut self, index: u64) -> Result<(TensorInfo, u64)> {
        let name = self.name(&format!("the name of tensor {index}"))?;
        if name.len() >= MAX_NAME {
            return self.fail(format_args!(
                "the name of tensor {index} has {} bytes; {} is the limit",
                name.len(),
                MAX_NAME - 1
            ));
        }
        let what = format!("the entry of tensor '{name}'");
        let n_dims = self.u32(&what)?;
        if n_dims as usize > MAX_DIMS {
            return self.fail(format_args!("tensor '{name}' has {n_dims} dimensions, more than 4"));
        }
        let mut shape = Vec::with_capacity(n_dims as usize);
        for _ in 0..n_dims {
            match i64::from_le_bytes(self.array(&what)?).try_into() {
                Ok(dim) => shape.push(dim),
                Err(_) => {
                    return self.fail(format_args!("tensor '{name}' has a negative dimension"));
                }
            }
        }
        shape.reverse();
        let type_id = self.u32(&what)?;
        let Some(dtype) = DType::from_id(type_id) else {
            return self.fail(format_args!("tensor '{name}' has the unknown type {type_id}"));
        };
        let offset = self.u64(&what)?;
        let info = TensorInfo { name, shape, dtype };
        // llama.cpp counts elements in i64.
        let countable = |n: usize, d: &usize| n.checked_mul(*d).filter(|n| *n < 1 << 62);
        if info.shape.iter().try_fold(1usize, countable).is_none() || info.bytes().is_none() {
            return self.fail(format_args!(
                "tensor '{}': shape {:?} does not fit type {dtype}",
                info.name, info.shape
            ));
        }
        Ok((info, offset))
    }
}
