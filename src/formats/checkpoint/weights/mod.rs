//! The files that hold a checkpoint's weights: their formats, names and index, and which of a
//! folder's files make the model.
//!
//! [`WeightFiles`] finds and opens the files of a folder, [`StoredTensors`] lists their tensors.
//! Not here: what quantized tensors mean, see [`super::quantized`].

mod file;
mod index;
mod naming;
mod pytorch;
mod safetensors;
mod select;
mod stored;
mod unique_members;

pub use self::safetensors::{SafetensorsEntry, SafetensorsFile, looks_like_safetensors};
pub use pytorch::looks_like_pytorch;

pub(crate) use file::{WeightsEntry, WeightsFile};
pub(crate) use naming::{SAFETENSORS, is_plain_name};
pub(crate) use select::WeightFiles;
pub(crate) use stored::{StoredKind, StoredTensor, StoredTensors};
