//! Statistics of an importance matrix by tensor and by layer, and which layers stand out.
//!
//! The figures are those of `llama-imatrix --show-statistics`, see [`crate::measure::imatrix::TensorStatistics`].

use super::table::table;
use crate::base::error::Result;
use crate::formats::gguf;
use crate::measure::imatrix::{
    ChunkRanges, ImportanceMatrix, LayerStatistics, TensorStatistics, ranges_text,
};
use crate::report::text::{one_line, significant};
use serde::Serialize;
use std::cmp::Ordering;
use std::path::Path;

/// How many layers are named at either end of a ranking.
const RANKED: usize = 5;

/// What [`imatrix_statistics`] found.
#[derive(Clone, Debug, Serialize)]
pub struct ImatrixStatistics {
    pub path: String,
    /// `gguf`, or `dat` for the older layout.
    pub layout: &'static str,
    pub datasets: Vec<String>,
    pub chunks: u32,
    /// Tokens in a chunk; absent where the layout does not record it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk_size: Option<u32>,
    /// What the file records of its run; absent if another program made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<RunReport>,
    /// By layer and place in the layer, then those of no layer.
    pub tensors: Vec<StatisticsRow>,
    /// Tensors, or experts of them, that met no input.
    pub never_met: Vec<NeverMet>,
    pub layers: Vec<LayerRow>,
    pub ranking: Ranking,
}

/// What an importance matrix was computed from.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// Hashes that identify models and texts.
    pub model: String,
    pub text: String,
    pub settings: Vec<String>,
    /// Chunks that the text fills.
    pub text_chunks: u32,
    /// Ranges of chunks, numbered from 0 in the text.
    pub covered: ChunkRanges,
    pub missing: ChunkRanges,
    pub perplexity: f64,
    pub perplexity_error: f64,
}

/// Statistics of one tensor. Sums and the like are over the mean squared inputs of its columns.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StatisticsRow {
    pub tensor: String,
    pub layer: Option<usize>,
    /// What it is in its layer: `attn_q`.
    pub kind: String,
    /// Sum over the columns of mean squared inputs.
    pub sum_of_squares: f32,
    pub min: f32,
    pub max: f32,
    pub mean: f32,
    pub standard_deviation: f32,
    /// Share of columns with a mean square above 0.00001, 0 to 1.
    pub active: f32,
    /// Columns counted.
    pub columns: usize,
    /// Bits.
    pub entropy: f32,
    /// As a share of the largest possible, 0 to 1.
    pub normalized_entropy: f32,
    /// Share of columns more than a standard deviation above the mean, 0 to 1.
    pub zd_score: f32,
    /// With the same tensor of the layer before.
    pub cosine_similarity: Option<f32>,
}

/// Means over a layer's tensors, weighted by their columns.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerRow {
    pub layer: usize,
    pub sum_of_squares: f32,
    pub zd_score: f32,
    pub cosine_similarity: Option<f32>,
}

/// A tensor that met no input, or whose experts `experts` met none.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NeverMet {
    pub tensor: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub experts: Vec<usize>,
}

/// Layers that stand out, a few in each list, the most extreme first.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Ranking {
    /// By the layer's sum of squares.
    pub most_important: Vec<usize>,
    pub least_important: Vec<usize>,
    /// By its cosine similarity with the layer before.
    pub most_like_the_one_before: Vec<usize>,
    pub least_like_the_one_before: Vec<usize>,
}

/// Computes the statistics of the imatrix file at `path`.
pub fn imatrix_statistics(path: impl AsRef<Path>) -> Result<ImatrixStatistics> {
    let path = path.as_ref();
    let matrix = ImportanceMatrix::read(path)?;
    let layout = if gguf::is_gguf(path)? { "gguf" } else { "dat" };
    let mut tensors: Vec<_> = matrix.statistics().into_iter().map(StatisticsRow::new).collect();
    tensors.sort_by(StatisticsRow::by_place);
    let layers: Vec<_> = matrix.layer_statistics().into_iter().map(LayerRow::new).collect();
    Ok(ImatrixStatistics {
        path: path.display().to_string(),
        layout,
        datasets: matrix.datasets.clone(),
        chunks: matrix.chunk_count,
        chunk_size: (matrix.chunk_size > 0).then_some(matrix.chunk_size),
        run: run_report(&matrix),
        tensors,
        never_met: never_met(&matrix),
        ranking: Ranking::new(&layers),
        layers,
    })
}

fn run_report(matrix: &ImportanceMatrix) -> Option<RunReport> {
    let record = matrix.record.as_ref()?;
    let perplexity = record.perplexity(matrix.chunk_size);
    Some(RunReport {
        model: record.model.clone(),
        text: record.text.clone(),
        settings: record.settings.clone(),
        text_chunks: record.text_chunks,
        covered: record.covered.clone(),
        missing: record.missing(),
        perplexity: perplexity.estimate,
        perplexity_error: perplexity.error,
    })
}

fn never_met(matrix: &ImportanceMatrix) -> Vec<NeverMet> {
    let unmet = |(tensor, entry): (&String, &crate::measure::imatrix::Entry)| {
        let experts = (0..entry.counts.len()).filter(|&at| entry.counts[at] == 0);
        let experts: Vec<usize> = experts.collect();
        let all = experts.len() == entry.counts.len();
        let tensor = tensor.clone();
        match experts.is_empty() {
            true => None,
            false if all => Some(NeverMet { tensor, experts: Vec::new() }),
            false => Some(NeverMet { tensor, experts }),
        }
    };
    matrix.entries.iter().filter_map(unmet).collect()
}

/// Where a kind of tensor stands in its layer, as data flow; what is not listed comes last.
pub(crate) fn place(kind: &str) -> usize {
    const FLOW: &[&str] = &[
        "attn_qkv",
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_gate_inp",
        "ffn_gate_exps",
        "ffn_up_exps",
        "ffn_gate_up_exps",
        "ffn_down_exps",
        "ffn_gate_shexp",
        "ffn_up_shexp",
        "ffn_down_shexp",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    ];
    FLOW.iter().position(|other| *other == kind).unwrap_or(FLOW.len())
}

impl StatisticsRow {
    fn new(statistics: TensorStatistics) -> StatisticsRow {
        StatisticsRow {
            layer: statistics.layer(),
            kind: statistics.kind().to_string(),
            normalized_entropy: statistics.normalized_entropy(),
            sum_of_squares: statistics.sum_of_squares,
            min: statistics.min,
            max: statistics.max,
            mean: statistics.mean,
            standard_deviation: statistics.sigma,
            active: statistics.active,
            columns: statistics.elements,
            entropy: statistics.entropy,
            zd_score: statistics.zd_score,
            cosine_similarity: statistics.cosine_similarity,
            tensor: statistics.tensor,
        }
    }

    fn by_place(a: &StatisticsRow, b: &StatisticsRow) -> Ordering {
        let layer = |row: &StatisticsRow| row.layer.unwrap_or(usize::MAX);
        layer(a).cmp(&layer(b)).then_with(|| StatisticsRow::by_kind(a, b))
    }

    /// By kind, as they follow each other in a layer.
    pub(crate) fn by_kind(a: &StatisticsRow, b: &StatisticsRow) -> Ordering {
        place(&a.kind).cmp(&place(&b.kind)).then_with(|| a.kind.cmp(&b.kind))
    }
}

impl LayerRow {
    fn new(statistics: LayerStatistics) -> LayerRow {
        let LayerStatistics { layer, sum_of_squares, zd_score, cosine_similarity } = statistics;
        LayerRow { layer, sum_of_squares, zd_score, cosine_similarity }
    }
}

impl Ranking {
    fn new(layers: &[LayerRow]) -> Ranking {
        let ranked = |value: fn(&LayerRow) -> Option<f32>| {
            let values = layers.iter().filter_map(|row| Some((row.layer, value(row)?)));
            let mut values: Vec<_> = values.collect();
            values.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let order: Vec<usize> = values.into_iter().map(|(layer, _)| layer).collect();
            let shown = RANKED.min(order.len() / 2);
            let last = order.iter().rev().take(shown).copied().collect();
            (order[..shown].to_vec(), last)
        };
        let (most_important, least_important) = ranked(|row| Some(row.sum_of_squares));
        let (most_like_the_one_before, least_like_the_one_before) =
            ranked(|row| row.cosine_similarity);
        Ranking {
            most_important,
            least_important,
            most_like_the_one_before,
            least_like_the_one_before,
        }
    }
}

impl ImatrixStatistics {
    /// What the file is, in a line.
    pub(crate) fn subtitle(&self) -> String {
        let chunk_size = self.chunk_size.map_or(String::new(), |n| format!(" of {n} tokens"));
        let mut parts = vec![
            format!("{} tensors", self.tensors.len()),
            format!("{} layers", self.layers.len()),
            format!("{} chunks{chunk_size}", self.chunks),
        ];
        if !self.datasets.is_empty() {
            let datasets: Vec<_> = self.datasets.iter().map(|name| one_line(name)).collect();
            parts.push(format!("from {}", datasets.join(", ")));
        }
        if let Some(run) = &self.run {
            parts.push(format!("perplexity {:.4} +- {:.4}", run.perplexity, run.perplexity_error));
        }
        parts.join(" · ")
    }

    /// The statistics as tables, without a newline at the end; those of every tensor if `tensors`. These
    /// come as llama-imatrix has them: by kind, the largest sums first.
    pub fn render(&self, tensors: bool) -> String {
        let mut parts = vec![format!("{}: {}", one_line(&self.path), self.subtitle())];
        if let Some(missing) = self.run.as_ref().map(|run| &run.missing).filter(|m| !m.is_empty()) {
            let missing = ranges_text(missing);
            parts.push(format!("a part: chunks {missing} were requested too and are not in it"));
        }
        if tensors {
            parts.push(self.tensor_table());
        }
        if !self.layers.is_empty() {
            parts.push(self.layer_table());
        }
        parts.extend(self.ranking_text());
        parts.extend(self.never_met_text());
        parts.join("\n\n")
    }

    fn tensor_table(&self) -> String {
        let mut rows: Vec<_> = self.tensors.iter().collect();
        rows.sort_by(|a, b| {
            let larger = b.sum_of_squares.total_cmp(&a.sum_of_squares);
            StatisticsRow::by_kind(a, b).then(larger)
        });
        let rows = rows.into_iter().map(|row| {
            vec![
                one_line(&row.kind),
                row.layer.map_or("-".to_string(), |layer| layer.to_string()),
                significant(row.sum_of_squares),
                significant(row.min),
                significant(row.max),
                significant(row.mean),
                significant(row.standard_deviation),
                percent(row.active),
                row.columns.to_string(),
                format!("{:.4}", row.entropy),
                percent(row.normalized_entropy),
                percent(row.zd_score),
                similarity(row.cosine_similarity),
            ]
        });
        let figures = [">layer", ">Σ(act²)", ">min", ">max", ">mean", ">std dev", ">active", ">N"];
        let more = [">entropy", ">E(norm)", ">ZD score", ">cosine"];
        table(&[&["tensor"][..], &figures, &more].concat(), rows)
    }

    fn layer_table(&self) -> String {
        let rows = self.layers.iter().map(|row| {
            vec![
                row.layer.to_string(),
                significant(row.sum_of_squares),
                percent(row.zd_score),
                similarity(row.cosine_similarity),
            ]
        });
        table(&[">layer", ">mean Σ(act²)", ">mean ZD score", ">mean cosine"], rows)
    }

    fn ranking_text(&self) -> Option<String> {
        let list =
            |layers: &[usize]| layers.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        let ranking = &self.ranking;
        let lines = [
            ("most important, by Σ(act²)", &ranking.most_important),
            ("least important", &ranking.least_important),
            ("most like the layer before, by cosine", &ranking.most_like_the_one_before),
            ("least like it", &ranking.least_like_the_one_before),
        ];
        let shown = lines.iter().filter(|(_, layers)| !layers.is_empty());
        let rows: Vec<_> =
            shown.map(|(what, layers)| vec![what.to_string(), list(layers)]).collect();
        (!rows.is_empty()).then(|| table(&["layers", ""], rows))
    }

    fn never_met_text(&self) -> Option<String> {
        let rows = self.never_met.iter().map(|unmet| {
            let experts: Vec<_> = unmet.experts.iter().map(usize::to_string).collect();
            let experts = match experts.is_empty() {
                true => "all".to_string(),
                false => experts.join(", "),
            };
            vec![one_line(&unmet.tensor), experts]
        });
        (!self.never_met.is_empty()).then(|| table(&["met no input", "experts"], rows))
    }
}

pub(crate) fn percent(share: f32) -> String {
    format!("{:.2}%", share * 100.0)
}

pub(crate) fn similarity(value: Option<f32>) -> String {
    value.map_or("-".to_string(), |value| format!("{value:.4}"))
}
