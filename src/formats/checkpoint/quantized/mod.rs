//! Quantized checkpoints: packed weights are joined with their scales and read as plain tensors.
//!
//! All joined tensors are F32, the product of code and scale in f32. llama.cpp's converter computes
//! the same before it rounds to the output's type; reference dequantizers round earlier, to the
//! type of the scale or the model. The product is exact where scales are BF16 or F16, so rounding
//! it gives their values. Not here: computing with quantized weights, and writing them.

mod joining;
mod methods;
mod packed;
mod scales;
mod settings;
mod source;

use self::joining::Joining;
use self::settings::QuantSettings;
use super::Config;
use super::weights::{StoredKind, StoredTensors};
use crate::base::error::{Error, Result};
use crate::formats::source::TensorSource;
use std::path::Path;
use std::sync::Arc;

/// The tensors of a folder under their plain names.
pub(super) struct Opened {
    pub tensors: Arc<dyn TensorSource>,
    /// What to report to the user about the quantization.
    pub warning: Option<String>,
}

/// Opens the stored tensors of the folder `dir` as a source and joins those that are quantized.
/// Removes the quantization settings from `config`, which then describes plain weights.
///
/// # Errors
/// Weights in a format that is not supported, or damaged ones. One error covers all tensors and
/// names the method and its options.
pub(super) fn open(stored: StoredTensors, config: &mut Config, dir: &Path) -> Result<Opened> {
    let origin = stored.origin().to_string();
    let settings = QuantSettings::take(config, dir)?;
    let packed =
        stored.tensors().iter().filter(|tensor| tensor.kind() == StoredKind::Packed).count();
    let mut joining = Joining::new(&stored, settings.is_some() || packed > 0);
    let method = match &settings {
        None if packed == 0 => String::new(),
        None => methods::join_unnamed(&mut joining),
        Some(settings) => match methods::find(settings) {
            Some(method) => (method.join)(settings, &mut joining)?,
            None if packed == 0 => String::new(),
            None => return Err(unsupported(&origin, settings, packed)),
        },
    };
    let joined_count = joining.count();
    let tensors = joining.finish(&origin, settings.as_ref())?;
    let (quantization, warning) = match (joined_count, settings) {
        (0, None) => (None, None),
        (0, Some(settings)) => {
            let warning = format!(
                "{origin}: config.json names the quantization {}, but all weights are plain; they are read \
                 as they are",
                settings.describe()
            );
            (None, Some(warning))
        }
        _ => {
            let warning = format!(
                "{origin}: the weights are quantized ({method}); they are dequantized, which does not \
                 restore the original weights"
            );
            (Some(method), Some(warning))
        }
    };
    let tensors = Arc::new(tensors.into_source(stored, quantization)?);
    Ok(Opened { tensors, warning })
}

fn unsupported(origin: &str, settings: &QuantSettings, packed: usize) -> Error {
    let detail = format!(
        "weights quantized with {} cannot be read ({packed} packed tensors); use the model's F32, F16 \
         or BF16 weights",
        settings.describe()
    );
    Error::model(origin, detail)
}
