//! Granite 3, dense: llama with four multipliers, of embeddings, of attention, of what each part adds, and of
//! logits.
//!
//! Keys: llama.cpp `conversion/{llama,granite}.py`, October 2026.

use super::{Architecture, Block, Defaults, EmbeddingScale, Key, Scores, VocabularyRules};

pub(super) static GRANITE: Architecture = Architecture {
    gguf_name: "granite",
    hf_classes: &["GraniteForCausalLM"],
    model_type: "granite",
    experts: None,
    stored: &[],
    ignored: &[],
    tensors: super::llama::TENSORS,
    defaults: Defaults::LLAMA,
    block: Block {
        scores: Scores::Multiplier,
        embedding: EmbeddingScale::Multiplier,
        ..Block::LLAMA
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
        Key::RmsEpsilon,
        Key::FileType,
        Key::Vocabulary,
        Key::RopeDimensions,
        Key::AttentionScale,
        Key::EmbeddingScale,
        Key::ResidualScale,
        Key::LogitScale,
    ],
    vocabulary: VocabularyRules::Llama,
};
