//! Hyperparameters from GGUF metadata.
//!
//! Keys and what holds where they are absent: llama.cpp `src/llama-model.cpp` (`load_hparams`) and
//! `src/models/`, October 2026.

use super::tensor::HEAD;
use super::{Architecture, EmbeddingScale, Experts, HyperParams, RopeScaling, Scores, Yarn};
use crate::base::error::{Error, Result};
use crate::formats::gguf::{Array, GgufModel, Metadata, Value};

/// The keys of one architecture.
struct Keys<'a> {
    metadata: &'a Metadata,
    arch: &'static Architecture,
}

impl Keys<'_> {
    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.arch.gguf_name)
    }

    fn get(&self, suffix: &str) -> Option<&Value> {
        self.metadata.get(&self.key(suffix))
    }

    fn count(&self, suffix: &str) -> Option<usize> {
        self.get(suffix)?.as_u64().and_then(|n| n.try_into().ok())
    }

    fn float(&self, suffix: &str) -> Option<f32> {
        self.metadata.f32(&self.key(suffix))
    }

    /// Zero stands for absence.
    fn scale(&self, suffix: &str) -> Option<f32> {
        self.float(suffix).filter(|x| *x != 0.0)
    }
}

impl HyperParams {
    /// Reads the hyperparameters of a GGUF model: those of its metadata, and from the tensors whether the head is
    /// tied, which is so where no head is stored.
    ///
    /// # Errors
    /// Those of [`HyperParams::from_metadata`].
    pub fn from_gguf(model: &GgufModel) -> Result<HyperParams> {
        let tied = model.tensors.table().find(HEAD.gguf).is_none();
        HyperParams::from_metadata(model.origin(), &model.metadata, tied)
    }

    /// Reads GGUF metadata, which do not record whether the head is `tied`.
    ///
    /// # Errors
    /// The architecture is not known, a size is missing or unusable, or rotary frequencies are scaled in a
    /// way that is not known.
    pub fn from_metadata(origin: &str, metadata: &Metadata, tied: bool) -> Result<HyperParams> {
        let arch = Architecture::for_metadata(origin, metadata)?;
        let keys = Keys { metadata, arch };
        let need = |suffix: &str| metadata.require_usize(origin, &keys.key(suffix));
        let (n_embd, n_head) = (need("embedding_length")?, need("attention.head_count")?);
        let vocab = metadata.strings("tokenizer.ggml.tokens").map(<[String]>::len);
        let head_dim = keys.count("attention.key_length");
        let n_ctx_train = keys.count("context_length").unwrap_or(arch.defaults.context);
        let original_context = keys.count("rope.scaling.original_context_length");
        let hyper = HyperParams {
            n_layer: need("block_count")?,
            n_vocab: keys.count("vocab_size").or(vocab).unwrap_or(0),
            n_embd,
            n_ff: need("feed_forward_length")?,
            experts: Experts::from_metadata(origin, arch, metadata)?,
            n_head,
            n_head_kv: keys.count("attention.head_count_kv").unwrap_or(n_head),
            head_dim: head_dim.unwrap_or(n_embd / n_head.max(1)),
            head_dim_given: head_dim.is_some(),
            n_ctx_train,
            rms_eps: keys.float("attention.layer_norm_rms_epsilon").unwrap_or(1e-5),
            rope_theta: keys.float("rope.freq_base").unwrap_or(10000.0),
            local_rope_theta: arch
                .block
                .local_rope_theta
                .map(|default| keys.float("rope.freq_base_swa").unwrap_or(default as f32)),
            rope_scaling: rope_scaling(origin, &keys)?,
            original_context: original_context.filter(|&n| n > 0).unwrap_or(n_ctx_train),
            tied,
            ..HyperParams::plain(arch)
        };
        let rope_dims = keys.count("rope.dimension_count").unwrap_or(hyper.head_dim);
        let hyper = HyperParams { rope_dims, ..hyper };
        hyper.with_windows_of(&keys).with_scales_of(&keys).checked(origin)
    }

    fn with_windows_of(mut self, keys: &Keys<'_>) -> HyperParams {
        let windows = keys.arch.block.windows;
        let length = keys.count("attention.sliding_window").or(windows.and_then(|w| w.length));
        self.window = length.filter(|&n| n > 0);
        let (Some(windows), Some(_)) = (windows, self.window) else { return self };
        let by_rule = |every: usize| -> Vec<bool> {
            let layers = 1..=self.n_layer.min(1 << 20);
            layers.map(|n| every == 0 || n % every != 0).collect()
        };
        self.windowed = match keys.get("attention.sliding_window_pattern") {
            Some(Value::Array(Array::Bool(list))) => list.clone(),
            Some(value) => by_rule(value.as_u64().map_or(windows.every, |n| n as usize)),
            None => by_rule(windows.every),
        };
        self
    }

    fn with_scales_of(mut self, keys: &Keys<'_>) -> HyperParams {
        self.attention_scale = match keys.arch.block.scores {
            Scores::HeadLength => None,
            Scores::QueryScalar { layers_of_27b } if self.n_layer == layers_of_27b => {
                Some(1.0 / ((self.n_embd / self.n_head.max(1)) as f32).sqrt())
            }
            Scores::QueryScalar { .. } => Some(1.0 / (self.head_dim as f32).sqrt()),
            Scores::Multiplier => keys.scale("attention.scale"),
        };
        match keys.arch.block.embedding {
            EmbeddingScale::One => {}
            EmbeddingScale::SqrtLength => self.embedding_scale = (self.n_embd as f32).sqrt(),
            EmbeddingScale::Multiplier => {
                self.embedding_scale = keys.scale("embedding_scale").unwrap_or(1.0);
                self.residual_scale = keys.scale("residual_scale").unwrap_or(1.0);
                self.logit_scale = keys.scale("logit_scale").unwrap_or(1.0);
            }
        }
        let [attention, logits] = keys.arch.block.soft_caps;
        let cap = |suffix: &str, default: Option<f64>| {
            let value = keys.float(suffix).or(default.map(|x| x as f32));
            value.filter(|x| *x != 0.0)
        };
        self.attention_soft_cap = cap("attn_logit_softcapping", attention);
        self.logit_soft_cap = cap("final_logit_softcapping", logits);
        self
    }
}

fn rope_scaling(origin: &str, keys: &Keys<'_>) -> Result<RopeScaling> {
    let attention_factor = keys.float("rope.scaling.attn_factor");
    // An older key of the same meaning.
    let factor = keys.float("rope.scaling.factor").or(keys.float("rope.scale_linear"));
    match keys.metadata.str(&keys.key("rope.scaling.type")) {
        Some("yarn") => Ok(RopeScaling::Yarn(Yarn {
            factor: factor.filter(|x| *x != 0.0).unwrap_or(1.0),
            extrapolation: keys.float("rope.scaling.yarn_ext_factor"),
            attention_factor: keys.float("rope.scaling.yarn_attn_factor"),
            beta_fast: keys.float("rope.scaling.yarn_beta_fast"),
            beta_slow: keys.float("rope.scaling.yarn_beta_slow"),
        })),
        Some("longrope") => Ok(RopeScaling::LongRope {
            factors: None,
            attention_factor: attention_factor.unwrap_or(1.0),
        }),
        None if attention_factor.is_some() => Ok(RopeScaling::LongRope {
            factors: None,
            attention_factor: attention_factor.unwrap_or(1.0),
        }),
        None | Some("linear") => Ok(match factor {
            // Files exist that say 0 for no scaling.
            Some(factor) if factor.is_normal() => RopeScaling::Linear { factor },
            _ => RopeScaling::None,
        }),
        Some("none") => Ok(RopeScaling::None),
        Some(other) => {
            let detail = format!("rope scaling '{other}' is not supported yet");
            Err(Error::model(origin, detail))
        }
    }
}
