//! Phi 3 and 3.5 mini and medium, Phi 4: one projection for queries, keys and values, one for gate and up; rotary
//! frequencies with divisors for short and for long texts; heads of which only a part may turn.
//!
//! The window of attention that some configurations describe is passed over, as llama.cpp does: it is as long
//! as the context of training or nearly so. Keys: llama.cpp `conversion/phi.py`, October 2026.

use super::tensor::*;
use super::{Architecture, Block, Defaults, Dim, Key, Pairing, VocabularyRules};

pub(super) static PHI3: Architecture = Architecture {
    gguf_name: "phi3",
    hf_classes: &["Phi3ForCausalLM"],
    model_type: "phi3",
    experts: None,
    stored: &[],
    ignored: &[],
    tensors: &[
        EMBEDDING,
        ATTN_NORM,
        layer(
            "model.layers.{}.self_attn.qkv_proj.weight",
            "blk.{}.attn_qkv.weight",
            &[Dim::QueryKeyValue, Dim::Hidden],
        ),
        O,
        FFN_NORM,
        layer(
            "model.layers.{}.mlp.gate_up_proj.weight",
            "blk.{}.ffn_up.weight",
            &[Dim::GateUp, Dim::Hidden],
        ),
        DOWN,
        FINAL_NORM,
        HEAD,
    ],
    defaults: Defaults {
        context: 4096,
        original_context: Some(4096),
        rms_eps: 1e-5,
        ..Defaults::LLAMA
    },
    block: Block { pairing: Pairing::Halves, ..Block::LLAMA },
    keys: &[
        Key::LongRopeFactor,
        Key::Context,
        Key::OriginalContext,
        Key::Embedding,
        Key::FeedForward,
        Key::Blocks,
        Key::Heads,
        Key::KeyValueHeads,
        Key::RmsEpsilon,
        Key::RopeDimensions,
        Key::RopeTheta,
        Key::FileType,
        Key::UnusedWindow,
    ],
    vocabulary: VocabularyRules::Plain,
};
