//! BitNet: weights of -1, 0 and 1 with one scale, packed two bits each; or floats that stand for
//! such weights.
//!
//! Byte row r of n holds rows r, r + n, r + 2n and r + 3n of the matrix, the first in its lowest
//! bits. Source: transformers 5.24 `integrations/bitnet.py`, which for packed weights divides by
//! the scale in the class `bitlinear` and multiplies in `autobitlinear`; llama.cpp
//! `conversion/base.py` (`dequant_bitnet`) divides always.

use crate::base::dtype::DType;
use crate::base::error::Result as Outcome;
use crate::formats::checkpoint::quantized::joining::{Joined, Joining};
use crate::formats::checkpoint::quantized::packed::{float_type, part};
use crate::formats::checkpoint::quantized::settings::QuantSettings;
use crate::formats::checkpoint::quantized::source::Decoder;
use crate::formats::checkpoint::weights::{StoredKind, StoredTensor};
use crate::quants;
use safetensors::Dtype;
use serde_json::Value;
use std::ops::Range;
use std::sync::OnceLock;

pub(super) fn accepts(settings: &QuantSettings) -> bool {
    settings.method == "bitnet"
}

pub(super) fn join(settings: &QuantSettings, joining: &mut Joining<'_>) -> Outcome<String> {
    let automatic = settings.str("linear_class") == Some("autobitlinear");
    let online = automatic && settings.str("quantization_mode") == Some("online");
    let scale = if automatic { ScaleUse::Multiply } else { ScaleUse::Divide };
    let norms = settings.options.get("use_rms_norm") == Some(&Value::Bool(true));
    for (index, tensor) in joining.tensors() {
        let scaled = joining.find(&format!("{}_scale", tensor.name));
        let packed = tensor.dtype == Dtype::U8 && tensor.name.ends_with(".weight");
        let joined = match scaled {
            _ if packed && norms => Err("use_rms_norm puts norms before its products".to_string()),
            Some(_) | None if packed => join_packed(joining, index, scale),
            Some(scales) if tensor.kind() == StoredKind::Float => {
                join_floats(joining, [index, scales], scale)
            }
            None if online && is_converted(settings, tensor) => join_online(index, tensor),
            _ => continue,
        };
        match joined {
            Ok(joined) => joining.add(joined),
            Err(why) => joining.problem(index, why),
        }
    }
    Ok(match (online, scale) {
        (true, _) => "BitNet (-1, 0 or 1 times a scale, rounded while it runs)".to_string(),
        (_, ScaleUse::Divide) => "BitNet (-1, 0 or 1 over a scale)".to_string(),
        // Where the two differ.
        (_, ScaleUse::Multiply) => {
            "BitNet (-1, 0 or 1 times a scale, as transformers computes; llama.cpp's converter \
             divides by it)"
                .to_string()
        }
    })
}

/// Whether transformers computes with the rounded form of a float tensor: linear layers but the
/// head and those that the settings name.
fn is_converted(settings: &QuantSettings, tensor: &StoredTensor) -> bool {
    let Some(module) = tensor.name.strip_suffix(".weight") else { return false };
    let named = settings.options.get("modules_to_not_convert").and_then(Value::as_array);
    let named = named.into_iter().flatten().filter_map(Value::as_str);
    let kept = |name: &str| {
        module == name
            || module.starts_with(&format!("{name}."))
            || module.ends_with(&format!(".{name}"))
    };
    tensor.kind() == StoredKind::Float
        && tensor.shape.len() == 2
        && !named.chain(["lm_head", "embed_tokens"]).any(kept)
}

/// The scale of a matrix, a single number.
fn scale_of(joining: &Joining<'_>, index: usize) -> Result<f32, String> {
    let tensor = joining.tensor(index);
    let mut value = [0f32];
    let dtype = float_type(tensor)?;
    if tensor.shape.iter().any(|&n| n != 1) {
        return Err(format!(
            "'{}' has shape {:?}, where one number is needed",
            tensor.name, tensor.shape
        ));
    }
    quants::decode(dtype, &joining.bytes(index), &mut value).map_err(|e| e.to_string())?;
    match value[0] {
        scale if scale.is_finite() && scale != 0.0 => Ok(scale),
        scale => Err(format!("its scale is {scale}")),
    }
}

fn join_packed(joining: &Joining<'_>, weight: usize, scale: ScaleUse) -> Result<Joined, String> {
    let tensor = joining.tensor(weight);
    let scales = part(joining, &format!("{}_scale", tensor.name))?;
    let packed = Packed::new(&tensor.shape, scale)?;
    Ok(Joined {
        name: tensor.name.clone(),
        shape: vec![packed.rows, packed.columns],
        parts: vec![weight, scales],
        decoder: Box::new(PackedDecoder { packed, factor: scale_of(joining, scales)? }),
    })
}

struct PackedDecoder {
    packed: Packed,
    factor: f32,
}

impl Decoder for PackedDecoder {
    fn rows(&self, parts: &[&[u8]], first: usize, out: &mut [f32]) -> Result<(), String> {
        let rows = first..first + out.len() / self.packed.columns.max(1);
        self.packed.decode(parts[0], self.factor, rows, out);
        Ok(())
    }
}

/// Weights that are stored as floats, and their scale apart.
fn join_floats(
    joining: &Joining<'_>,
    [weight, scales]: [usize; 2],
    scale: ScaleUse,
) -> Result<Joined, String> {
    let tensor = joining.tensor(weight);
    let (dtype, columns) = (float_type(tensor)?, tensor.shape.last().map_or(1, |&n| n.max(1)));
    let factor = scale_of(joining, scales)?;
    Ok(Joined {
        name: tensor.name.clone(),
        shape: tensor.shape.clone(),
        parts: vec![weight, scales],
        decoder: Box::new(Floats { dtype, columns, scale, factor }),
    })
}

struct Floats {
    dtype: DType,
    columns: usize,
    scale: ScaleUse,
    factor: f32,
}

impl Decoder for Floats {
    fn rows(&self, parts: &[&[u8]], first: usize, out: &mut [f32]) -> Result<(), String> {
        decode_floats(self.dtype, parts[0], first * self.columns, out)?;
        for weight in out {
            *weight = self.scale.of(*weight, self.factor);
        }
        Ok(())
    }
}

fn decode_floats(dtype: DType, bytes: &[u8], start: usize, out: &mut [f32]) -> Result<(), String> {
    let size = dtype.block_bytes();
    let bytes = bytes.get(start * size..(start + out.len()) * size);
    let bytes = bytes.ok_or("the data of its weights are too short")?;
    quants::decode(dtype, bytes, out).map_err(|e| e.to_string())
}

fn join_online(index: usize, tensor: &StoredTensor) -> Result<Joined, String> {
    let (dtype, columns) = (float_type(tensor)?, tensor.shape.last().map_or(1, |&n| n.max(1)));
    let decoder = Online { dtype, columns, factor: OnceLock::new() };
    Ok(Joined {
        name: tensor.name.clone(),
        shape: tensor.shape.clone(),
        parts: vec![index],
        decoder: Box::new(decoder),
    })
}

/// Floats that are rounded by a factor that all of them determine.
struct Online {
    dtype: DType,
    columns: usize,
    factor: OnceLock<Result<f32, String>>,
}

impl Online {
    fn factor(&self, bytes: &[u8]) -> Result<f32, String> {
        const CHUNK: usize = 1 << 14;
        let count = bytes.len() / self.dtype.block_bytes();
        let (mut buffer, mut sum) = (vec![0f32; CHUNK.min(count)], 0f64);
        for start in (0..count).step_by(CHUNK) {
            let values = &mut buffer[..CHUNK.min(count - start)];
            decode_floats(self.dtype, bytes, start, values)?;
            sum += values.iter().map(|v| f64::from(v.abs())).sum::<f64>();
        }
        Ok(online_factor(sum / count.max(1) as f64))
    }
}

impl Decoder for Online {
    fn rows(&self, parts: &[&[u8]], first: usize, out: &mut [f32]) -> Result<(), String> {
        let factor = self.factor.get_or_init(|| self.factor(parts[0])).clone()?;
        decode_floats(self.dtype, parts[0], first * self.columns, out)?;
        round_online(out, factor);
        Ok(())
    }
}

/// What is done with the scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScaleUse {
    Divide,
    Multiply,
}

impl ScaleUse {
    fn of(self, weight: f32, factor: f32) -> f32 {
        match self {
            ScaleUse::Divide => weight / factor,
            ScaleUse::Multiply => weight * factor,
        }
    }
}

/// How a packed matrix is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    pub rows: usize,
    pub columns: usize,
    scale: ScaleUse,
}

impl Packed {
    /// A matrix whose packed form has shape `packed`.
    ///
    /// # Errors
    /// If that is no matrix.
    pub(super) fn new(packed: &[usize], scale: ScaleUse) -> Result<Packed, String> {
        let fail = || format!("its packed weights have shape {packed:?}, which is no matrix");
        let &[packed_rows, columns] = packed else { return Err(fail()) };
        let rows = packed_rows.checked_mul(4).filter(|&rows| rows > 0).ok_or_else(fail)?;
        Ok(Packed { rows, columns, scale })
    }

    /// Rows `rows` of the matrix.
    pub(super) fn decode(&self, packed: &[u8], scale: f32, rows: Range<usize>, out: &mut [f32]) {
        let packed_rows = self.rows / 4;
        for (row, out) in rows.zip(out.chunks_exact_mut(self.columns.max(1))) {
            let bytes = &packed[row % packed_rows * self.columns..][..self.columns];
            let shift = 2 * (row / packed_rows);
            for (out, byte) in out.iter_mut().zip(bytes) {
                let weight = f32::from(byte >> shift & 3) - 1.0;
                *out = self.scale.of(weight, scale);
            }
        }
    }
}

/// The factor by which `online` quantization scales weights of this mean magnitude (`WeightQuant`).
pub(super) fn online_factor(mean_magnitude: f64) -> f32 {
    1.0 / (mean_magnitude as f32).max(1e-5)
}

/// Replaces weights by what `online` quantization computes with: -1, 0 or 1 over `factor`.
pub(super) fn round_online(weights: &mut [f32], factor: f32) {
    for weight in weights {
        *weight = (*weight * factor).round_ties_even().clamp(-1.0, 1.0) / factor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_spread_over_bit_pairs() {
        // The example of transformers' `unpack_weights`.
        let bytes = [0b1010_0001, 0b0001_1000, 0b1001_0000, 0b0000_1010];
        let packed = Packed::new(&[2, 2], ScaleUse::Divide).unwrap();
        let mut out = [0f32; 16];
        packed.decode(&bytes, 0.5, 0..8, &mut out);
        let halves: Vec<i32> = out.iter().map(|v| (v / 2.0) as i32).collect();
        assert_eq!(halves, [0, -1, -1, 1, -1, 1, -1, 1, 1, 0, 0, -1, 1, -1, 1, -1]);
        let mut part = [0f32; 4];
        packed.decode(&bytes, 0.5, 3..5, &mut part);
        assert_eq!(part, out[6..10]);
        assert!(
            Packed::new(&[2], ScaleUse::Divide).is_err()
                && Packed::new(&[0, 4], ScaleUse::Divide).is_err()
        );
        assert!(Packed::new(&[usize::MAX, 4], ScaleUse::Divide).is_err());
    }

    #[test]
    fn online_weights_are_rounded_to_three_values() {
        let mut weights = [0.3, -0.1, 0.0, -2.0, 0.25];
        round_online(&mut weights, online_factor(0.5));
        assert_eq!(weights, [0.5, -0.0, 0.0, -0.5, 0.0]);
    }
}
