//! How two importance matrices differ, see [`crate::measure::imatrix::compare()`].

use super::table::table;
use crate::base::error::{Error, Result};
use crate::measure::imatrix::{Comparison, ImportanceMatrix, TensorDifference, compare};
use crate::report::text::one_line;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// What [`imatrix_difference`] found.
#[derive(Clone, Debug, Serialize)]
pub struct ImatrixDifference {
    pub first: String,
    pub second: String,
    /// Means over all tensors, and the worst.
    pub all: Summary,
    /// The same by kind of tensor, the kinds that differ most first.
    pub kinds: Vec<Summary>,
    /// Those that differ most first.
    pub tensors: Vec<DifferenceRow>,
    /// Tensors that met an input in only one of the two.
    pub only_first: Vec<String>,
    pub only_second: Vec<String>,
}

/// How one tensor differs; see [`TensorDifference`].
#[derive(Clone, Debug, Serialize)]
pub struct DifferenceRow {
    pub tensor: String,
    pub columns: usize,
    pub cosine_similarity: Option<f64>,
    pub relative_l2: Option<f64>,
    pub rank_correlation: Option<f64>,
}

/// Figures of several tensors together, over those that have the figure.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// What is summed up: a kind of tensor, or `all`.
    pub kind: String,
    pub tensors: usize,
    pub mean_cosine_similarity: Option<f64>,
    pub least_cosine_similarity: Option<f64>,
    pub mean_relative_l2: Option<f64>,
    pub greatest_relative_l2: Option<f64>,
    pub mean_rank_correlation: Option<f64>,
    pub least_rank_correlation: Option<f64>,
}

/// Compares the imatrix file `second` with `first`.
///
/// # Errors
/// If a file cannot be read, they are of different models, or they have no tensor in common.
pub fn imatrix_difference(
    first: impl AsRef<Path>,
    second: impl AsRef<Path>,
) -> Result<ImatrixDifference> {
    let (first, second) = (first.as_ref(), second.as_ref());
    let (a, b) = (ImportanceMatrix::read(first)?, ImportanceMatrix::read(second)?);
    let names = format!("{}, {}", first.display(), second.display());
    let Comparison { tensors, only_first, only_second } = compare(&a, &b).map_err(|e| match e {
        Error::Tensor { tensor, detail, .. } => Error::tensor(&names, tensor, detail),
        e => e,
    })?;
    if tensors.is_empty() {
        let detail = "no tensor met an input in both; they were computed for different models";
        return Err(Error::model(names, detail));
    }
    let mut kinds: BTreeMap<&str, Vec<&TensorDifference>> = BTreeMap::new();
    tensors.iter().for_each(|tensor| kinds.entry(tensor.kind()).or_default().push(tensor));
    let mut kinds: Vec<_> = kinds.iter().map(|(kind, of)| Summary::new(kind, of)).collect();
    let least = |summary: &Summary| summary.least_cosine_similarity.unwrap_or(-1.0);
    kinds.sort_by(|a, b| least(a).total_cmp(&least(b)));
    Ok(ImatrixDifference {
        first: first.display().to_string(),
        second: second.display().to_string(),
        all: Summary::new("all", &tensors.iter().collect::<Vec<_>>()),
        kinds,
        tensors: tensors.into_iter().map(DifferenceRow::new).collect(),
        only_first,
        only_second,
    })
}

impl DifferenceRow {
    fn new(difference: TensorDifference) -> DifferenceRow {
        let TensorDifference { tensor, columns, cosine_similarity, relative_l2, rank_correlation } =
            difference;
        DifferenceRow { tensor, columns, cosine_similarity, relative_l2, rank_correlation }
    }
}

impl Summary {
    fn new(kind: &str, tensors: &[&TensorDifference]) -> Summary {
        let values = |of: fn(&TensorDifference) -> Option<f64>| {
            tensors.iter().filter_map(|tensor| of(tensor)).collect::<Vec<f64>>()
        };
        let mean = |values: &[f64]| {
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        let cosine = values(|t| t.cosine_similarity);
        let distance = values(|t| t.relative_l2);
        let rank = values(|t| t.rank_correlation);
        let least = |values: &[f64]| values.iter().copied().min_by(f64::total_cmp);
        Summary {
            kind: kind.to_string(),
            tensors: tensors.len(),
            mean_cosine_similarity: mean(&cosine),
            least_cosine_similarity: least(&cosine),
            mean_relative_l2: mean(&distance),
            greatest_relative_l2: distance.iter().copied().max_by(f64::total_cmp),
            mean_rank_correlation: mean(&rank),
            least_rank_correlation: least(&rank),
        }
    }
}

impl ImatrixDifference {
    /// The difference as tables, without a newline at the end; of the tensors, the `worst` first ones.
    pub fn render(&self, worst: usize) -> String {
        let number = |value: Option<f64>| value.map_or("-".to_string(), |v| format!("{v:.6}"));
        let title = format!("{} compared with {}", one_line(&self.second), one_line(&self.first));
        let summaries = self.kinds.iter().chain((self.kinds.len() > 1).then_some(&self.all));
        let rows = summaries.map(|summary| {
            vec![
                one_line(&summary.kind),
                summary.tensors.to_string(),
                number(summary.mean_cosine_similarity),
                number(summary.least_cosine_similarity),
                number(summary.mean_relative_l2),
                number(summary.greatest_relative_l2),
                number(summary.mean_rank_correlation),
                number(summary.least_rank_correlation),
            ]
        });
        let cosine = [">mean cosine", ">least"];
        let others = [">mean relative L2", ">greatest", ">mean rank correlation", ">least"];
        let kinds = table(&[&["kind", ">tensors"][..], &cosine, &others].concat(), rows);
        let rows = self.tensors.iter().take(worst).map(|row| {
            vec![
                one_line(&row.tensor),
                row.columns.to_string(),
                number(row.cosine_similarity),
                number(row.relative_l2),
                number(row.rank_correlation),
            ]
        });
        let heads =
            ["tensor, worst first", ">columns", ">cosine", ">relative L2", ">rank correlation"];
        let mut parts = vec![title, kinds, table(&heads, rows)];
        if self.tensors.len() > worst {
            parts.push(format!("and {} more; --worst N lists more", self.tensors.len() - worst));
        }
        for (names, path) in [(&self.only_first, &self.first), (&self.only_second, &self.second)] {
            if !names.is_empty() {
                let names: Vec<_> = names.iter().map(|name| one_line(name)).collect();
                parts.push(format!("only in {}: {}", one_line(path), names.join(", ")));
            }
        }
        parts.join("\n\n")
    }
}
