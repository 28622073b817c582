//! The tensors of a folder as they are stored, whatever their types: what the readers of plain and
//! of quantized weights make their tables from.

use super::file::WeightsFile;
use super::select::WeightFiles;
use crate::formats::source::TensorInfo;
use safetensors::Dtype;
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;

/// A tensor of one of the files.
#[derive(Clone, Debug)]
pub(crate) struct StoredTensor {
    pub name: String,
    pub dtype: Dtype,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    shard: usize,
    within: usize,
}

/// What a tensor's type means for a reader of plain weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoredKind {
    /// F32, F16 or BF16.
    Float,
    /// Of another type, and no weight by its name: position_ids and the like, which no model needs.
    Buffer,
    /// A weight of a type that only a quantization method can explain.
    Packed,
}

impl StoredTensor {
    /// Name, shape and type in this library's terms, unless the type is foreign to it.
    pub(crate) fn info(&self) -> Option<TensorInfo> {
        super::safetensors::tensor_info(&self.name, self.dtype, &self.shape)
    }

    pub(crate) fn kind(&self) -> StoredKind {
        use Dtype::{BOOL, I8, I16, I32, I64, U8, U16, U32, U64};
        if self.info().is_some_and(|info| info.dtype.is_float()) {
            return StoredKind::Float;
        }
        let integer = matches!(self.dtype, BOOL | I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64);
        // bitsandbytes and GPTQ: `weight`, `qweight`; compressed-tensors: `weight_packed`.
        let weight = self.name.ends_with("weight") || self.name.ends_with("weight_packed");
        if integer && !weight { StoredKind::Buffer } else { StoredKind::Packed }
    }
}

/// The tensors of all files: file after file, each in the order of its data, so that reading them
/// in order reads the disk in order. Names are unique.
pub(crate) struct StoredTensors {
    origin: String,
    files: Vec<WeightsFile>,
    tensors: Vec<StoredTensor>,
    by_name: HashMap<String, usize>,
}

impl StoredTensors {
    /// The tensors of `weights`; of several of one name, that which counts. `origin` is the folder,
    /// for errors.
    pub(crate) fn new(origin: String, weights: WeightFiles) -> StoredTensors {
        let mut tensors: Vec<StoredTensor> = Vec::new();
        let mut by_name = HashMap::new();
        for (shard, file) in weights.files.iter().enumerate() {
            let entries = file.entries().into_iter().enumerate();
            for (within, entry) in entries.filter(|(_, entry)| weights.is_home(entry.name, shard)) {
                by_name.insert(entry.name.to_string(), tensors.len());
                let (name, shape) = (entry.name.to_string(), entry.shape.to_vec());
                tensors.push(StoredTensor { name, dtype: entry.dtype, shape, shard, within });
            }
        }
        StoredTensors { origin, files: weights.files, tensors, by_name }
    }

    /// Calls tensor `index` by another name, which no other has.
    pub(crate) fn rename(&mut self, index: usize, name: &str) {
        self.by_name.remove(&self.tensors[index].name);
        self.tensors[index].name = name.to_string();
        self.by_name.insert(name.to_string(), index);
    }

    /// Bytes that reading tensor `index` takes: 0 where it is mapped.
    pub(crate) fn working_bytes(&self, index: usize) -> u64 {
        let tensor = &self.tensors[index];
        self.files[tensor.shard].working_bytes(tensor.within)
    }

    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    pub(crate) fn tensors(&self) -> &[StoredTensor] {
        &self.tensors
    }

    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The data of tensor `index`, row after row, of the length that its type and shape need.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub(crate) fn bytes(&self, index: usize) -> Cow<'_, [u8]> {
        let tensor = &self.tensors[index];
        self.files[tensor.shard].tensor_bytes(tensor.within)
    }

    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.files.iter().map(|file| file.path().to_path_buf()).collect()
    }
}
