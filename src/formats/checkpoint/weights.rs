//! Files of weights, whatever their format, and how the files of one model are called.

use super::pytorch::PytorchFile;
use super::safetensors::{SafetensorsFile, tensor_info};
use crate::base::error::Result;
use crate::formats::source::TensorInfo;
use rayon::prelude::*;
use safetensors::Dtype;
use std::borrow::Cow;
use std::path::Path;

/// The names by which transformers finds the weights in a folder.
pub(super) struct Naming {
    /// The file of a model that is not sharded.
    pub single: &'static str,
    /// Which shard holds which tensor.
    pub index: &'static str,
    /// What the names of shards begin with; nothing if any name will do.
    pub prefix: &'static str,
    pub suffix: &'static str,
}

pub(super) static SAFETENSORS: Naming = Naming {
    single: "model.safetensors",
    index: "model.safetensors.index.json",
    prefix: "",
    suffix: ".safetensors",
};

pub(super) static PYTORCH: Naming = Naming {
    single: "pytorch_model.bin",
    index: "pytorch_model.bin.index.json",
    prefix: "pytorch_model",
    suffix: ".bin",
};

impl Naming {
    /// Whether `name` may be a file of a model's weights.
    pub(super) fn matches(&self, name: &str) -> bool {
        name.starts_with(self.prefix) && name.ends_with(self.suffix) && !name.starts_with("adapter")
    }

    /// The names of all shards.
    pub(super) fn shards(&self, stem: &str, count: u32) -> Vec<String> {
        (1..=count).map(|i| format!("{stem}-{i:05}-of-{count:05}{}", self.suffix)).collect()
    }

    /// Stem, number and count of a name such as `model-00001-of-00003.safetensors`, with any number of
    /// digits up to six.
    pub(super) fn shard_number(&self, name: &str) -> Option<(String, u32, u32)> {
        let (stem, number, count) = self.shard_parts(name)?;
        let (number, count) = (number.parse().ok()?, count.parse().ok().filter(|n| *n > 0)?);
        Some((stem.to_string(), number, count))
    }

    /// The name of shard `number` of the series that `name` belongs to.
    pub(super) fn sibling(&self, name: &str, number: u32) -> Option<String> {
        let (stem, digits, count) = self.shard_parts(name)?;
        let width = digits.len();
        Some(format!("{stem}-{number:0width$}-of-{count}{}", self.suffix))
    }

    fn shard_parts<'n>(&self, name: &'n str) -> Option<(&'n str, &'n str, &'n str)> {
        let rest = name.strip_suffix(self.suffix)?;
        let (rest, count) = rest.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let digits =
            |text: &str| (1..=6).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        (digits(number) && digits(count)).then_some((stem, number, count))
    }
}

/// A mapped file of weights.
pub(super) enum WeightsFile {
    Safetensors(SafetensorsFile),
    Pytorch(PytorchFile),
}

/// A tensor of such a file. Its type may be one that models do not compute with.
#[derive(Clone, Copy)]
pub(super) struct WeightsEntry<'a> {
    pub name: &'a str,
    pub dtype: Dtype,
    pub shape: &'a [usize],
}

impl WeightsEntry<'_> {
    /// Name, shape and type in this library's terms, unless the type is foreign to it.
    pub(super) fn info(&self) -> Option<TensorInfo> {
        tensor_info(self.name, self.dtype, self.shape)
    }
}

impl WeightsFile {
    /// Opens `path`, whose name tells the format.
    pub(super) fn open(path: impl AsRef<Path>) -> Result<WeightsFile> {
        let path = path.as_ref();
        match path.extension().is_some_and(|e| e == "bin") {
            true => PytorchFile::open(path).map(WeightsFile::Pytorch),
            false => SafetensorsFile::open(path).map(WeightsFile::Safetensors),
        }
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            WeightsFile::Safetensors(file) => file.path(),
            WeightsFile::Pytorch(file) => file.path(),
        }
    }

    /// The tensors, in the order of the file, with the types that they are read as.
    pub(super) fn entries(&self) -> Vec<WeightsEntry<'_>> {
        match self {
            WeightsFile::Safetensors(file) => (file.entries().iter())
                .map(|e| WeightsEntry { name: &e.name, dtype: read_as(e.dtype), shape: &e.shape })
                .collect(),
            WeightsFile::Pytorch(file) => (file.entries().iter())
                .map(|e| WeightsEntry { name: &e.name, dtype: read_as(e.dtype), shape: &e.shape })
                .collect(),
        }
    }

    /// The data of tensor `index`, row after row, in the type that its entry has.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub(super) fn tensor_bytes(&self, index: usize) -> Cow<'_, [u8]> {
        let (bytes, dtype) = match self {
            WeightsFile::Safetensors(file) => {
                (Cow::Borrowed(file.tensor_bytes(index)), file.entries()[index].dtype)
            }
            WeightsFile::Pytorch(file) => (file.tensor_bytes(index), file.entries()[index].dtype),
        };
        if dtype == Dtype::F64 { Cow::Owned(narrow(&bytes)) } else { bytes }
    }
}

impl WeightsFile {
    /// Bytes that reading tensor `index` takes: 0 where it is mapped.
    pub(super) fn working_bytes(&self, index: usize) -> u64 {
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

/// The type that a stored type is read as: F64 is narrowed to F32, as llama.cpp's converter does
/// (`conversion/base.py`, `prepare_tensors`).
fn read_as(dtype: Dtype) -> Dtype {
    if dtype == Dtype::F64 { Dtype::F32 } else { dtype }
}

/// F64 elements as F32, rounded to nearest even.
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

/// Elements that one task narrows.
const NARROWED: usize = 1 << 18;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_names_parse() {
        let parts = |name: &str| SAFETENSORS.shard_number(name);
        assert_eq!(parts("model-00001-of-00003.safetensors"), Some(("model".into(), 1, 3)));
        assert_eq!(parts("model-1-of-3.safetensors"), Some(("model".into(), 1, 3)));
        assert_eq!(parts("model-00000-of-00000.safetensors"), None);
        assert_eq!(parts("model-1-of-3000000.safetensors"), None);
        let next = SAFETENSORS.sibling("m-01-of-11.safetensors", 2);
        assert_eq!(next.as_deref(), Some("m-02-of-11.safetensors"));
        assert_eq!(SAFETENSORS.shards("m", 2)[1], "m-00002-of-00002.safetensors");
        assert!(PYTORCH.matches("pytorch_model-00001-of-00002.bin"));
        assert!(!PYTORCH.matches("training_args.bin") && !PYTORCH.matches("optimizer.bin"));
    }
}
