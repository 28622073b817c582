//! Qwen 2 and 2.5, dense: biases of queries, keys and values; the rest is llama's.
//!
//! Keys: llama.cpp `conversion/{base,qwen}.py`, October 2026. A sliding window, which some configurations
//! describe and none of these models switches on, is passed over as there.

use super::tensor::*;
use super::{Architecture, Block, Defaults, Key, Pairing, VocabularyRules};

pub(super) static QWEN2: Architecture = Architecture {
    gguf_name: "qwen2",
    hf_classes: &["Qwen2ForCausalLM"],
    model_type: "qwen2",
    experts: None,
    stored: &[],
    ignored: &[],
    tensors: &[
        EMBEDDING, ATTN_NORM, Q, K, V, O, Q_BIAS, K_BIAS, V_BIAS, FFN_NORM, GATE, UP, DOWN,
        FINAL_NORM, HEAD,
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
        Key::HeadLengthIfGiven,
        Key::FileType,
    ],
    vocabulary: VocabularyRules::Plain,
};
