//! Where a file comes from, in its metadata: who made it with what, and hashes of all that it was made of.
//!
//! | key | what it holds |
//! |---|---|
//! | `general.quantized_by` | who made the file (llama.cpp `gguf-py/gguf/constants.py`) |
//! | `aqueduct.version` | this program's version |
//! | `aqueduct.recipe.sha256` | of what the recipe says of the merge, without comments and layout |
//! | `aqueduct.member.count`, `aqueduct.member.N.name`, `.sha256` | of its files of weights, see [`Inputs`] |
//! | `aqueduct.source.sha256` | the same of a source that is no recipe |
//! | `aqueduct.source.quantization`, `aqueduct.member.N.quantization` | what the weights were dequantized from, if they were |
//! | `aqueduct.imatrix.sha256` | of the importance matrix's file |
//! | `aqueduct.calibration.count`, `.N.name`, `.N.sha256` | of each text that was read |
//!
//! Deliberately absent: times and places.

use super::inputs::Inputs;
use crate::base::hash;
use crate::build::options::BuildOptions;
use crate::formats::gguf::Metadata;
use crate::measure::imatrix::ImportanceMatrix;

/// Adds the keys to `metadata`. With the importance matrix comes the hash of its file.
pub(crate) fn record(
    metadata: &mut Metadata,
    inputs: &Inputs,
    options: &BuildOptions,
    (imatrix, hash): (&ImportanceMatrix, &str),
) {
    if let Some(who) = &options.quantized_by {
        metadata.set("general.quantized_by", who.as_str());
    }
    metadata.set("aqueduct.version", env!("CARGO_PKG_VERSION"));
    if let Some(recipe) = &inputs.recipe {
        metadata.set("aqueduct.recipe.sha256", recipe.as_str());
        metadata.set("aqueduct.member.count", inputs.models.len() as u32);
    }
    for (n, (name, hash)) in inputs.models.iter().enumerate() {
        if let Some(quantization) = inputs.quantizations.get(n).and_then(Option::as_ref) {
            let key = match name {
                Some(_) => format!("aqueduct.member.{n}.quantization"),
                None => "aqueduct.source.quantization".to_string(),
            };
            metadata.set(key, quantization.as_str());
        }
        match name {
            Some(name) => {
                metadata.set(format!("aqueduct.member.{n}.name"), name.as_str());
                metadata.set(format!("aqueduct.member.{n}.sha256"), hash.as_str());
            }
            None => metadata.set("aqueduct.source.sha256", hash.as_str()),
        }
    }
    metadata.set("aqueduct.imatrix.sha256", hash);
    let texts = options.calibration.names.iter().zip(&options.calibration.texts);
    let read: Vec<_> = texts.filter(|(name, _)| imatrix.datasets.contains(name)).collect();
    metadata.set("aqueduct.calibration.count", read.len() as u32);
    for (n, (name, text)) in read.into_iter().enumerate() {
        metadata.set(format!("aqueduct.calibration.{n}.name"), name.as_str());
        metadata.set(format!("aqueduct.calibration.{n}.sha256"), hash::sha256(text));
    }
}
