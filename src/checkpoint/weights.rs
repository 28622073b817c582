//! Files of weights, whatever their format, and how the files of one model are called.

use super::pytorch::PytorchFile;
use super::safetensors::{SafetensorsFile, tensor_info};
use crate::error::Result;
use crate::source::TensorInfo;
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
    pub fn matches(&self, name: &str) -> bool {
        name.starts_with(self.prefix) && name.ends_with(self.suffix) && !name.starts_with("adapter")
    }

    /// The names of all shards.
    pub fn shards(&self, stem: &str, count: u32) -> Vec<String> {
        (1..=count).map(|i| format!("{stem}-{i:05}-of-{count:05}{}", self.suffix)).collect()
    }

    /// Stem and shard count of a name such as `model-00001-of-00003.safetensors`.
    pub fn shard_count(&self, name: &str) -> Option<(String, u32)> {
        let rest = name.strip_suffix(self.suffix)?;
        let (rest, count) = rest.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(number) || !digits(count) {
            return None;
        }
        let count = count.parse().ok().filter(|n| *n > 0)?;
        Some((stem.to_string(), count))
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
    pub fn info(&self) -> Option<TensorInfo> {
        tensor_info(self.name, self.dtype, self.shape)
    }
}

impl WeightsFile {
    /// Opens `path`, whose name tells the format.
    pub fn open(path: impl AsRef<Path>) -> Result<WeightsFile> {
        let path = path.as_ref();
        match path.extension().is_some_and(|e| e == "bin") {
            true => PytorchFile::open(path).map(WeightsFile::Pytorch),
            false => SafetensorsFile::open(path).map(WeightsFile::Safetensors),
        }
    }

    pub fn path(&self) -> &Path {
        match self {
            WeightsFile::Safetensors(file) => file.path(),
            WeightsFile::Pytorch(file) => file.path(),
        }
    }

    /// The tensors, in the order of the file.
    pub fn entries(&self) -> Vec<WeightsEntry<'_>> {
        match self {
            WeightsFile::Safetensors(file) => (file.entries().iter())
                .map(|e| WeightsEntry { name: &e.name, dtype: e.dtype, shape: &e.shape })
                .collect(),
            WeightsFile::Pytorch(file) => (file.entries().iter())
                .map(|e| WeightsEntry { name: &e.name, dtype: e.dtype, shape: &e.shape })
                .collect(),
        }
    }

    /// The data of tensor `index`, row after row.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn tensor_bytes(&self, index: usize) -> Cow<'_, [u8]> {
        match self {
            WeightsFile::Safetensors(file) => Cow::Borrowed(file.tensor_bytes(index)),
            WeightsFile::Pytorch(file) => file.tensor_bytes(index),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_names_parse() {
        let count = |name: &str| SAFETENSORS.shard_count(name);
        assert_eq!(count("model-00001-of-00003.safetensors"), Some(("model".into(), 3)));
        assert_eq!(count("model-1-of-3.safetensors"), None);
        assert_eq!(count("model-00000-of-00000.safetensors"), None);
        assert_eq!(SAFETENSORS.shards("m", 2)[1], "m-00002-of-00002.safetensors");
        assert!(PYTORCH.matches("pytorch_model-00001-of-00002.bin"));
        assert!(!PYTORCH.matches("training_args.bin") && !PYTORCH.matches("optimizer.bin"));
    }
}
