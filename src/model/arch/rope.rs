//! How rotary frequencies are stretched for longer contexts.
//!
//! Source of the formulas: Hugging Face transformers, `modeling_rope_utils.py`, and llama.cpp
//! `conversion/{base,llama,phi}.py`, October 2026.

use super::HyperParams;
use super::spellings::Settings;
use crate::base::error::{Error, Result};
use serde_json::Value;

/// How rotary frequencies are stretched.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// Positions are divided by `factor`.
    Linear {
        factor: f32,
    },
    /// Nothing changes up to the context of training; beyond it, frequencies follow the length of the text.
    /// GGUF has no word for it, so there it is no scaling.
    Dynamic {
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
    Yarn(Yarn),
    /// Phi 3's divisors, found by search: one list for texts up to the original context, one for longer ones.
    /// In GGUF they travel as the tensors `rope_factors_short.weight` and `rope_factors_long.weight`.
    LongRope {
        /// Short and long, one for each pair; `None` when read from metadata.
        factors: Option<[Vec<f32>; 2]>,
        /// What queries and keys are multiplied by.
        attention_factor: f32,
    },
}

/// High frequencies stay, low ones are divided by `factor`, those between are blended; attention gets
/// sharper. Source: Peng et al., "YaRN", 2023.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    pub factor: f32,
    /// How much of the blending applies; 1 unless given.
    pub extrapolation: Option<f32>,
    /// What queries and keys are multiplied by; `1 + 0.1 ln(factor)` unless given.
    pub attention_factor: Option<f32>,
    /// Frequencies that turn more often than this in the original context stay; 32 unless given.
    pub beta_fast: Option<f32>,
    /// Frequencies that turn less often are divided; 1 unless given.
    pub beta_slow: Option<f32>,
}

impl RopeScaling {
    /// What `settings` say, for a model of context `context`, which was `original` before scaling.
    pub(super) fn from_settings(
        settings: &Settings<'_>,
        context: usize,
        original: usize,
    ) -> Result<RopeScaling> {
        let scaling = &settings.rope;
        let origin = settings.origin();
        let kind = scaling.get("rope_type").and_then(Value::as_str);
        let find = |key: &str| scaling.number(key).map(|v| v as f32);
        let number = |key: &str| {
            find(key).ok_or_else(|| {
                Error::model(origin, format!("rope scaling lacks the number '{key}'"))
            })
        };
        match kind {
            None | Some("default") => Ok(RopeScaling::None),
            Some("linear") => Ok(RopeScaling::Linear { factor: number("factor")? }),
            Some("dynamic") => Ok(RopeScaling::Dynamic { factor: number("factor")? }),
            Some("llama3") => Ok(RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_context: original as f32,
            }),
            Some("yarn") => Ok(RopeScaling::Yarn(Yarn {
                factor: number("factor")?,
                extrapolation: find("extrapolation_factor"),
                attention_factor: find("attention_factor"),
                beta_fast: find("beta_fast"),
                beta_slow: find("beta_slow"),
            })),
            Some("longrope" | "su") => {
                let [short, long] = ["short_factor", "long_factor"].map(|key| {
                    let list = scaling.get(key).and_then(Value::as_array);
                    let number = |v: &Value| v.as_f64().map(|v| v as f32);
                    list.and_then(|list| list.iter().map(number).collect::<Option<Vec<f32>>>())
                });
                let (Some(short), Some(long)) = (short, long) else {
                    let detail = "rope scaling lacks the lists 'short_factor' and 'long_factor'";
                    return Err(Error::model(origin, detail));
                };
                let ratio = context as f64 / original as f64;
                let scale = find("factor").map_or(ratio, f64::from);
                let sharpen = (1.0 + scale.ln() / (original as f64).ln()).sqrt();
                let derived = if scale > 1.0 { sharpen as f32 } else { 1.0 };
                Ok(RopeScaling::LongRope {
                    factors: Some([short, long]),
                    attention_factor: find("attention_factor").unwrap_or(derived),
                })
            }
            Some(other) => {
                let detail = format!("rope scaling '{other}' is not supported yet");
                Err(Error::model(origin, detail))
            }
        }
    }

    /// Refuses numbers that make no frequencies, for heads of which `pairs` pairs turn.
    pub(super) fn check(&self, origin: &str, pairs: usize) -> Result<()> {
        let usable = |x: f32| x.is_finite() && x > 0.0;
        let fail = |detail: String| Err(Error::model(origin, detail));
        match self {
            RopeScaling::Yarn(yarn) if !usable(yarn.factor) => {
                fail(format!("rope scaling by {} cannot be", yarn.factor))
            }
            RopeScaling::LongRope { factors: Some(lists), .. } => {
                match lists
                    .iter()
                    .find(|list| list.len() != pairs || !list.iter().all(|&x| usable(x)))
                {
                    Some(list) => fail(format!(
                        "a list of {} factors of rope scaling, where {pairs} positive numbers are needed",
                        list.len()
                    )),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

impl HyperParams {
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
}
