//! One forward pass: groups of chunks through one layer at a time, then the output head in tiles of
//! rows.
//!
//! Within a group, every step runs over all rows in parallel. Steps follow each other, so a single
//! set of work buffers exists. [`super::memory`] decides the size of groups.

use super::attention::attend;
use super::cache::KvCache;
use super::chunks::{ChunkGroup, Chunks};
use super::experts::{ExpertLayer, RoutedGroup, Routes};
use super::hidden::HiddenStates;
use super::memory::{LOGIT_BYTES, Schedule};
use super::observer::{Activations, Logits, Observer, Resumed, Snapshot};
use super::weights::{
    CheckedModel, FeedForward, GatedWeights, LayerWeights, LinearWeights, Norm, RopeTables,
};
use super::work::{
    ProductInput, WorkBuffers, activate, first_non_finite_row, normalize, normalize_heads,
    scale_logits,
};
use crate::base::error::{Error, Result};
use crate::base::progress::{Progress, check_interrupted};
use crate::kernels::{NonFinite, Rows, add_scaled, rms_norm};
use rayon::prelude::*;
use std::ops::Range;

/// The state of a forward pass.
pub(super) struct ForwardPass<'a> {
    pub model: &'a CheckedModel<'a>,
    observer: &'a mut dyn Observer,
    progress: &'a dyn Progress,
    /// The first layer to compute; a resumed pass skips those before it.
    pub first_layer: usize,
    chunks: Chunks,
    pub ropes: RopeTables,
    /// One row of `n_embd` elements for each token of each chunk.
    pub hidden: HiddenStates,
    /// The number of rows that an expert computes at once.
    tile: usize,
    work: WorkBuffers,
    /// The cached keys and values, if sequences are decoded. Each chunk is then one token.
    pub cache: Option<KvCache>,
}

impl<'a> ForwardPass<'a> {
    /// Begins with the embeddings of all chunks, or with the state that `observer` resumes from.
    pub(super) fn new(
        model: &'a CheckedModel<'a>,
        texts: &[Vec<u32>],
        schedule: Schedule,
        first_chunk: usize,
        observer: &'a mut dyn Observer,
        progress: &'a dyn Progress,
    ) -> Result<ForwardPass<'a>> {
        let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
        let ropes = model.ropes(lengths.iter().copied().max().unwrap_or(0))?;
        let chunks = Chunks::new(lengths, schedule.group, first_chunk);
        let mut pass = ForwardPass {
            model,
            observer,
            progress,
            first_layer: 0,
            hidden: HiddenStates::new(&chunks.elements(model.hyper.n_embd), schedule.spill)?,
            chunks,
            ropes,
            tile: schedule.group,
            work: WorkBuffers::default(),
            cache: None,
        };
        if let Some(resumed) = pass.observer.resume()? {
            pass.resume(resumed)?;
            return Ok(pass);
        }
        let groups = pass.chunks.groups().to_vec();
        let texts = groups.iter().map(|group| &texts[group.chunks.clone()]);
        model.embed(texts, |group, states| {
            pass.check_embedding(groups[group].rows.start, &states)?;
            pass.hidden.put(group, states)
        })?;
        Ok(pass)
    }

    /// Reads the hidden states of an earlier pass.
    fn resume(&mut self, mut resumed: Resumed) -> Result<()> {
        let n_layer = self.model.hyper.n_layer;
        if resumed.layers > n_layer {
            let detail = format!(
                "has {n_layer} layers, but the saved states follow layer {}",
                resumed.layers
            );
            return Err(Error::model(self.model.origin(), detail));
        }
        self.first_layer = resumed.layers;
        let elements = self.chunks.elements(self.model.hyper.n_embd);
        for (group, count) in elements.into_iter().enumerate() {
            let mut states = vec![0.0; count];
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

    /// Begins again with one group of chunks of one token each, whose embeddings are `states`.
    pub(super) fn restart(&mut self, states: Vec<f32>) -> Result<()> {
        let rows = states.len() / self.model.hyper.n_embd;
        self.chunks = Chunks::new(vec![1; rows], rows, 0);
        self.check_embedding(0, &states)?;
        self.hidden = HiddenStates::Memory(vec![states]);
        Ok(())
    }

    /// Fails if `states`, the embeddings of the rows from `first` on, are not finite.
    fn check_embedding(&self, first: usize, states: &[f32]) -> Result<()> {
        match first_non_finite_row(states, self.model.hyper.n_embd) {
            None => Ok(()),
            Some(row) => Err(self.non_finite("token_embd.weight", "the embedding", first + row)),
        }
    }

    /// Takes all chunks through layer `index`, drops its weights, and reports the layer as done.
    pub(super) fn layer(&mut self, index: usize, layer: LayerWeights) -> Result<()> {
        check_interrupted()?;
        self.progress.detail(&format!("layer {}/{}", index + 1, self.model.hyper.n_layer));
        self.apply_layer(index, &layer)?;
        drop(layer);
        let groups = self.chunks.elements(self.model.hyper.n_embd);
        self.observer.layers_done(index + 1, &mut Snapshot::new(&mut self.hidden, groups))
    }

    /// Takes all chunks through layer `index`.
    pub(super) fn apply_layer(&mut self, index: usize, layer: &LayerWeights) -> Result<()> {
        let mut routed = Vec::new();
        let groups = self.chunks.groups().to_vec();
        for (number, group) in groups.iter().enumerate() {
            check_interrupted()?;
            self.work.hidden = self.hidden.take(number)?;
            self.work.resize(&self.model.hyper, group.rows.len());
            let mut step = GroupStep { pass: self, group, layer: index };
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
                    routed.push(RoutedGroup::new(number, group.rows.start, hidden, routes));
                }
            }
            // Reading an expert once serves all groups, unless memory has room for one group only.
            if self.hidden.is_spilled() || number + 1 == groups.len() {
                self.apply_experts(index, &layer.ffn_norm, &mut routed)?;
            }
        }
        Ok(())
    }

    /// Applies the experts of layer `index` to all groups in `routed` and puts their hidden states
    /// back.
    fn apply_experts(
        &mut self,
        index: usize,
        norm: &Norm,
        routed: &mut Vec<RoutedGroup>,
    ) -> Result<()> {
        if !routed.is_empty() {
            let mut layer = ExpertLayer {
                model: self.model,
                chunks: &self.chunks,
                observer: &mut *self.observer,
                progress: self.progress,
                work: &mut self.work,
                tile: self.tile,
                index,
                norm,
            };
            layer.apply(routed)?;
        }
        for group in routed.drain(..) {
            self.hidden.put(group.number, group.hidden)?;
        }
        Ok(())
    }

    /// Computes the final norm, and the logits of the positions `wanted` of each chunk. Each token
    /// adds `units` to the progress.
    pub(super) fn head(&mut self, wanted: Range<usize>, units: u64) -> Result<()> {
        self.model.layers_are_done();
        let norm = self.model.output_norm()?;
        let name = self.model.head_name();
        let head = match wanted.is_empty() {
            true => None,
            false => Some(self.model.linear(name.to_string())?),
        };
        let n_embd = self.model.hyper.n_embd;
        self.progress.detail("logits");
        let mut logits = Vec::new();
        self.work = WorkBuffers::default();
        let (mut first, mut group) = (0, 0);
        for (chunk, length) in self.chunks.lengths().to_vec().into_iter().enumerate() {
            check_interrupted()?;
            while !self.chunks.groups()[group].chunks.contains(&chunk) {
                group += 1;
            }
            let ChunkGroup { chunks, rows } = &self.chunks.groups()[group];
            if chunks.start == chunk {
                self.work.hidden = self.hidden.take(group)?;
            }
            let WorkBuffers { normed, hidden, .. } = &mut self.work;
            normed.resize(length * n_embd, 0.0);
            let hidden = &hidden[(first - rows.start) * n_embd..][..length * n_embd];
            if let Some(row) = normalize(&norm, self.model.hyper.rms_eps, hidden, normed) {
                return Err(self.non_finite(&norm.name, "the final norm", first + row));
            }
            let values = &self.work.normed[..];
            let tensors = &[name];
            let input = Activations { tensors, chunk, row_len: n_embd, values, expert: None };
            self.observer.activations(&input)?;
            if let Some(head) = &head {
                let positions = wanted.start..wanted.end.min(length);
                self.chunk_logits(head, (chunk, first), positions, &mut logits)?;
            }
            self.progress.advance(length as u64 * units);
            first += length;
        }
        Ok(())
    }

    /// Reports the logits at `positions` of a chunk, whose rows of the pass begin at `first`. The
    /// final norm's output is in the work buffers; `logits` is reused.
    fn chunk_logits(
        &mut self,
        head: &LinearWeights,
        (chunk, first): (usize, usize),
        positions: Range<usize>,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        let (n_embd, n_vocab) = (self.model.hyper.n_embd, self.model.hyper.n_vocab);
        let tile = (LOGIT_BYTES / size_of::<f32>() / n_vocab).max(16);
        for position in positions.clone().step_by(tile) {
            let rows = tile.min(positions.end - position);
            logits.resize(rows * n_vocab, 0.0);
            let x = Rows::dense(&self.work.normed, n_embd).skip(position);
            head.multiply(x, false, logits).map_err(|(name, at)| {
                self.non_finite(name, "the product", first + position + at.row)
            })?;
            scale_logits(&self.model.hyper, logits);
            self.observer.logits(&Logits { chunk, position, n_vocab, values: logits })?;
        }
        Ok(())
    }

    /// The error for a value that is not finite, see [`Chunks::non_finite`].
    pub(super) fn non_finite(&self, tensor: &str, what: &str, row: usize) -> Error {
        self.chunks.non_finite(self.model, tensor, what, row)
    }
}

/// One group of chunks in one layer. Its hidden states are in the pass's work buffers.
struct GroupStep<'p, 'a> {
    pass: &'p mut ForwardPass<'a>,
    group: &'p ChunkGroup,
    layer: usize,
}

impl GroupStep<'_, '_> {
    /// `hidden += attn_output . attention(norm(hidden))`.
    fn attention(&mut self, layer: &LayerWeights) -> Result<()> {
        self.norm(&layer.attn_norm)?;
        self.observe(&[&layer.attn_q, &layer.attn_k, &layer.attn_v], ProductInput::Normed)?;
        let work = &mut self.pass.work;
        let normed = Rows::dense(&work.normed, self.pass.model.hyper.n_embd);
        let result = layer
            .attn_q
            .multiply(normed, false, &mut work.q)
            .and_then(|()| layer.attn_k.multiply(normed, false, &mut work.k))
            .and_then(|()| layer.attn_v.multiply(normed, false, &mut work.v));
        self.check_product(result)?;
        self.norm_heads(layer)?;
        self.rotate(layer.windowed);
        let lengths = &self.pass.chunks.lengths()[self.group.chunks.clone()];
        let work = &mut self.pass.work;
        let heads = self.pass.model.heads(layer.windowed);
        let WorkBuffers { q, k, v, attended, .. } = work;
        match &mut self.pass.cache {
            None => attend(heads, lengths, q, k, v, attended),
            Some(cache) => cache.attend(self.layer, heads, q, k, v, attended),
        }
        let width = heads.n_head * heads.head_dim;
        if let Some(row) = first_non_finite_row(&work.attended, width) {
            return Err(self.error(&layer.attn_output.name, "its input, the attention,", row));
        }
        self.observe(&[&layer.attn_output], ProductInput::Attended)?;
        let post_norm = layer.attn_post_norm.as_ref();
        self.add_to_hidden(&layer.attn_output, ProductInput::Attended, post_norm)
    }

    /// `hidden += down . (activation(gate . norm(hidden)) * (up . norm(hidden)))`.
    fn gated(&mut self, norm: &Norm, layer: &GatedWeights, post_norm: Option<&Norm>) -> Result<()> {
        self.norm(norm)?;
        self.observe(&[&layer.gate, &layer.up], ProductInput::Normed)?;
        let (hyper, activation) = (&self.pass.model.hyper, self.pass.model.arch.block.activation);
        let work = &mut self.pass.work;
        let normed = Rows::dense(&work.normed, hyper.n_embd);
        let result = layer
            .gate
            .multiply(normed, false, &mut work.gate)
            .and_then(|()| layer.up.multiply(normed, false, &mut work.up));
        activate(activation, hyper.n_ff, &mut work.gate, &work.up);
        self.check_product(result)?;
        let n_ff = self.pass.model.hyper.n_ff;
        if let Some(row) = first_non_finite_row(&self.pass.work.gate, n_ff) {
            return Err(self.error(&layer.down.name, "its input, the gated product,", row));
        }
        self.observe(&[&layer.down], ProductInput::Gate)?;
        self.add_to_hidden(&layer.down, ProductInput::Gate, post_norm)
    }

    /// Computes the router's product and chooses the experts of each row.
    fn route(&mut self, norm: &Norm, router: &LinearWeights) -> Result<Routes> {
        self.norm(norm)?;
        self.observe(&[router], ProductInput::Normed)?;
        let (group, pass) = (self.group, &mut *self.pass);
        let work = &mut pass.work;
        let normed = Rows::dense(&work.normed, router.weight.inputs());
        let result = router.multiply(normed, false, &mut work.gate);
        let used = pass.model.hyper.experts.map_or(0, |experts| experts.used);
        let lengths = pass.chunks.lengths();
        let chunks = group.chunks.clone();
        let chunks = chunks.flat_map(|chunk| std::iter::repeat_n(chunk, lengths[chunk]));
        let routes = result
            .is_ok()
            .then(|| Routes::choose(&work.gate, router.weight.outputs(), used, chunks));
        self.check_product(result)?;
        Ok(routes.expect("the product is finite"))
    }

    /// `normed = norm(hidden)`.
    fn norm(&mut self, norm: &Norm) -> Result<()> {
        let eps = self.pass.model.hyper.rms_eps;
        let work = &mut self.pass.work;
        match normalize(norm, eps, &work.hidden, &mut work.normed) {
            None => Ok(()),
            Some(row) => Err(self.error(&norm.name, "the norm", row)),
        }
    }

    /// Normalizes queries and keys head by head, if the model has norms for them.
    fn norm_heads(&mut self, layer: &LayerWeights) -> Result<()> {
        let (eps, rows) = (self.pass.model.hyper.rms_eps, self.group.rows.len());
        let WorkBuffers { q, k, .. } = &mut self.pass.work;
        let bad =
            [(&layer.attn_q_norm, q), (&layer.attn_k_norm, k)].into_iter().find_map(|(norm, x)| {
                let norm = norm.as_ref()?;
                Some((norm, normalize_heads(norm, eps, rows, x)?))
            });
        match bad {
            None => Ok(()),
            Some((norm, row)) => Err(self.error(&norm.name, "the norm", row)),
        }
    }

    /// Applies the rotary embedding to queries and keys.
    fn rotate(&mut self, windowed: bool) {
        let pass = &mut *self.pass;
        let rope = pass.ropes.of(windowed);
        let lengths = &pass.chunks.lengths()[self.group.chunks.clone()];
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

    /// `hidden += residual_scale * post_norm(linear . input)`, without the norm if there is none.
    fn add_to_hidden(
        &mut self,
        linear: &LinearWeights,
        input: ProductInput,
        post_norm: Option<&Norm>,
    ) -> Result<()> {
        let hyper = &self.pass.model.hyper;
        let (factor, n_embd, eps) = (hyper.residual_scale, hyper.n_embd, hyper.rms_eps);
        let work = &mut self.pass.work;
        let mut hidden = std::mem::take(&mut work.hidden);
        if post_norm.is_none() && factor == 1.0 {
            let x = Rows::dense(work.input(input), linear.weight.inputs());
            let result = linear.multiply(x, true, &mut hidden);
            work.hidden = hidden;
            return self.check_product(result);
        }
        // The input of the layer's part is no longer needed, so its buffer holds the output.
        let mut part = std::mem::take(&mut work.normed);
        let x = Rows::dense(work.input(input), linear.weight.inputs());
        let result = linear.multiply(x, false, &mut part);
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
        self.check_product(result)
    }

    /// Reports the input of `linears` to the observer, chunk by chunk.
    fn observe(&mut self, linears: &[&LinearWeights], input: ProductInput) -> Result<()> {
        let mut tensors: Vec<&str> = linears.iter().map(|linear| linear.name.as_str()).collect();
        // The parts of a fused projection have one name.
        tensors.dedup();
        let row_len = linears[0].weight.inputs();
        let pass = &mut *self.pass;
        let mut rest = pass.work.input(input);
        for chunk in self.group.chunks.clone() {
            let (values, tail) = rest.split_at(pass.chunks.lengths()[chunk] * row_len);
            rest = tail;
            let tensors = tensors.as_slice();
            let input = Activations { tensors, chunk, row_len, values, expert: None };
            pass.observer.activations(&input)?;
        }
        Ok(())
    }

    fn check_product(&self, result: Result<(), (&str, NonFinite)>) -> Result<()> {
        result.map_err(|(name, at)| self.error(name, "the product", at.row))
    }

    /// The error for a value that is not finite in `row` of the group.
    fn error(&self, tensor: &str, what: &str, row: usize) -> Error {
        debug_assert!(tensor.starts_with(&format!("blk.{}.", self.layer)));
        self.pass.non_finite(tensor, what, self.group.rows.start + row)
    }
}
