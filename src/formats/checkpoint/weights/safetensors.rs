//! One safetensors file: the header is validated, the data are mapped.
//!
//! Layout: the length of the header as u64, the header as JSON, the data of the tensors. Types and
//! entries come from the `safetensors` crate. The checks are made here, because errors of the crate
//! name neither tensor nor offset, and because it accepts repeated names.

use super::pytorch::looks_like_pytorch;
use super::unique_members::{UniqueMembers, unique_members};
use crate::base::dtype::DType;
use crate::base::error::{Error, Result};
use crate::base::mmap::Mmap;
use crate::formats::file_kind::refuse_foreign_bytes;
use crate::formats::source::TensorInfo;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo as Entry;
use serde::de::{Deserialize, Deserializer, MapAccess};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// The largest size of a header in bytes, the same as in the `safetensors` crate.
const MAX_HEADER: u64 = 100_000_000;

/// A tensor in the header of a safetensors file. Its type may be one that [`TensorInfo`] lacks.
#[derive(Clone, Debug)]
pub struct SafetensorsEntry {
    /// Name, unique in the file.
    pub name: String,
    /// Type by the header.
    pub dtype: Dtype,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// The range of its data, in bytes from the start of the file.
    pub range: Range<usize>,
}

impl SafetensorsEntry {
    /// The tensor as a [`TensorInfo`]; `None` if its type has no [`DType`].
    pub fn info(&self) -> Option<TensorInfo> {
        tensor_info(&self.name, self.dtype, &self.shape)
    }
}

/// A tensor as a [`TensorInfo`]; `None` if its type has no [`DType`].
pub(crate) fn tensor_info(name: &str, dtype: Dtype, shape: &[usize]) -> Option<TensorInfo> {
    let dtype = match dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::F64 => DType::F64,
        Dtype::I8 => DType::I8,
        Dtype::I16 => DType::I16,
        Dtype::I32 => DType::I32,
        Dtype::I64 => DType::I64,
        _ => return None,
    };
    Some(TensorInfo::new(name, shape.to_vec(), dtype))
}

/// A mapped safetensors file.
pub struct SafetensorsFile {
    map: Mmap,
    metadata: BTreeMap<String, String>,
    entries: Vec<SafetensorsEntry>,
}

impl SafetensorsFile {
    /// Maps `path` and checks its header. The data of each tensor must have the size of its shape
    /// and type and follow those of the previous tensor, and the last must end with the file.
    ///
    /// # Errors
    /// A file that cannot be read or violates these rules.
    pub fn open(path: impl AsRef<Path>) -> Result<SafetensorsFile> {
        let map = Mmap::open(path.as_ref())?;
        refuse_foreign_bytes(map.path(), &map, map.len() as u64)?;
        if map.starts_with(b"GGUF") || looks_like_pytorch(&map) {
            let what = if map.starts_with(b"GGUF") { "a GGUF file" } else { "a PyTorch file" };
            let detail =
                format!("{what} with the name of a safetensors file; rename it by its format");
            return Err(Error::format(map.path(), detail));
        }
        let header = header_bytes(map.path(), &map)?;
        let SafetensorsHeader { metadata, entries } = serde_json::from_slice(header)
            .map_err(|e| Error::format(map.path(), format!("its header is not valid: {e}")))?;
        let entries = check_entries(map.path(), entries, 8 + header.len(), map.len())?;
        Ok(SafetensorsFile { map, metadata, entries })
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        self.map.path()
    }

    /// The size of the file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// The metadata of the file, usually `format: pt`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The tensors, in the order of their data.
    pub fn entries(&self) -> &[SafetensorsEntry] {
        &self.entries
    }

    /// The data of tensor `index`.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn tensor_bytes(&self, index: usize) -> &[u8] {
        &self.map[self.entries[index].range.clone()]
    }
}

/// Whether a file of `file_bytes` bytes that begins with `head` may be a safetensors file: the
/// length of the header fits the file, and the header begins with a brace.
pub fn looks_like_safetensors(head: &[u8], file_bytes: u64) -> bool {
    match head.split_first_chunk::<8>() {
        Some((len, rest)) => {
            let len = u64::from_le_bytes(*len);
            rest.first() == Some(&b'{') && len <= MAX_HEADER && len + 8 <= file_bytes
        }
        None => false,
    }
}

fn header_bytes<'a>(path: &Path, file: &'a [u8]) -> Result<&'a [u8]> {
    let Some((len, rest)) = file.split_first_chunk::<8>() else {
        let detail = format!("truncated: {} bytes are too few for a safetensors file", file.len());
        return Err(Error::format(path, detail));
    };
    let len = u64::from_le_bytes(*len);
    if len > MAX_HEADER {
        let detail = format!(
            "not a safetensors file: by its first 8 bytes, the header would have {len} bytes; download it again"
        );
        return Err(Error::format(path, detail));
    }
    rest.get(..len as usize).ok_or_else(|| {
        let detail = format!("truncated: its header takes {len} bytes, {} are left", rest.len());
        Error::format(path, detail)
    })
}

/// Converts the entries of the header to ranges of the file, in the order of their data.
fn check_entries(
    path: &Path,
    mut entries: Vec<(String, Entry)>,
    data_start: usize,
    file_bytes: usize,
) -> Result<Vec<SafetensorsEntry>> {
    entries.sort_by(|(a_name, a), (b_name, b)| {
        (a.data_offsets, a_name).cmp(&(b.data_offsets, b_name)) //
    });
    let data_bytes = file_bytes - data_start; // no underflow: the header was read
    let mut expected = 0;
    let mut checked = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        let fail = |detail| Err(Error::tensor(path.display().to_string(), &name, detail));
        let (start, end) = entry.data_offsets;
        let Some(bytes) = entry_bytes(&entry) else {
            return fail(format!("shape {:?} is not possible", entry.shape));
        };
        if end < start || end - start != bytes {
            return fail(format!(
                "offsets {start} to {end} do not hold the {bytes} bytes of shape {:?} in {}",
                entry.shape, entry.dtype
            ));
        }
        if end > data_bytes {
            return fail(format!(
                "its data, at offsets {start} to {end}, run past the {data_bytes} bytes of data in \
                 the file; the file is truncated"
            ));
        }
        if start < expected {
            return fail(format!("its data at offset {start} overlap another tensor's"));
        }
        if start > expected {
            let gap = start - expected;
            return fail(format!(
                "{gap} bytes before its data at offset {start} belong to no tensor"
            ));
        }
        expected = end;
        let range = data_start + start..data_start + end;
        checked.push(SafetensorsEntry { name, dtype: entry.dtype, shape: entry.shape, range });
    }
    if expected != data_bytes {
        let detail = format!("{} bytes at the end belong to no tensor", data_bytes - expected);
        return Err(Error::format(path, detail));
    }
    Ok(checked)
}

/// The size in bytes of shape and type; `None` if it overflows or is not a whole number.
fn entry_bytes(entry: &Entry) -> Option<usize> {
    let elements = entry.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    let bits = elements.checked_mul(entry.dtype.bitsize())?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// The JSON of the header.
#[derive(Default)]
struct SafetensorsHeader {
    metadata: BTreeMap<String, String>,
    entries: Vec<(String, Entry)>,
}

impl UniqueMembers for SafetensorsHeader {
    const EXPECTED: &'static str = "an object of tensors";

    fn add<'de, A: MapAccess<'de>>(&mut self, name: String, map: &mut A) -> Result<(), A::Error> {
        if name == "__metadata__" {
            self.metadata = map.next_value()?;
        } else {
            self.entries.push((name, map.next_value()?));
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for SafetensorsHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SafetensorsHeader, D::Error> {
        unique_members(deserializer)
    }
}
