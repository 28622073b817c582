//! The schedule: groups of chunks through one layer at a time, then the head in tiles of rows.
//!
//! A group is as many chunks as the schedule says ([`super::memory`]). Within a group every step runs over
//! all rows in parallel; steps follow each other, so no more than one set of buffers exists.

use super::attention::attend;
use super::decode::Cache;
use super::experts::{Part, Routes};
use super::hidden::HiddenStates;
use super::memory::{LOGIT_BYTES, Schedule};
use super::weights::{Checked, FeedForward, Gated, LayerWeights, Linear, Norm, Ropes};
use super::{Activations, Logits, Observer, Resumed, Snapshot};
use crate::base::error::{Error, Result};
use crate::base::progress::{Progress, check_interrupted};
use crate::kernels::{
    Multiply, NonFinite, Rows, add_scaled, all_finite, geglu, multiply, rms_norm, scale, soft_cap,
    swiglu,
};
use crate::model::arch::{Activation, HyperParams};
use rayon::prelude::*;
use std::ops::Range;

/// Buffers that every group reuses; rows of the widths their names say. A change here is one in
/// [`super::memory::work_floats_per_row`].
#[derive(Default)]
pub(super) struct Work {
    /// The group's hidden states, while it is worked on.
    hidden: Vec<f32>,
    pub normed: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    pub attended: Vec<f32>,
    pub gate: Vec<f32>,
    pub up: Vec<f32>,
}

impl Work {
    /// Makes every buffer exactly `rows` long.
    fn resize(&mut self, hyper: &HyperParams, rows: usize) {
        let (query, kv) = (hyper.n_head * hyper.head_dim, hyper.n_head_kv * hyper.head_dim);
        let fit = |buffer: &mut Vec<f32>, width: usize| buffer.resize(rows * width, 0.0);
        fit(&mut self.normed, hyper.n_embd);
        fit(&mut self.q, query);
        fit(&mut self.k, kv);
        fit(&mut self.v, kv);
        fit(&mut self.attended, query);
        // Of a mixture, only the router's output.
        let [gate, up] = hyper.experts.map_or([hyper.n_ff; 2], |experts| [experts.count, 0]);
        fit(&mut self.gate, gate);
        fit(&mut self.up, up);
    }
}

/// Consecutive chunks, taken through a layer together.
#[derive(Clone)]
struct Group {
    chunks: Range<usize>,
    /// Among all rows of the pass.
    rows: Range<usize>,
}

/// The state of a forward pass.
pub(super) struct Pass<'a> {
    pub model: &'a Checked<'a>,
    pub observer: &'a mut dyn Observer,
    pub progress: &'a dyn Progress,
    /// Those before it are done already.
    pub first_layer: usize,
    lengths: Vec<usize>,
    /// The first chunk's number in errors.
    first_chunk: usize,
    groups: Vec<Group>,
    pub ropes: Ropes,
    /// A row of `n_embd` for each token of each chunk.
    pub hidden: HiddenStates,
    /// Rows that an expert computes at once.
    pub tile: usize,
    pub work: Work,
    /// What the chunks go on from, each being one token, when sequences are decoded.
    pub cache: Option<Cache>,
}

impl<'a> Pass<'a> {
    /// Looks up the embeddings of all chunks, or takes what the observer says that an earlier pass had done.
    pub(super) fn new(
        model: &'a Checked<'a>,
        chunks: &[Vec<u32>],
        schedule: Schedule,
        first_chunk: usize,
        observer: &'a mut dyn Observer,
        progress: &'a dyn Progress,
    ) -> Result<Pass<'a>> {
        let lengths: Vec<usize> = chunks.iter().map(Vec::len).collect();
        let groups = groups(&lengths, schedule.group);
        let states: Vec<_> = groups.iter().map(|g| g.rows.len() * model.hyper.n_embd).collect();
        let ropes = model.ropes(lengths.iter().copied().max().unwrap_or(0))?;
        let mut pass = Pass {
            model,
            observer,
            progress,
            first_layer: 0,
            hidden: HiddenStates::new(&states, schedule.spill)?,
            groups,
            lengths,
            first_chunk,
            ropes,
            tile: schedule.group,
            work: Work::default(),
            cache: None,
        };
        if let Some(resumed) = pass.observer.resume()? {
            pass.go_on(resumed)?;
            return Ok(pass);
        }
        let groups = pass.groups.clone();
        let texts = groups.iter().map(|group| &chunks[group.chunks.clone()]);
        model.embed(texts, |group, states| {
            pass.check_embedding(groups[group].rows.start, &states)?;
            pass.hidden.put(group, states)
        })?;
        Ok(pass)
    }

    /// Takes the states that an earlier pass had come to.
    fn go_on(&mut self, mut resumed: Resumed) -> Result<()> {
        if resumed.layers > self.model.hyper.n_layer {
            let detail = format!("has no {} layers to go on after", resumed.layers);
            return Err(Error::model(self.model.origin(), detail));
        }
        self.first_layer = resumed.layers;
        let n_embd = self.model.hyper.n_embd;
        for group in 0..self.groups.len() {
            let mut states = vec![0.0; self.groups[group].rows.len() * n_embd];
            let mut bytes = [0; 1 << 14];
            for values in states.chunks_mut(bytes.len() / size_of::<f32>()) {
                let bytes = &mut bytes[..size_of_val(values)];
                let read = resumed.states.read_exact(bytes);
                read.map_err(Error::io(self.model.origin(), "read the saved states of"))?;
                for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*bytes);
                }
            }
            self.hidden.put(group, states)?;
        }
        Ok(())
    }

    /// Goes on with chunks of one token each, a group of them, whose embeddings are `states`.
    pub(super) fn restart(&mut self, states: Vec<f32>) -> Result<()> {
        let rows = states.len() / self.model.hyper.n_embd;
        self.lengths = vec![1; rows];
        self.groups = groups(&self.lengths, rows);
        self.check_embedding(0, &states)?;
        self.hidden = HiddenStates::Memory(vec![states]);
        Ok(())
    }

    /// Fails if `states`, the embeddings of rows from `first` on, are not finite.
    fn check_embedding(&self, first: usize, states: &[f32]) -> Result<()> {
        match first_bad_row(states, self.model.hyper.n_embd) {
            None => Ok(()),
            Some(row) => Err(self.non_finite("token_embd.weight", "the embedding", first + row)),
        }
    }

    /// Takes all chunks through layer `index`, whose weights are `layer`.
    pub(super) fn layer(&mut self, index: usize, layer: LayerWeights) -> Result<()> {
        check_interrupted()?;
        self.progress.detail(&format!("layer {}/{}", index + 1, self.model.hyper.n_layer));
        self.through(index, &layer)?;
        drop(layer);
        let n_embd = self.model.hyper.n_embd;
        let groups = self.groups.iter().map(|group| group.rows.len() * n_embd).collect();
        let Pass { observer, hidden, .. } = self;
        observer.layers_done(index + 1, &mut Snapshot { hidden, groups })
    }

    /// Takes all chunks through layer `index`, which is `layer`.
    pub(super) fn through(&mut self, index: usize, layer: &LayerWeights) -> Result<()> {
        let mut parts = Vec::new();
        for (number, group) in self.groups.clone().into_iter().enumerate() {
            check_interrupted()?;
            self.work.hidden = self.hidden.take(number)?;
            self.work.resize(&self.model.hyper, group.rows.len());
            let mut step = Step { pass: self, group: &group, layer: index };
            step.attention(layer)?;
            match &layer.feed_forward {
                FeedForward::Gated(gated) => {
                    step.gated(&layer.ffn_norm, gated, layer.ffn_post_norm.as_ref())?;
                    self.hidden.put(number, std::mem::take(&mut self.work.hidden))?;
                    self.progress.advance(group.rows.len() as u64);
                }
                FeedForward::Experts { router } => {
                    let routes = step.route(&layer.ffn_norm, router)?;
                    let hidden = std::mem::take(&mut self.work.hidden);
                    parts.push(Part::new(number, group.rows.start, hidden, routes));
                }
            }
            // Groups share what reading an expert costs, unless memory has no room for them.
            if self.hidden.is_spilled() || number + 1 == self.groups.len() {
                self.mix(index, &layer.ffn_norm, &mut parts)?;
            }
        }
        Ok(())
    }

    /// The experts of layer `index` for all `parts`, whose hidden states are put back.
    fn mix(&mut self, index: usize, norm: &Norm, parts: &mut Vec<Part>) -> Result<()> {
        if !parts.is_empty() {
            self.experts(index, norm, parts)?;
        }
        for part in parts.drain(..) {
            self.hidden.put(part.group, part.hidden)?;
        }
        Ok(())
    }

    /// The final norm, and logits of the positions `wanted` of each chunk; each token counts as `units` for those
    /// who watch.
    pub(super) fn head(&mut self, wanted: Range<usize>, units: u64) -> Result<()> {
        self.model.layers_are_done();
        let norm = self.model.output_norm()?;
        let name = self.model.head_name();
        let head = match wanted.is_empty() {
            true => None,
            false => Some(self.model.linear(name.to_string())?),
        };
        let (n_embd, n_vocab) = (self.model.hyper.n_embd, self.model.hyper.n_vocab);
        let tile = (LOGIT_BYTES / size_of::<f32>() / n_vocab).max(16);
        self.progress.detail("logits");
        let mut logits = Vec::new();
        self.work = Work::default();
        let (mut first, mut group) = (0, 0);
        for (chunk, &length) in self.lengths.iter().enumerate() {
            check_interrupted()?;
            while !self.groups[group].chunks.contains(&chunk) {
                group += 1;
            }
            if self.groups[group].chunks.start == chunk {
                self.work.hidden = self.hidden.take(group)?;
            }
            let Work { normed, hidden, .. } = &mut self.work;
            normed.resize(length * n_embd, 0.0);
            let in_group = first - self.groups[group].rows.start;
            let hidden = &hidden[in_group * n_embd..][..length * n_embd];
            if let Some(row) = normalize(&norm, self.model.hyper.rms_eps, hidden, normed) {
                return Err(self.non_finite(&norm.name, "the final norm", first + row));
            }
            let values = &self.work.normed[..];
            let tensors = &[name];
            let input = Activations { tensors, chunk, row_len: n_embd, values, expert: None };
            self.observer.activations(&input)?;
            if let Some(head) = &head {
                let end = wanted.end.min(length);
                for position in (wanted.start..end).step_by(tile) {
                    let rows = tile.min(end - position);
                    logits.resize(rows * n_vocab, 0.0);
                    let x = Rows::dense(values, n_embd).skip(position);
                    multiply(x, &head.weight, head.extra(false), &mut logits).map_err(|at| {
                        self.non_finite(name, "the product", first + position + at.row)
                    })?;
                    finish_logits(&self.model.hyper, &mut logits);
                    let values = &logits;
                    self.observer.logits(&Logits { chunk, position, n_vocab, values })?;
                }
            }
            self.progress.advance(length as u64 * units);
            first += length;
        }
        Ok(())
    }

    /// The error for a value that is not finite in `row` of all rows; `what` made it from `tensor`.
    pub(super) fn non_finite(&self, tensor: &str, what: &str, row: usize) -> Error {
        let mut position = row;
        let mut chunk = 0;
        while position >= self.lengths[chunk] {
            position -= self.lengths[chunk];
            chunk += 1;
        }
        let layer = tensor.strip_prefix("blk.").and_then(|rest| rest.split('.').next());
        let layer = layer.map_or(String::new(), |layer| format!("layer {layer}, "));
        let cause = self.model.explain_non_finite(tensor);
        let detail = format!(
            "{what} is not finite at {layer}chunk {}, position {position}; {cause}",
            self.first_chunk + chunk + 1
        );
        Error::tensor(self.model.origin(), tensor, detail)
    }
}

/// One group in one layer.
struct Step<'p, 'a> {
    pass: &'p mut Pass<'a>,
    group: &'p Group,
    layer: usize,
}

/// The buffer that a product reads.
#[derive(Clone, Copy)]
enum Input {
    Normed,
    Attended,
    Gate,
}

impl Step<'_, '_> {
    /// `hidden += attn_output . attention(norm(hidden))`.
    fn attention(&mut self, layer: &LayerWeights) -> Result<()> {
        self.norm(&layer.attn_norm)?;
        self.observe(&[&layer.attn_q, &layer.attn_k, &layer.attn_v], Input::Normed)?;
        let work = &mut self.pass.work;
        let normed = Rows::dense(&work.normed, self.pass.model.hyper.n_embd);
        let result = product(&layer.attn_q, normed, &mut work.q)
            .and_then(|()| product(&layer.attn_k, normed, &mut work.k))
            .and_then(|()| product(&layer.attn_v, normed, &mut work.v));
        self.finite(result)?;
        self.norm_heads(layer)?;
        self.rotate(layer.windowed);
        let lengths = &self.pass.lengths[self.group.chunks.clone()];
        let work = &mut self.pass.work;
        let heads = self.pass.model.heads(layer.windowed);
        let Work { q, k, v, attended, .. } = work;
        match &mut self.pass.cache {
            None => attend(heads, lengths, q, k, v, attended),
            Some(cache) => cache.attend(self.layer, heads, q, k, v, attended),
        }
        let width = heads.n_head * heads.head_dim;
        if let Some(row) = first_bad_row(&work.attended, width) {
            return Err(self.error(&layer.attn_output.name, "its input, the attention,", row));
        }
        self.observe(&[&layer.attn_output], Input::Attended)?;
        self.add_to_hidden(&layer.attn_output, Input::Attended, layer.attn_post_norm.as_ref())
    }

    /// `hidden += down . (activation(gate . norm(hidden)) * (up . norm(hidden)))`.
    fn gated(&mut self, norm: &Norm, layer: &Gated, post_norm: Option<&Norm>) -> Result<()> {
        self.norm(norm)?;
        self.observe(&[&layer.gate, &layer.up], Input::Normed)?;
        let (hyper, activation) = (&self.pass.model.hyper, self.pass.model.arch.block.activation);
        let work = &mut self.pass.work;
        let normed = Rows::dense(&work.normed, hyper.n_embd);
        let result = product(&layer.gate, normed, &mut work.gate)
            .and_then(|()| product(&layer.up, normed, &mut work.up));
        let rows = work.gate.par_chunks_mut(hyper.n_ff).zip(work.up.par_chunks(hyper.n_ff));
        rows.for_each(|(gate, up)| match activation {
            Activation::Silu => swiglu(gate, up),
            Activation::GeluTanh => geglu(gate, up),
        });
        self.finite(result)?;
        if let Some(row) = first_bad_row(&self.pass.work.gate, self.pass.model.hyper.n_ff) {
            return Err(self.error(&layer.down.name, "its input, the gated product,", row));
        }
        self.observe(&[&layer.down], Input::Gate)?;
        self.add_to_hidden(&layer.down, Input::Gate, post_norm)
    }

    /// Lets the router choose each row's experts.
    fn route(&mut self, norm: &Norm, router: &Linear) -> Result<Routes> {
        self.norm(norm)?;
        self.observe(&[router], Input::Normed)?;
        let (group, pass) = (self.group, &mut *self.pass);
        let work = &mut pass.work;
        let normed = Rows::dense(&work.normed, router.weight.inputs());
        let result = product(router, normed, &mut work.gate);
        let used = pass.model.hyper.experts.map_or(0, |experts| experts.used);
        let chunks = group.chunks.clone();
        let chunks = chunks.flat_map(|chunk| std::iter::repeat_n(chunk, pass.lengths[chunk]));
        let routes = result
            .is_ok()
            .then(|| Routes::choose(&work.gate, router.weight.outputs(), used, chunks));
        self.finite(result)?;
        Ok(routes.expect("the product is finite"))
    }

    fn norm(&mut self, norm: &Norm) -> Result<()> {
        let eps = self.pass.model.hyper.rms_eps;
        let work = &mut self.pass.work;
        match normalize(norm, eps, &work.hidden, &mut work.normed) {
            None => Ok(()),
            Some(row) => Err(self.error(&norm.name, "the norm", row)),
        }
    }

    /// Norms of queries and keys, head by head, where the model has them.
    fn norm_heads(&mut self, layer: &LayerWeights) -> Result<()> {
        let (eps, rows) = (self.pass.model.hyper.rms_eps, self.group.rows.len());
        let work = &mut self.pass.work;
        let bad = layer
            .attn_q_norm
            .iter()
            .find_map(|norm| Some((norm, normalize_heads(norm, eps, rows, &mut work.q)?)));
        let bad = bad.or(layer
            .attn_k_norm
            .iter()
            .find_map(|norm| Some((norm, normalize_heads(norm, eps, rows, &mut work.k)?))));
        match bad {
            None => Ok(()),
            Some((norm, row)) => Err(self.error(&norm.name, "the norm", row)),
        }
    }

    /// Rotary embedding of queries and keys.
    fn rotate(&mut self, windowed: bool) {
        let pass = &mut *self.pass;
        let rope = pass.ropes.of(windowed);
        let lengths = &pass.lengths[self.group.chunks.clone()];
        let positions: Vec<usize> = match &pass.cache {
            None => lengths.iter().flat_map(|&length| 0..length).collect(),
            Some(cache) => cache.positions().collect(),
        };
        let heads = pass.model.heads(windowed);
        let turn = |buffer: &mut [f32], n_head: usize| {
            let rows = buffer.par_chunks_mut(n_head * heads.head_dim).zip(&positions);
            rows.for_each(|(row, &position)| rope.apply(position, heads.head_dim, row));
        };
        turn(&mut pass.work.q, heads.n_head);
        turn(&mut pass.work.k, heads.n_head_kv);
    }

    /// `hidden += residual_scale * norm(linear . input)`, the norm only where there is one.
    fn add_to_hidden(
        &mut self,
        linear: &Linear,
        input: Input,
        post_norm: Option<&Norm>,
    ) -> Result<()> {
        let hyper = &self.pass.model.hyper;
        let (factor, n_embd, eps) = (hyper.residual_scale, hyper.n_embd, hyper.rms_eps);
        let work = &mut self.pass.work;
        let mut hidden = std::mem::take(&mut work.hidden);
        if post_norm.is_none() && factor == 1.0 {
            let x = Rows::dense(work.buffer(input), linear.weight.inputs());
            let result = multiply(x, &linear.weight, linear.extra(true), &mut hidden);
            work.hidden = hidden;
            return self.finite(result.map_err(|at| (linear.name.as_str(), at)));
        }
        // What was normalized before the part is no longer needed.
        let mut part = std::mem::take(&mut work.normed);
        let x = Rows::dense(work.buffer(input), linear.weight.inputs());
        let result = product(linear, x, &mut part);
        if result.is_ok() {
            let rows = hidden.par_chunks_mut(n_embd).zip(part.par_chunks(n_embd));
            rows.for_each_init(
                || vec![0.0; n_embd],
                |normed, (hidden, part)| match post_norm {
                    Some(norm) => {
                        rms_norm(part, &norm.weight, eps, normed);
                        add_scaled(normed, factor, hidden);
                    }
                    None => add_scaled(part, factor, hidden),
                },
            );
        }
        (work.hidden, work.normed) = (hidden, part);
        self.finite(result)
    }

    /// Shows the observer what `linears` read, chunk by chunk.
    fn observe(&mut self, linears: &[&Linear], input: Input) -> Result<()> {
        let mut tensors: Vec<&str> = linears.iter().map(|linear| linear.name.as_str()).collect();
        // Parts of a fused projection are one tensor.
        tensors.dedup();
        let row_len = linears[0].weight.inputs();
        let pass = &mut *self.pass;
        let mut rest = pass.work.buffer(input);
        for chunk in self.group.chunks.clone() {
            let (values, tail) = rest.split_at(pass.lengths[chunk] * row_len);
            rest = tail;
            let tensors = tensors.as_slice();
            let input = Activations { tensors, chunk, row_len, values, expert: None };
            pass.observer.activations(&input)?;
        }
        Ok(())
    }

    fn finite(&self, result: Result<(), (&str, NonFinite)>) -> Result<()> {
        result.map_err(|(name, at)| self.error(name, "the product", at.row))
    }

    fn error(&self, tensor: &str, what: &str, row: usize) -> Error {
        debug_assert!(tensor.starts_with(&format!("blk.{}.", self.layer)));
        self.pass.non_finite(tensor, what, self.group.rows.start + row)
    }
}

impl Work {
    fn buffer(&self, input: Input) -> &[f32] {
        match input {
            Input::Normed => &self.normed,
            Input::Attended => &self.attended,
            Input::Gate => &self.gate,
        }
    }
}

impl Linear {
    pub(super) fn extra(&self, accumulate: bool) -> Multiply<'_> {
        Multiply { bias: self.bias.as_deref(), accumulate }
    }
}

/// What is done to logits after the product.
pub(super) fn finish_logits(hyper: &HyperParams, logits: &mut [f32]) {
    let factor = 1.0 / hyper.logit_scale;
    logits.par_chunks_mut(hyper.n_vocab).for_each(|row| match hyper.logit_soft_cap {
        Some(cap) => soft_cap(row, factor, cap),
        None if factor != 1.0 => scale(row, factor),
        None => {}
    });
}

pub(super) fn product<'l>(
    linear: &'l Linear,
    x: Rows<'_>,
    out: &mut [f32],
) -> Result<(), (&'l str, NonFinite)> {
    let result = multiply(x, &linear.weight, linear.extra(false), out);
    result.map_err(|at| (linear.name.as_str(), at))
}

/// Normalizes rows; gives the first row that is not finite.
pub(super) fn normalize(norm: &Norm, eps: f32, x: &[f32], out: &mut [f32]) -> Option<usize> {
    let width = norm.weight.len();
    let rows = out.par_chunks_mut(width).zip(x.par_chunks(width));
    rows.for_each(|(out, x)| rms_norm(x, &norm.weight, eps, out));
    first_bad_row(out, width)
}

/// Normalizes the heads of `rows` rows in place; gives the first row that is not finite.
fn normalize_heads(norm: &Norm, eps: f32, rows: usize, x: &mut [f32]) -> Option<usize> {
    let width = norm.weight.len();
    x.par_chunks_mut(width).for_each_init(
        || vec![0.0; width],
        |copy, head| {
            copy.copy_from_slice(head);
            rms_norm(copy, &norm.weight, eps, head);
        },
    );
    first_bad_row(x, x.len() / rows)
}

pub(super) fn first_bad_row(values: &[f32], width: usize) -> Option<usize> {
    values.par_chunks(width).position_first(|row| !all_finite(row))
}

/// Cuts chunks into groups of at most `limit` rows, and at least one chunk.
fn groups(lengths: &[usize], limit: usize) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut row = 0;
    for (chunk, &length) in lengths.iter().enumerate() {
        match groups.last_mut() {
            Some(last) if last.rows.len() + length <= limit => {
                last.chunks.end = chunk + 1;
                last.rows.end = row + length;
            }
            _ => groups.push(Group { chunks: chunk..chunk + 1, rows: row..row + length }),
        }
        row += length;
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_take_whole_chunks_up_to_the_limit() {
        let cut = |limit| -> Vec<(Range<usize>, Range<usize>)> {
            groups(&[4, 4, 2, 9], limit).into_iter().map(|g| (g.chunks, g.rows)).collect()
        };
        assert_eq!(cut(8), [(0..2, 0..8), (2..3, 8..10), (3..4, 10..19)]);
        assert_eq!(cut(1).len(), 4);
        assert_eq!(cut(1000), [(0..4, 0..19)]);
    }
}
