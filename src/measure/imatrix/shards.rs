//! Adding the shards of an importance matrix that several runs computed.
//!
//! Records show which files belong together: model, text, settings and chunks. Sums are added in f64, in
//! the order of the chunks, and rounded once, so the order of the files does not matter. Counts and
//! likelihoods are exact.

use super::record::{self, Record};
use super::{ChunkRanges, Entry, ImportanceMatrix, Perplexity};
use crate::base::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;

/// What [`merge_shards`] returns.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The sum of all shards.
    pub imatrix: ImportanceMatrix,
    /// The perplexity of all chunks that are in some shard.
    pub perplexity: Perplexity,
    /// The chunks that are in no shard.
    pub missing: ChunkRanges,
}

/// A file with its matrix and its record.
struct Part<'a> {
    path: &'a PathBuf,
    matrix: &'a ImportanceMatrix,
    record: &'a Record,
}

impl Part<'_> {
    fn first(&self) -> u32 {
        self.record.covered[0].start
    }
}

/// Adds `shards`, each with its path for errors.
///
/// # Errors
/// If the list is empty; if a shard has no record; if models, texts or settings differ; if a chunk is in two
/// shards; if the shapes of a tensor differ, or a sum leaves the range of f32.
pub fn merge_shards(shards: &[(PathBuf, ImportanceMatrix)]) -> Result<Merged> {
    let mut parts = shards
        .iter()
        .map(|(path, matrix)| match &matrix.record {
            Some(record) => Ok(Part { path, matrix, record }),
            None => {
                let detail = "it does not record what it was computed from: it comes from another \
                              program, an older version or the dat layout";
                Err(Error::format(path, detail))
            }
        })
        .collect::<Result<Vec<_>>>()?;
    parts.sort_by_key(Part::first);
    let Some(head) = parts.first() else {
        return Err(Error::Usage("no importance matrices to merge".to_string()));
    };
    for part in &parts[1..] {
        check_same_run(head, part)?;
    }
    check_disjoint(&parts)?;
    let record = merged_record(&parts);
    let size = head.matrix.chunk_size;
    let imatrix = ImportanceMatrix {
        entries: merged_entries(&parts)?,
        datasets: merged_datasets(shards),
        // Disjoint ranges of u32 numbers contain at most that many.
        chunk_count: record::count(&record.covered) as u32,
        chunk_size: size,
        record: Some(record.clone()),
    };
    Ok(Merged { imatrix, perplexity: record.perplexity(size), missing: record.missing() })
}

fn check_same_run(head: &Part<'_>, part: &Part<'_>) -> Result<()> {
    let chunks = |part: &Part<'_>| (part.matrix.chunk_size, part.record.text_chunks);
    let difference = match head.record.difference(part.record) {
        None if chunks(head) != chunks(part) => Some("the chunks of the text".to_string()),
        difference => difference,
    };
    let Some(difference) = difference else { return Ok(()) };
    let detail =
        format!("not a shard of the same run as {}: {difference} differ", head.path.display());
    Err(Error::format(part.path, detail))
}

fn check_disjoint(parts: &[Part<'_>]) -> Result<()> {
    let ranges = parts
        .iter()
        .flat_map(|part| part.record.covered.iter().map(move |range| (range.clone(), part.path)));
    let mut ranges: Vec<(Range<u32>, &PathBuf)> = ranges.collect();
    ranges.sort_by_key(|(range, _)| range.start);
    for pair in ranges.windows(2) {
        let [(a, first), (b, second)] = pair else { continue };
        if b.start < a.end {
            let both = b.start..a.end.min(b.end);
            let detail = format!(
                "chunks {} of the text are in {} too",
                record::ranges_text(&[both]),
                first.display()
            );
            return Err(Error::format(second, detail));
        }
    }
    Ok(())
}

fn merged_record(parts: &[Part<'_>]) -> Record {
    let all = |of: fn(&Record) -> &ChunkRanges| {
        record::union(parts.iter().flat_map(|part| of(part.record).clone()).collect())
    };
    let mut likelihoods: Vec<_> = parts
        .iter()
        .flat_map(|part| {
            let chunks = part.record.covered.iter().cloned().flatten();
            chunks.zip(part.record.likelihoods.iter().copied())
        })
        .collect();
    likelihoods.sort_by_key(|(chunk, _)| *chunk);
    Record {
        wanted: all(|record| &record.wanted),
        covered: all(|record| &record.covered),
        likelihoods: likelihoods.into_iter().map(|(_, likelihood)| likelihood).collect(),
        ..parts[0].record.clone()
    }
}

/// Returns the texts' names, each once, in the order of the files.
fn merged_datasets(shards: &[(PathBuf, ImportanceMatrix)]) -> Vec<String> {
    let mut datasets: Vec<String> = Vec::new();
    for name in shards.iter().flat_map(|(_, matrix)| &matrix.datasets) {
        if !datasets.contains(name) {
            datasets.push(name.clone());
        }
    }
    datasets
}

fn merged_entries(parts: &[Part<'_>]) -> Result<BTreeMap<String, Entry>> {
    let names: BTreeSet<&String> = parts.iter().flat_map(|p| p.matrix.entries.keys()).collect();
    let entries = names.into_iter().map(|name| Ok((name.clone(), merged_entry(parts, name)?)));
    entries.collect()
}

fn merged_entry(parts: &[Part<'_>], name: &str) -> Result<Entry> {
    let with = parts.iter().filter_map(|part| Some((part.path, part.matrix.entries.get(name)?)));
    let mut total: Option<(&PathBuf, Vec<f64>, Vec<i64>)> = None;
    for (path, entry) in with {
        let Some((first, sums, counts)) = &mut total else {
            let sums = entry.sums.iter().copied().map(f64::from).collect();
            total = Some((path, sums, entry.counts.clone()));
            continue;
        };
        if sums.len() != entry.sums.len() || counts.len() != entry.counts.len() {
            let shape = |sums: usize, counts: usize| format!("{sums} columns, {counts} matrices");
            let detail = format!(
                "{} where {} has {}",
                shape(entry.sums.len(), entry.counts.len()),
                first.display(),
                shape(sums.len(), counts.len())
            );
            return Err(Error::tensor(path.display().to_string(), name, detail));
        }
        sums.iter_mut().zip(&entry.sums).for_each(|(a, &b)| *a += f64::from(b));
        counts.iter_mut().zip(&entry.counts).for_each(|(a, &b)| *a = a.saturating_add(b));
    }
    let (_, sums, counts) = total.expect("the name comes from one of the parts");
    let sums: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
    if sums.iter().any(|sum| !sum.is_finite()) {
        let detail = "the sum of its columns leaves the range of f32";
        return Err(Error::tensor("importance matrices", name, detail));
    }
    Ok(Entry { sums, counts })
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    fn shard(name: &str, chunks: Range<u32>, sums: &[f32]) -> (PathBuf, ImportanceMatrix) {
        let count = i64::from(chunks.end - chunks.start);
        let entry = Entry { sums: sums.to_vec(), counts: vec![16 * count] };
        let matrix = ImportanceMatrix {
            entries: [("blk.0.x.weight".to_string(), entry)].into(),
            datasets: vec!["text".into()],
            chunk_count: count as u32,
            chunk_size: 16,
            record: Some(record(1, 2..10, chunks)),
        };
        (name.into(), matrix)
    }

    fn refused(shards: &[(PathBuf, ImportanceMatrix)], parts: &[&str]) {
        let error = merge_shards(shards).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }

    #[test]
    fn shards_are_added_in_any_order() {
        let small = 2f32.powi(-24);
        let shards = [
            shard("b", 4..6, &[small, 2.0]),
            shard("a", 2..4, &[1.0, 1.0]),
            shard("c", 6..10, &[small, 4.0]),
        ];
        let merged = merge_shards(&shards).unwrap();
        let entry = &merged.imatrix.entries["blk.0.x.weight"];
        // Rounded once: one by one the small ones would be lost.
        assert_eq!(entry.sums, [1.0 + 2.0 * small, 7.0]);
        assert_eq!(entry.counts, [128]);
        assert_eq!(merged.imatrix.chunk_count, 8);
        assert_eq!(merged.imatrix.datasets, ["text"]);
        assert_eq!(merged.imatrix.record, Some(record(1, 2..10, 2..10)));
        assert_eq!(merged.perplexity, record(1, 2..10, 2..10).perplexity(16));
        assert_eq!(merged.missing, []);
        let [b, a, c] = shards;
        assert_eq!(merge_shards(&[a, c, b]).unwrap().imatrix, merged.imatrix);
    }

    #[test]
    fn gaps_are_reported_and_merges_can_be_merged() {
        let [a, b] = [shard("a", 2..4, &[1.0]), shard("b", 6..8, &[2.0])];
        let merged = merge_shards(&[a, b]).unwrap();
        assert_eq!(merged.missing, [4..6, 8..10]);
        let ends = ("ends".into(), merged.imatrix);
        let middle = shard("middle", 4..6, &[4.0]);
        let whole = merge_shards(&[ends, middle]).unwrap();
        assert_eq!(whole.missing, record::one(8..10));
        assert_eq!(whole.imatrix.record, Some(record(1, 2..10, 2..8)), "likelihoods in order");
        assert_eq!(whole.imatrix.entries["blk.0.x.weight"].sums, [7.0]);
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let a = || shard("a.gguf", 2..6, &[1.0, 1.0]);
        refused(&[], &["no importance matrices"]);
        refused(&[a(), shard("b.gguf", 5..7, &[1.0, 1.0])], &["b.gguf: chunks 6 ", "a.gguf too"]);
        refused(&[a(), a()], &["chunks 3-6", "a.gguf too"]);
        refused(
            &[a(), shard("b.gguf", 6..7, &[1.0])],
            &["b.gguf", "'blk.0.x.weight'", "1 columns"],
        );
        let changed = |change: fn(&mut ImportanceMatrix)| {
            let (path, mut matrix) = shard("b.gguf", 6..7, &[1.0, 1.0]);
            change(&mut matrix);
            [a(), (path, matrix)]
        };
        let unrecorded = changed(|matrix| matrix.record = None);
        refused(&unrecorded, &["b.gguf", "does not record what it was computed from"]);
        let other = changed(|matrix| matrix.record = Some(record(2, 2..10, 6..7)));
        refused(&other, &["b.gguf: not a shard of the same run as a.gguf: the text"]);
        let other = changed(|matrix| matrix.record.as_mut().unwrap().text_chunks = 21);
        refused(&other, &["b.gguf", "the chunks of the text"]);
        let huge = changed(|matrix| {
            matrix.entries.get_mut("blk.0.x.weight").unwrap().sums = vec![f32::MAX; 2];
        });
        let mut twice = huge.to_vec();
        twice[0].1.entries.get_mut("blk.0.x.weight").unwrap().sums = vec![f32::MAX; 2];
        refused(&twice, &["'blk.0.x.weight'", "range of f32"]);
    }
}
