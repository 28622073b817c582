//! Writing GGUF version 3: the layout first, then tensors in any order, from any thread.
//!
//! Every size is known before the first byte of data, so [`Layout`] also serves to tell a file's exact
//! size without writing it.

use super::header::{MAGIC, MAX_DIMS, MAX_NAME, alignment};
use super::text::bytes_of_text;
use super::value::{Array, Metadata, Value};
use crate::base::error::{Error, Result};
use crate::base::output::OutputFile;
use crate::formats::source::{TensorInfo, TensorTable};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

const VERSION: u32 = 3;

/// Where everything in a GGUF file goes.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The file's first bytes, up to the end of the tensors' entries.
    header: Vec<u8>,
    data_start: u64,
    places: Vec<Place>,
    file_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    start: u64,
    bytes: u64,
}

impl Layout {
    /// The layout of a file with `metadata` and `tensors`, in these orders. Fails if readers would
    /// refuse it: an alignment that is no power of two, empty keys, repeated or overlong tensor names,
    /// more than four dimensions, rows that are no whole blocks. `origin` names the file in errors.
    pub fn new(origin: &str, metadata: &Metadata, tensors: &[TensorInfo]) -> Result<Layout> {
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
        let mut places = Vec::with_capacity(tensors.len());
        for info in table.infos() {
            let too_large = || Error::tensor(origin, &info.name, "too large for a file");
            put_tensor(origin, &mut header, info, offset)?;
            let bytes = info.bytes().expect("checked by TensorTable") as u64;
            places.push(Place { start: offset, bytes });
            let end = offset.checked_add(bytes).filter(|end| *end < 1 << 62);
            offset = end.ok_or_else(too_large)?.next_multiple_of(alignment);
        }
        let data_start = (header.len() as u64).next_multiple_of(alignment);
        places.iter_mut().for_each(|place| place.start += data_start);
        Ok(Layout { header, data_start, places, file_bytes: data_start + offset })
    }

    /// Size of the whole file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The file's first bytes: its metadata and the tensors' names, shapes, types and places.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Where tensor data begin, in bytes.
    pub fn data_start(&self) -> u64 {
        self.data_start
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

/// Appends a tensor's entry. Outer dimensions of 1 are dropped and a scalar gets one dimension, as
/// llama.cpp writes them (`ggml_n_dims`): a tensor is the same with them or without.
fn put_tensor(origin: &str, out: &mut Vec<u8>, info: &TensorInfo, offset: u64) -> Result<()> {
    if info.name.len() >= MAX_NAME {
        let detail = format!("the name has more than the {} bytes GGUF allows", MAX_NAME - 1);
        return Err(Error::tensor(origin, &info.name, detail));
    }
    let outer_ones = info.shape.iter().take_while(|&&d| d == 1).count();
    let dims = match info.shape.len() {
        0 => &[1][..],
        n => &info.shape[outer_ones.min(n - 1)..],
    };
    if dims.len() > MAX_DIMS {
        let detail = format!("shape {:?} has more than the 4 dimensions GGUF allows", info.shape);
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

/// A GGUF file being written: beside its target until [`GgufWriter::finish`], removed if dropped
/// before.
pub struct GgufWriter {
    file: OutputFile,
    layout: Layout,
    tensors: Vec<TensorInfo>,
    /// Bytes written of each tensor.
    written: Vec<AtomicU64>,
}

impl GgufWriter {
    /// Begins the file `path`: takes its whole size on the disk and writes the header. Fails as
    /// [`Layout::new`] and [`OutputFile::create`] do, and on a disk that is too small.
    pub fn create(
        path: impl AsRef<Path>,
        force: bool,
        metadata: &Metadata,
        tensors: Vec<TensorInfo>,
    ) -> Result<GgufWriter> {
        let path = path.as_ref();
        let layout = Layout::new(&path.display().to_string(), metadata, &tensors)?;
        let mut file = OutputFile::create(path, force)?;
        file.reserve(layout.file_bytes)?;
        file.append(&layout.header)?;
        let written = tensors.iter().map(|_| AtomicU64::new(0)).collect();
        Ok(GgufWriter { file, layout, tensors, written })
    }

    /// As [`GgufWriter::create`], under the hidden name that a later run finds again ([`OutputFile::reopen`]), for
    /// [`GgufWriter::seal`]. Tells whether an earlier run has begun just this file: then what it has written is
    /// there, and [`GgufWriter::keep`] takes a tensor as written.
    pub fn reopen(
        path: impl AsRef<Path>,
        metadata: &Metadata,
        tensors: Vec<TensorInfo>,
    ) -> Result<(GgufWriter, bool)> {
        let path = path.as_ref();
        let layout = Layout::new(&path.display().to_string(), metadata, &tensors)?;
        let mut file = OutputFile::reopen(path)?;
        let begun = file.bytes()? == layout.file_bytes && {
            let mut header = vec![0; layout.header.len()];
            file.read_at(0, &mut header)?;
            header == layout.header
        };
        if !begun {
            file.clear()?;
            file.reserve(layout.file_bytes)?;
            file.append(&layout.header)?;
        }
        let written = tensors.iter().map(|_| AtomicU64::new(0)).collect();
        Ok((GgufWriter { file, layout, tensors, written }, begun))
    }

    /// Takes tensor `index` as written, as an earlier run has left it.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn keep(&self, index: usize) {
        self.written[index].store(self.layout.places[index].bytes, Ordering::Relaxed);
    }

    /// Fills `bytes` with what is at `offset` of tensor `index`, in a file that was reopened.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn read_part(&self, index: usize, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.file.read_at(self.layout.places[index].start + offset, bytes)
    }

    /// Brings what has been written so far to the disk.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data()
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The tensors, as given to [`GgufWriter::create`].
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Writes all data of tensor `index`. Any number of threads may write different tensors at once.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn write_tensor(&self, index: usize, bytes: &[u8]) -> Result<()> {
        if bytes.len() as u64 != self.layout.places[index].bytes {
            return self.fail(
                index,
                format!("{} bytes given for shape {:?}", bytes.len(), self.tensors[index].shape),
            );
        }
        self.write_part(index, 0, bytes)
    }

    /// Writes a part of tensor `index`, which begins `offset` bytes into its data. Together the parts
    /// must cover the tensor once.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn write_part(&self, index: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let place = self.layout.places[index];
        let len = bytes.len() as u64;
        if offset.checked_add(len).is_none_or(|end| end > place.bytes) {
            return self.fail(index, format!("a part ends past its {} bytes", place.bytes));
        }
        if self.written[index].fetch_add(len, Ordering::Relaxed) + len > place.bytes {
            return self.fail(index, "was written twice".to_string());
        }
        self.file.write_at(place.start + offset, bytes)
    }

    fn fail(&self, index: usize, detail: String) -> Result<()> {
        let origin = self.file.target().display().to_string();
        Err(Error::tensor(origin, &self.tensors[index].name, detail))
    }

    /// Checks that all tensors were written, brings the file to the disk and gives it its name.
    /// Padding, after the last tensor too, is zero since the file was created.
    pub fn finish(self) -> Result<()> {
        self.check_whole()?;
        self.file.commit()
    }

    /// As [`GgufWriter::finish`], but leaves the file under its hidden name.
    pub fn seal(self) -> Result<()> {
        self.check_whole()?;
        self.file.seal()
    }

    fn check_whole(&self) -> Result<()> {
        for (index, place) in self.layout.places.iter().enumerate() {
            let written = self.written[index].load(Ordering::Relaxed);
            if written != place.bytes {
                let detail = format!("{written} of its {} bytes were written", place.bytes);
                return self.fail(index, detail);
            }
        }
        Ok(())
    }
}
