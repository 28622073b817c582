//! Hyperparameters, the same whether read from config.json or from GGUF metadata.

use super::{Dim, Experts, RopeScaling};
use crate::base::error::{Error, Result};

/// The sizes and constants of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct HyperParams {
    pub n_layer: usize,
    pub n_vocab: usize,
    /// Embedding length.
    pub n_embd: usize,
    /// Feed-forward length.
    pub n_ff: usize,
    /// Of mixtures, where they take the place of the feed-forward part.
    pub experts: Option<Experts>,
    pub n_head: usize,
    /// Key and value heads; fewer than `n_head` with grouped-query attention.
    pub n_head_kv: usize,
    pub head_dim: usize,
    /// Whether `head_dim` was said, not derived.
    pub head_dim_given: bool,
    /// Longest context the model was made for, in tokens.
    pub n_ctx_train: usize,
    pub rms_eps: f32,
    pub rope_theta: f32,
    /// The base of rotary frequencies in layers with a window; `None` where it is `rope_theta`.
    pub local_rope_theta: Option<f32>,
    /// Elements of a head that the rotary embedding turns.
    pub rope_dims: usize,
    pub rope_scaling: RopeScaling,
    /// The context before `rope_scaling` stretched it, in tokens.
    pub original_context: usize,
    /// The head is the embedding.
    pub tied: bool,
    /// How many tokens a layer with a window attends to, its own among them.
    pub window: Option<usize>,
    /// Which layers attend to a window only; empty where none does.
    pub windowed: Vec<bool>,
    /// What queries times keys are multiplied by; `None` for `1 / sqrt(head_dim)`.
    pub attention_scale: Option<f32>,
    /// Scores are capped: `cap * tanh(x / cap)`.
    pub attention_soft_cap: Option<f32>,
    /// Logits are, too.
    pub logit_soft_cap: Option<f32>,
    /// What embeddings are multiplied by.
    pub embedding_scale: f32,
    /// What each part of a block is multiplied by before it is added.
    pub residual_scale: f32,
    /// What logits are divided by.
    pub logit_scale: f32,
}

impl HyperParams {
    /// A model without anything special: one layer of the llama family, of unusable sizes. To be filled.
    pub(super) fn plain(arch: &super::Architecture) -> HyperParams {
        HyperParams {
            n_layer: 0,
            n_vocab: 0,
            n_embd: 0,
            n_ff: 0,
            experts: None,
            n_head: 0,
            n_head_kv: 0,
            head_dim: 0,
            head_dim_given: false,
            n_ctx_train: arch.defaults.context,
            rms_eps: arch.defaults.rms_eps as f32,
            rope_theta: arch.defaults.rope_theta as f32,
            local_rope_theta: None,
            rope_dims: 0,
            rope_scaling: RopeScaling::None,
            original_context: 0,
            tied: false,
            window: None,
            windowed: Vec::new(),
            attention_scale: None,
            attention_soft_cap: None,
            logit_soft_cap: None,
            embedding_scale: 1.0,
            residual_scale: 1.0,
            logit_scale: 1.0,
        }
    }

    /// Refuses what no model has and arithmetic could trip over.
    pub(super) fn checked(self, origin: &str) -> Result<HyperParams> {
        const LIMIT: usize = 1 << 30;
        let sizes = [
            ("layers", self.n_layer),
            ("vocabulary", self.n_vocab),
            ("embedding length", self.n_embd),
            ("feed-forward length", self.n_ff),
            ("heads", self.n_head),
            ("key-value heads", self.n_head_kv),
            ("head dimension", self.head_dim),
        ];
        if let Some((what, n)) = sizes.iter().find(|(_, n)| *n == 0 || *n > LIMIT) {
            return Err(Error::model(origin, format!("unusable number of {what}: {n}")));
        }
        if !self.n_head.is_multiple_of(self.n_head_kv) || !self.head_dim.is_multiple_of(2) {
            let detail = format!(
                "{} heads, {} key-value heads and head dimension {} do not go together",
                self.n_head, self.n_head_kv, self.head_dim
            );
            return Err(Error::model(origin, detail));
        }
        let dims = self.rope_dims;
        if dims == 0 || dims > self.head_dim || !dims.is_multiple_of(2) {
            let detail = format!("{dims} rotary dimensions of {} cannot be", self.head_dim);
            return Err(Error::model(origin, detail));
        }
        if !self.windowed.is_empty() && self.windowed.len() != self.n_layer {
            let detail = format!(
                "the kind of attention is given for {} layers, but the model has {}",
                self.windowed.len(),
                self.n_layer
            );
            return Err(Error::model(origin, detail));
        }
        let scales = [
            ("scale of attention", self.attention_scale.unwrap_or(1.0)),
            ("cap of attention", self.attention_soft_cap.unwrap_or(1.0)),
            ("cap of logits", self.logit_soft_cap.unwrap_or(1.0)),
            ("scale of embeddings", self.embedding_scale),
            ("scale of residuals", self.residual_scale),
            ("scale of logits", self.logit_scale),
        ];
        if let Some((what, x)) = scales.iter().find(|(_, x)| !x.is_finite() || *x <= 0.0) {
            return Err(Error::model(origin, format!("unusable {what}: {x}")));
        }
        self.rope_scaling.check(origin, dims / 2)?;
        Ok(self)
    }

    /// The size of `dim`.
    pub fn dim(&self, dim: Dim) -> usize {
        let (query, kv) = (self.n_head * self.head_dim, self.n_head_kv * self.head_dim);
        match dim {
            Dim::Vocab => self.n_vocab,
            Dim::Hidden => self.n_embd,
            Dim::FeedForward => self.n_ff,
            Dim::GateUp => 2 * self.n_ff,
            Dim::Query => query,
            Dim::KeyValue => kv,
            Dim::QueryKeyValue => query + 2 * kv,
            Dim::Head => self.head_dim,
            // 0 fits no tensor.
            Dim::Experts => self.experts.map_or(0, |experts| experts.count),
            Dim::ExpertFeedForward => self.experts.map_or(0, |experts| experts.n_ff),
        }
    }

    /// Whether layer `layer` attends to a window only.
    pub fn is_windowed(&self, layer: usize) -> bool {
        self.windowed.get(layer).copied().unwrap_or(false)
    }

    /// What queries times keys are multiplied by.
    pub fn score_scale(&self) -> f32 {
        self.attention_scale.unwrap_or(1.0 / (self.head_dim as f32).sqrt())
    }
}
