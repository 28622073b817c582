//! The feed-forward part of a mixture of experts: the router's choice, then expert after expert over all rows
//! that were sent to it.
//!
//! One expert's matrices are read and packed at a time, so memory is bounded whatever the number of experts, and once
//! for all groups of chunks, so a source that computes its tensors computes each once; where hidden states
//! are spilled, once for each group. The price is a second buffer of the size of the hidden states: what experts
//! give is summed there, because the others still read the hidden states. Every row gets its experts'
//! outputs in the order of their numbers, so results depend neither on threads nor on groups.
//!
//! Source of the router's rules (softmax over all experts, the greatest taken, their weights brought to a sum
//! of 1): llama.cpp `src/llama-graph.cpp` (`build_moe_ffn`), `src/models/{llama,qwen3moe}.cpp`, October 2026.

use super::pass::{Pass, Work, first_bad_row, product};
use super::weights::{Gated, Norm};
use super::{Activations, Expert};
use crate::base::error::Result;
use crate::base::progress::check_interrupted;
use crate::kernels::{Rows, geglu, rms_norm, swiglu};
use crate::model::arch::Activation;
use rayon::prelude::*;

/// The least that weights are divided by: the smallest normal number of F16.
const LEAST_SUM: f32 = 6.103_515_6e-5;

/// A row that goes to an expert.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Routed {
    /// Of the group.
    pub row: usize,
    /// Which chunk it belongs to.
    pub chunk: usize,
    /// What the expert's output is multiplied by.
    pub weight: f32,
}

/// Which rows of a group go to which expert, in the order of the rows.
pub(super) struct Routes(Vec<Vec<Routed>>);

impl Routes {
    /// Sends rows to `used` of `count` experts each. `logits` has a row for each, of the router's output;
    /// `chunks` tells the chunk of each.
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
                routes[expert].push(Routed { row, chunk, weight });
            }
        }
        Routes(routes)
    }
}

/// A group of chunks between the router and the experts.
pub(super) struct Part {
    /// The group's number.
    pub group: usize,
    /// Of its first row, among all rows of the pass.
    first_row: usize,
    pub hidden: Vec<f32>,
    routes: Routes,
    /// The sums of experts' outputs.
    mixed: Vec<f32>,
}

impl Part {
    pub(super) fn new(group: usize, first_row: usize, hidden: Vec<f32>, routes: Routes) -> Part {
        let mixed = vec![0.0; hidden.len()];
        Part { group, first_row, hidden, routes, mixed }
    }
}

/// The `used` experts of greatest probability, and their weights. Of equals, the first.
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

impl Pass<'_> {
    /// `hidden += residual_scale * sum over experts of weight . expert(norm(hidden))` for all `parts`.
    pub(super) fn experts(&mut self, layer: usize, norm: &Norm, parts: &mut [Part]) -> Result<()> {
        let n_embd = self.model.hyper.n_embd;
        let rows = parts.iter().map(|part| part.hidden.len() / n_embd).sum::<usize>();
        let count = parts.first().map_or(0, |part| part.routes.0.len());
        for index in 0..count {
            check_interrupted()?;
            if parts.iter().any(|part| !part.routes.0[index].is_empty()) {
                let weights = self.model.expert(layer, index)?;
                for part in parts.iter_mut() {
                    let mut mixed = std::mem::take(&mut part.mixed);
                    for tile in tiles(&part.routes.0[index], self.tile) {
                        check_interrupted()?;
                        self.expert(Expert { index, count }, &weights, norm, (part, tile))?;
                        add_weighted(tile, &self.work.attended, &mut mixed);
                    }
                    part.mixed = mixed;
                }
            }
            let done = |experts: usize| rows * experts / count;
            self.progress.advance((done(index + 1) - done(index)) as u64);
        }
        let factor = self.model.hyper.residual_scale;
        for Part { hidden, mixed, .. } in parts {
            let rows = hidden.par_chunks_mut(n_embd).zip(mixed.par_chunks(n_embd));
            rows.for_each(|(hidden, mixed)| {
                hidden.iter_mut().zip(mixed).for_each(|(h, m)| *h += factor * m);
            });
        }
        Ok(())
    }

    /// What the expert makes of the rows `tile` of `part`, in `work.attended`.
    fn expert(
        &mut self,
        expert: Expert,
        weights: &Gated,
        norm: &Norm,
        (part, tile): (&Part, &[Routed]),
    ) -> Result<()> {
        let Gated { gate, up, down } = weights;
        let (n_embd, n_ff) = (gate.weight.inputs(), down.weight.inputs());
        let (eps, work) = (self.model.hyper.rms_eps, &mut self.work);
        let fit = |buffer: &mut Vec<f32>, width: usize| buffer.resize(tile.len() * width, 0.0);
        fit(&mut work.normed, n_embd);
        fit(&mut work.gate, n_ff);
        fit(&mut work.up, n_ff);
        fit(&mut work.attended, n_embd);
        let rows = work.normed.par_chunks_mut(n_embd).zip(tile);
        // The same norm as the router's, of hidden states that have not changed since.
        rows.for_each(|(out, routed)| {
            rms_norm(&part.hidden[routed.row * n_embd..][..n_embd], &norm.weight, eps, out);
        });
        let at_row = |pass: &Self, name: &str, what: &str, row: usize| {
            let what = format!("{what} of expert {}", expert.index);
            pass.non_finite(name, &what, part.first_row + tile[row].row)
        };
        self.show(expert, &[&gate.name, &up.name], tile, |work| &work.normed)?;
        let work = &mut self.work;
        let x = Rows::dense(&work.normed, n_embd);
        let result = product(gate, x, &mut work.gate).and_then(|()| product(up, x, &mut work.up));
        result.map_err(|(name, at)| at_row(self, name, "the product", at.row))?;
        let activation = self.model.arch.block.activation;
        let work = &mut self.work;
        let rows = work.gate.par_chunks_mut(n_ff).zip(work.up.par_chunks(n_ff));
        rows.for_each(|(gate, up)| match activation {
            Activation::Silu => swiglu(gate, up),
            Activation::GeluTanh => geglu(gate, up),
        });
        if let Some(row) = first_bad_row(&work.gate, n_ff) {
            return Err(at_row(self, &down.name, "the input, the gated product,", row));
        }
        self.show(expert, &[&down.name], tile, |work| &work.gate)?;
        let work = &mut self.work;
        let result = product(down, Rows::dense(&work.gate, n_ff), &mut work.attended);
        result.map_err(|(name, at)| at_row(self, name, "the product", at.row))
    }

    /// Shows the observer what the expert's part of `tensors` reads, chunk by chunk.
    fn show(
        &mut self,
        expert: Expert,
        tensors: &[&str],
        tile: &[Routed],
        buffer: impl Fn(&Work) -> &[f32],
    ) -> Result<()> {
        let values = buffer(&self.work);
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

/// `mixed[row] += weight . outputs`, for the row and weight of each of `tile`.
fn add_weighted(tile: &[Routed], outputs: &[f32], mixed: &mut [f32]) {
    let width = outputs.len() / tile.len();
    // Each row occurs once, in order, so the slices can be taken apart.
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

/// Cuts `rows` into tiles of whole chunks, each of at most `limit` rows and at least one chunk.
fn tiles(rows: &[Routed], limit: usize) -> Vec<&[Routed]> {
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
    fn the_greatest_are_chosen_and_their_weights_sum_to_one() {
        let chosen = choose(&[0.0, 3f32.ln(), f32::ln(2.0), -1.0], 2);
        assert_eq!([chosen[0].0, chosen[1].0], [1, 2]);
        assert!((chosen[0].1 - 0.6).abs() < 1e-6 && (chosen[1].1 - 0.4).abs() < 1e-6, "{chosen:?}");
        let equal = choose(&[1.0; 8], 3);
        assert_eq!(equal.iter().map(|c| c.0).collect::<Vec<_>>(), [0, 1, 2]);
        // Logits far apart, whose lesser probabilities vanish.
        assert_eq!(choose(&[500.0, -500.0], 2), [(0, 1.0), (1, 0.0)]);
    }

    #[test]
    fn tiles_take_whole_chunks_up_to_the_limit() {
        let rows: Vec<Routed> = [0, 0, 1, 1, 1, 4, 5]
            .iter()
            .enumerate()
            .map(|(row, &chunk)| Routed { row, chunk, weight: 1.0 })
            .collect();
        let lengths = |limit| tiles(&rows, limit).iter().map(|t| t.len()).collect::<Vec<_>>();
        assert_eq!(lengths(100), [7]);
        assert_eq!(lengths(4), [2, 4, 1]);
        assert_eq!(lengths(1), [2, 3, 1, 1]);
    }

    #[test]
    fn outputs_go_to_their_rows() {
        let tile = [(1, 2.0), (4, 0.5)].map(|(row, weight)| Routed { row, chunk: 0, weight });
        let mut mixed = vec![1.0; 12];
        add_weighted(&tile, &[1.0, 2.0, 4.0, 8.0], &mut mixed);
        assert_eq!(mixed, [1.0, 1.0, 3.0, 5.0, 1.0, 1.0, 1.0, 1.0, 3.0, 5.0, 1.0, 1.0]);
    }

    #[test]
    fn rows_stand_in_order_with_their_experts() {
        let logits = [9.0, 0.0, 5.0, 0.0, 9.0, 5.0];
        let routes = Routes::choose(&logits, 3, 2, [4, 5].into_iter());
        let rows = |expert: usize| -> Vec<(usize, usize)> {
            routes.0[expert].iter().map(|routed| (routed.row, routed.chunk)).collect()
        };
        assert_eq!([rows(0), rows(1), rows(2)], [vec![(0, 4)], vec![(1, 5)], vec![(0, 4), (1, 5)]]);
    }
}
