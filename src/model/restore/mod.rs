//! GGUF models as checkpoints: the inverse of [`crate::model::convert`], so that a merge can have them as members.
//!
//! Names are those of Hugging Face, the rows of queries and keys stand in its order, config.json is made
//! of the metadata and the tokenizer's files of the vocabulary. Floats keep their type and bits. Quantized
//! tensors are F32: what their blocks mean is exact in F32 and in nothing smaller, and a merge computes in
//! f32 anyway; a recipe's `dtype` says what the result is written in. All of it is done when a tensor is
//! read, one at a time.
//!
//! Deliberately absent: what a GGUF file does not hold. The class is the architecture's first one, so
//! Mistral's models come back as the Llama models they are but for a sliding window.

mod config;
mod tensors;

use crate::base::error::{Error, Result};
use crate::formats::checkpoint::{Checkpoint, SideFile};
use crate::formats::gguf::GgufModel;
use crate::model::arch::{Architecture, HyperParams};
use crate::model::tokenizer;
use std::sync::Arc;
use tensors::RestoredSource;

/// The checkpoint that `model` was converted from, as far as GGUF keeps it; `name` becomes its name.
/// Reads metadata only.
///
/// A vocabulary that cannot be turned back into files makes no error here: most members of a merge do not
/// give the tokenizer. Reading the side file `tokenizer.json` then says why.
///
/// # Errors
/// If the architecture is unknown, if tensors are unexpected, of the wrong shape or of a type that cannot
/// be decoded (all are named), or if the metadata lack hyperparameters.
pub fn restore(model: &GgufModel, name: &str) -> Result<Checkpoint> {
    let origin = model.origin();
    if let Some(kind) = model.metadata.str("general.type").filter(|kind| *kind != "model") {
        let detail = format!("a GGUF file of type '{kind}', not of a model");
        return Err(Error::model(origin, detail));
    }
    let arch = Architecture::for_metadata(origin, &model.metadata)?;
    let hyper = HyperParams::from_gguf(model)?;
    let (config, generation) = config::make(model, arch, &hyper)?;
    let tensors = RestoredSource::new(model, arch, &hyper)?;
    let mut side_files = match tokenizer::restore(origin, &model.metadata) {
        Ok(files) => {
            files.into_iter().map(|(name, bytes)| SideFile::generated(name, bytes)).collect()
        }
        Err(e) => {
            let why = match e {
                Error::Model { detail, .. } => detail,
                e => e.to_string(),
            };
            vec![SideFile::unavailable("tokenizer.json", origin, why)]
        }
    };
    side_files.extend(generation.map(|text| SideFile::generated("generation_config.json", text)));
    let tensors = Arc::new(tensors);
    Ok(Checkpoint {
        name: name.to_string(),
        config,
        tensors,
        side_files,
        card: None,
        warnings: Vec::new(),
    })
}
