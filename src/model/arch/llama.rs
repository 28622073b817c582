//! The llama family: LLaMA, Mistral 7B, SOLAR 10.7B, SmolLM2 and everything else that loads as
//! `LlamaForCausalLM` or `MistralForCausalLM`.
//!
//! Keys: llama.cpp `conversion/llama.py`, October 2026.

use super::tensor::*;
use super::{Architecture, Block, Defaults, Key, Permute, VocabularyRules};

/// Those of granite, too.
pub(super) const TENSORS: &[TensorDecl] = &[
    EMBEDDING,
    ATTN_NORM,
    Q.permuted(Permute::QueryHeads),
    K.permuted(Permute::KeyHeads),
    V,
    O,
    Q_BIAS.permuted(Permute::QueryHeads).optional(),
    K_BIAS.permuted(Permute::KeyHeads).optional(),
    V_BIAS.optional(),
    O_BIAS.optional(),
    FFN_NORM,
    GATE,
    UP,
    DOWN,
    GATE_BIAS.optional(),
    UP_BIAS.optional(),
    DOWN_BIAS.optional(),
    FINAL_NORM,
    HEAD,
];

pub(super) static LLAMA: Architecture = Architecture {
    gguf_name: "llama",
    hf_classes: &["LlamaForCausalLM", "MistralForCausalLM"],
    model_type: "llama",
    experts: None,
    stored: &[],
    ignored: &[],
    tensors: TENSORS,
    defaults: Defaults::LLAMA,
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
        Key::HeadLength,
        Key::FileType,
        Key::Vocabulary,
        Key::RopeDimensions,
    ],
    vocabulary: VocabularyRules::Llama,
};
