//! Hugging Face checkpoints: model folders, read and written.
//!
//! [`Checkpoint::open`] reads a folder and [`write()`] writes one. A recipe yields a [`Checkpoint`]
//! as well, whose tensors are computed when they are read. Weights are safetensors or, for reading
//! only, PyTorch's files. Quantized weights are read as plain tensors. Not here: writing quantized
//! weights.

mod card;
mod config;
mod folder;
pub mod json;
mod lora;
mod parts;
mod quantized;
mod resume;
mod shards;
mod side_file;
mod weights;
mod write;

pub use card::{CARD_FILE, FrontMatter, ModelCard};
pub use config::Config;
pub use folder::ADDITIONAL_TEMPLATES;
pub use lora::with_adapter;
pub(crate) use resume::remove_record;
pub use shards::{Shard, plan_shards};
pub use side_file::SideFile;
pub use weights::{SafetensorsEntry, SafetensorsFile, looks_like_pytorch, looks_like_safetensors};
pub use write::{DEFAULT_SHARD_BYTES, WriteOptions, Written, write};

use crate::formats::source::TensorSource;
use std::path::PathBuf;
use std::sync::Arc;

/// A model in Hugging Face terms: configuration, tensors, and the files beside them.
#[derive(Clone)]
pub struct Checkpoint {
    /// The model's name for people: the name of the folder or recipe, without path or extension.
    pub name: String,
    /// The contents of config.json, without quantization settings.
    pub config: Config,
    /// The weights, under their Hugging Face names.
    pub tensors: Arc<dyn TensorSource>,
    /// The files that are copied with the weights: tokenizer, generation_config.json, chat
    /// template. Their names are unique.
    pub side_files: Vec<SideFile>,
    /// The model card. It is not copied, because it describes this model alone.
    pub card: Option<ModelCard>,
    /// Decisions that were made while opening, for the user; a sentence each.
    pub warnings: Vec<String>,
}

impl Checkpoint {
    /// All files on disk that the checkpoint is read from.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = self.tensors.files().unwrap_or_default();
        files.push(PathBuf::from(self.config.origin()));
        files.extend(self.side_files.iter().filter_map(|file| match file {
            SideFile::File(path) | SideFile::InFolder { path, .. } => Some(path.clone()),
            SideFile::Generated { .. } | SideFile::Unavailable { .. } => None,
        }));
        if let Some(ModelCard::File(path)) = &self.card {
            files.push(path.clone());
        }
        files
    }

    /// The side file with this name, if the checkpoint has it.
    pub fn side_file(&self, name: &str) -> Option<&SideFile> {
        self.side_files.iter().find(|file| file.name() == name)
    }
}
