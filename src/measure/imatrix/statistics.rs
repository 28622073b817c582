//! Statistics of an importance matrix, with the names and formulas of `llama-imatrix --show-statistics`
//! (llama.cpp `tools/imatrix/imatrix.cpp`, October 2026).

use super::ImportanceMatrix;
use std::collections::BTreeMap;

/// Columns with a mean square up to this are not active.
const INACTIVE: f32 = 1e-5;

/// Statistics of one tensor, over the mean squared activations of its columns.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorStatistics {
    /// The tensor's name.
    pub tensor: String,
    /// Sum over the columns of mean squared activations.
    pub sum_of_squares: f32,
    /// Smallest value.
    pub min: f32,
    /// Largest value.
    pub max: f32,
    /// Mean value.
    pub mean: f32,
    /// Standard deviation.
    pub sigma: f32,
    /// Share of columns that are active, 0 to 1.
    pub active: f32,
    /// Number of columns counted.
    pub elements: usize,
    /// Entropy of the columns' shares in the sum, in bits.
    pub entropy: f32,
    /// Share of columns more than one sigma above the mean, 0 to 1.
    pub zd_score: f32,
    /// Cosine similarity with the same tensor of the previous layer, if there is one.
    pub cosine_similarity: Option<f32>,
}

impl TensorStatistics {
    /// Returns the layer's number, if the tensor belongs to a layer.
    pub fn layer(&self) -> Option<usize> {
        Some(split_layer(&self.tensor)?.0)
    }

    /// Returns the tensor's name within its layer: `attn_q` for `blk.7.attn_q.weight`.
    pub fn kind(&self) -> &str {
        kind(&self.tensor)
    }

    /// Returns the entropy as a share of the largest possible one, 0 to 1.
    pub fn normalized_entropy(&self) -> f32 {
        if self.elements > 1 { self.entropy / (self.elements as f32).log2() } else { 0.0 }
    }
}

/// Means over a layer's tensors, weighted by their columns.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerStatistics {
    /// The layer's number.
    pub layer: usize,
    /// See [`TensorStatistics::sum_of_squares`].
    pub sum_of_squares: f32,
    /// See [`TensorStatistics::zd_score`].
    pub zd_score: f32,
    /// See [`TensorStatistics::cosine_similarity`]. Tensors without a previous one count as 0; `None` if no
    /// tensor has one.
    pub cosine_similarity: Option<f32>,
}

impl ImportanceMatrix {
    /// Returns statistics of every tensor that has any input, by name.
    pub fn statistics(&self) -> Vec<TensorStatistics> {
        let one = |(name, entry): (&String, &super::Entry)| {
            let width = entry.sums.len() / entry.counts.len().max(1);
            let counted = |&column: &usize| entry.counts[column / width.max(1)] > 0;
            let means = self.means(entry);
            let means: Vec<f32> = (0..means.len()).filter(counted).map(|i| means[i]).collect();
            (!means.is_empty()).then(|| TensorStatistics {
                cosine_similarity: self.similarity_to_previous(name),
                ..of_columns(name, &means)
            })
        };
        self.entries.iter().filter_map(one).collect()
    }

    /// Returns statistics of every layer, in order.
    pub fn layer_statistics(&self) -> Vec<LayerStatistics> {
        let mut layers: BTreeMap<usize, Vec<TensorStatistics>> = BTreeMap::new();
        for tensor in self.statistics() {
            if let Some((layer, _)) = split_layer(&tensor.tensor) {
                layers.entry(layer).or_default().push(tensor);
            }
        }
        let summary = |(layer, tensors): (usize, Vec<TensorStatistics>)| {
            let total: usize = tensors.iter().map(|t| t.elements).sum();
            let mean = |f: &dyn Fn(&TensorStatistics) -> f32| {
                tensors.iter().map(|t| t.elements as f32 * f(t)).sum::<f32>() / total as f32
            };
            LayerStatistics {
                layer,
                sum_of_squares: mean(&|t| t.sum_of_squares),
                zd_score: mean(&|t| t.zd_score),
                cosine_similarity: (tensors.iter().any(|t| t.cosine_similarity.is_some()))
                    .then(|| mean(&|t| t.cosine_similarity.unwrap_or(0.0))),
            }
        };
        layers.into_iter().map(summary).collect()
    }

    fn similarity_to_previous(&self, name: &str) -> Option<f32> {
        let (layer, part) = split_layer(name)?;
        let previous = self.entries.get(&format!("blk.{}.{part}", layer.checked_sub(1)?))?;
        let (a, b) = (&self.entries[name].sums, &previous.sums);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let norms = dot(a, a).sqrt() * dot(b, b).sqrt();
        (a.len() == b.len() && norms > 0.0).then(|| dot(a, b) / norms)
    }
}

/// Returns the layer's number and the rest of a name such as `blk.N.rest`.
pub fn split_layer(name: &str) -> Option<(usize, &str)> {
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((layer.parse().ok()?, part))
}

/// Returns a tensor's name without its layer and `.weight`.
pub fn kind(name: &str) -> &str {
    let part = split_layer(name).map_or(name, |(_, part)| part);
    part.strip_suffix(".weight").unwrap_or(part)
}

fn of_columns(name: &str, means: &[f32]) -> TensorStatistics {
    let n = means.len() as f32;
    let sum: f32 = means.iter().sum();
    let mean = sum / n;
    let variance = means.iter().map(|v| v * v).sum::<f32>() / n - mean * mean;
    let sigma = variance.max(0.0).sqrt();
    let inactive = means.iter().filter(|v| v.abs() <= INACTIVE).count();
    let bits = |&v: &f32| {
        let share = v / sum;
        if share > 0.0 { -share * share.log2() } else { 0.0 }
    };
    let high = |v: &&f32| (**v - mean) / sigma > 1.0;
    TensorStatistics {
        tensor: name.to_string(),
        sum_of_squares: sum,
        min: means.iter().copied().fold(f32::INFINITY, f32::min),
        max: means.iter().copied().fold(f32::NEG_INFINITY, f32::max),
        mean,
        sigma,
        active: 1.0 - inactive as f32 / n,
        elements: means.len(),
        entropy: if sum > 0.0 { means.iter().map(bits).sum() } else { 0.0 },
        zd_score: if sigma > 0.0 { means.iter().filter(high).count() as f32 / n } else { 0.0 },
        cosine_similarity: None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Entry;
    use super::*;

    fn matrix(entries: &[(&str, &[f32], i64)]) -> ImportanceMatrix {
        let entries = entries.iter().map(|&(name, sums, count)| {
            (name.to_string(), Entry { sums: sums.to_vec(), counts: vec![count] })
        });
        ImportanceMatrix { entries: entries.collect(), chunk_size: 1, ..Default::default() }
    }

    #[test]
    fn statistics_of_known_columns() {
        let m = matrix(&[("blk.0.x.weight", &[2.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0, 8.0], 2)]);
        let s = &m.statistics()[0];
        assert_eq!((s.sum_of_squares, s.min, s.max, s.mean), (8.0, 0.0, 4.0, 1.0));
        assert_eq!((s.elements, s.active, s.zd_score), (8, 0.625, 0.125));
        assert!((s.sigma - 1.5f32.sqrt()).abs() < 1e-6);
        // Shares 1/8 four times and 1/2 once.
        assert!((s.entropy - 2.0).abs() < 1e-6);
        assert!((s.normalized_entropy() - 2.0 / 3.0).abs() < 1e-6);
        assert_eq!(s.cosine_similarity, None);
    }

    #[test]
    fn layers_are_compared_with_the_one_before() {
        let m = matrix(&[
            ("blk.9.x.weight", &[1.0, 0.0], 1),
            ("blk.10.x.weight", &[1.0, 1.0], 1),
            ("output.weight", &[1.0, 1.0], 1),
            ("blk.10.y.weight", &[0.0, 0.0], 0),
        ]);
        let statistics = m.statistics();
        assert_eq!(statistics.len(), 3, "nothing was counted for y");
        let ten = statistics.iter().find(|s| s.tensor == "blk.10.x.weight").unwrap();
        assert!((ten.cosine_similarity.unwrap() - 0.5f32.sqrt()).abs() < 1e-6);
        let layers = m.layer_statistics();
        assert_eq!(layers.iter().map(|l| l.layer).collect::<Vec<_>>(), [9, 10]);
        assert_eq!(layers[1].sum_of_squares, 2.0);
        assert_eq!(layers[0].cosine_similarity, None);
        assert_eq!(layers[1].cosine_similarity, ten.cosine_similarity);
        assert_eq!((ten.layer(), ten.kind()), (Some(10), "x"));
        let output = statistics.iter().find(|s| s.tensor == "output.weight").unwrap();
        assert_eq!((output.layer(), output.kind()), (None, "output"));
    }
}
