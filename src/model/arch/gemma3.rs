//! Gemma 3, text only: Gemma 2 with norms of queries and keys in the place of caps, and windows in five of six
//! layers, whose rotary frequencies have a base of their own.
//!
//! Keys: llama.cpp `conversion/{base,gemma}.py`, October 2026; what a file leaves out, `src/models/gemma3.cpp`.

use super::tensor::*;
use super::{
    Activation, Architecture, Block, Defaults, EmbeddingScale, Key, Pairing, Scores,
    VocabularyRules, Windows,
};

pub(super) static GEMMA3: Architecture = Architecture {
    gguf_name: "gemma3",
    hf_classes: &["Gemma3ForCausalLM"],
    model_type: "gemma3_text",
    experts: None,
    stored: &[],
    ignored: &[],
    tensors: &[
        EMBEDDING,
        ATTN_NORM.plus_one(),
        Q,
        K,
        V,
        O,
        Q_NORM.plus_one(),
        K_NORM.plus_one(),
        ATTN_POST_NORM.plus_one(),
        FFN_PRE_NORM.plus_one(),
        GATE,
        UP,
        DOWN,
        FFN_POST_NORM.plus_one(),
        FINAL_NORM.plus_one(),
        HEAD,
    ],
    defaults: Defaults {
        context: 131072,
        head_dim: Some(256),
        rope_theta: 1e6,
        tied: true,
        ..Defaults::LLAMA
    },
    block: Block {
        pairing: Pairing::Halves,
        activation: Activation::GeluTanh,
        scores: Scores::QueryScalar { layers_of_27b: 62 },
        embedding: EmbeddingScale::SqrtLength,
        windows: Some(Windows { every: 6, length: None }),
        soft_caps: [None, None],
        local_rope_theta: Some(1e4),
    },
    keys: &[
        Key::Blocks,
        Key::Context,
        Key::Embedding,
        Key::FeedForward,
        Key::Heads,
        Key::KeyValueHeads,
        Key::RopeScaling,
        Key::RopeTheta,
        Key::LocalRopeTheta,
        Key::RmsEpsilon,
        Key::HeadLength,
        Key::FileType,
        Key::LogitSoftCap,
        Key::Window,
    ],
    vocabulary: VocabularyRules::NoSpacePrefix,
};
