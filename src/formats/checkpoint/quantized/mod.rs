//! Quantized checkpoints: weights packed for other programs, joined with their scales and read as plain
//! tensors. [`open`] is called by [`crate::formats::checkpoint::Checkpoint::open`] and nowhere else.
//!
//! A format is a file with a [`Method`] and a line in [`METHODS`]. Its `join` finds the weights it knows among
//! the stored tensors, checks every type, shape and count, and gives a [`joining::Joined`] for each: the plain name, the
//! shape, the stored parts and a [`source::Decoder`], which makes rows from the parts' bytes. It reports what it
//! cannot join with [`Joining::problem`], which becomes one error; tensors that it does not touch stay plain
//! or, where they are the scales of activations, are left out.
//!
//! All joined tensors are F32: the product of code and scale, computed in f32. That is what llama.cpp's converter
//! computes before it rounds to the output's type. Reference dequantizers round it to the scale's or the
//! model's type at once; where scales are BF16 or F16 the product is exact in f32, so rounding gives their values.
//!
//! Not here: running quantized weights as they are, and writing them.

mod awq;
mod bitnet;
mod bitsandbytes;
mod compressed;
mod fp4;
mod fp8;
mod gptq;
mod integers;
mod joining;
mod mxfp4;
mod nvfp4;
mod packed;
mod scales;
mod settings;
mod source;

use self::joining::Joining;
use self::scales::Grid;
use self::settings::Settings;
use super::Config;
use super::stored::{Kind, Stored};
use crate::base::error::{Error, Result};
use crate::formats::source::TensorSource;
use std::path::Path;
use std::sync::Arc;

/// A quantization format that can be read.
struct Method {
    /// Whether this is the one of the settings. The first that accepts reads the folder.
    accepts: fn(&Settings) -> bool,
    /// Joins all weights of this format; returns what they are, for people: `FP8 E4M3 (blocks of 128x128)`.
    join: fn(&Settings, &mut Joining<'_>) -> Result<String>,
}

/// Every format that can be read.
const METHODS: &[Method] = &[
    fp4::METHOD,
    fp8::METHOD,
    compressed::METHOD,
    gptq::METHOD,
    awq::METHOD,
    bitsandbytes::METHOD,
    bitnet::METHOD,
];

/// The tensors of a folder.
pub(super) struct Opened {
    pub tensors: Arc<dyn TensorSource>,
    /// What the user should hear of.
    pub warning: Option<String>,
}

/// The stored tensors of the folder `dir` as a source, joined if they are quantized. `config` is left as that of
/// plain weights.
///
/// # Errors
/// If the weights are quantized in a form that is not read, or are damaged: one error for all tensors, which
/// names the method and its options.
pub(super) fn open(stored: Stored, config: &mut Config, dir: &Path) -> Result<Opened> {
    let origin = stored.origin().to_string();
    let settings = Settings::take(config, dir)?;
    let packed = stored.tensors().iter().filter(|tensor| tensor.kind() == Kind::Packed).count();
    let mut joining = Joining::new(&stored, settings.is_some() || packed > 0);
    let method = match &settings {
        None if packed == 0 => String::new(),
        None => fp8::join_unnamed(&mut joining),
        Some(settings) => match METHODS.iter().find(|method| (method.accepts)(settings)) {
            Some(method) => (method.join)(settings, &mut joining)?,
            None if packed == 0 => String::new(),
            None => return Err(unsupported(&origin, settings, packed)),
        },
    };
    let joined = joining.count();
    let parts = joining.finish(&origin, settings.as_ref())?;
    let (quantization, warning) = match (joined, settings) {
        (0, None) => (None, None),
        (0, Some(settings)) => {
            let warning = format!(
                "{origin}: the configuration says that the weights are quantized with {}, but all of \
                 them are plain; they are read as they are",
                settings.describe()
            );
            (None, Some(warning))
        }
        _ => {
            let warning = format!(
                "{origin}: these weights are quantized, as {method}; they are dequantized, which does \
                 not restore the original weights"
            );
            (Some(method), Some(warning))
        }
    };
    let tensors = Arc::new(parts.into_source(stored, quantization)?);
    Ok(Opened { tensors, warning })
}

fn unsupported(origin: &str, settings: &Settings, packed: usize) -> Error {
    let detail = format!(
        "weights quantized with {} cannot be read ({packed} packed tensors); use the model's F32, F16 \
         or BF16 weights",
        settings.describe()
    );
    Error::model(origin, detail)
}

/// Decodes whole rows: `codes` gives the unscaled values of the elements from a number on, which are then
/// multiplied by their scales.
fn products(
    scales: &[u8],
    grid: &Grid,
    first: usize,
    out: &mut [f32],
    codes: impl Fn(usize, &mut [f32]) -> Result<(), String>,
) -> Result<(), String> {
    let columns = grid.columns();
    let mut of_row = Vec::new();
    for (n, row) in out.chunks_mut(columns).enumerate() {
        codes((first + n) * columns, row)?;
        grid.row(scales, first + n, &mut of_row)?;
        for (values, &scale) in row.chunks_mut(grid.block()[1]).zip(&of_row) {
            values.iter_mut().for_each(|value| *value *= scale);
        }
    }
    Ok(())
}
