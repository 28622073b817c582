//! Importance matrices: which inputs of a weight matrix carry large activations.
//!
//! [`compute()`] runs a calibration text through the model and sums, for each tensor, the squares of the
//! inputs of every column; quantizers weigh rounding errors by their means. Files have the layouts of
//! llama-imatrix. [`merge_shards`] adds the results of several runs, [`compare()`] compares two matrices.
//! Not here: any choice of types.

mod chunks;
mod collector;
mod compare;
mod compute;
mod dat;
mod experts;
mod gguf;
mod layers;
mod options;
mod record;
mod shards;
mod statistics;

pub use crate::measure::perplexity::{Likelihood, Perplexity};
pub use chunks::{NamedTokens, arrange, chunk_tokens, named_tokens, select, tokenize};
pub use compare::{Comparison, TensorDifference, compare};
pub use compute::{Computed, compute};
pub use layers::LayerCheckpoints;
pub use options::{Options, Selection, Shard};
pub use record::{ChunkRanges, Record, model_hash, ranges_text};
pub use shards::{Merged, merge_shards};
pub use statistics::{LayerStatistics, TensorStatistics, kind, split_layer};

use crate::base::error::{Error, Result};
use crate::base::mmap::Mmap;
use crate::base::output;
use crate::formats::file_kind::refuse_foreign;
use std::collections::BTreeMap;
use std::path::Path;

/// Tokens in a chunk by default, as in llama-imatrix, and in files that do not record the size.
pub const DEFAULT_CHUNK: u32 = 512;

/// The sums collected for one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The sum of squared inputs of each column, matrix after matrix if the tensor stacks several.
    pub sums: Vec<f32>,
    /// Number of rows that were summed, for each matrix. In a file of the older layout, sums are means times
    /// chunks, and counts are chunks; the quotient is the same.
    pub counts: Vec<i64>,
}

/// An importance matrix: entries by the names of the weight tensors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportanceMatrix {
    /// Sums by tensor name.
    pub entries: BTreeMap<String, Entry>,
    /// Names of the texts that it was computed from.
    pub datasets: Vec<String>,
    /// Number of chunks that it was computed from.
    pub chunk_count: u32,
    /// Tokens in a chunk; 0 if it was read from a file of the older layout, which counts in chunks.
    pub chunk_size: u32,
    /// The record of what it was computed from, if this program computed it and the layout can hold it.
    pub record: Option<Record>,
}

/// The layouts of imatrix files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A GGUF file with `.in_sum2` and `.counts` tensors.
    Gguf,
    /// llama.cpp's older layout, `imatrix.dat`.
    Dat,
}

impl ImportanceMatrix {
    /// Reads a file of either layout, which its content identifies.
    ///
    /// # Errors
    /// If the file cannot be read, or is not an importance matrix.
    pub fn read(path: impl AsRef<Path>) -> Result<ImportanceMatrix> {
        let path = path.as_ref();
        if crate::formats::gguf::is_gguf(path)? {
            return gguf::read(path);
        }
        refuse_foreign(path)?;
        dat::parse(path, &Mmap::open(path)?)
    }

    /// Writes the file `path`, whole or not at all.
    ///
    /// # Errors
    /// If the file exists, unless `force`, or cannot be written.
    pub fn write(&self, path: impl AsRef<Path>, format: Format, force: bool) -> Result<()> {
        let path = path.as_ref();
        match format {
            Format::Gguf => gguf::write(self, path, force),
            Format::Dat => output::write_file(path, &dat::serialize(self, path)?, force),
        }
    }

    /// Returns the weights of the columns of tensor `name`, whose rows have `n_per_row` elements: mean
    /// squared inputs. `None` if there is no entry.
    ///
    /// `sum / count` in f32, as llama-quantize computes it. A matrix without any input gets ones.
    ///
    /// # Errors
    /// If the entry belongs to a tensor of another shape.
    pub fn weights_for(&self, name: &str, n_per_row: usize) -> Option<Result<Vec<f32>>> {
        let entry = self.entries.get(name)?;
        if entry.sums.len() != n_per_row {
            let detail = format!(
                "the importance matrix has {} columns for it, the model {n_per_row}; it was computed \
                 for another model",
                entry.sums.len()
            );
            return Some(Err(Error::tensor("importance matrix", name, detail)));
        }
        Some(Ok(self.means(entry)))
    }

    /// Returns the means of all columns of `entry`.
    fn means(&self, entry: &Entry) -> Vec<f32> {
        let legacy = self.chunk_size == 0;
        let width = entry.sums.len() / entry.counts.len().max(1);
        let matrices = entry.sums.chunks(width.max(1)).zip(&entry.counts);
        let mean = |(sums, &count): (&[f32], &i64)| -> Vec<f32> {
            match count {
                0 if legacy => sums.to_vec(),
                0 => vec![1.0; sums.len()],
                _ => sums.iter().map(|sum| sum / count as f32).collect(),
            }
        };
        matrices.flat_map(mean).collect()
    }

    /// Adds the sums and counts of `other`, as if both texts had been one. Where one entry has one count and
    /// the other several, the one counts for each matrix. Whether the two belong together is unknown, so
    /// the result has no record; see [`merge_shards`].
    ///
    /// Matrices of the older layout are converted to tokens with the other's chunk size, or 512.
    ///
    /// # Errors
    /// If shapes differ.
    pub fn merge(&mut self, other: &ImportanceMatrix) -> Result<()> {
        let size = match (self.chunk_size, other.chunk_size) {
            (0, 0) => DEFAULT_CHUNK,
            (0, size) | (size, _) => size,
        };
        let mut merged = self.in_tokens(size);
        for (name, entry) in &other.in_tokens(size).entries {
            let Some(mine) = merged.entries.get_mut(name) else {
                merged.entries.insert(name.clone(), entry.clone());
                continue;
            };
            let mut counts = entry.counts.clone();
            let matrices = counts.len().max(mine.counts.len());
            for counts in [&mut counts, &mut mine.counts] {
                if counts.len() == 1 {
                    counts.resize(matrices, counts[0]);
                }
            }
            if mine.sums.len() != entry.sums.len() || mine.counts.len() != counts.len() {
                let detail = format!(
                    "{} columns in one importance matrix, {} in the other",
                    mine.sums.len(),
                    entry.sums.len()
                );
                return Err(Error::tensor("importance matrices", name, detail));
            }
            mine.sums.iter_mut().zip(&entry.sums).for_each(|(a, b)| *a += b);
            mine.counts.iter_mut().zip(&counts).for_each(|(a, b)| *a = a.saturating_add(*b));
        }
        merged.datasets.extend(other.datasets.iter().cloned());
        let most = merged.entries.values().flat_map(|e| &e.counts).max().copied().unwrap_or(0);
        merged.chunk_count = (most / i64::from(size)).try_into().unwrap_or(u32::MAX);
        merged.record = None;
        *self = merged;
        Ok(())
    }

    /// Returns the matrix counted in tokens; `chunk_size` applies if it is counted in chunks.
    fn in_tokens(&self, chunk_size: u32) -> ImportanceMatrix {
        let mut result = self.clone();
        if self.chunk_size == 0 {
            result.chunk_size = chunk_size;
            for entry in result.entries.values_mut() {
                entry.sums.iter_mut().for_each(|sum| *sum *= chunk_size as f32);
                let grow = |count: &mut i64| *count = count.saturating_mul(chunk_size.into());
                entry.counts.iter_mut().for_each(grow);
            }
        }
        result
    }
}

/// Checks an entry that was read from a file: sums of squares, in whole matrices.
fn check_entry(path: &Path, name: &str, entry: &Entry) -> Result<()> {
    let fail = |detail: String| Err(Error::tensor(path.display().to_string(), name, detail));
    if entry.sums.is_empty() || entry.counts.is_empty() {
        return fail("the entry is empty".into());
    }
    if !entry.sums.len().is_multiple_of(entry.counts.len()) {
        let (sums, counts) = (entry.sums.len(), entry.counts.len());
        return fail(format!("{sums} sums do not go into {counts} matrices"));
    }
    if let Some(count) = entry.counts.iter().find(|count| **count < 0) {
        return fail(format!("a count of {count}"));
    }
    match entry.sums.iter().position(|sum| !sum.is_finite() || *sum < 0.0) {
        None => Ok(()),
        Some(at) => fail(format!(
            "column {at} holds {}, which is not a sum of squares; compute the importance matrix again",
            entry.sums[at]
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(chunk_size: u32, entries: &[(&str, &[f32], &[i64])]) -> ImportanceMatrix {
        let entry = |&(name, sums, counts): &(&str, &[f32], &[i64])| {
            (name.to_string(), Entry { sums: sums.to_vec(), counts: counts.to_vec() })
        };
        ImportanceMatrix {
            entries: entries.iter().map(entry).collect(),
            datasets: vec!["text".into()],
            chunk_count: 1,
            chunk_size,
            record: None,
        }
    }

    #[test]
    fn weights_are_means_and_ones_where_nothing_was_counted() {
        let m = matrix(512, &[("a", &[3.0, 6.0], &[3]), ("b", &[0.0, 0.0], &[0])]);
        assert_eq!(m.weights_for("a", 2).unwrap().unwrap(), [1.0, 2.0]);
        assert_eq!(m.weights_for("b", 2).unwrap().unwrap(), [1.0, 1.0]);
        assert!(m.weights_for("c", 2).is_none());
        let error = m.weights_for("a", 3).unwrap().unwrap_err().to_string();
        assert!(error.contains("'a'") && error.contains("2 columns"), "{error}");
    }

    #[test]
    fn experts_have_a_count_each() {
        let m = matrix(512, &[("a", &[3.0, 6.0, 5.0, 5.0], &[3, 0])]);
        assert_eq!(m.means(&m.entries["a"]), [1.0, 2.0, 1.0, 1.0]);
    }

    #[test]
    fn merging_adds_in_tokens() {
        let mut a = matrix(4, &[("x", &[8.0, 4.0], &[4]), ("y", &[1.0, 1.0], &[4])]);
        let b = matrix(0, &[("x", &[3.0, 2.0], &[2]), ("z", &[2.0, 2.0], &[2])]);
        a.merge(&b).unwrap();
        assert_eq!(a.entries["x"], Entry { sums: vec![20.0, 12.0], counts: vec![12] });
        assert_eq!(a.entries["z"], Entry { sums: vec![8.0, 8.0], counts: vec![8] });
        assert_eq!((a.entries.len(), a.chunk_count, a.chunk_size), (3, 3, 4));
        assert_eq!(a.datasets.len(), 2);
        let error = a.merge(&matrix(4, &[("x", &[1.0], &[4])])).unwrap_err();
        assert!(error.to_string().contains("'x'"), "{error}");
        assert_eq!(a.entries["x"].counts, [12], "a failed merge changes nothing");
    }

    #[test]
    fn impossible_sums_are_refused() {
        for (sums, counts) in [
            (vec![f32::NAN], vec![1]),
            (vec![-1.0], vec![1]),
            (vec![1.0], vec![-1]),
            (vec![1.0, 2.0, 3.0], vec![1, 1]),
            (vec![], vec![1]),
        ] {
            let entry = Entry { sums, counts };
            assert!(check_entry(Path::new("m"), "x", &entry).is_err(), "{entry:?}");
        }
    }
}
