//! One safetensors file: the header validated, the data mapped.
//!
//! Layout: a u64 header length, that many bytes of JSON, then the tensors' data. Types and entries
//! are the `safetensors` crate's; the checks are made here, because its errors name neither the
//! tensor nor the offset, and because it lets a repeated name pass.

use super::pytorch::looks_like_pytorch;
use crate::base::dtype::DType;
use crate::base::error::{Error, Result};
use crate::base::mmap::Mmap;
use crate::formats::file_kind::refuse_foreign_bytes;
use crate::formats::source::TensorInfo;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo as Entry;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;

/// Longer headers are lies; the limit is the `safetensors` crate's.
const MAX_HEADER: u64 = 100_000_000;

/// A tensor of a safetensors file, as its header describes it. Its type may be one that models do
/// not compute with.
#[derive(Clone, Debug)]
pub struct SafetensorsEntry {
    pub name: String,
    pub dtype: Dtype,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// Where the data are in the file, in bytes from its start.
    pub range: Range<usize>,
}

impl SafetensorsEntry {
    /// Name, shape and type in this library's terms, unless the type is foreign to it.
    pub fn info(&self) -> Option<TensorInfo> {
        tensor_info(&self.name, self.dtype, &self.shape)
    }
}

/// A tensor in this library's terms, unless its type is foreign to it.
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
    /// Maps `path` and checks its header: every tensor's bytes are what shape and type need, follow
    /// the previous tensor's, and the last ends where the file does.
    pub fn open(path: impl AsRef<Path>) -> Result<SafetensorsFile> {
        let map = Mmap::open(path.as_ref())?;
        refuse_foreign_bytes(map.path(), &map, map.len() as u64)?;
        if map.starts_with(b"GGUF") || looks_like_pytorch(&map) {
            let what = if map.starts_with(b"GGUF") { "a GGUF file" } else { "a PyTorch file" };
            let detail =
                format!("{what} under the name of a safetensors file; name it by what it is");
            return Err(Error::format(map.path(), detail));
        }
        let header = header_bytes(map.path(), &map)?;
        let SafetensorsHeader { metadata, entries } = serde_json::from_slice(header)
            .map_err(|e| Error::format(map.path(), format!("its header is not usable: {e}")))?;
        let entries = check_entries(map.path(), entries, 8 + header.len(), map.len())?;
        Ok(SafetensorsFile { map, metadata, entries })
    }

    pub fn path(&self) -> &Path {
        self.map.path()
    }

    /// Size of the file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// What the file says of itself, `format: pt` usually.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The tensors, in the order of their data.
    pub fn entries(&self) -> &[SafetensorsEntry] {
        &self.entries
    }

    /// The bytes of tensor `index`.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn tensor_bytes(&self, index: usize) -> &[u8] {
        &self.map[self.entries[index].range.clone()]
    }
}

/// Whether `head`, the first bytes of a file of `file_bytes` bytes, may begin a safetensors file: a
/// header length that fits the file, and the header's opening brace.
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
        let detail = format!("truncated: {} bytes are no safetensors file", file.len());
        return Err(Error::format(path, detail));
    };
    let len = u64::from_le_bytes(*len);
    if len > MAX_HEADER {
        let detail = format!(
            "not a safetensors file: its first 8 bytes would mean a header of {len} bytes; get it again"
        );
        return Err(Error::format(path, detail));
    }
    rest.get(..len as usize).ok_or_else(|| {
        let detail = format!("truncated: its header takes {len} bytes, {} are left", rest.len());
        Error::format(path, detail)
    })
}

/// Turns the header's entries into ranges of the file, in the order of their data.
fn check_entries(
    path: &Path,
    mut entries: Vec<(String, Entry)>,
    data_start: usize,
    file_bytes: usize,
) -> Result<Vec<SafetensorsEntry>> {
    entries.sort_by(|(a_name, a), (b_name, b)| {
        (a.data_offsets, a_name).cmp(&(b.data_offsets, b_name)) //
    });
    let data_bytes = file_bytes - data_start; // the header was read, so no underflow
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
                "{gap} bytes before its data at offset {start} belong to nothing"
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

/// Bytes that shape and type need, or `None` if that overflows or is no whole number of bytes.
fn entry_bytes(entry: &Entry) -> Option<usize> {
    let elements = entry.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    let bits = elements.checked_mul(entry.dtype.bitsize())?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// The header's JSON.
struct SafetensorsHeader {
    metadata: BTreeMap<String, String>,
    entries: Vec<(String, Entry)>,
}

impl<'de> Deserialize<'de> for SafetensorsHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SafetensorsHeader, D::Error> {
        struct HeaderVisitor;

        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = SafetensorsHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<SafetensorsHeader, A::Error> {
                let mut header =
                    SafetensorsHeader { metadata: BTreeMap::new(), entries: Vec::new() };
                let mut seen = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("'{name}' occurs twice")));
                    }
                    if name == "__metadata__" {
                        header.metadata = map.next_value()?;
                    } else {
                        header.entries.push((name, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }

        deserializer.deserialize_map(HeaderVisitor)
    }
}
