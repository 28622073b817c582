//! Qwen 3 with experts: the layers of Qwen 3 with a mixture for the feed-forward part.
//!
//! Keys: llama.cpp `conversion/{base,qwen}.py`, October 2026. Experts' matrices are declared in the order in which
//! that converter writes them. Deliberately absent: layers without experts among the others, which GGUF cannot
//! tell of.

use super::Dim::{ExpertFeedForward, Experts, Hidden};
use super::tensor::*;
use super::{Architecture, Block, Defaults, ExpertKeys, Key, Pairing, Stored, VocabularyRules};

#[rustfmt::skip]
pub(super) static QWEN3MOE: Architecture = Architecture {
    gguf_name: "qwen3moe",
    hf_classes: &["Qwen3MoeForCausalLM"],
    model_type: "qwen3_moe",
    experts: Some(ExpertKeys {
        count: "num_experts",
        used: "num_experts_per_tok",
        n_ff: "moe_intermediate_size",
        normalized: Some("norm_topk_prob"),
    }),
    stored: &[
        Stored { name: "model.layers.{}.mlp.experts.gate_up_proj", parts: &["model.layers.{}.mlp.experts.{e}.gate_proj.weight", "model.layers.{}.mlp.experts.{e}.up_proj.weight"] },
        Stored { name: "model.layers.{}.mlp.experts.down_proj", parts: &["model.layers.{}.mlp.experts.{e}.down_proj.weight"] },
    ],
    ignored: &[],
    tensors: &[
        EMBEDDING,
        ATTN_NORM,
        Q,
        K,
        V,
        O,
        Q_BIAS.optional(),
        K_BIAS.optional(),
        V_BIAS.optional(),
        O_BIAS.optional(),
        Q_NORM,
        K_NORM,
        FFN_NORM,
        layer("model.layers.{}.mlp.gate.weight", "blk.{}.ffn_gate_inp.weight", &[Experts, Hidden]),
        layer("model.layers.{}.mlp.experts.{e}.down_proj.weight", "blk.{}.ffn_down_exps.weight", &[Hidden, ExpertFeedForward]),
        layer("model.layers.{}.mlp.experts.{e}.gate_proj.weight", "blk.{}.ffn_gate_exps.weight", &[ExpertFeedForward, Hidden]),
        layer("model.layers.{}.mlp.experts.{e}.up_proj.weight", "blk.{}.ffn_up_exps.weight", &[ExpertFeedForward, Hidden]),
        FINAL_NORM,
        HEAD,
    ],
    defaults: Defaults { context: 32768, ..Defaults::LLAMA },
    block: Block { pairing: Pairing::Halves, ..Block::LLAMA },
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
        Key::ExpertFeedForward,
    ],
    vocabulary: VocabularyRules::Plain,
};
