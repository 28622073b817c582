//! How two importance matrices differ, tensor by tensor.
//!
//! The means of squared inputs are compared, which are a quantizer's weights. All rows of a tensor have the
//! same weights, so their scale does not matter: the cosine similarity shows how alike the effects of two
//! calibrations are, the relative distance whether the size of activations differs too.

use super::statistics::kind;
use super::{Entry, ImportanceMatrix};
use crate::base::error::{Error, Result};

/// How the columns of one tensor differ. A figure is `None` if all columns of a side are equal or zero.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorDifference {
    /// The tensor's name.
    pub tensor: String,
    /// Number of columns compared: those of matrices that have inputs on both sides.
    pub columns: usize,
    /// `a.b / (|a| |b|)`, 0 to 1, because no mean is negative.
    pub cosine_similarity: Option<f64>,
    /// `|b - a| / |a|`.
    pub relative_l2: Option<f64>,
    /// Spearman's correlation of the columns' ranks, -1 to 1. Equal columns have their mean rank.
    pub rank_correlation: Option<f64>,
}

impl TensorDifference {
    /// Returns the tensor's name within its layer: `attn_q` for `blk.7.attn_q.weight`.
    pub fn kind(&self) -> &str {
        kind(&self.tensor)
    }
}

/// How two importance matrices differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Tensors that are in both, the most different first: by cosine similarity, then by distance.
    pub tensors: Vec<TensorDifference>,
    /// Names of tensors that have inputs only in the first matrix.
    pub only_first: Vec<String>,
    /// Names of tensors that have inputs only in the second matrix.
    pub only_second: Vec<String>,
}

/// Compares `b` with `a`.
///
/// # Errors
/// If a tensor has another number of columns or matrices in one than in the other.
pub fn compare(a: &ImportanceMatrix, b: &ImportanceMatrix) -> Result<Comparison> {
    let met = |entry: &Entry| entry.counts.iter().any(|count| *count > 0);
    let mut comparison =
        Comparison { tensors: Vec::new(), only_first: Vec::new(), only_second: Vec::new() };
    for (name, entry) in a.entries.iter().filter(|(_, entry)| met(entry)) {
        let Some(other) = b.entries.get(name).filter(|entry| met(entry)) else {
            comparison.only_first.push(name.clone());
            continue;
        };
        if entry.sums.len() != other.sums.len() {
            let detail = format!(
                "{} columns in one, {} in the other; they were computed for different models",
                entry.sums.len(),
                other.sums.len()
            );
            return Err(Error::tensor("importance matrices", name, detail));
        }
        let columns = columns(a, entry, b, other);
        comparison.tensors.push(difference(name, &columns.0, &columns.1));
    }
    let in_a = |name: &String| a.entries.get(name).is_some_and(met);
    let only_b = b.entries.iter().filter(|(name, entry)| met(entry) && !in_a(name));
    comparison.only_second = only_b.map(|(name, _)| name.clone()).collect();
    let key = |value: Option<f64>, none: f64| value.unwrap_or(none);
    comparison.tensors.sort_by(|x, y| {
        let cosine = |d: &TensorDifference| key(d.cosine_similarity, -1.0);
        let distance = |d: &TensorDifference| key(d.relative_l2, f64::INFINITY);
        cosine(x).total_cmp(&cosine(y)).then(distance(y).total_cmp(&distance(x)))
    });
    Ok(comparison)
}

/// Returns the means of the columns that were counted in both; a count for all matrices counts for each.
fn columns(
    a: &ImportanceMatrix,
    in_a: &Entry,
    b: &ImportanceMatrix,
    in_b: &Entry,
) -> (Vec<f64>, Vec<f64>) {
    let counted = |entry: &Entry, column: usize| {
        let width = (entry.sums.len() / entry.counts.len()).max(1);
        entry.counts[column / width] > 0
    };
    let (means_a, means_b) = (a.means(in_a), b.means(in_b));
    let both = (0..means_a.len()).filter(|&at| counted(in_a, at) && counted(in_b, at));
    both.map(|at| (f64::from(means_a[at]), f64::from(means_b[at]))).unzip()
}

fn difference(tensor: &str, a: &[f64], b: &[f64]) -> TensorDifference {
    let [norm_a, norm_b] = [a, b].map(|x| dot(x, x).sqrt());
    let distance = a.iter().zip(b).map(|(a, b)| (b - a) * (b - a)).sum::<f64>().sqrt();
    let quotient = |x: f64, y: f64| (y > 0.0).then(|| x / y);
    TensorDifference {
        tensor: tensor.to_string(),
        columns: a.len(),
        // Rounding may exceed 1 by a unit in the last place.
        cosine_similarity: quotient(dot(a, b), norm_a * norm_b).map(|cosine| cosine.min(1.0)),
        relative_l2: quotient(distance, norm_a),
        rank_correlation: correlation(&ranks(a), &ranks(b)),
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Returns the rank of each value, from 1; equal values have the mean of their ranks.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for equal in order.chunk_by(|&i, &j| values[i] == values[j]) {
        let mean = first as f64 + (equal.len() + 1) as f64 / 2.0;
        equal.iter().for_each(|&i| ranks[i] = mean);
        first += equal.len();
    }
    ranks
}

/// Returns Pearson's correlation; `None` if a side is constant.
fn correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    let centred = |x: &[f64]| {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        x.iter().map(|v| v - mean).collect::<Vec<_>>()
    };
    let (a, b) = (centred(a), centred(b));
    let norms = (dot(&a, &a) * dot(&b, &b)).sqrt();
    (norms > 0.0).then(|| (dot(&a, &b) / norms).clamp(-1.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(entries: &[(&str, &[f32], &[i64])]) -> ImportanceMatrix {
        let entry = |&(name, sums, counts): &(&str, &[f32], &[i64])| {
            (name.to_string(), Entry { sums: sums.to_vec(), counts: counts.to_vec() })
        };
        let entries = entries.iter().map(entry).collect();
        ImportanceMatrix { entries, chunk_size: 16, ..Default::default() }
    }

    #[test]
    fn figures_of_known_columns() {
        // Means 3, 4, 0 and 4, 3, 0.
        let a = matrix(&[("x", &[6.0, 8.0, 0.0], &[2])]);
        let b = matrix(&[("x", &[4.0, 3.0, 0.0], &[1])]);
        let comparison = compare(&a, &b).unwrap();
        let x = &comparison.tensors[0];
        assert_eq!((x.tensor.as_str(), x.columns), ("x", 3));
        assert!((x.cosine_similarity.unwrap() - 24.0 / 25.0).abs() < 1e-15);
        assert!((x.relative_l2.unwrap() - 2f64.sqrt() / 5.0).abs() < 1e-15);
        // Ranks 2 3 1 and 3 2 1.
        assert!((x.rank_correlation.unwrap() - 0.5).abs() < 1e-15);
        let same = compare(&a, &a).unwrap().tensors.remove(0);
        let one = (same.cosine_similarity.unwrap() - 1.0).abs() < 1e-15;
        assert!(one && same.relative_l2 == Some(0.0) && same.rank_correlation == Some(1.0));
    }

    #[test]
    fn equal_values_share_their_mean_rank() {
        assert_eq!(ranks(&[5.0, 1.0, 5.0, 0.0, 5.0]), [4.0, 2.0, 4.0, 1.0, 4.0]);
        assert_eq!(correlation(&[1.0, 1.0], &[1.0, 2.0]), None);
    }

    #[test]
    fn the_worst_come_first_and_what_one_lacks_is_told() {
        let a = matrix(&[
            ("near", &[1.0, 2.0], &[1]),
            ("far", &[1.0, 0.0], &[1]),
            ("zero", &[0.0, 0.0], &[1]),
            ("scaled", &[1.0, 2.0], &[1]),
            ("a", &[1.0], &[1]),
            ("unmet", &[1.0], &[1]),
        ]);
        let b = matrix(&[
            ("near", &[1.0, 2.0], &[1]),
            ("far", &[0.0, 1.0], &[1]),
            ("zero", &[1.0, 0.0], &[1]),
            ("scaled", &[2.0, 4.0], &[1]),
            ("b", &[1.0], &[1]),
            ("unmet", &[1.0], &[0]),
        ]);
        let comparison = compare(&a, &b).unwrap();
        let names: Vec<_> = comparison.tensors.iter().map(|t| t.tensor.as_str()).collect();
        assert_eq!(names, ["zero", "far", "scaled", "near"]);
        assert_eq!(comparison.tensors[2].relative_l2, Some(1.0));
        assert_eq!(comparison.only_first, ["a", "unmet"]);
        assert_eq!(comparison.only_second, ["b"]);
    }

    #[test]
    fn experts_are_compared_where_both_met_an_input() {
        let a = matrix(&[("x", &[1.0, 2.0, 9.0, 9.0], &[1, 0])]);
        let b = matrix(&[("x", &[1.0, 2.0, 3.0, 4.0], &[1, 1])]);
        let x = compare(&a, &b).unwrap().tensors.remove(0);
        assert_eq!((x.columns, x.relative_l2), (2, Some(0.0)));
        let other = matrix(&[("x", &[1.0, 2.0], &[1])]);
        let error = compare(&a, &other).unwrap_err().to_string();
        assert!(error.contains("'x'") && error.contains("different models"), "{error}");
    }
}
