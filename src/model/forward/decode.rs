//! Decoding: several sequences grow together by one token at a time, with a key-value cache.
//!
//! The layers are those of [`super::pass`], over chunks of one token. A product reads its weights
//! once for all sequences, so a step with many sequences costs little more than one with few.
//! Sequences do not affect each other. Every step reads the matrices of the experts that tokens are
//! routed to.
//!
//! Not here: reading a prompt faster than token by token, and choosing the next token.

use super::attention::HeadCache;
use super::cache::{Feed, KvCache};
use super::memory::Schedule;
use super::observer::{Activations, Observer};
use super::pass::ForwardPass;
use super::weights::{CheckedModel, LayerWeights, LinearWeights, Norm};
use super::work::{normalize, scale_logits};
use crate::base::error::Result;
use crate::base::progress::{Silent, check_interrupted};
use crate::formats::gguf::GgufModel;
use crate::kernels::{Precision, Rows};

/// How [`decode`] works.
#[derive(Clone, Debug)]
pub struct DecodeOptions {
    /// The largest number of sequences at the same time.
    pub slots: usize,
    /// The largest number of tokens in a sequence.
    pub positions: usize,
    /// The precision of products with weights.
    pub precision: Precision,
    /// Whether all weights stay in memory, packed. Otherwise every step reads all layers again.
    pub hold: bool,
}

/// The memory that decoding needs, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// The program, and reading a tensor.
    pub base: u64,
    /// All weights, packed.
    pub weights: u64,
    /// The largest layer and the head, packed.
    pub parts: u64,
    /// The keys and values of one slot.
    pub slot: u64,
}

impl Footprint {
    /// Returns what `model` needs with sequences of up to `positions` tokens.
    ///
    /// # Errors
    /// Those of [`super::check`].
    pub fn of(model: &GgufModel, precision: Precision, positions: usize) -> Result<Footprint> {
        let checked = CheckedModel::new(model, precision)?;
        let (needs, heads) = (checked.memory_needs(), checked.heads(false));
        let caches = checked.hyper.n_layer as u64 * heads.n_head_kv as u64;
        Ok(Footprint {
            base: needs.base(),
            weights: needs.layers.saturating_add(needs.head),
            parts: needs.layer + needs.head,
            slot: caches.saturating_mul(HeadCache::bytes(heads, positions)),
        })
    }
}

/// Feeds `first` to `model` and passes the logits to `next`, which returns the next feeds, until it
/// returns none.
///
/// `next` receives one row of logits, all finite, for each feed of the step, in the order of the
/// feeds.
///
/// # Errors
/// Those of [`super::run`] and those of `next`.
///
/// # Panics
/// If a feed's slot is not below `options.slots`, or occurs twice in a step.
pub fn decode(
    model: &GgufModel,
    options: &DecodeOptions,
    first: Vec<Feed>,
    next: &mut dyn FnMut(&[f32]) -> Result<Vec<Feed>>,
) -> Result<()> {
    let checked = CheckedModel::new(model, options.precision)?;
    let embedding = checked.embedding()?;
    let weights = HeldWeights::new(&checked, options.hold)?;
    let mut observer = NoObserver;
    let schedule = Schedule { group: options.slots, spill: false, ahead: false, peak: 0 };
    let mut pass = ForwardPass::new(&checked, &[], schedule, 0, &mut observer, &Silent)?;
    pass.ropes = checked.ropes(options.positions)?;
    let heads = checked.heads(false);
    pass.cache = Some(KvCache::new(&checked.hyper, heads, options.slots, options.positions));
    let (mut feeds, mut logits) = (first, Vec::new());
    while !feeds.is_empty() {
        check_interrupted()?;
        pass.cache.as_mut().expect("set above").assign(&feeds, &checked)?;
        let tokens = feeds.iter().map(|feed| &feed.token);
        pass.restart(checked.embed_rows(&embedding, feeds.len(), tokens)?)?;
        for index in 0..checked.hyper.n_layer {
            match weights.layers.get(index) {
                Some(layer) => pass.apply_layer(index, layer)?,
                None => pass.layer(index, checked.layer(index)?)?,
            }
        }
        weights.predict(&mut pass, &mut logits)?;
        feeds = next(&logits)?;
    }
    Ok(())
}

/// The weights that stay in memory between steps.
struct HeldWeights {
    /// All layers, or none.
    layers: Vec<LayerWeights>,
    norm: Norm,
    head: LinearWeights,
}

impl HeldWeights {
    fn new(checked: &CheckedModel<'_>, hold: bool) -> Result<HeldWeights> {
        let held = if hold { checked.hyper.n_layer } else { 0 };
        let layer = |index: usize| {
            check_interrupted()?;
            checked.layer(index)
        };
        Ok(HeldWeights {
            layers: (0..held).map(layer).collect::<Result<_>>()?,
            norm: checked.output_norm()?,
            head: checked.linear(checked.head_name().to_string())?,
        })
    }

    /// Computes the logits of all rows of `pass`, which have gone through all layers.
    fn predict(&self, pass: &mut ForwardPass<'_>, logits: &mut Vec<f32>) -> Result<()> {
        let hyper = &pass.model.hyper;
        let hidden = pass.hidden.take(0)?;
        let rows = hidden.len() / hyper.n_embd;
        let mut normed = vec![0.0; hidden.len()];
        if let Some(row) = normalize(&self.norm, hyper.rms_eps, &hidden, &mut normed) {
            return Err(pass.non_finite(&self.norm.name, "the final norm", row));
        }
        logits.resize(rows * hyper.n_vocab, 0.0);
        let result = self.head.multiply(Rows::dense(&normed, hyper.n_embd), false, logits);
        result.map_err(|(name, at)| pass.non_finite(name, "the product", at.row))?;
        scale_logits(hyper, logits);
        Ok(())
    }
}

/// An observer that ignores everything.
struct NoObserver;

impl Observer for NoObserver {
    fn activations(&mut self, _: &Activations<'_>) -> Result<()> {
        Ok(())
    }
}
