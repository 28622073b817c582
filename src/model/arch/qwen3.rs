//! Qwen 3, dense: norms of queries and keys, a head length of its own, no biases.
//!
//! Keys: llama.cpp `conversion/{base,qwen}.py`, October 2026.

use super::tensor::*;
use super::{Architecture, Block, Defaults, Key, Pairing, VocabularyRules};

pub(super) static QWEN3: Architecture = Architecture {
    gguf_name: "qwen3",
    hf_classes: &["Qwen3ForCausalLM"],
    model_type: "qwen3",
    experts: None,
    stored: &[],
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
        GATE,
        UP,
        DOWN,
        FINAL_NORM,
        HEAD,
    ],
    defaults: Defaults { context: 32768, head_dim: Some(128), ..Defaults::LLAMA },
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
        Key::HeadLength,
        Key::FileType,
    ],
    vocabulary: VocabularyRules::Plain,
};
