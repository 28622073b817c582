//! Sums of squared activations, as llama-imatrix collects them.
//!
//! Each expert of a mixture has separate sums and a separate count, over the tokens that it computes.
//!
//! Source of the rules (which products count, `acc[j] += x * x` in f32, one count for each row):
//! llama.cpp `tools/imatrix/imatrix.cpp`, October 2026.

use super::Entry;
use crate::base::error::{Error, Result};
use crate::kernels::{add_squares, all_finite};
use crate::model::forward::Activations;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Products with fewer rows are not counted, except those with experts.
pub(super) const MIN_ROWS: usize = 16;
/// The output head, and the embedding where both are tied.
const HEADS: &[&str] = &["output.weight", "token_embd.weight"];
/// Number of columns that one task sums.
const COLUMNS: usize = 128;

/// Tensors that are multiplied with the same input, and so share their sums.
struct Shared {
    tensors: Vec<String>,
    /// Sums of the columns, expert after expert.
    sums: Vec<f32>,
    /// One count, or one for each expert.
    counts: Vec<i64>,
}

/// Collects sums over all products of the layers and, if requested, of the output head. A head that is tied
/// to the embedding has the embedding's name, under which quantizers look for it; llama-imatrix has no
/// entry for it.
pub(super) struct Collector {
    process_output: bool,
    /// Number in the text, from 0, of the first chunk of the pass.
    pub first_chunk: usize,
    /// Sums of an earlier run, by tensor.
    earlier: BTreeMap<String, Entry>,
    /// By the first of the tensors that share an input.
    inputs: BTreeMap<String, Shared>,
}

impl Collector {
    /// A collector that continues the sums `earlier`.
    pub(super) fn new(process_output: bool, earlier: BTreeMap<String, Entry>) -> Collector {
        Collector { process_output, first_chunk: 0, earlier, inputs: BTreeMap::new() }
    }

    fn wants(&self, tensor: &str) -> bool {
        tensor.starts_with("blk.") || (self.process_output && HEADS.contains(&tensor))
    }

    /// Adds one chunk's input of the products with `input.tensors`.
    ///
    /// # Errors
    /// If a sum overflows.
    pub(super) fn add(&mut self, input: &Activations<'_>) -> Result<()> {
        let rows = input.values.len() / input.row_len;
        let first = input.tensors[0];
        let few = rows < MIN_ROWS && input.expert.is_none();
        if few || !self.wants(first) {
            return Ok(());
        }
        let (matrix, matrices) = input.expert.map_or((0, 1), |e| (e.index, e.count));
        let shared = self.inputs.entry(first.to_string()).or_insert_with(|| {
            let (sums, counts) = match self.earlier.get(first) {
                Some(entry)
                    if entry.sums.len() == input.row_len * matrices
                        && entry.counts.len() == matrices =>
                {
                    (entry.sums.clone(), entry.counts.clone())
                }
                _ => (vec![0.0; input.row_len * matrices], vec![0; matrices]),
            };
            let tensors = input.tensors.iter().map(|t| t.to_string()).collect();
            Shared { tensors, sums, counts }
        });
        let sums = &mut shared.sums[matrix * input.row_len..][..input.row_len];
        sums.par_chunks_mut(COLUMNS).enumerate().for_each(|(part, sums)| {
            for row in input.values.chunks_exact(input.row_len) {
                let columns = &row[part * COLUMNS..][..sums.len()];
                add_squares(columns, sums);
            }
        });
        shared.counts[matrix] += rows as i64;
        if all_finite(sums) {
            return Ok(());
        }
        let detail = format!(
            "the squares of its inputs overflow at chunk {}: the activations are too large for an \
             importance matrix",
            self.first_chunk + input.chunk + 1
        );
        Err(Error::tensor("importance matrix", first, detail))
    }

    /// Returns the sums so far, an entry for each tensor.
    pub(super) fn entries(&self) -> BTreeMap<String, Entry> {
        let entries = self.inputs.values().flat_map(|shared| {
            let entry = Entry { sums: shared.sums.clone(), counts: shared.counts.clone() };
            shared.tensors.iter().map(move |tensor| (tensor.clone(), entry.clone()))
        });
        self.earlier.clone().into_iter().chain(entries).collect()
    }
}
