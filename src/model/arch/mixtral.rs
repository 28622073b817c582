//! Mixtral: llama's layers with a mixture of experts for the feed-forward part. In GGUF it is llama with
//! `expert_count`.
//!
//! Keys: llama.cpp `conversion/{base,llama}.py`, October 2026. Experts' matrices are declared in the order in which
//! that converter writes them.

use super::Dim::{ExpertFeedForward, Experts, Hidden};
use super::tensor::*;
use super::{Architecture, Block, Defaults, ExpertKeys, Key, Permute, Stored, VocabularyRules};

#[rustfmt::skip]
pub(super) static MIXTRAL: Architecture = Architecture {
    gguf_name: "llama",
    hf_classes: &["MixtralForCausalLM"],
    model_type: "mixtral",
    experts: Some(ExpertKeys { count: "num_local_experts", used: "num_experts_per_tok", n_ff: "intermediate_size", normalized: None }),
    stored: &[
        Stored { name: "model.layers.{}.mlp.gate", parts: &["model.layers.{}.block_sparse_moe.gate.weight"] },
        Stored { name: "model.layers.{}.mlp.experts.gate_up_proj", parts: &["model.layers.{}.block_sparse_moe.experts.{e}.w1.weight", "model.layers.{}.block_sparse_moe.experts.{e}.w3.weight"] },
        Stored { name: "model.layers.{}.mlp.experts.down_proj", parts: &["model.layers.{}.block_sparse_moe.experts.{e}.w2.weight"] },
    ],
    ignored: &[],
    tensors: &[
        EMBEDDING,
        ATTN_NORM,
        Q.permuted(Permute::QueryHeads),
        K.permuted(Permute::KeyHeads),
        V,
        O,
        FFN_NORM,
        layer("model.layers.{}.block_sparse_moe.gate.weight", "blk.{}.ffn_gate_inp.weight", &[Experts, Hidden]),
        layer("model.layers.{}.block_sparse_moe.experts.{e}.w1.weight", "blk.{}.ffn_gate_exps.weight", &[ExpertFeedForward, Hidden]),
        layer("model.layers.{}.block_sparse_moe.experts.{e}.w2.weight", "blk.{}.ffn_down_exps.weight", &[Hidden, ExpertFeedForward]),
        layer("model.layers.{}.block_sparse_moe.experts.{e}.w3.weight", "blk.{}.ffn_up_exps.weight", &[ExpertFeedForward, Hidden]),
        FINAL_NORM,
        HEAD,
    ],
    defaults: Defaults { context: 131072, rms_eps: 1e-5, rope_theta: 1e6, ..Defaults::LLAMA },
    block: Block::LLAMA,
    keys: &[
        Key::Blocks,
        Key::Context,
        Key::Embedding,
        Key::FeedForward,
        Key::Heads,
        Key::KeyValueHeads,
        Key::RopeScaling,
        Key::RopeTheta,
        Key::RmsEpsilon,
        Key::Experts,
        Key::HeadLengthIfGiven,
        Key::FileType,
        Key::Vocabulary,
        Key::RopeDimensions,
    ],
    vocabulary: VocabularyRules::Llama,
};
