//! The importance matrix as the quantizer uses it: weights by tensor, and what the file says of them.

use crate::base::error::{Error, Result};
use crate::base::resume::Fingerprint;
use crate::formats::gguf::{Metadata, Value};
use crate::measure::imatrix::ImportanceMatrix;
use std::collections::BTreeMap;

/// Longest string, in bytes, that llama-quantize records of a file or data set name.
/// Source: llama.cpp `include/llama.h`, `llama_model_kv_override::val_str`, October 2026.
const RECORDED_STRING: usize = 127;

/// Importance weights for each tensor, ready to use: `in_sum2 / count` for each column.
#[derive(Clone, Debug, Default)]
pub struct Importance {
    /// `[matrices * row_len]` weights by GGUF tensor name.
    weights: BTreeMap<String, Vec<f32>>,
    /// Entries of the matrix that are in use, those of pruned layers too.
    entries: usize,
    file: String,
    dataset: Option<String>,
    chunks: u64,
}

impl Importance {
    /// Takes the weights out of `matrix`. `file` is recorded in what is quantized with them.
    ///
    /// # Errors
    /// A value that is no mean of squares: no finite number, or negative. It names the entry.
    pub fn new(matrix: &ImportanceMatrix, file: &str) -> Result<Importance> {
        let mut weights = BTreeMap::new();
        for (name, entry) in &matrix.entries {
            let Some(values) = matrix.weights_for(name, entry.sums.len()) else { continue };
            let values = values?;
            if let Some(column) = values.iter().position(|v| !(0.0..f32::INFINITY).contains(v)) {
                let detail = format!(
                    "importance of column {column} is {}; collect the matrix again",
                    values[column]
                );
                return Err(Error::tensor(file, name, detail));
            }
            weights.insert(name.clone(), values);
        }
        let dataset = matrix.datasets.first().cloned();
        let chunks = u64::from(matrix.chunk_count);
        let entries = weights.len();
        Ok(Importance { weights, entries, file: file.to_string(), dataset, chunks })
    }

    /// Returns the fingerprint of all weights.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut bytes = Vec::new();
        for (name, weights) in &self.weights {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend((weights.len() as u64).to_le_bytes());
            bytes.extend(weights.iter().flat_map(|weight| weight.to_le_bytes()));
        }
        Fingerprint::new("the importance matrix", bytes)
    }

    /// Keeps the weights of the tensors that `keep` holds for.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.weights.retain(|name, _| keep(name));
        self.entries = self.weights.len();
    }

    /// Whether there are no weights at all.
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }

    /// What `quantize.imatrix.entries_count` records.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// The names of all weights.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.weights.keys().map(String::as_str)
    }

    /// Renames each tensor's weights with `to`, or drops them if it returns `None`. What is
    /// recorded in the file still counts them: llama-quantize counts before it prunes.
    pub fn rename(&mut self, to: impl Fn(&str) -> Option<String>) {
        let weights = std::mem::take(&mut self.weights);
        let renamed = weights.into_iter().filter_map(|(name, values)| Some((to(&name)?, values)));
        self.weights = renamed.collect();
    }

    /// The weights of tensor `name`, if the matrix has an entry.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.weights.get(name).map(Vec::as_slice)
    }

    /// Adds the `quantize.imatrix.*` keys, in llama.cpp's order and cut to its length.
    pub fn describe(&self, metadata: &mut Metadata) {
        metadata.set("quantize.imatrix.file", cut(&self.file));
        if let Some(dataset) = &self.dataset {
            metadata.set("quantize.imatrix.dataset", cut(dataset));
        }
        metadata.set("quantize.imatrix.entries_count", Value::U32(self.entries as u32));
        if self.chunks > 0 {
            metadata.set("quantize.imatrix.chunks_count", Value::U32(self.chunks as u32));
        }
    }
}

/// At most [`RECORDED_STRING`] bytes of `text`, in whole characters.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(RECORDED_STRING);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
