//! Hyperparameters from config.json.
//!
//! Keys and what holds where they are absent: the configuration's class in Hugging Face transformers.

use super::rope::parameters;
use super::{Architecture, EmbeddingScale, Experts, HyperParams, Key, RopeScaling, Scores};
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use serde_json::Value;

impl HyperParams {
    /// Reads config.json.
    ///
    /// # Errors
    /// The architecture is not known, a size is missing or unusable, or rotary frequencies are scaled in a
    /// way that is not known.
    pub fn from_config(config: &Config) -> Result<HyperParams> {
        let arch = Architecture::for_hf_class(config.origin(), config.architecture()?)?;
        let defaults = &arch.defaults;
        let n_embd = config.require_usize("hidden_size")?;
        let n_head = config.require_usize("num_attention_heads")?;
        let head_dim_given = config.usize("head_dim").is_some() || defaults.head_dim.is_some();
        let head_dim = match config.usize("head_dim").or(defaults.head_dim) {
            Some(dim) => dim,
            None if n_embd % n_head == 0 => n_embd / n_head,
            None => {
                let detail = "'hidden_size' is no multiple of 'num_attention_heads'";
                return Err(Error::model(config.origin(), detail));
            }
        };
        let in_rope = |key: &str| parameters(config).and_then(|p| p.get(key)?.as_f64());
        let anywhere = |key: &str| in_rope(key).or(config.f64(key));
        let n_ctx_train = config.usize("max_position_embeddings").unwrap_or(defaults.context);
        let original = anywhere("original_max_position_embeddings").map(|n| n as usize);
        let original_context = original.filter(|&n| n > 0).or(defaults.original_context);
        let original_context = original_context.unwrap_or(n_ctx_train);
        let turning = anywhere("partial_rotary_factor").unwrap_or(1.0);
        let hyper = HyperParams {
            n_layer: config.require_usize("num_hidden_layers")?,
            n_vocab: config.require_usize("vocab_size")?,
            n_embd,
            n_ff: config.require_usize("intermediate_size")?,
            experts: Experts::from_config(config, arch)?,
            n_head,
            n_head_kv: config.usize("num_key_value_heads").unwrap_or(n_head),
            head_dim,
            head_dim_given,
            n_ctx_train,
            rms_eps: config.f64("rms_norm_eps").unwrap_or(defaults.rms_eps) as f32,
            rope_theta: config
                .f64("rope_theta")
                .or(in_rope("rope_theta"))
                .unwrap_or(defaults.rope_theta) as f32,
            local_rope_theta: local_rope_theta(config, arch),
            rope_dims: (turning * head_dim as f64) as usize,
            rope_scaling: RopeScaling::from_config(config, n_ctx_train, original_context)?,
            original_context,
            tied: config.bool("tie_word_embeddings").unwrap_or(defaults.tied),
            ..HyperParams::plain(arch)
        };
        hyper.with_windows(config, arch).with_scales(config, arch).checked(config.origin())
    }

    /// Which layers attend to a window only: `layer_types`, else a rule.
    fn with_windows(mut self, config: &Config, arch: &Architecture) -> HyperParams {
        if !arch.keys.iter().any(|key| matches!(key, Key::Window | Key::UnusedWindow)) {
            return self;
        }
        let windows = arch.block.windows;
        let length = config.usize("sliding_window").or(windows.and_then(|w| w.length));
        self.window = length.filter(|&n| n > 0);
        let (Some(windows), Some(_)) = (windows, self.window) else { return self };
        let every = ["sliding_window_pattern", "_sliding_window_pattern"]
            .iter()
            .find_map(|key| config.usize(key).filter(|&n| n > 0))
            .unwrap_or(windows.every);
        let listed = config.get("layer_types").and_then(Value::as_array);
        self.windowed = match listed {
            Some(list) => list.iter().map(|kind| kind == "sliding_attention").collect(),
            None => (1..=self.n_layer.min(1 << 20)).map(|n| n % every != 0).collect(),
        };
        if !self.windowed.contains(&true) {
            (self.window, self.windowed) = (None, Vec::new());
        }
        self
    }

    fn with_scales(mut self, config: &Config, arch: &Architecture) -> HyperParams {
        let number = |key: &str| config.f64(key).map(|x| x as f32);
        self.attention_scale = match arch.block.scores {
            Scores::HeadLength => None,
            Scores::QueryScalar { .. } => {
                let scalar = config.f64("query_pre_attn_scalar").unwrap_or(256.0);
                Some(scalar.powf(-0.5) as f32)
            }
            Scores::Multiplier => Some(number("attention_multiplier").unwrap_or(1.0)),
        };
        match arch.block.embedding {
            EmbeddingScale::One => {}
            EmbeddingScale::SqrtLength => self.embedding_scale = (self.n_embd as f32).sqrt(),
            EmbeddingScale::Multiplier => {
                self.embedding_scale = number("embedding_multiplier").unwrap_or(1.0);
                self.residual_scale = number("residual_multiplier").unwrap_or(1.0);
                self.logit_scale = number("logits_scaling").unwrap_or(1.0);
            }
        }
        // A key that is there and null means no cap.
        let cap = |key: Key, name: &str, default: Option<f64>| {
            let written = arch.keys.contains(&key) && config.map().contains_key(name);
            let value = if written { config.f64(name) } else { default };
            value.map(|x| x as f32).filter(|x| *x != 0.0)
        };
        let [attention, logits] = arch.block.soft_caps;
        self.attention_soft_cap = cap(Key::AttentionSoftCap, "attn_logit_softcapping", attention);
        self.logit_soft_cap = cap(Key::LogitSoftCap, "final_logit_softcapping", logits);
        self
    }
}

/// The base of rotary frequencies in layers with a window, where it is one of its own.
fn local_rope_theta(config: &Config, arch: &Architecture) -> Option<f32> {
    let default = arch.block.local_rope_theta?;
    let nested = config.get("rope_parameters").and_then(|v| v.get("sliding_attention"));
    let nested = nested.and_then(|v| v.get("rope_theta")?.as_f64());
    Some(config.f64("rope_local_base_freq").or(nested).unwrap_or(default) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hyper(class: &str, more: &str) -> Result<HyperParams> {
        let text = format!(
            r#"{{"architectures": ["{class}"], "hidden_size": 16, "num_attention_heads": 2, "head_dim": 8,
            "intermediate_size": 24, "num_hidden_layers": 7, "vocab_size": 32, {more}}}"#
        );
        HyperParams::from_config(&Config::parse("test", &text).unwrap())
    }

    #[test]
    fn newer_configurations_keep_frequencies_by_kind_of_layer() {
        let nested = r#""sliding_window": 4, "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 777.0}}"#;
        let hyper = hyper("Gemma3ForCausalLM", nested).unwrap();
        assert_eq!((hyper.rope_theta, hyper.local_rope_theta), (5e5, Some(777.0)));
        assert_eq!(hyper.rope_scaling, RopeScaling::Linear { factor: 8.0 });
        assert_eq!(hyper.windowed, [true, true, true, true, true, false, true]);
        assert!(
            hyper.tied && hyper.embedding_scale == 4.0 && hyper.attention_scale == Some(0.0625)
        );
    }

    #[test]
    fn what_is_absent_is_the_class_default_and_null_is_none() {
        let given = hyper("Gemma2ForCausalLM", r#""final_logit_softcapping": null"#).unwrap();
        assert_eq!((given.attention_soft_cap, given.logit_soft_cap), (Some(50.0), None));
        assert_eq!((given.window, given.n_ctx_train), (Some(4096), 8192));
        // A window means nothing to the other families.
        let qwen = hyper("Qwen2ForCausalLM", r#""sliding_window": 4096"#).unwrap();
        assert!(qwen.windowed.is_empty() && !qwen.tied && qwen.n_ctx_train == 32768);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |class: &str, more: &str, part: &str| {
            let error = hyper(class, more).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        refused(
            "Gemma3ForCausalLM",
            r#""sliding_window": 4, "layer_types": ["full_attention",
            "sliding_attention"]"#,
            "of 2 layers, the model has 7",
        );
        refused(
            "Phi3ForCausalLM",
            r#""rope_scaling": {"type": "longrope", "short_factor": [1, 2],
            "long_factor": [1, 2, 3, 0]}"#,
            "a list of 2 factors",
        );
        refused("LlamaForCausalLM", r#""rope_scaling": {"type": "yarn", "factor": -2.0}"#, "by -2");
        refused("GraniteForCausalLM", r#""logits_scaling": 0.0"#, "scale of logits");
        refused("Phi3ForCausalLM", r#""partial_rotary_factor": 0.4"#, "3 rotary dimensions");
    }
}
