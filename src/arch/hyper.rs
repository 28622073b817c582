//! Hyperparameters, the same whether read from config.json or from GGUF metadata.

use super::{Architecture, Dim};
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::gguf::Metadata;

/// How rotary frequencies are stretched for longer contexts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// Positions are divided by `factor`.
    Linear {
        factor: f32,
    },
    /// Llama 3.1's frequency-dependent factors; in GGUF they travel as the tensor
    /// `rope_freqs.weight`.
    Llama3 {
        factor: f32,
        low_freq_factor: f32,
        high_freq_factor: f32,
        original_context: f32,
    },
}

/// The sizes and constants of a model of the llama family.
#[derive(Clone, Debug, PartialEq)]
pub struct HyperParams {
    pub n_layer: usize,
    pub n_vocab: usize,
    /// Embedding length.
    pub n_embd: usize,
    /// Feed-forward length.
    pub n_ff: usize,
    pub n_head: usize,
    /// Key and value heads; fewer than `n_head` with grouped-query attention.
    pub n_head_kv: usize,
    pub head_dim: usize,
    /// Longest context the model was made for, in tokens.
    pub n_ctx_train: usize,
    pub rms_eps: f32,
    pub rope_theta: f32,
    pub rope_scaling: RopeScaling,
    /// The head is the embedding.
    pub tied: bool,
}

impl HyperParams {
    /// Reads config.json. Defaults for absent keys: Hugging Face `LlamaConfig` and `MistralConfig`.
    pub fn from_config(config: &Config) -> Result<HyperParams> {
        let n_embd = config.require_usize("hidden_size")?;
        let n_head = config.require_usize("num_attention_heads")?;
        let n_head_kv = config.usize("num_key_value_heads").unwrap_or(n_head);
        let head_dim = match config.usize("head_dim") {
            Some(dim) => dim,
            None if n_embd % n_head == 0 => n_embd / n_head,
            None => {
                let detail = "'hidden_size' is no multiple of 'num_attention_heads'";
                return Err(Error::model(config.origin(), detail));
            }
        };
        let hyper = HyperParams {
            n_layer: config.require_usize("num_hidden_layers")?,
            n_vocab: config.require_usize("vocab_size")?,
            n_embd,
            n_ff: config.require_usize("intermediate_size")?,
            n_head,
            n_head_kv,
            head_dim,
            n_ctx_train: config.usize("max_position_embeddings").unwrap_or(2048),
            rms_eps: config.f64("rms_norm_eps").unwrap_or(1e-6) as f32,
            rope_theta: rope_theta(config) as f32,
            rope_scaling: rope_scaling(config)?,
            tied: config.bool("tie_word_embeddings").unwrap_or(false),
        };
        hyper.checked(config.origin())
    }

    /// Reads GGUF metadata. Whether the head is tied is not recorded there but shown by the absence
    /// of `output.weight`, so the caller says.
    pub fn from_metadata(origin: &str, metadata: &Metadata, tied: bool) -> Result<HyperParams> {
        let name = metadata.str("general.architecture").ok_or_else(|| {
            Error::model(origin, "metadata key 'general.architecture' is missing")
        })?;
        let arch = Architecture::for_gguf_name(origin, name)?;
        let key = |suffix: &str| format!("{}.{suffix}", arch.gguf_name);
        let need = |suffix: &str| metadata.require_usize(origin, &key(suffix));
        let count = |suffix: &str| metadata.u64(&key(suffix)).map(|v| v as usize);
        let (n_embd, n_head) = (need("embedding_length")?, need("attention.head_count")?);
        let vocab = metadata.strings("tokenizer.ggml.tokens").map(<[String]>::len);
        let scaling = match metadata.str(&key("rope.scaling.type")) {
            Some("linear") => RopeScaling::Linear {
                factor: metadata.f32(&key("rope.scaling.factor")).unwrap_or(1.0),
            },
            None | Some("none") => RopeScaling::None,
            Some(other) => {
                let detail = format!("rope scaling '{other}' is not supported yet");
                return Err(Error::model(origin, detail));
            }
        };
        let hyper = HyperParams {
            n_layer: need("block_count")?,
            n_vocab: count("vocab_size").or(vocab).unwrap_or(0),
            n_embd,
            n_ff: need("feed_forward_length")?,
            n_head,
            n_head_kv: count("attention.head_count_kv").unwrap_or(n_head),
            head_dim: count("attention.key_length").unwrap_or(n_embd / n_head.max(1)),
            n_ctx_train: count("context_length").unwrap_or(2048),
            rms_eps: metadata.f32(&key("attention.layer_norm_rms_epsilon")).unwrap_or(1e-5),
            rope_theta: metadata.f32(&key("rope.freq_base")).unwrap_or(10000.0),
            rope_scaling: scaling,
            tied,
        };
        hyper.checked(origin)
    }

    /// Refuses what no model has and arithmetic could trip over.
    fn checked(self, origin: &str) -> Result<HyperParams> {
        const LIMIT: usize = 1 << 30;
        let sizes = [
            ("layers", self.n_layer),
            ("vocabulary", self.n_vocab),
            ("embedding length", self.n_embd),
            ("feed-forward length", self.n_ff),
            ("heads", self.n_head),
            ("key-value heads", self.n_head_kv),
            ("head dimension", self.head_dim),
        ];
        if let Some((what, n)) = sizes.iter().find(|(_, n)| *n == 0 || *n > LIMIT) {
            return Err(Error::model(origin, format!("unusable number of {what}: {n}")));
        }
        if !self.n_head.is_multiple_of(self.n_head_kv) || !self.head_dim.is_multiple_of(2) {
            let detail = format!(
                "{} heads, {} key-value heads and head dimension {} do not go together",
                self.n_head, self.n_head_kv, self.head_dim
            );
            return Err(Error::model(origin, detail));
        }
        Ok(self)
    }

    /// The divisors of the rotary frequencies, one for each pair of a head, which GGUF holds as the
    /// tensor `rope_freqs.weight`; `None` unless frequencies are scaled one by one (Llama 3.1).
    ///
    /// Long waves are slowed by `factor`, short ones stay, those between are blended. Source: Hugging
    /// Face transformers, `_compute_llama3_parameters`; in f32, as llama.cpp's converter computes it.
    pub fn rope_factors(&self) -> Option<Vec<f32>> {
        let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } =
            self.rope_scaling
        else {
            return None;
        };
        let longest = original_context / low_freq_factor;
        let shortest = original_context / high_freq_factor;
        let divisor = |pair: usize| {
            let exponent = (2 * pair) as f32 / self.head_dim as f32;
            let wavelength = std::f32::consts::TAU / (1.0 / self.rope_theta.powf(exponent));
            if wavelength < shortest {
                1.0
            } else if wavelength > longest {
                factor
            } else {
                let ratio = original_context / wavelength - low_freq_factor;
                let smooth = ratio / (high_freq_factor - low_freq_factor);
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        };
        Some((0..self.head_dim / 2).map(divisor).collect())
    }

    /// The size of `dim`.
    pub fn dim(&self, dim: Dim) -> usize {
        match dim {
            Dim::Vocab => self.n_vocab,
            Dim::Hidden => self.n_embd,
            Dim::FeedForward => self.n_ff,
            Dim::Query => self.n_head * self.head_dim,
            Dim::KeyValue => self.n_head_kv * self.head_dim,
        }
    }
}

/// `rope_theta`, which newer configurations keep inside `rope_parameters`.
fn rope_theta(config: &Config) -> f64 {
    let nested = config.get("rope_parameters").and_then(|v| v.get("rope_theta")?.as_f64());
    config.f64("rope_theta").or(nested).unwrap_or(10000.0)
}

fn rope_scaling(config: &Config) -> Result<RopeScaling> {
    let Some(scaling) = config.get("rope_scaling").or(config.get("rope_parameters")) else {
        return Ok(RopeScaling::None);
    };
    let kind = scaling.get("rope_type").or(scaling.get("type")).and_then(|v| v.as_str());
    let number = |key: &str| {
        scaling.get(key).and_then(|v| v.as_f64()).map(|v| v as f32).ok_or_else(|| {
            Error::model(config.origin(), format!("rope scaling lacks the number '{key}'"))
        })
    };
    match kind {
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: number("factor")? }),
        Some("llama3") => Ok(RopeScaling::Llama3 {
            factor: number("factor")?,
            low_freq_factor: number("low_freq_factor")?,
            high_freq_factor: number("high_freq_factor")?,
            original_context: number("original_max_position_embeddings")?,
        }),
        Some(other) => {
            let detail = format!("rope scaling '{other}' is not supported yet");
            Err(Error::model(config.origin(), detail))
        }
    }
}
