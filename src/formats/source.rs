//! The central contract: a tensor source lists tensors and yields one tensor's data on demand.
//!
//! Files are sources; merging, renaming, permuting and converting are sources over sources, computed
//! when a tensor is read and not before. So stages chain without intermediate files, and memory stays
//! bounded by the few tensors in flight. Deliberately absent: caching; a reader that wants a tensor twice
//! reads it twice.

use crate::base::dtype::DType;
use crate::base::error::{Error, Result};
use crate::quants;
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;

/// Bytes of a part of a tensor, see [`TensorSource::stream`]: enough to hide the cost of handing it over,
/// and little to hold.
pub const PART_BYTES: usize = 1 << 20;

/// Takes the parts of a tensor, each with its offset in bytes.
pub type PartSink<'a> = dyn Fn(usize, &[u8]) -> Result<()> + Sync + 'a;

/// Gives `bytes` to `sink` in parts of [`PART_BYTES`], the last one shorter, on all threads. Of several
/// errors, that of the first part.
pub fn send_parts(bytes: &[u8], sink: &PartSink<'_>) -> Result<()> {
    let parts = bytes.par_chunks(PART_BYTES).enumerate();
    let results: Vec<_> = parts.map(|(number, part)| sink(number * PART_BYTES, part)).collect();
    results.into_iter().collect()
}

/// Name, shape and type of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    /// Outermost dimension first, as safetensors and NumPy have it: a matrix is `[rows, columns]`
    /// and its rows are contiguous. GGUF's `ne` is this, reversed.
    pub shape: Vec<usize>,
    pub dtype: DType,
}

impl TensorInfo {
    /// Matrices of a stack, such as a mixture's experts; 1 of what is none.
    pub fn matrices(&self) -> usize {
        if self.shape.len() > 2 { self.shape[0] } else { 1 }
    }

    pub fn new(name: impl Into<String>, shape: Vec<usize>, dtype: DType) -> TensorInfo {
        TensorInfo { name: name.into(), shape, dtype }
    }

    /// Number of elements. Saturates rather than overflows; [`TensorInfo::bytes`] is the checked way
    /// to a size.
    pub fn elements(&self) -> usize {
        self.shape.iter().fold(1usize, |n, &d| n.saturating_mul(d))
    }

    /// Length of a row, the innermost dimension; 1 for a scalar.
    pub fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Bytes of the data, or `None` if rows are no whole blocks or the product overflows.
    pub fn bytes(&self) -> Option<usize> {
        let rows = self.shape.iter().rev().skip(1).try_fold(1usize, |n, &d| n.checked_mul(d))?;
        self.dtype.row_bytes(self.row_len())?.checked_mul(rows)
    }
}

/// One tensor's data: borrowed from a memory map where that is possible, owned where it was computed.
#[derive(Clone, Debug)]
pub struct TensorData<'a> {
    pub dtype: DType,
    pub shape: Vec<usize>,
    /// Little-endian elements or blocks, row after row. Not necessarily aligned.
    pub bytes: Cow<'a, [u8]>,
}

impl<'a> TensorData<'a> {
    /// Decodes to f32, dequantizing where needed. Fails only for types that cannot be decoded.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let n = self.shape.iter().product();
        let mut out = vec![0f32; n];
        quants::decode(self.dtype, &self.bytes, &mut out)?;
        Ok(out)
    }

    /// Fails unless the data have the type and the length that `info`, the table's entry, announces.
    pub fn check(&self, origin: &str, info: &TensorInfo) -> Result<()> {
        if self.dtype == info.dtype && Some(self.bytes.len()) == info.bytes() {
            return Ok(());
        }
        let detail = format!(
            "{} bytes of {} came where {:?} in {} was announced",
            self.bytes.len(),
            self.dtype,
            info.shape,
            info.dtype
        );
        Err(Error::tensor(origin, &info.name, detail))
    }

    /// F32 data, encoded from `values`.
    pub fn from_f32(shape: Vec<usize>, values: &[f32]) -> TensorData<'static> {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        TensorData { dtype: DType::F32, shape, bytes: Cow::Owned(bytes) }
    }
}

/// The tensors of a source, in the source's order, with unique names: a table that exists is valid.
#[derive(Clone, Debug, Default)]
pub struct TensorTable {
    infos: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
}

impl TensorTable {
    /// Fails if a name occurs twice or a size overflows; `origin` names the source in the error.
    pub fn new(origin: &str, infos: Vec<TensorInfo>) -> Result<TensorTable> {
        let mut by_name = HashMap::with_capacity(infos.len());
        for (index, info) in infos.iter().enumerate() {
            if info.bytes().is_none() {
                let detail = format!("shape {:?} does not fit type {}", info.shape, info.dtype);
                return Err(Error::tensor(origin, &info.name, detail));
            }
            if by_name.insert(info.name.clone(), index).is_some() {
                return Err(Error::tensor(origin, &info.name, "the name occurs twice"));
            }
        }
        Ok(TensorTable { infos, by_name })
    }

    pub fn infos(&self) -> &[TensorInfo] {
        &self.infos
    }

    pub fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The info of tensor `name`, if it is there.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.find(name).map(|i| &self.infos[i])
    }
}

/// The blocks of a GGUF type that a tensor is stored in: its values are theirs times `scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Blocks {
    pub dtype: DType,
    pub scale: f32,
    /// What the tensor's inputs are scaled by in programs that quantize them, too.
    pub input_scale: Option<f32>,
}

/// Gives names, shapes and types and, on demand, one tensor's data. Reading is thread-safe and may
/// compute: the result is equal at every call.
pub trait TensorSource: Send + Sync {
    /// What the source is, for error messages: a path, usually.
    fn origin(&self) -> &str;

    /// All tensors, in the source's order.
    fn table(&self) -> &TensorTable;

    /// The data of tensor `index` of the table.
    ///
    /// # Panics
    /// If `index` is out of range.
    fn read(&self, index: usize) -> Result<TensorData<'_>>;

    /// Number, from 0, of the shard that holds tensor `index` of the table, where an output can have
    /// the same shards: in GGUF files. `None` for every other source.
    fn shard(&self, _index: usize) -> Option<usize> {
        None
    }

    /// Gives the data of tensor `index` to `sink`: parts of [`PART_BYTES`] bytes, the last one shorter,
    /// each once, from any thread and in any order. What a writer uses: a source that can make or copy
    /// a tensor part by part need not hold it whole.
    ///
    /// # Errors
    /// Those of reading and of `sink`; data that are not what the table announces.
    ///
    /// # Panics
    /// If `index` is out of range.
    fn stream(&self, index: usize, sink: &PartSink<'_>) -> Result<()> {
        let data = self.read(index)?;
        data.check(self.origin(), &self.table().infos()[index])?;
        send_parts(&data.bytes, sink)
    }

    /// About how many bytes reading tensor `index` takes while it lasts, the result with it: 0 where
    /// the data are mapped. For those who read several at once within a bound.
    fn working_bytes(&self, _index: usize) -> u64 {
        0
    }

    /// The blocks that tensor `index` is stored in, where it is a tensor of floats for all other purposes:
    /// conversion hands them through with [`TensorSource::read_blocks`].
    fn blocks(&self, _index: usize) -> Option<Blocks> {
        None
    }

    /// The data of tensor `index` as [`TensorSource::blocks`] describes them.
    ///
    /// # Errors
    /// Those of reading; a tensor that has no blocks.
    ///
    /// # Panics
    /// If `index` is out of range.
    fn read_blocks(&self, index: usize) -> Result<TensorData<'_>> {
        Err(Error::tensor(self.origin(), &self.table().infos()[index].name, "has no blocks"))
    }

    /// The same of [`TensorSource::stream`], the parts in flight with it: less where a source makes a tensor
    /// part by part.
    fn stream_bytes(&self, index: usize) -> u64 {
        self.working_bytes(index)
    }

    /// What the data are dequantized from, `FP8 E4M3 (blocks of 128x128)` for example; `None` for
    /// weights that were never quantized, as far as their files say.
    fn quantization(&self) -> Option<&str> {
        None
    }

    /// The files that all data are made from, so that a later run can tell whether they have changed;
    /// `None` where that is not known.
    fn files(&self) -> Option<Vec<PathBuf>> {
        None
    }

    /// In how many pieces of equal size tensor `index` can be read, cut along its outermost dimension:
    /// the experts of a mixture where each is made on its own. Most tensors have one.
    fn pieces(&self, _index: usize) -> usize {
        1
    }

    /// Piece `piece` of tensor `index`, so that who goes over a tensor in order need not hold it whole.
    /// Its shape is the tensor's with as many of the outermost dimension as are in the piece.
    ///
    /// # Panics
    /// If `index` is out of range.
    fn read_piece(&self, index: usize, piece: usize) -> Result<TensorData<'_>> {
        debug_assert_eq!(piece, 0, "a tensor of one piece");
        self.read(index)
    }

    /// Matrix `matrix` of tensor `index`, in a shape of two dimensions: of a tensor of three dimensions
    /// that one along the outermost, of others the tensor. Only its piece is read.
    ///
    /// # Errors
    /// Those of reading; a tensor that is no stack of more than `matrix` matrices.
    ///
    /// # Panics
    /// If `index` is out of range.
    fn read_matrix(&self, index: usize, matrix: usize) -> Result<TensorData<'_>> {
        let info = &self.table().infos()[index];
        let fail = |detail: String| Error::tensor(self.origin(), &info.name, detail);
        let (count, shape) = match info.shape[..] {
            [count, rows, columns] => (count, vec![rows, columns]),
            [rows, columns] => (1, vec![rows, columns]),
            _ => return Err(fail(format!("shape {:?} is no stack of matrices", info.shape))),
        };
        if matrix >= count {
            return Err(fail(format!("no matrix {matrix}; it has {count}")));
        }
        let each = count / self.pieces(index).clamp(1, count);
        let data = self.read_piece(index, matrix / each)?;
        let bytes = TensorInfo::new("", shape.clone(), data.dtype).bytes().unwrap_or(0);
        let start = matrix % each * bytes;
        let range = start..start + bytes;
        let bytes = match data.bytes {
            Cow::Borrowed(all) => all.get(range).map(Cow::Borrowed),
            Cow::Owned(all) if all.len() == bytes && start == 0 => Some(Cow::Owned(all)),
            Cow::Owned(all) => all.get(range).map(|part| Cow::Owned(part.to_vec())),
        };
        let bytes = bytes.ok_or_else(|| fail("the data are shorter than its shape".to_string()))?;
        Ok(TensorData { dtype: data.dtype, shape, bytes })
    }

    /// The data of tensor `name`; an error that names it if it is missing.
    fn read_name(&self, name: &str) -> Result<TensorData<'_>> {
        match self.table().find(name) {
            Some(index) => self.read(index),
            None => Err(Error::tensor(self.origin(), name, "not in this source")),
        }
    }
}

/// A source in memory, for tests and small computed models.
pub struct MemorySource {
    origin: String,
    table: TensorTable,
    data: Vec<Vec<u8>>,
}

impl MemorySource {
    /// Fails if names repeat or data lengths do not fit the shapes.
    pub fn new(origin: &str, tensors: Vec<(TensorInfo, Vec<u8>)>) -> Result<MemorySource> {
        let (infos, data): (Vec<_>, Vec<_>) = tensors.into_iter().unzip();
        let table = TensorTable::new(origin, infos)?;
        for (info, bytes) in table.infos().iter().zip(&data) {
            if info.bytes() != Some(bytes.len()) {
                let detail = format!("{} bytes do not fill shape {:?}", bytes.len(), info.shape);
                return Err(Error::tensor(origin, &info.name, detail));
            }
        }
        Ok(MemorySource { origin: origin.to_string(), table, data })
    }
}

impl TensorSource for MemorySource {
    fn origin(&self) -> &str {
        &self.origin
    }

    fn table(&self) -> &TensorTable {
        &self.table
    }

    fn read(&self, index: usize) -> Result<TensorData<'_>> {
        let info = &self.table.infos()[index];
        Ok(TensorData {
            dtype: info.dtype,
            shape: info.shape.clone(),
            bytes: Cow::Borrowed(&self.data[index]),
        })
    }
}
