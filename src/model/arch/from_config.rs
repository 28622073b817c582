//! Hyperparameters from config.json.
//!
//! What holds where keys are absent: the configuration's class in Hugging Face transformers. How keys are spelled:
//! [`Settings`].

use super::spellings::Settings;
use super::{Architecture, EmbeddingScale, Experts, HyperParams, Key, RopeScaling, Scores};
use crate::base::error::{Error, Result};
use crate::formats::checkpoint::Config;
use serde_json::Value;

impl HyperParams {
    /// Reads config.json.
    ///
    /// # Errors
    /// The architecture is not known, a size is missing or unusable, or rotary frequencies are scaled in a
    /// way that is not known.
    pub fn from_config(config: &Config) -> Result<HyperParams> {
        HyperParams::from_settings(&Settings::of(config)?)
    }

    /// Reads the settings of a config.json.
    ///
    /// # Errors
    /// A size is missing or unusable, or rotary frequencies are scaled in a way that is not known.
    pub fn from_settings(settings: &Settings<'_>) -> Result<HyperParams> {
        let arch = settings.arch();
        let defaults = &arch.defaults;
        let n_embd = settings.require("hidden_size")?;
        let n_head = settings.require("num_attention_heads")?;
        let head_dim = settings.count("head_dim")?.or(defaults.head_dim);
        let head_dim_given = head_dim.is_some();
        let head_dim = match head_dim {
            Some(dim) => dim,
            None if n_embd % n_head == 0 => n_embd / n_head,
            None => {
                let detail = "'hidden_size' is no multiple of 'num_attention_heads'";
                return Err(Error::model(settings.origin(), detail));
            }
        };
        let rope = &settings.rope;
        let n_ctx_train =
            settings.count_of_class("max_position_embeddings")?.unwrap_or(defaults.context);
        let original = rope.number("original_max_position_embeddings").map(|n| n as usize);
        let original_context = original.filter(|&n| n > 0).unwrap_or(n_ctx_train);
        let turning = rope.number("partial_rotary_factor").filter(|_| arch.turns_partly());
        let hyper = HyperParams {
            n_layer: settings.require("num_hidden_layers")?,
            n_vocab: settings.require("vocab_size")?,
            n_embd,
            n_ff: settings.require("intermediate_size")?,
            experts: Experts::from_settings(settings)?,
            n_head,
            n_head_kv: settings.count_of_class("num_key_value_heads")?.unwrap_or(n_head),
            head_dim,
            head_dim_given,
            n_ctx_train,
            rms_eps: settings.number("rms_norm_eps")?.unwrap_or(defaults.rms_eps) as f32,
            rope_theta: rope.number("rope_theta").unwrap_or(defaults.rope_theta) as f32,
            local_rope_theta: rope.local_theta.map(|theta| theta as f32),
            rope_dims: (turning.unwrap_or(1.0) * head_dim as f64) as usize,
            rope_scaling: RopeScaling::from_settings(settings, n_ctx_train, original_context)?,
            original_context,
            tied: settings.flag("tie_word_embeddings")?.unwrap_or(defaults.tied),
            ..HyperParams::plain(arch)
        };
        hyper.with_windows(settings, arch)?.with_scales(settings, arch)?.checked(settings.origin())
    }

    /// Which layers attend to a window only: `layer_types`, else a rule.
    fn with_windows(mut self, settings: &Settings<'_>, arch: &Architecture) -> Result<HyperParams> {
        if !arch.keys.iter().any(|key| matches!(key, Key::Window | Key::UnusedWindow)) {
            return Ok(self);
        }
        let windows = arch.block.windows;
        let length = settings.count("sliding_window")?.or(windows.and_then(|w| w.length));
        self.window = length.filter(|&n| n > 0);
        let (Some(_), Some(_)) = (windows, self.window) else { return Ok(self) };
        let every = settings.pattern();
        let listed = settings.get("layer_types").and_then(Value::as_array);
        self.windowed = match listed {
            Some(list) => list.iter().map(|kind| kind == "sliding_attention").collect(),
            None => (1..=self.n_layer.min(1 << 20)).map(|n| n % every != 0).collect(),
        };
        if !self.windowed.contains(&true) {
            (self.window, self.windowed) = (None, Vec::new());
        }
        Ok(self)
    }

    fn with_scales(mut self, settings: &Settings<'_>, arch: &Architecture) -> Result<HyperParams> {
        let number = |key: &str| settings.number(key).map(|number| number.unwrap_or(1.0) as f32);
        self.attention_scale = match arch.block.scores {
            Scores::HeadLength => None,
            Scores::QueryScalar { .. } => {
                let scalar = settings.number("query_pre_attn_scalar")?.unwrap_or(256.0);
                Some(scalar.powf(-0.5) as f32)
            }
            Scores::Multiplier => Some(number("attention_multiplier")?),
        };
        match arch.block.embedding {
            EmbeddingScale::One => {}
            EmbeddingScale::SqrtLength => self.embedding_scale = (self.n_embd as f32).sqrt(),
            EmbeddingScale::Multiplier => {
                self.embedding_scale = number("embedding_multiplier")?;
                self.residual_scale = number("residual_multiplier")?;
                self.logit_scale = number("logits_scaling")?;
            }
        }
        // A key that is there and null means no cap.
        let cap = |key: Key, name: &str, default: Option<f64>| -> Result<Option<f32>> {
            let value = match settings.number(name)? {
                None if settings.is_null(name) => None,
                value => value.or(default),
            };
            Ok(value.filter(|_| arch.keys.contains(&key)).map(|x| x as f32).filter(|x| *x != 0.0))
        };
        let [attention, logits] = arch.block.soft_caps;
        self.attention_soft_cap = cap(Key::AttentionSoftCap, "attn_logit_softcapping", attention)?;
        self.logit_soft_cap = cap(Key::LogitSoftCap, "final_logit_softcapping", logits)?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hyper(class: &str, more: &str) -> Result<HyperParams> {
        let text = format!(
            r#"{{"architectures": ["{class}"], "hidden_size": 16, "num_attention_heads": 2,
            "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 24, "num_hidden_layers": 7, "vocab_size": 32, {more}}}"#
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
            "for 2 layers, but the model has 7",
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
