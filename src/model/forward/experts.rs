//! The feed-forward part of a mixture of experts: routes from the router's output, then expert
//! after expert over all rows that are routed to it.
//!
//! One expert's matrices are read at a time, once for all groups of chunks (once for each group if
//! hidden states are spilled). The experts' outputs are summed in a second buffer of the size of
//! the hidden states, because later experts still read those. Each row adds its outputs in the
//! order of the experts, so results depend neither on threads nor on groups.

use super::chunks::Chunks;
use super::observer::{Activations, Expert, Observer};
use super::weights::{CheckedModel, GatedWeights, Norm};
use super::work::{WorkBuffers, activate, first_non_finite_row};
use crate::base::error::{Error, Result};
use crate::base::progress::{Progress, check_interrupted};
use crate::kernels::{Rows, rms_norm};
use rayon::prelude::*;

/// The lower limit of the sum that weights are divided by: the smallest normal number of F16.
const LEAST_SUM: f32 = 6.103_515_6e-5;

/// A row that is routed to an expert.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RoutedRow {
    /// The row's number in its group.
    pub row: usize,
    /// The chunk that the row belongs to.
    pub chunk: usize,
    /// The factor of the expert's output.
    pub weight: f32,
}

/// The rows of a group that are routed to each expert, in the order of the rows.
pub(super) struct Routes(Vec<Vec<RoutedRow>>);

impl Routes {
    /// Routes each row to `used` of `count` experts. `logits`, the router's output, has one row for
    /// each row of the group; `chunks` yields the chunk of each row.
    pub(super) fn choose(
        logits: &[f32],
        count: usize,
        used: usize,
        chunks: impl Iterator<Item = usize>,
    ) -> Routes {
        let chosen: Vec<Vec<(usize, f32)>> =
            logits.par_chunks(count).map(|logits| choose(logits, used)).collect();
        let mut routes = vec![Vec::new(); count];
        for (row, (chosen, chunk)) in chosen.iter().zip(chunks).enumerate() {
            for &(expert, weight) in chosen {
                routes[expert].push(RoutedRow { row, chunk, weight });
            }
        }
        Routes(routes)
    }
}

/// Chooses the `used` most probable experts, the first of equals, with their weights.
///
/// The weights are the softmax over all experts, scaled to a sum of 1. Source: llama.cpp
/// `src/llama-graph.cpp` (`build_moe_ffn`), `src/models/{llama,qwen3moe}.cpp`, October 2026.
fn choose(logits: &[f32], used: usize) -> Vec<(usize, f32)> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut chosen: Vec<(usize, f32)> =
        logits.iter().map(|logit| (logit - top).exp()).enumerate().collect();
    let total: f32 = chosen.iter().map(|(_, p)| p).sum();
    chosen.iter_mut().for_each(|(_, p)| *p /= total);
    chosen.sort_by(|a, b| b.1.total_cmp(&a.1));
    chosen.truncate(used);
    let sum = chosen.iter().map(|(_, p)| p).sum::<f32>().max(LEAST_SUM);
    chosen.iter_mut().for_each(|(_, p)| *p /= sum);
    chosen
}

/// A group of chunks between the router and the experts.
pub(super) struct RoutedGroup {
    /// The group's number in the pass.
    pub number: usize,
    /// The group's first row among all rows of the pass.
    first_row: usize,
    pub hidden: Vec<f32>,
    routes: Routes,
    /// The sums of the experts' outputs.
    mixed: Vec<f32>,
}

impl RoutedGroup {
    pub(super) fn new(
        number: usize,
        first_row: usize,
        hidden: Vec<f32>,
        routes: Routes,
    ) -> RoutedGroup {
        let mixed = vec![0.0; hidden.len()];
        RoutedGroup { number, first_row, hidden, routes, mixed }
    }
}

/// The experts of one layer, and the parts of the pass that they use.
pub(super) struct ExpertLayer<'p> {
    pub model: &'p CheckedModel<'p>,
    pub chunks: &'p Chunks,
    pub observer: &'p mut dyn Observer,
    pub progress: &'p dyn Progress,
    pub work: &'p mut WorkBuffers,
    /// The number of rows that an expert computes at once, unless one chunk has more.
    pub tile: usize,
    /// The layer's number.
    pub index: usize,
    /// The norm before the experts.
    pub norm: &'p Norm,
}

impl ExpertLayer<'_> {
    /// `hidden += residual_scale * sum over experts of weight . expert(norm(hidden))` for all
    /// `groups`.
    pub(super) fn apply(&mut self, groups: &mut [RoutedGroup]) -> Result<()> {
        let n_embd = self.model.hyper.n_embd;
        let rows = groups.iter().map(|group| group.hidden.len() / n_embd).sum::<usize>();
        let count = groups.first().map_or(0, |group| group.routes.0.len());
        for index in 0..count {
            check_interrupted()?;
            if groups.iter().any(|group| !group.routes.0[index].is_empty()) {
                let weights = self.model.expert(self.index, index)?;
                for group in groups.iter_mut() {
                    let mut mixed = std::mem::take(&mut group.mixed);
                    for tile in tiles(&group.routes.0[index], self.tile) {
                        check_interrupted()?;
                        self.expert(Expert { index, count }, &weights, group, tile)?;
                        add_weighted(tile, &self.work.attended, &mut mixed);
                    }
                    group.mixed = mixed;
                }
            }
            let done = |experts: usize| rows * experts / count;
            self.progress.advance((done(index + 1) - done(index)) as u64);
        }
        let factor = self.model.hyper.residual_scale;
        for RoutedGroup { hidden, mixed, .. } in groups {
            let rows = hidden.par_chunks_mut(n_embd).zip(mixed.par_chunks(n_embd));
            rows.for_each(|(hidden, mixed)| {
                hidden.iter_mut().zip(mixed).for_each(|(h, m)| *h += factor * m);
            });
        }
        Ok(())
    }

    /// Computes the expert's output for the rows `tile` of `group` into `work.attended`.
    fn expert(
        &mut self,
        expert: Expert,
        weights: &GatedWeights,
        group: &RoutedGroup,
        tile: &[RoutedRow],
    ) -> Result<()> {
        let GatedWeights { gate, up, down } = weights;
        let (n_embd, n_ff) = (gate.weight.inputs(), down.weight.inputs());
        let (eps, work) = (self.model.hyper.rms_eps, &mut *self.work);
        let fit = |buffer: &mut Vec<f32>, width: usize| buffer.resize(tile.len() * width, 0.0);
        fit(&mut work.normed, n_embd);
        fit(&mut work.gate, n_ff);
        fit(&mut work.up, n_ff);
        fit(&mut work.attended, n_embd);
        let rows = work.normed.par_chunks_mut(n_embd).zip(tile);
        // The same norm as the router's: hidden states have not changed since.
        rows.for_each(|(out, routed)| {
            let hidden = &group.hidden[routed.row * n_embd..][..n_embd];
            rms_norm(hidden, &self.norm.weight, eps, out);
        });
        self.observe(expert, &[&gate.name, &up.name], tile, |work| &work.normed)?;
        let work = &mut *self.work;
        let x = Rows::dense(&work.normed, n_embd);
        let result = gate
            .multiply(x, false, &mut work.gate)
            .and_then(|()| up.multiply(x, false, &mut work.up));
        let error = |layer: &Self, name: &str, what: &str, row: usize| {
            layer.error(expert, name, what, group.first_row + tile[row].row)
        };
        result.map_err(|(name, at)| error(self, name, "the product", at.row))?;
        let work = &mut *self.work;
        activate(self.model.arch.block.activation, n_ff, &mut work.gate, &work.up);
        if let Some(row) = first_non_finite_row(&work.gate, n_ff) {
            return Err(error(self, &down.name, "the input, the gated product,", row));
        }
        self.observe(expert, &[&down.name], tile, |work| &work.gate)?;
        let work = &mut *self.work;
        let result = down.multiply(Rows::dense(&work.gate, n_ff), false, &mut work.attended);
        result.map_err(|(name, at)| error(self, name, "the product", at.row))
    }

    /// The error for a value that is not finite in `row` of the pass.
    fn error(&self, expert: Expert, tensor: &str, what: &str, row: usize) -> Error {
        let what = format!("{what} of expert {}", expert.index);
        self.chunks.non_finite(self.model, tensor, &what, row)
    }

    /// Reports the input of the expert's matrices in `tensors` to the observer, chunk by chunk.
    fn observe(
        &mut self,
        expert: Expert,
        tensors: &[&str],
        tile: &[RoutedRow],
        buffer: impl Fn(&WorkBuffers) -> &[f32],
    ) -> Result<()> {
        let values = buffer(self.work);
        let row_len = values.len() / tile.len();
        let mut first = 0;
        for rows in tile.chunk_by(|a, b| a.chunk == b.chunk) {
            let values = &values[first * row_len..][..rows.len() * row_len];
            let (chunk, expert) = (rows[0].chunk, Some(expert));
            self.observer.activations(&Activations { tensors, chunk, row_len, values, expert })?;
            first += rows.len();
        }
        Ok(())
    }
}

/// `mixed[row] += weight . outputs`, for the row and weight of each element of `tile`.
fn add_weighted(tile: &[RoutedRow], outputs: &[f32], mixed: &mut [f32]) {
    let width = outputs.len() / tile.len();
    // Each row occurs once, in order, so the buffer can be split into disjoint slices.
    let mut targets = Vec::with_capacity(tile.len());
    let (mut rest, mut next) = (mixed, 0);
    for routed in tile {
        let (_, tail) = rest.split_at_mut((routed.row - next) * width);
        let (row, tail) = tail.split_at_mut(width);
        targets.push(row);
        (rest, next) = (tail, routed.row + 1);
    }
    let rows = targets.into_par_iter().zip(outputs.par_chunks(width)).zip(tile);
    rows.for_each(|((target, output), routed)| {
        target.iter_mut().zip(output).for_each(|(t, o)| *t += routed.weight * o);
    });
}

/// Cuts `rows` into tiles of whole chunks, each of at most `limit` rows but at least one chunk.
fn tiles(rows: &[RoutedRow], limit: usize) -> Vec<&[RoutedRow]> {
    let mut tiles = Vec::new();
    let (mut start, mut end) = (0, 0);
    for chunk in rows.chunk_by(|a, b| a.chunk == b.chunk) {
        if end > start && end + chunk.len() - start > limit {
            tiles.push(&rows[start..end]);
            start = end;
        }
        end += chunk.len();
    }
    if end > start {
        tiles.push(&rows[start..end]);
    }
    tiles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_probable_experts_are_chosen_with_weights_that_sum_to_one() {
        let chosen = choose(&[0.0, 3f32.ln(), f32::ln(2.0), -1.0], 2);
        assert_eq!([chosen[0].0, chosen[1].0], [1, 2]);
        assert!((chosen[0].1 - 0.6).abs() < 1e-6 && (chosen[1].1 - 0.4).abs() < 1e-6, "{chosen:?}");
        let equal = choose(&[1.0; 8], 3);
        assert_eq!(equal.iter().map(|c| c.0).collect::<Vec<_>>(), [0, 1, 2]);
        // Logits so far apart that the smaller probability vanishes.
        assert_eq!(choose(&[500.0, -500.0], 2), [(0, 1.0), (1, 0.0)]);
    }

    #[test]
    fn tiles_take_whole_chunks_up_to_the_limit() {
        let rows: Vec<RoutedRow> = [0, 0, 1, 1, 1, 4, 5]
            .iter()
            .enumerate()
            .map(|(row, &chunk)| RoutedRow { row, chunk, weight: 1.0 })
            .collect();
        let lengths = |limit| tiles(&rows, limit).iter().map(|t| t.len()).collect::<Vec<_>>();
        assert_eq!(lengths(100), [7]);
        assert_eq!(lengths(4), [2, 4, 1]);
        assert_eq!(lengths(1), [2, 3, 1, 1]);
    }

    #[test]
    fn outputs_are_added_to_their_rows() {
        let tile = [(1, 2.0), (4, 0.5)].map(|(row, weight)| RoutedRow { row, chunk: 0, weight });
        let mut mixed = vec![1.0; 12];
        add_weighted(&tile, &[1.0, 2.0, 4.0, 8.0], &mut mixed);
        assert_eq!(mixed, [1.0, 1.0, 3.0, 5.0, 1.0, 1.0, 1.0, 1.0, 3.0, 5.0, 1.0, 1.0]);
    }

    #[test]
    fn rows_of_an_expert_are_in_order() {
        let logits = [9.0, 0.0, 5.0, 0.0, 9.0, 5.0];
        let routes = Routes::choose(&logits, 3, 2, [4, 5].into_iter());
        let rows = |expert: usize| -> Vec<(usize, usize)> {
            routes.0[expert].iter().map(|routed| (routed.row, routed.chunk)).collect()
        };
        assert_eq!([rows(0), rows(1), rows(2)], [vec![(0, 4)], vec![(1, 5)], vec![(0, 4), (1, 5)]]);
    }
}
