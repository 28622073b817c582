//! Where a file comes from, in its metadata: who made it with what, and hashes of all that it was made of.
//!
//! | key | what it holds |
//! |---|---|
//! | `general.quantized_by` | who made the file (llama.cpp `gguf-py/gguf/constants.py`) |
//! | `aqueduct.version` | this program's version |
//! | `aqueduct.recipe.sha256` | of the recipe's text |
//! | `aqueduct.member.count`, `aqueduct.member.N.name`, `.tables_sha256` | see [`tables_hash`] |
//! | `aqueduct.source.tables_sha256` | the same of a source that is no recipe |
//! | `aqueduct.imatrix.sha256` | of the importance matrix's file |
//! | `aqueduct.calibration.count`, `.N.name`, `.N.sha256` | of each text |
//!
//! Deliberately absent: hashes of the members' weights, which would read everything twice; what `imatrix`
//! records of the model it saw (`aqueduct` keys of its own file) does hash weights of the merged model.

use super::checksums::hex;
use super::{BuildOptions, Source};
use crate::checkpoint::Checkpoint;
use crate::gguf::{GgufModel, Metadata};
use crate::source::TensorTable;
use std::fmt::Write;
use std::path::PathBuf;

/// Adds the keys to `metadata`. `imatrix` is the hash of the matrix's file.
pub fn record(metadata: &mut Metadata, source: &Source, options: &BuildOptions, imatrix: &str) {
    if let Some(who) = &options.quantized_by {
        metadata.set("general.quantized_by", who.as_str());
    }
    metadata.set("aqueduct.version", env!("CARGO_PKG_VERSION"));
    match source {
        Source::Recipe { plan, .. } => {
            metadata.set("aqueduct.recipe.sha256", hex(&plan.text));
            metadata.set("aqueduct.member.count", plan.members.len() as u32);
            for (n, member) in plan.members.iter().enumerate() {
                let key = |what: &str| format!("aqueduct.member.{n}.{what}");
                metadata.set(key("name"), member.reference.to_string());
                metadata.set(key("tables_sha256"), checkpoint_hash(&member.checkpoint));
            }
        }
        Source::Folder(checkpoint) => {
            metadata.set("aqueduct.source.tables_sha256", checkpoint_hash(checkpoint));
        }
        Source::Gguf { model, .. } => {
            metadata.set("aqueduct.source.tables_sha256", gguf_hash(model));
        }
    }
    metadata.set("aqueduct.imatrix.sha256", imatrix);
    metadata.set("aqueduct.calibration.count", options.calibration.texts.len() as u32);
    let texts = options.calibration.names.iter().zip(&options.calibration.texts);
    for (n, (name, text)) in texts.enumerate() {
        metadata.set(format!("aqueduct.calibration.{n}.name"), name.as_str());
        metadata.set(format!("aqueduct.calibration.{n}.sha256"), hex(text));
    }
}

fn checkpoint_hash(checkpoint: &Checkpoint) -> String {
    let files = checkpoint.tensors.files().unwrap_or_default();
    tables_hash(&checkpoint.config.to_json(), checkpoint.tensors.table(), &files)
}

fn gguf_hash(model: &GgufModel) -> String {
    let files = model.tensors.files().unwrap_or_default();
    tables_hash("", model.tensors.table(), &files)
}

/// Tells models apart without reading a weight: SHA-256 of the configuration, of every tensor's name, shape
/// and type, and of the names and sizes of the files of weights.
fn tables_hash(config: &str, table: &TensorTable, files: &[PathBuf]) -> String {
    let mut text = config.to_string();
    for info in table.infos() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{:?} {:?} {}", info.name, info.shape, info.dtype);
    }
    for path in files {
        let bytes = std::fs::metadata(path).map_or(0, |meta| meta.len());
        let _ = writeln!(text, "{:?} {bytes}", path.file_name().unwrap_or_default());
    }
    hex(text)
}
