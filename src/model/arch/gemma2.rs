//! Gemma 2: norms before and after each part, which multiply by one plus their weights; scaled embeddings, which
//! are always the head, too; GELU; capped attention and logits; a window in every other layer.
//!
//! Keys: llama.cpp `conversion/gemma.py`, October 2026; what a file leaves out, `src/models/gemma2.cpp`.

use super::tensor::*;
use super::{
    Activation, Architecture, Block, Defaults, EmbeddingScale, Key, Pairing, Scores,
    VocabularyRules, Windows,
};

pub(super) static GEMMA2: Architecture = Architecture {
    gguf_name: "gemma2",
    hf_classes: &["Gemma2ForCausalLM"],
    model_type: "gemma2",
    experts: None,
    // Some quantizing programs store a copy of the embedding as the head; llama.cpp does not load one.
    stored: &[],
    ignored: &["lm_head.weight"],
    tensors: &[
        EMBEDDING,
        ATTN_NORM.plus_one(),
        Q,
        K,
        V,
        O,
        ATTN_POST_NORM.plus_one(),
        FFN_PRE_NORM.plus_one(),
        GATE,
        UP,
        DOWN,
        FFN_POST_NORM.plus_one(),
        FINAL_NORM.plus_one(),
    ],
    defaults: Defaults { context: 8192, head_dim: Some(256), tied: true, ..Defaults::LLAMA },
    block: Block {
        pairing: Pairing::Halves,
        activation: Activation::GeluTanh,
        scores: Scores::QueryScalar { layers_of_27b: 46 },
        embedding: EmbeddingScale::SqrtLength,
        windows: Some(Windows { every: 2, length: Some(4096) }),
        soft_caps: [Some(50.0), Some(30.0)],
        local_rope_theta: None,
    },
    keys: &[
        Key::Context,
        Key::Embedding,
        Key::Blocks,
        Key::FeedForward,
        Key::Heads,
        Key::KeyValueHeads,
        Key::RmsEpsilon,
        Key::HeadLength,
        Key::FileType,
        Key::AttentionSoftCap,
        Key::LogitSoftCap,
        Key::Window,
    ],
    vocabulary: VocabularyRules::NoSpacePrefix,
};
