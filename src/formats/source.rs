//! The trait that joins all stages: a [`TensorSource`] lists its tensors and reads one on demand.
//!
//! Files are sources. Merging, renaming, permuting and converting make sources from sources and
//! compute a tensor when it is read. So stages chain without intermediate files, and memory stays
//! bounded by the few tensors in flight. Not here: caching; a tensor that is read twice is computed
//! twice.

use crate::base::dtype::DType;
use crate::base::error::{Error, Result};
use crate::quants;
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;

/// The size in bytes of the parts in which [`TensorSource::stream`] sends a tensor: large enough to
/// hide the cost of a call, small enough to hold several.
pub const PART_BYTES: usize = 1 << 20;

/// Receives the parts of a tensor, each with its offset in bytes.
pub type PartSink<'a> = dyn Fn(usize, &[u8]) -> Result<()> + Sync + 'a;

/// Sends `bytes` to `sink` in parts of [`PART_BYTES`] bytes (the last one is shorter), on all
/// threads.
///
/// # Errors
/// The error of `sink`; if several parts fail, that of the first part.
pub fn send_parts(bytes: &[u8], sink: &PartSink<'_>) -> Result<()> {
    let parts = bytes.par_chunks(PART_BYTES).enumerate();
    let results: Vec<_> = parts.map(|(number, part)| sink(number * PART_BYTES, part)).collect();
    results.into_iter().collect()
}

/// Name, shape and type of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, unique in a source.
    pub name: String,
    /// Outermost dimension first, as in safetensors and NumPy: a matrix is `[rows, columns]` and
    /// its rows are contiguous. GGUF's `ne` is the reverse.
    pub shape: Vec<usize>,
    /// Element type, or quant type of the blocks.
    pub dtype: DType,
}

impl TensorInfo {
    /// The number of matrices in a stack, such as the experts of a mixture; 1 for any other tensor.
    pub fn matrices(&self) -> usize {
        if self.shape.len() > 2 { self.shape[0] } else { 1 }
    }

    /// A tensor with this name, shape and type.
    pub fn new(name: impl Into<String>, shape: Vec<usize>, dtype: DType) -> TensorInfo {
        TensorInfo { name: name.into(), shape, dtype }
    }

    /// The number of elements. Saturates where it would overflow; [`TensorInfo::bytes`] checks.
    pub fn elements(&self) -> usize {
        self.shape.iter().fold(1usize, |n, &d| n.saturating_mul(d))
    }

    /// The length of a row, which is the innermost dimension; 1 for a scalar.
    pub fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The size of the data in bytes; `None` if a row is not a whole number of blocks or the
    /// product overflows.
    pub fn bytes(&self) -> Option<usize> {
        let rows = self.shape.iter().rev().skip(1).try_fold(1usize, |n, &d| n.checked_mul(d))?;
        self.dtype.row_bytes(self.row_len())?.checked_mul(rows)
    }
}

/// The data of one tensor, borrowed from a memory map or owned.
#[derive(Clone, Debug)]
pub struct TensorData<'a> {
    /// Element type, or quant type of the blocks.
    pub dtype: DType,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// Little-endian elements or blocks, row after row; may be unaligned.
    pub bytes: Cow<'a, [u8]>,
}

impl<'a> TensorData<'a> {
    /// Decodes the data to f32, row after row; quantized data are dequantized.
    ///
    /// # Errors
    /// A type that cannot be decoded.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let n = self.shape.iter().product();
        let mut out = vec![0f32; n];
        quants::decode(self.dtype, &self.bytes, &mut out)?;
        Ok(out)
    }

    /// Checks that the data have the type and length that `info`, the entry of the table, states.
    ///
    /// # Errors
    /// Data of another type or length; `origin` names the source.
    pub fn check(&self, origin: &str, info: &TensorInfo) -> Result<()> {
        if self.dtype == info.dtype && Some(self.bytes.len()) == info.bytes() {
            return Ok(());
        }
        let detail = format!(
            "was read as {} bytes of {}, but its entry states shape {:?} in {}",
            self.bytes.len(),
            self.dtype,
            info.shape,
            info.dtype
        );
        Err(Error::tensor(origin, &info.name, detail))
    }

    /// F32 data with these values.
    pub fn from_f32(shape: Vec<usize>, values: &[f32]) -> TensorData<'static> {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        TensorData { dtype: DType::F32, shape, bytes: Cow::Owned(bytes) }
    }
}

/// The tensors of a source in their order. Names are unique and sizes do not overflow.
#[derive(Clone, Debug, Default)]
pub struct TensorTable {
    infos: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
}

impl TensorTable {
    /// A table of `infos`.
    ///
    /// # Errors
    /// A name that occurs twice, or a shape that does not fit its type; `origin` names the source.
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

    /// All tensors, in order.
    pub fn infos(&self) -> &[TensorInfo] {
        &self.infos
    }

    /// The index of the tensor `name`, if the table has it.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The entry of the tensor `name`, if the table has it.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.find(name).map(|i| &self.infos[i])
    }
}

/// The blocks of a GGUF quant type that hold a tensor unchanged, apart from one scale for the whole
/// tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Blocks {
    /// Quant type of the blocks.
    pub dtype: DType,
    /// Factor between the values of the blocks and those of the tensor.
    pub scale: f32,
    /// Scale of the tensor's inputs, for programs that quantize activations.
    pub input_scale: Option<f32>,
}

/// A model's tensors: names, shapes and types at once, data on demand. Reading is thread-safe and
/// may compute; the result is the same at every call.
pub trait TensorSource: Send + Sync {
    /// The name of the source in error messages, usually a path.
    fn origin(&self) -> &str;

    /// All tensors, in the source's order.
    fn table(&self) -> &TensorTable;

    /// Reads the data of tensor `index` of the table.
    ///
    /// # Panics
    /// If `index` is out of range.
    fn read(&self, index: usize) -> Result<TensorData<'_>>;

    /// The number, from 0, of the shard that holds tensor `index`, for sources whose shards an
    /// output can copy (GGUF files). `None` for every other source.
    fn shard(&self, _index: usize) -> Option<usize> {
        None
    }

    /// Sends the data of tensor `index` to `sink` in parts of [`PART_BYTES`] bytes (the last one is
    /// shorter). Every part is sent once, from any thread and in any order. Sources that compute or
    /// copy a tensor part by part need not hold it whole.
    ///
    /// # Errors
    /// Errors of reading and of `sink`; data that differ in type or length from the table.
    ///
    /// # Panics
    /// If `index` is out of range.
    fn stream(&self, index: usize, sink: &PartSink<'_>) -> Result<()> {
        let data = self.read(index)?;
        data.check(self.origin(), &self.table().infos()[index])?;
        send_parts(&data.bytes, sink)
    }

    /// An estimate of the memory in bytes that reading tensor `index` takes, including the result;
    /// 0 for mapped data. Callers that read several tensors at once use it to stay within a limit.
    fn working_bytes(&self, _index: usize) -> u64 {
        0
    }

    /// The GGUF blocks that hold tensor `index` unchanged, for a tensor that [`TensorSource::read`]
    /// dequantizes. Conversion can copy them with [`TensorSource::read_blocks`].
    fn blocks(&self, _index: usize) -> Option<Blocks> {
        None
    }

    /// Reads tensor `index` as the blocks that [`TensorSource::blocks`] describes.
    ///
    /// # Errors
    /// Errors of reading; a tensor without such blocks.
    ///
    /// # Panics
    /// If `index` is out of range.
    fn read_blocks(&self, index: usize) -> Result<TensorData<'_>> {
        Err(Error::tensor(self.origin(), &self.table().infos()[index].name, "has no blocks"))
    }

    /// An estimate of the memory in bytes that [`TensorSource::stream`] takes, including the parts
    /// in flight. It is smaller than [`TensorSource::working_bytes`] for sources that compute a
    /// tensor part by part.
    fn stream_bytes(&self, index: usize) -> u64 {
        self.working_bytes(index)
    }

    /// The format that the data are dequantized from, such as `FP8 E4M3 (blocks of 128x128)`;
    /// `None` for plain weights.
    fn quantization(&self) -> Option<&str> {
        None
    }

    /// All files that the data depend on, by which a later run notices changes; `None` if they are
    /// not known.
    fn files(&self) -> Option<Vec<PathBuf>> {
        None
    }

    /// The number of pieces of equal size in which tensor `index` can be read, cut along its
    /// outermost dimension. A stack of experts that are computed one by one has several, most
    /// tensors have one.
    fn pieces(&self, _index: usize) -> usize {
        1
    }

    /// Reads piece `piece` of tensor `index`, so that the whole tensor need not be held. The
    /// outermost dimension of its shape is divided by the number of pieces.
    ///
    /// # Panics
    /// If `index` is out of range.
    fn read_piece(&self, index: usize, piece: usize) -> Result<TensorData<'_>> {
        debug_assert_eq!(piece, 0, "a tensor of one piece");
        self.read(index)
    }

    /// Reads matrix `matrix` of a stack of shape `[count, rows, columns]`, or matrix 0 of a tensor
    /// `[rows, columns]`. The result has two dimensions. Reads no more than the piece that holds
    /// it.
    ///
    /// # Errors
    /// Errors of reading; another number of dimensions; a stack without that matrix.
    ///
    /// # Panics
    /// If `index` is out of range.
    fn read_matrix(&self, index: usize, matrix: usize) -> Result<TensorData<'_>> {
        let info = &self.table().infos()[index];
        let fail = |detail: String| Error::tensor(self.origin(), &info.name, detail);
        let (count, shape) = match info.shape[..] {
            [count, rows, columns] => (count, vec![rows, columns]),
            [rows, columns] => (1, vec![rows, columns]),
            _ => return Err(fail(format!("shape {:?} is not a stack of matrices", info.shape))),
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

    /// Reads the tensor `name`.
    ///
    /// # Errors
    /// Errors of reading; a source without that tensor.
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
    /// A source of these tensors.
    ///
    /// # Errors
    /// A name that occurs twice, or data whose length does not fit their shape.
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
