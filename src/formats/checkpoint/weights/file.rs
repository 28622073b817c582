//! A file of weights in either format, with one interface.

use super::pytorch::PytorchFile;
use super::safetensors::{SafetensorsFile, tensor_info};
use crate::base::error::Result;
use crate::formats::source::TensorInfo;
use rayon::prelude::*;
use safetensors::Dtype;
use std::borrow::Cow;
use std::path::Path;

/// A mapped file of weights, in one of the formats.
pub(crate) enum WeightsFile {
    Safetensors(SafetensorsFile),
    Pytorch(PytorchFile),
}

/// A tensor of a file of weights. Its type may be one that [`TensorInfo`] lacks.
#[derive(Clone, Copy)]
pub(crate) struct WeightsEntry<'a> {
    pub name: &'a str,
    pub dtype: Dtype,
    pub shape: &'a [usize],
}

impl WeightsEntry<'_> {
    /// The tensor as a [`TensorInfo`]; `None` if its type has no [`crate::base::dtype::DType`].
    pub(crate) fn info(&self) -> Option<TensorInfo> {
        tensor_info(self.name, self.dtype, self.shape)
    }
}

impl WeightsFile {
    /// Opens the file at `path`. A name that ends in `.bin` means PyTorch, any other safetensors.
    pub(crate) fn open(path: impl AsRef<Path>) -> Result<WeightsFile> {
        let path = path.as_ref();
        match path.extension().is_some_and(|e| e == "bin") {
            true => PytorchFile::open(path).map(WeightsFile::Pytorch),
            false => SafetensorsFile::open(path).map(WeightsFile::Safetensors),
        }
    }

    /// The path of the file.
    pub(crate) fn path(&self) -> &Path {
        match self {
            WeightsFile::Safetensors(file) => file.path(),
            WeightsFile::Pytorch(file) => file.path(),
        }
    }

    /// The tensors in the order of the file, with the types that [`WeightsFile::tensor_bytes`]
    /// returns.
    pub(crate) fn entries(&self) -> Vec<WeightsEntry<'_>> {
        match self {
            WeightsFile::Safetensors(file) => (file.entries().iter())
                .map(|e| WeightsEntry { name: &e.name, dtype: read_as(e.dtype), shape: &e.shape })
                .collect(),
            WeightsFile::Pytorch(file) => (file.entries().iter())
                .map(|e| WeightsEntry { name: &e.name, dtype: read_as(e.dtype), shape: &e.shape })
                .collect(),
        }
    }

    /// The data of tensor `index`, row after row, in the type of its entry.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub(crate) fn tensor_bytes(&self, index: usize) -> Cow<'_, [u8]> {
        let (bytes, dtype) = match self {
            WeightsFile::Safetensors(file) => {
                (Cow::Borrowed(file.tensor_bytes(index)), file.entries()[index].dtype)
            }
            WeightsFile::Pytorch(file) => (file.tensor_bytes(index), file.entries()[index].dtype),
        };
        if dtype == Dtype::F64 { Cow::Owned(narrow(&bytes)) } else { bytes }
    }

    /// The memory in bytes that reading tensor `index` takes; 0 for mapped data.
    pub(crate) fn working_bytes(&self, index: usize) -> u64 {
        let (dtype, elements, mapped) = match self {
            WeightsFile::Safetensors(file) => {
                let entry = &file.entries()[index];
                (entry.dtype, entry.shape.iter().product::<usize>(), true)
            }
            WeightsFile::Pytorch(file) => {
                let entry = &file.entries()[index];
                (entry.dtype, entry.shape.iter().product::<usize>(), file.is_whole(index))
            }
        };
        let gathered = if mapped { 0 } else { elements * dtype.bitsize() / 8 };
        let narrowed = if dtype == Dtype::F64 { elements * 4 } else { 0 };
        (gathered + narrowed) as u64
    }
}

/// The type of a tensor after reading. F64 is narrowed to F32, as in llama.cpp's converter
/// (`conversion/base.py`, `prepare_tensors`).
fn read_as(dtype: Dtype) -> Dtype {
    if dtype == Dtype::F64 { Dtype::F32 } else { dtype }
}

/// Converts F64 elements to F32, rounding to nearest even.
fn narrow(bytes: &[u8]) -> Vec<u8> {
    let (wide, _) = bytes.as_chunks::<8>();
    let mut out = vec![0; wide.len() * 4];
    wide.par_chunks(NARROWED).zip(out.par_chunks_mut(NARROWED * 4)).for_each(|(wide, out)| {
        for (&from, to) in wide.iter().zip(out.as_chunks_mut::<4>().0) {
            *to = (f64::from_le_bytes(from) as f32).to_le_bytes();
        }
    });
    out
}

/// The number of elements that one task converts.
const NARROWED: usize = 1 << 18;
