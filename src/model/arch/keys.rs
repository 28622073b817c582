//! The keys that hold hyperparameters in GGUF metadata.
//!
//! Names: llama.cpp `gguf-py/gguf/constants.py`, October 2026. Reading them is in `from_metadata`.

use super::{Architecture, HyperParams, RopeScaling};
use crate::formats::gguf::{Array, Metadata, Value};

/// A hyperparameter in GGUF, or some that go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Blocks,
    Context,
    Embedding,
    FeedForward,
    Heads,
    KeyValueHeads,
    /// How frequencies are scaled, unless tensors hold the factors.
    RopeScaling,
    /// The attention factor of Phi 3, which llama.cpp's converter sets before all other keys.
    LongRopeFactor,
    OriginalContext,
    RopeTheta,
    LocalRopeTheta,
    RopeDimensions,
    RmsEpsilon,
    /// The lengths of keys and of values.
    HeadLength,
    /// The same, only where the configuration says it.
    HeadLengthIfGiven,
    /// The number of experts, and how many compute a token.
    Experts,
    /// Of one expert.
    ExpertFeedForward,
    /// `general.file_type`, which stands among the hyperparameters.
    FileType,
    Vocabulary,
    /// The window of attention, and which layers have it unless it is the usual ones.
    Window,
    /// The window of a model whose attention llama.cpp computes without one; 0 for none.
    UnusedWindow,
    AttentionSoftCap,
    LogitSoftCap,
    AttentionScale,
    EmbeddingScale,
    ResidualScale,
    LogitScale,
}

impl Key {
    /// Whether llama.cpp's converter sets the key while it reads tensors, before all others.
    pub fn is_early(self) -> bool {
        self == Key::LongRopeFactor
    }

    /// Returns the name of a key with an f32 that only some models have, and that value.
    fn optional(self, hyper: &HyperParams) -> Option<(&'static str, Option<f32>)> {
        let long_rope = match hyper.rope_scaling {
            RopeScaling::LongRope { attention_factor, .. } => Some(attention_factor),
            _ => None,
        };
        Some(match self {
            Key::LongRopeFactor => ("rope.scaling.attn_factor", long_rope),
            Key::LocalRopeTheta => ("rope.freq_base_swa", hyper.local_rope_theta),
            Key::AttentionSoftCap => ("attn_logit_softcapping", hyper.attention_soft_cap),
            Key::LogitSoftCap => ("final_logit_softcapping", hyper.logit_soft_cap),
            Key::AttentionScale => ("attention.scale", hyper.attention_scale),
            _ => return None,
        })
    }

    /// Writes the key, or keys, for a model of `arch`. [`Key::FileType`] is no hyperparameter: the converter
    /// knows it.
    pub fn write(self, arch: &Architecture, hyper: &HyperParams, metadata: &mut Metadata) {
        let mut set = |key: &str, value: Value| {
            metadata.set(format!("{}.{key}", arch.gguf_name), value);
        };
        // HyperParams bounds every count by 2^30, so none is cut here.
        let count = |n: usize| Value::U32(n as u32);
        let experts = hyper.experts;
        if let Some((key, value)) = self.optional(hyper) {
            return value.into_iter().for_each(|value| set(key, value.into()));
        }
        match self {
            Key::Blocks => set("block_count", count(hyper.n_layer)),
            Key::Context => set("context_length", count(hyper.n_ctx_train)),
            Key::Embedding => set("embedding_length", count(hyper.n_embd)),
            Key::FeedForward => set("feed_forward_length", count(hyper.n_ff)),
            Key::Heads => set("attention.head_count", count(hyper.n_head)),
            Key::KeyValueHeads => set("attention.head_count_kv", count(hyper.n_head_kv)),
            Key::RopeScaling => rope_scaling(hyper, set),
            Key::OriginalContext => {
                set("rope.scaling.original_context_length", count(hyper.original_context));
            }
            Key::RopeTheta => set("rope.freq_base", hyper.rope_theta.into()),
            Key::RopeDimensions => set("rope.dimension_count", count(hyper.rope_dims)),
            Key::RmsEpsilon => set("attention.layer_norm_rms_epsilon", hyper.rms_eps.into()),
            Key::HeadLengthIfGiven if !hyper.head_dim_given => {}
            Key::HeadLength | Key::HeadLengthIfGiven => {
                set("attention.key_length", count(hyper.head_dim));
                set("attention.value_length", count(hyper.head_dim));
            }
            Key::Experts => {
                if let Some(experts) = experts {
                    set("expert_count", count(experts.count));
                    set("expert_used_count", count(experts.used));
                }
            }
            Key::ExpertFeedForward => experts
                .iter()
                .for_each(|experts| set("expert_feed_forward_length", count(experts.n_ff))),
            Key::FileType
            | Key::LongRopeFactor
            | Key::LocalRopeTheta
            | Key::AttentionSoftCap
            | Key::LogitSoftCap
            | Key::AttentionScale => {}
            Key::Vocabulary => set("vocab_size", count(hyper.n_vocab)),
            Key::Window => window(arch, hyper, set),
            Key::UnusedWindow => set("attention.sliding_window", count(hyper.window.unwrap_or(0))),
            Key::EmbeddingScale => set("embedding_scale", hyper.embedding_scale.into()),
            Key::ResidualScale => set("residual_scale", hyper.residual_scale.into()),
            Key::LogitScale => set("logit_scale", hyper.logit_scale.into()),
        }
    }
}

fn rope_scaling(hyper: &HyperParams, mut set: impl FnMut(&str, Value)) {
    match &hyper.rope_scaling {
        // A tensor holds Llama 3's scaling; GGUF has no key for dynamic scaling.
        RopeScaling::None | RopeScaling::Llama3 { .. } | RopeScaling::Dynamic { .. } => {}
        RopeScaling::Linear { factor } => {
            set("rope.scaling.type", "linear".into());
            set("rope.scaling.factor", (*factor).into());
        }
        RopeScaling::Yarn(yarn) => {
            set("rope.scaling.type", "yarn".into());
            set("rope.scaling.factor", yarn.factor.into());
            let original = Value::U32(hyper.original_context as u32);
            set("rope.scaling.original_context_length", original);
            let optional = [
                ("yarn_ext_factor", yarn.extrapolation),
                ("yarn_attn_factor", yarn.attention_factor),
                ("yarn_beta_fast", yarn.beta_fast),
                ("yarn_beta_slow", yarn.beta_slow),
            ];
            for (key, value) in optional {
                if let Some(value) = value {
                    set(&format!("rope.scaling.{key}"), value.into());
                }
            }
        }
        // llama.cpp's converter writes the type alone, and the model is not the same without the rest.
        RopeScaling::LongRope { attention_factor, .. } => {
            set("rope.scaling.type", "longrope".into());
            let original = Value::U32(hyper.original_context as u32);
            set("rope.scaling.original_context_length", original);
            set("rope.scaling.attn_factor", (*attention_factor).into());
        }
    }
}

/// llama.cpp's converter leaves out which layers have a window, for they are always the same ones; in a
/// merged stack they need not be, and llama.cpp reads the list.
fn window(arch: &Architecture, hyper: &HyperParams, mut set: impl FnMut(&str, Value)) {
    let Some(window) = hyper.window else { return };
    set("attention.sliding_window", Value::U32(window as u32));
    let usual = (0..hyper.n_layer).map(|layer| arch.windowed_by_default(layer));
    if !usual.eq(hyper.windowed.iter().copied()) {
        let list = Value::Array(Array::Bool(hyper.windowed.clone()));
        set("attention.sliding_window_pattern", list);
    }
}
