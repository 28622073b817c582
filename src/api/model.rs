//! A model to read from: a recipe, a Hugging Face folder or a GGUF file.

use crate::base::error::Result;
use crate::base::progress::{Progress, Silent};
use crate::build::{Kind, Source};
use crate::formats::gguf::{GgufModel, Metadata};
use crate::formats::source::{TensorInfo, TensorSource};
use crate::model::convert::{ConvertOptions, OutputType};
use std::path::{Path, PathBuf};

/// A model to read from: a merge recipe, a Hugging Face folder or a GGUF file, distinguished by content.
///
/// Opening reads headers, configuration and tokenizer, no weights. A recipe's tensors are computed
/// when they are read; nothing is stored in between.
///
/// # Examples
/// ```
/// let model = aqueduct::Model::open("recipes/demo.yml")?;
/// let first = &model.tensors()[0];
/// assert_eq!(first.name, "model.embed_tokens.weight");
/// let values = model.read_f32(&first.name)?;
/// assert_eq!(values.len(), first.elements());
/// # Ok::<(), aqueduct::Error>(())
/// ```
pub struct Model {
    pub(super) source: Source,
}

impl Model {
    /// Opens `path`: a recipe (YAML), a Hugging Face model folder, or a GGUF file (any shard of a split
    /// one). `org/name` and addresses of the Hugging Face hub are looked up in the hub's cache.
    ///
    /// # Errors
    /// [`Error::Recipe`](crate::Error::Recipe) lists every problem of a recipe with line and column.
    /// Other variants name the file or tensor that cannot be used.
    pub fn open(path: impl AsRef<Path>) -> Result<Model> {
        Model::open_with_progress(path, &Silent)
    }

    /// Opens `path` as [`Model::open`] does and reports downloads of a recipe's members to `progress`
    /// (feature `hub`).
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open_with_progress(path: impl AsRef<Path>, progress: &dyn Progress) -> Result<Model> {
        Ok(Model { source: Source::open_with_progress(path.as_ref(), progress)? })
    }

    /// What the path turned out to be.
    pub fn kind(&self) -> Kind {
        match &self.source {
            Source::Recipe { .. } => Kind::Recipe,
            Source::Folder(_) => Kind::Folder,
            Source::Gguf { .. } => Kind::Gguf,
        }
    }

    /// The name for files made from this model.
    pub fn name(&self) -> String {
        self.source.name()
    }

    /// Warnings found while opening, one sentence each: contradictions in a configuration, leniencies
    /// of a recipe.
    pub fn warnings(&self) -> Vec<String> {
        self.source.warnings()
    }

    /// Every file that is read: recipe, weights, configuration, tokenizer.
    pub fn files(&self) -> Vec<PathBuf> {
        self.source.files()
    }

    /// Names, shapes (outermost dimension first) and types of all tensors, under the names of the
    /// source: Hugging Face's for recipes and folders, GGUF's for GGUF files.
    pub fn tensors(&self) -> &[TensorInfo] {
        self.tensor_source().table().infos()
    }

    /// The values of the tensor `name` as f32, in row-major order. Computes a merged tensor and
    /// dequantizes a quantized one.
    ///
    /// # Errors
    /// [`Error::Tensor`](crate::Error::Tensor) if there is no such tensor or its data are damaged.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        self.tensor_source().read_name(name)?.to_f32()
    }

    /// The GGUF metadata: a GGUF file's own, or what conversion writes for a recipe or folder.
    ///
    /// # Errors
    /// [`Error::Model`](crate::Error::Model) if the architecture or tokenizer cannot be converted.
    pub fn metadata(&self) -> Result<Metadata> {
        Ok(self.to_gguf(false, &Silent)?.metadata)
    }

    fn tensor_source(&self) -> &dyn TensorSource {
        match &self.source {
            Source::Gguf { model, .. } => model.tensors.as_ref(),
            Source::Recipe { checkpoint, .. } | Source::Folder(checkpoint) => {
                checkpoint.tensors.as_ref()
            }
        }
    }

    /// The model in GGUF terms. With `keep_blocks`, MXFP4 and NVFP4 matrices stay as they are stored.
    pub(super) fn to_gguf(&self, keep_blocks: bool, progress: &dyn Progress) -> Result<GgufModel> {
        let options = ConvertOptions {
            output_type: OutputType::Auto,
            keep_blocks,
            ..ConvertOptions::default()
        };
        self.source.to_gguf(&options, progress)
    }
}
