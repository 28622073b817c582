//! Tensors of an architecture: names on both sides, shapes, and what conversion does to them.
//!
//! The constants are the tensors that nearly all architectures share; a declaration picks from them and adds
//! its own. Names: llama.cpp `gguf-py/gguf/tensor_mapping.py` and `constants.py`, October 2026; Hugging Face
//! transformers' models for the other side.

use super::HyperParams;
use Dim::*;

/// A dimension of a tensor, in terms of the hyperparameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Vocabulary size.
    Vocab,
    /// Embedding length, `hidden_size`.
    Hidden,
    /// Feed-forward length, `intermediate_size`.
    FeedForward,
    /// Gate and up projection in one: twice the feed-forward length.
    GateUp,
    /// All query heads: `n_head * head_dim`.
    Query,
    /// All key (or value) heads: `n_head_kv * head_dim`.
    KeyValue,
    /// Queries, keys and values in one: `(n_head + 2 * n_head_kv) * head_dim`.
    QueryKeyValue,
    /// One head.
    Head,
    /// Experts of a mixture.
    Experts,
    /// Feed-forward length of one expert.
    ExpertFeedForward,
}

/// Where in the stack a tensor belongs; recipes treat the ends apart from the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Embedding,
    Layer,
    FinalNorm,
    Head,
}

/// How rows are reordered on the way to GGUF, whose rotary embedding pairs adjacent elements in some
/// architectures where Hugging Face always pairs the halves of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permute {
    None,
    /// Within each of `n_head` heads.
    QueryHeads,
    /// Within each of `n_head_kv` heads.
    KeyHeads,
}

impl Permute {
    /// The heads within which rows are reordered, if they are.
    pub fn heads(self, hyper: &HyperParams) -> Option<usize> {
        match self {
            Permute::None => None,
            Permute::QueryHeads => Some(hyper.n_head),
            Permute::KeyHeads => Some(hyper.n_head_kv),
        }
    }
}

/// One tensor of an architecture. Names of layer tensors hold `{}` where the layer's number goes, those
/// of experts in Hugging Face's layout also `{e}` where the expert's goes (see [`super::Experts`]).
#[derive(Debug)]
pub struct TensorDecl {
    pub hf: &'static str,
    pub gguf: &'static str,
    /// Outermost first.
    pub shape: &'static [Dim],
    pub role: Role,
    pub permute: Permute,
    /// GGUF holds the values plus one: Gemma's norms multiply by `1 + weight`.
    pub plus_one: bool,
    /// Models may lack it (biases; a head that is tied to the embedding).
    pub optional: bool,
}

impl TensorDecl {
    /// A tensor of each layer, or of another `role`, that every model has.
    pub(super) const fn new(
        hf: &'static str,
        gguf: &'static str,
        shape: &'static [Dim],
        role: Role,
    ) -> TensorDecl {
        let (permute, plus_one, optional) = (Permute::None, false, false);
        TensorDecl { hf, gguf, shape, role, permute, plus_one, optional }
    }

    pub(super) const fn permuted(self, permute: Permute) -> TensorDecl {
        TensorDecl { permute, ..self }
    }

    pub(super) const fn plus_one(self) -> TensorDecl {
        TensorDecl { plus_one: true, ..self }
    }

    pub(super) const fn optional(self) -> TensorDecl {
        TensorDecl { optional: true, ..self }
    }

    /// The Hugging Face name; `layer` is ignored for tensors outside the layers. Of experts' matrices,
    /// that of the first.
    pub fn hf_name(&self, layer: usize) -> String {
        self.hf_name_of(layer, 0)
    }

    /// The GGUF name; `layer` is ignored for tensors outside the layers.
    pub fn gguf_name(&self, layer: usize) -> String {
        self.gguf.replace("{}", &layer.to_string())
    }

    /// The shape under `hyper`, outermost first; of one expert's matrix where there are experts.
    pub fn shape(&self, hyper: &HyperParams) -> Vec<usize> {
        self.shape.iter().map(|&dim| hyper.dim(dim)).collect()
    }
}

pub(super) const fn layer(
    hf: &'static str,
    gguf: &'static str,
    shape: &'static [Dim],
) -> TensorDecl {
    TensorDecl::new(hf, gguf, shape, Role::Layer)
}

#[rustfmt::skip]
mod shared {
    use super::*;

    pub(crate) const EMBEDDING: TensorDecl = TensorDecl::new("model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Role::Embedding);
    pub(crate) const FINAL_NORM: TensorDecl = TensorDecl::new("model.norm.weight", "output_norm.weight", &[Hidden], Role::FinalNorm);
    /// Absent where it is tied to the embedding.
    pub(crate) const HEAD: TensorDecl = TensorDecl::new("lm_head.weight", "output.weight", &[Vocab, Hidden], Role::Head).optional();

    pub(crate) const ATTN_NORM: TensorDecl = layer("model.layers.{}.input_layernorm.weight", "blk.{}.attn_norm.weight", &[Hidden]);
    pub(crate) const Q: TensorDecl = layer("model.layers.{}.self_attn.q_proj.weight", "blk.{}.attn_q.weight", &[Query, Hidden]);
    pub(crate) const K: TensorDecl = layer("model.layers.{}.self_attn.k_proj.weight", "blk.{}.attn_k.weight", &[KeyValue, Hidden]);
    pub(crate) const V: TensorDecl = layer("model.layers.{}.self_attn.v_proj.weight", "blk.{}.attn_v.weight", &[KeyValue, Hidden]);
    pub(crate) const O: TensorDecl = layer("model.layers.{}.self_attn.o_proj.weight", "blk.{}.attn_output.weight", &[Hidden, Query]);
    pub(crate) const Q_BIAS: TensorDecl = layer("model.layers.{}.self_attn.q_proj.bias", "blk.{}.attn_q.bias", &[Query]);
    pub(crate) const K_BIAS: TensorDecl = layer("model.layers.{}.self_attn.k_proj.bias", "blk.{}.attn_k.bias", &[KeyValue]);
    pub(crate) const V_BIAS: TensorDecl = layer("model.layers.{}.self_attn.v_proj.bias", "blk.{}.attn_v.bias", &[KeyValue]);
    pub(crate) const O_BIAS: TensorDecl = layer("model.layers.{}.self_attn.o_proj.bias", "blk.{}.attn_output.bias", &[Hidden]);
    pub(crate) const Q_NORM: TensorDecl = layer("model.layers.{}.self_attn.q_norm.weight", "blk.{}.attn_q_norm.weight", &[Head]);
    pub(crate) const K_NORM: TensorDecl = layer("model.layers.{}.self_attn.k_norm.weight", "blk.{}.attn_k_norm.weight", &[Head]);

    /// Before the feed-forward part, whatever Hugging Face's name says.
    pub(crate) const FFN_NORM: TensorDecl = layer("model.layers.{}.post_attention_layernorm.weight", "blk.{}.ffn_norm.weight", &[Hidden]);
    /// Gemma's norms about a part of the block.
    pub(crate) const ATTN_POST_NORM: TensorDecl = layer("model.layers.{}.post_attention_layernorm.weight", "blk.{}.post_attention_norm.weight", &[Hidden]);
    pub(crate) const FFN_PRE_NORM: TensorDecl = layer("model.layers.{}.pre_feedforward_layernorm.weight", "blk.{}.ffn_norm.weight", &[Hidden]);
    pub(crate) const FFN_POST_NORM: TensorDecl = layer("model.layers.{}.post_feedforward_layernorm.weight", "blk.{}.post_ffw_norm.weight", &[Hidden]);

    pub(crate) const GATE: TensorDecl = layer("model.layers.{}.mlp.gate_proj.weight", "blk.{}.ffn_gate.weight", &[FeedForward, Hidden]);
    pub(crate) const UP: TensorDecl = layer("model.layers.{}.mlp.up_proj.weight", "blk.{}.ffn_up.weight", &[FeedForward, Hidden]);
    pub(crate) const DOWN: TensorDecl = layer("model.layers.{}.mlp.down_proj.weight", "blk.{}.ffn_down.weight", &[Hidden, FeedForward]);
    pub(crate) const GATE_BIAS: TensorDecl = layer("model.layers.{}.mlp.gate_proj.bias", "blk.{}.ffn_gate.bias", &[FeedForward]);
    pub(crate) const UP_BIAS: TensorDecl = layer("model.layers.{}.mlp.up_proj.bias", "blk.{}.ffn_up.bias", &[FeedForward]);
    pub(crate) const DOWN_BIAS: TensorDecl = layer("model.layers.{}.mlp.down_proj.bias", "blk.{}.ffn_down.bias", &[Hidden]);
}

pub(super) use shared::*;
