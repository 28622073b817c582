//! The tensors of a folder as they are stored, of any type. Plain and quantized weights are read
//! from them.

use super::file::WeightsFile;
use super::select::WeightFiles;
use crate::formats::source::TensorInfo;
use safetensors::Dtype;
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;

/// A tensor of one of the files of a folder.
#[derive(Clone, Debug)]
pub(crate) struct StoredTensor {
    pub name: String,
    pub dtype: Dtype,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// Index of the file, and of the tensor within it.
    shard: usize,
    within: usize,
}

/// The role of a stored tensor, by its type and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoredKind {
    /// F32, F16 or BF16.
    Float,
    /// A tensor of integers whose name is not that of a weight, such as position_ids. Models do not
    /// need it.
    Buffer,
    /// A weight of a type that only a quantization method can decode.
    Packed,
}

impl StoredTensor {
    /// The tensor as a [`TensorInfo`]; `None` if its type has no [`crate::base::dtype::DType`].
    pub(crate) fn info(&self) -> Option<TensorInfo> {
        super::safetensors::tensor_info(&self.name, self.dtype, &self.shape)
    }

    /// The role of the tensor.
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

/// The tensors of all files, in the order of the files and of the data in them, so that reading
/// them in order reads the disk in order. Names are unique.
pub(crate) struct StoredTensors {
    origin: String,
    files: Vec<WeightsFile>,
    tensors: Vec<StoredTensor>,
    by_name: HashMap<String, usize>,
}

impl StoredTensors {
    /// Lists the tensors of `weights`, each from the file that was selected for it. `origin` is the
    /// folder, for errors.
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

    /// Renames tensor `index`. The new name must be unique.
    pub(crate) fn rename(&mut self, index: usize, name: &str) {
        self.by_name.remove(&self.tensors[index].name);
        self.tensors[index].name = name.to_string();
        self.by_name.insert(name.to_string(), index);
    }

    /// The memory in bytes that reading tensor `index` takes; 0 for mapped data.
    pub(crate) fn working_bytes(&self, index: usize) -> u64 {
        let tensor = &self.tensors[index];
        self.files[tensor.shard].working_bytes(tensor.within)
    }

    /// The folder, which names the tensors in errors.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// All tensors, in order.
    pub(crate) fn tensors(&self) -> &[StoredTensor] {
        &self.tensors
    }

    /// The index of the tensor `name`.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The data of tensor `index`, row after row. Their length fits type and shape.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub(crate) fn bytes(&self, index: usize) -> Cow<'_, [u8]> {
        let tensor = &self.tensors[index];
        self.files[tensor.shard].tensor_bytes(tensor.within)
    }

    /// The paths of all files.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.files.iter().map(|file| file.path().to_path_buf()).collect()
    }
}
