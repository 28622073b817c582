//! Checkpoints: Hugging Face model folders, read and written.
//!
//! [`Checkpoint`] is also what a recipe yields: its tensors are then computed when read. Everything
//! that accepts a folder accepts a merge. [`Checkpoint::open`] reads a folder, [`write()`] writes one.
//! Weights are safetensors or, read only, PyTorch's own files. Weights quantized for other programs are read as
//! plain tensors; they are not written.

mod card;
mod config;
mod folder;
pub mod json;
mod lora;
mod parts;
mod quantized;
mod resume;
mod side_file;
mod weights;
mod write;

pub use card::{CARD_FILE, FrontMatter, ModelCard};
pub use config::Config;
pub use folder::ADDITIONAL_TEMPLATES;
pub use lora::with_adapter;
pub use resume::{Fingerprint, Resume, changed, remove_record};
pub use side_file::SideFile;
pub use weights::{SafetensorsEntry, SafetensorsFile, looks_like_pytorch, looks_like_safetensors};
pub use write::{DEFAULT_SHARD_BYTES, Shard, WriteOptions, Written, plan_shards, write};

use crate::formats::source::TensorSource;
use std::path::PathBuf;
use std::sync::Arc;

/// A model in Hugging Face terms: configuration, tensors, and the files beside them.
#[derive(Clone)]
pub struct Checkpoint {
    /// What the user calls the model: the folder's or recipe's name, without path or extension.
    pub name: String,
    pub config: Config,
    pub tensors: Arc<dyn TensorSource>,
    /// Tokenizer files, generation_config.json, chat template: everything that travels with the
    /// weights. File names are unique.
    pub side_files: Vec<SideFile>,
    /// README.md, which is not copied: what it tells of one model is not true of another.
    pub card: Option<ModelCard>,
    /// What was found while opening and decided one way or another, for the user: a sentence each.
    pub warnings: Vec<String>,
}

impl Checkpoint {
    /// Every file on disk that the checkpoint is read from.
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

    /// The side file called `name`, if the checkpoint has it.
    pub fn side_file(&self, name: &str) -> Option<&SideFile> {
        self.side_files.iter().find(|file| file.name() == name)
    }
}
