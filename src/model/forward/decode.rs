//! Decoding: sequences that grow by a token at a time, several together, each from its cached keys and values.
//!
//! The layers are those of [`super::pass`], over chunks of one token; only attention and positions differ.
//! A product reads its weights once for all sequences, so a step with many of them costs little more than one
//! with few. Sequences do not see each other: what one yields does not depend on the others.
//!
//! Experts of a mixture are read anew in each step, those that a token is sent to. Deliberately absent: prompts that are read faster than token by token, and any choice of the next token.

use super::attention::{Heads, Past, attend_next};
use super::memory::Schedule;
use super::pass::{Pass, finish_logits, normalize};
use super::weights::{Checked, LayerWeights, Linear, Norm};
use super::{Activations, Observer};
use crate::base::error::{Error, Result};
use crate::base::progress::{Silent, check_interrupted};
use crate::formats::gguf::GgufModel;
use crate::kernels::{Precision, Rows, multiply};
use crate::model::arch::HyperParams;

/// A token that a sequence goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feed {
    /// The place of the sequence, below [`DecodeOptions::slots`].
    pub slot: usize,
    pub token: u32,
    /// Whether a new sequence begins with it, in place of the one that was there.
    pub begins: bool,
}

/// How [`decode`] works.
#[derive(Clone, Debug)]
pub struct DecodeOptions {
    /// Sequences at the same time, at most.
    pub slots: usize,
    /// Tokens of a sequence, at most.
    pub positions: usize,
    /// Of the products with weights.
    pub precision: Precision,
    /// Keep all weights, ready to multiply with; otherwise every step reads the layers one after the other.
    pub hold: bool,
}

/// Bytes that decoding takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// The program, and what reading a tensor takes.
    pub base: u64,
    /// All weights, ready to multiply with.
    pub weights: u64,
    /// Those of the largest layer and of the head.
    pub parts: u64,
    /// Keys and values of one slot.
    pub slot: u64,
}

impl Footprint {
    /// Of `model` with sequences of up to `positions` tokens.
    ///
    /// # Errors
    /// As [`super::check`].
    pub fn of(model: &GgufModel, precision: Precision, positions: usize) -> Result<Footprint> {
        let checked = Checked::new(model, precision)?;
        let (needs, heads) = (checked.needs(), checked.heads(false));
        let pasts = checked.hyper.n_layer as u64 * heads.n_head_kv as u64;
        Ok(Footprint {
            base: needs.base(),
            weights: needs.layers.saturating_add(needs.head),
            parts: needs.layer + needs.head,
            slot: pasts.saturating_mul(Past::bytes(heads, positions)),
        })
    }
}

/// Feeds `first` to `model`, tells `next` the logits, and goes on with what it returns until that is nothing.
///
/// `next` gets a row of as many logits as the vocabulary has for each feed of the step, in their order. All are
/// finite. Fails as [`super::run`] does, or as `next` does.
///
/// # Panics
/// If a feed's slot is not below `options.slots`, or fed twice in a step.
pub fn decode(
    model: &GgufModel,
    options: &DecodeOptions,
    first: Vec<Feed>,
    next: &mut dyn FnMut(&[f32]) -> Result<Vec<Feed>>,
) -> Result<()> {
    let checked = Checked::new(model, options.precision)?;
    let embedding = checked.embedding()?;
    let weights = Weights::new(&checked, options.hold)?;
    let mut nobody = Nobody;
    let schedule = Schedule { group: options.slots, spill: false, ahead: false, peak: 0 };
    let mut pass = Pass::new(&checked, &[], schedule, 0, &mut nobody, &Silent)?;
    pass.ropes = checked.ropes(options.positions)?;
    pass.cache = Some(Cache::new(&checked.hyper, checked.heads(false), options));
    let (mut feeds, mut logits) = (first, Vec::new());
    while !feeds.is_empty() {
        check_interrupted()?;
        pass.cache.as_mut().expect("set above").place(&feeds, &checked)?;
        let tokens = feeds.iter().map(|feed| &feed.token);
        pass.restart(checked.embed_rows(&embedding, feeds.len(), tokens)?)?;
        for index in 0..checked.hyper.n_layer {
            match weights.layers.get(index) {
                Some(layer) => pass.through(index, layer)?,
                None => pass.layer(index, checked.layer(index)?)?,
            }
        }
        weights.predict(&mut pass, &mut logits)?;
        feeds = next(&logits)?;
    }
    Ok(())
}

/// What every step multiplies with.
struct Weights {
    /// All layers, or none.
    layers: Vec<LayerWeights>,
    norm: Norm,
    head: Linear,
}

impl Weights {
    fn new(checked: &Checked<'_>, hold: bool) -> Result<Weights> {
        let held = if hold { checked.hyper.n_layer } else { 0 };
        let layer = |index: usize| {
            check_interrupted()?;
            checked.layer(index)
        };
        Ok(Weights {
            layers: (0..held).map(layer).collect::<Result<_>>()?,
            norm: checked.output_norm()?,
            head: checked.linear(checked.head_name().to_string())?,
        })
    }

    /// The logits of all rows of `pass`, whose layers are done.
    fn predict(&self, pass: &mut Pass<'_>, logits: &mut Vec<f32>) -> Result<()> {
        let hyper = &pass.model.hyper;
        let hidden = pass.hidden.take(0)?;
        let rows = hidden.len() / hyper.n_embd;
        let mut normed = vec![0.0; hidden.len()];
        if let Some(row) = normalize(&self.norm, hyper.rms_eps, &hidden, &mut normed) {
            return Err(pass.non_finite(&self.norm.name, "the final norm", row));
        }
        logits.resize(rows * hyper.n_vocab, 0.0);
        let x = Rows::dense(&normed, hyper.n_embd);
        multiply(x, &self.head.weight, self.head.extra(false), logits)
            .map_err(|at| pass.non_finite(&self.head.name, "the product", at.row))?;
        finish_logits(hyper, logits);
        Ok(())
    }
}

/// Keys and values of all sequences.
pub(super) struct Cache {
    /// For each layer, slot after slot, the key-value heads.
    layers: Vec<Vec<Past>>,
    /// Tokens that each slot's sequence has.
    lengths: Vec<usize>,
    /// Slot and position of each row of the step.
    rows: Vec<(usize, usize)>,
    /// Positions there is room for.
    capacity: usize,
}

impl Cache {
    fn new(hyper: &HyperParams, heads: Heads, options: &DecodeOptions) -> Cache {
        let pasts = || 0..options.slots * heads.n_head_kv;
        let layer = |_| pasts().map(|_| Past::new(heads, options.positions)).collect();
        Cache {
            layers: (0..hyper.n_layer).map(layer).collect(),
            lengths: vec![0; options.slots],
            rows: Vec::new(),
            capacity: options.positions,
        }
    }

    /// Makes the rows of the next step those of `feeds`.
    fn place(&mut self, feeds: &[Feed], checked: &Checked<'_>) -> Result<()> {
        self.rows.clear();
        for feed in feeds {
            let length = &mut self.lengths[feed.slot];
            if feed.begins {
                *length = 0;
            }
            let n_vocab = checked.hyper.n_vocab;
            if *length == self.capacity || feed.token as usize >= n_vocab {
                let detail = format!(
                    "token {} of a vocabulary of {n_vocab} at position {length} of {} cannot be decoded",
                    feed.token, self.capacity
                );
                return Err(Error::model(checked.origin(), detail));
            }
            self.rows.push((feed.slot, *length));
            *length += 1;
        }
        Ok(())
    }

    /// The position of each row in its sequence.
    pub(super) fn positions(&self) -> impl Iterator<Item = usize> {
        self.rows.iter().map(|(_, position)| *position)
    }

    /// Attention of the rows in `layer`, see [`attend_next`].
    pub(super) fn attend(
        &mut self,
        layer: usize,
        heads: Heads,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        out: &mut [f32],
    ) {
        let mut slots: Vec<Option<&mut [Past]>> =
            self.layers[layer].chunks_mut(heads.n_head_kv).map(Some).collect();
        let rows = self.rows.iter().map(|&(slot, position)| {
            (position, slots[slot].take().expect("a slot is fed once in a step"))
        });
        attend_next(heads, rows.collect(), q, k, v, out);
    }
}

/// Looks at nothing.
struct Nobody;

impl Observer for Nobody {
    fn activations(&mut self, _: &Activations<'_>) -> Result<()> {
        Ok(())
    }
}
