//! The layout of a GGUF file: its header as bytes, and the place of every tensor.
//!
//! Every size is known before the first byte of data, so the layout gives a file's exact size
//! without writing it.

use super::header::{MAGIC, MAX_DIMS, MAX_NAME, alignment};
use super::metadata::{Array, Metadata, Value};
use super::strings::bytes_of_text;
use crate::base::error::{Error, Result};
use crate::formats::source::{TensorInfo, TensorTable};

/// The version of the format that is written.
const VERSION: u32 = 3;

/// The layout of a GGUF file: where its header and the data of each tensor are.
#[derive(Clone, Debug)]
pub struct GgufLayout {
    /// The file's first bytes, up to the end of the tensors' entries.
    header: Vec<u8>,
    data_start: u64,
    data: Vec<DataRange>,
    file_bytes: u64,
}

/// The data of one tensor in the file, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DataRange {
    pub start: u64,
    pub bytes: u64,
}

impl GgufLayout {
    /// Lays out a file with `metadata` and `tensors`, both in the given order. `origin` names the
    /// file in errors.
    ///
    /// # Errors
    /// A file that readers would refuse: an alignment that is not a power of two, empty keys,
    /// repeated or too long tensor names, more than four dimensions, rows that are not a whole
    /// number of blocks.
    pub fn new(origin: &str, metadata: &Metadata, tensors: &[TensorInfo]) -> Result<GgufLayout> {
        let fail = |detail: String| Error::model(origin, detail);
        let alignment = alignment(metadata).map_err(fail)?;
        let table = TensorTable::new(origin, tensors.to_vec())?;
        let mut header = Vec::new();
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
        header.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata.iter() {
            if key.is_empty() {
                return Err(fail("a metadata key is empty".to_string()));
            }
            put_string(&mut header, key);
            put_value(&mut header, value);
        }
        let mut offset = 0u64;
        let mut data = Vec::with_capacity(tensors.len());
        for info in table.infos() {
            let too_large = || Error::tensor(origin, &info.name, "too large for a file");
            put_tensor(origin, &mut header, info, offset)?;
            let bytes = info.bytes().expect("checked by TensorTable") as u64;
            data.push(DataRange { start: offset, bytes });
            let end = offset.checked_add(bytes).filter(|end| *end < 1 << 62);
            offset = end.ok_or_else(too_large)?.next_multiple_of(alignment);
        }
        let data_start = (header.len() as u64).next_multiple_of(alignment);
        data.iter_mut().for_each(|range| range.start += data_start);
        Ok(GgufLayout { header, data_start, data, file_bytes: data_start + offset })
    }

    /// The size of the whole file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The header as bytes: metadata, and name, shape, type and offset of every tensor.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// The offset in bytes at which tensor data begin.
    pub fn data_start(&self) -> u64 {
        self.data_start
    }

    /// The data range of each tensor, in order.
    pub(crate) fn data_ranges(&self) -> &[DataRange] {
        &self.data
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    let bytes = bytes_of_text(text);
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(&bytes);
}

/// Appends a type id and the value.
fn put_value(out: &mut Vec<u8>, value: &Value) {
    macro_rules! number {
        ($id:literal, $v:expr) => {{
            out.extend_from_slice(&u32::to_le_bytes($id));
            out.extend_from_slice(&$v.to_le_bytes());
        }};
    }
    match value {
        Value::U8(v) => number!(0, v),
        Value::I8(v) => number!(1, v),
        Value::U16(v) => number!(2, v),
        Value::I16(v) => number!(3, v),
        Value::U32(v) => number!(4, v),
        Value::I32(v) => number!(5, v),
        Value::F32(v) => number!(6, v),
        Value::Bool(v) => number!(7, u8::from(*v)),
        Value::String(v) => {
            out.extend_from_slice(&8u32.to_le_bytes());
            put_string(out, v);
        }
        Value::Array(v) => {
            out.extend_from_slice(&9u32.to_le_bytes());
            put_array(out, v);
        }
        Value::U64(v) => number!(10, v),
        Value::I64(v) => number!(11, v),
        Value::F64(v) => number!(12, v),
    }
}

/// Appends the element type's id, the number of elements, and the elements.
fn put_array(out: &mut Vec<u8>, array: &Array) {
    macro_rules! numbers {
        ($id:literal, $v:expr) => {{
            out.extend_from_slice(&u32::to_le_bytes($id));
            out.extend_from_slice(&($v.len() as u64).to_le_bytes());
            $v.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
        }};
    }
    match array {
        Array::U8(v) => numbers!(0, v),
        Array::I8(v) => numbers!(1, v),
        Array::U16(v) => numbers!(2, v),
        Array::I16(v) => numbers!(3, v),
        Array::U32(v) => numbers!(4, v),
        Array::I32(v) => numbers!(5, v),
        Array::F32(v) => numbers!(6, v),
        Array::Bool(v) => {
            out.extend_from_slice(&7u32.to_le_bytes());
            out.extend_from_slice(&(v.len() as u64).to_le_bytes());
            out.extend(v.iter().map(|&b| u8::from(b)));
        }
        Array::String(v) => {
            out.extend_from_slice(&8u32.to_le_bytes());
            out.extend_from_slice(&(v.len() as u64).to_le_bytes());
            v.iter().for_each(|text| put_string(out, text));
        }
        Array::U64(v) => numbers!(10, v),
        Array::I64(v) => numbers!(11, v),
        Array::F64(v) => numbers!(12, v),
    }
}

/// Appends the entry of a tensor. Like llama.cpp (`ggml_n_dims`), drops outer dimensions of 1 and
/// gives a scalar one dimension.
fn put_tensor(origin: &str, out: &mut Vec<u8>, info: &TensorInfo, offset: u64) -> Result<()> {
    if info.name.len() >= MAX_NAME {
        let detail = format!("the name has more than {} bytes, the limit of GGUF", MAX_NAME - 1);
        return Err(Error::tensor(origin, &info.name, detail));
    }
    let outer_ones = info.shape.iter().take_while(|&&d| d == 1).count();
    let dims = match info.shape.len() {
        0 => &[1][..],
        n => &info.shape[outer_ones.min(n - 1)..],
    };
    if dims.len() > MAX_DIMS {
        let detail =
            format!("shape {:?} has more than 4 dimensions, the limit of GGUF", info.shape);
        return Err(Error::tensor(origin, &info.name, detail));
    }
    put_string(out, &info.name);
    out.extend_from_slice(&(dims.len() as u32).to_le_bytes());
    for &dim in dims.iter().rev() {
        out.extend_from_slice(&(dim as u64).to_le_bytes());
    }
    out.extend_from_slice(&info.dtype.id().to_le_bytes());
    out.extend_from_slice(&offset.to_le_bytes());
    Ok(())
}
