//! Block formats: the layout of each tensor type, with its decoder and its quantizer.
//!
//! Sources call [`decode`], the quantizing run calls [`quantize`]. Each type has a file in the
//! folder of its family and a line in `REGISTRY`. Output equals that of llama.cpp's x86-64 build
//! byte for byte: IEEE f32, left to right, never fused. Rows are independent, so callers may split
//! them over threads. Not here: files, threads, progress, the choice of types. Callers add tensor
//! names to errors.

// Code over lanes indexes several arrays with the same two numbers, which iterators would hide.
#![allow(clippy::needless_range_loop)]

mod codec;
mod floats;
mod fp4;
mod grids;
mod iq1;
mod iq2;
mod iq3;
mod iq4;
mod k;
mod lanes;
mod legacy;
mod pack;
mod search;
mod ternary;

pub use floats::fp8;

use crate::base::dtype::DType;
use crate::base::error::{Error, Result};
use crate::base::simd::Level;
use codec::{Codec, Rows};

/// The functions of every type that can be decoded.
const REGISTRY: &[Codec] = &[
    floats::f32::CODEC,
    floats::f16::CODEC,
    floats::bf16::CODEC,
    legacy::q4_0::CODEC,
    legacy::q4_1::CODEC,
    legacy::q5_0::CODEC,
    legacy::q5_1::CODEC,
    legacy::q8_0::CODEC,
    k::q2_k::CODEC,
    k::q3_k::CODEC,
    k::q4_k::CODEC,
    k::q5_k::CODEC,
    k::q6_k::CODEC,
    iq1::iq1_s::CODEC,
    iq1::iq1_m::CODEC,
    iq2::iq2_xxs::CODEC,
    iq2::iq2_xs::CODEC,
    iq2::iq2_s::CODEC,
    iq3::iq3_xxs::CODEC,
    iq3::iq3_s::CODEC,
    iq4::iq4_nl::CODEC,
    iq4::iq4_xs::CODEC,
    ternary::tq1_0::CODEC,
    ternary::tq2_0::CODEC,
    ternary::q1_0::CODEC,
    ternary::q2_0::CODEC,
    fp4::mxfp4::CODEC,
    fp4::nvfp4::CODEC,
];

/// The functions of `dtype`, if it can be decoded.
fn codec(dtype: DType) -> Option<&'static Codec> {
    REGISTRY.iter().find(|codec| codec.dtype == dtype)
}

/// Returns whether [`decode`] supports the type.
pub fn can_decode(dtype: DType) -> bool {
    codec(dtype).is_some()
}

/// Returns whether [`quantize`] supports the type. True for floats as well.
pub fn can_quantize(dtype: DType) -> bool {
    codec(dtype).is_some_and(|codec| codec.quantize.is_some())
}

/// Returns whether [`quantize`] requires importance values to write the type.
pub fn requires_importance(dtype: DType) -> bool {
    matches!(dtype, DType::IQ1_S | DType::IQ2_XXS | DType::IQ2_XS)
}

/// Decodes `bytes` of type `dtype`, any number of whole blocks at any alignment, into `out`.
///
/// The f32 values are exactly those that the format defines.
///
/// # Errors
/// The type cannot be decoded, or the length of `bytes` is not that of `out.len()` elements.
pub fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    let codec =
        codec(dtype).ok_or_else(|| Error::Usage(format!("cannot decode tensor type {dtype}")))?;
    check_length(dtype, out.len(), bytes.len())?;
    (codec.decode)(Level::current(), bytes, out);
    Ok(())
}

/// Encodes `values` as F32, F16 or BF16, rounding to nearest, ties to even: [`quantize`] for types
/// whose rows need no whole number of blocks.
///
/// # Errors
/// `dtype` is not a float type, or `out` has the wrong length.
pub fn encode_float(dtype: DType, values: &[f32], out: &mut [u8]) -> Result<()> {
    if !dtype.is_float() {
        return Err(Error::Usage(format!("tensor type {dtype} is not a float type")));
    }
    quantize(dtype, values, values.len(), None, out)
}

/// Quantizes whole rows of `row_len` values to `dtype`.
///
/// `importance` has `row_len` values, one for each column, shared by all rows: the mean squared
/// activations of the importance matrix. Types without a search (floats, Q8_0, ternary types, FP4
/// types) ignore it. Values should be finite, see [`first_non_finite`]: others give meaningless
/// blocks, but no panic. Finite values may be too large for a type; [`first_invalid_block`] finds
/// them in `out`.
///
/// # Errors
/// The type cannot be written, or [requires importance](requires_importance) and there is none;
/// `row_len` is not a multiple of the block length, or `values` not of `row_len`; or `importance`
/// or `out` has the wrong length.
pub fn quantize(
    dtype: DType,
    values: &[f32],
    row_len: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<()> {
    quantize_at(Level::current(), dtype, values, row_len, importance, out)
}

/// [`quantize`] at a given SIMD level. The level does not change any byte.
fn quantize_at(
    level: Level,
    dtype: DType,
    values: &[f32],
    row_len: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<()> {
    let quantize = codec(dtype)
        .and_then(|codec| codec.quantize)
        .ok_or_else(|| Error::Usage(format!("cannot quantize to tensor type {dtype}")))?;
    if importance.is_none() && requires_importance(dtype) {
        return Err(Error::Usage(format!("cannot quantize to {dtype} without importance values")));
    }
    if dtype.row_bytes(row_len).is_none() {
        let block = dtype.block_len();
        let detail =
            format!("rows of {row_len} values cannot be divided into {dtype} blocks of {block}");
        return Err(Error::Usage(detail));
    }
    if values.is_empty() && out.is_empty() {
        return Ok(());
    }
    if row_len == 0 || !values.len().is_multiple_of(row_len) {
        let detail = format!("{} values cannot be divided into rows of {row_len}", values.len());
        return Err(Error::Usage(detail));
    }
    if let Some(importance) = importance
        && importance.len() != row_len
    {
        let given = importance.len();
        let detail = format!("{given} importance values were given for rows of {row_len} values");
        return Err(Error::Usage(detail));
    }
    check_length(dtype, values.len(), out.len())?;
    quantize(level, Rows { values, row_len, importance }, out);
    Ok(())
}

/// Returns the index of the first NaN or infinity. Either would make the scale of its whole block
/// invalid, so callers refuse them before quantizing.
pub fn first_non_finite(values: &[f32]) -> Option<usize> {
    // Whole chunks first: this runs over every weight, and a loop that may stop at any element is
    // not vectorized.
    const CHUNK: usize = 64;
    let any = |chunk: &[f32]| chunk.iter().fold(false, |any, v| any | !v.is_finite());
    let chunk = values.chunks(CHUNK).position(any)?;
    let start = chunk * CHUNK;
    values[start..].iter().position(|v| !v.is_finite()).map(|offset| start + offset)
}

/// Returns the index of the first block of `bytes` whose scale (for floats: value) is NaN or
/// infinite. A scale is infinite if its weights are too large for F16.
///
/// Checks the same as `ggml_validate_row_data` of llama.cpp. Returns `None` for types that
/// [`decode`] does not support, and ignores a trailing partial block.
pub fn first_invalid_block(dtype: DType, bytes: &[u8]) -> Option<usize> {
    if dtype.is_float() {
        return floats::finite::first_non_finite(Level::current(), dtype, bytes);
    }
    let codec = codec(dtype)?;
    bytes.chunks_exact(dtype.block_bytes()).position(|block| !(codec.is_valid)(block))
}

/// Checks that `elements` of type `dtype` take `bytes` bytes.
fn check_length(dtype: DType, elements: usize, bytes: usize) -> Result<()> {
    match dtype.row_bytes(elements) {
        Some(expected) if expected == bytes => Ok(()),
        Some(expected) => Err(Error::Usage(format!(
            "{elements} elements of type {dtype} take {expected} bytes, but {bytes} were given"
        ))),
        None => Err(Error::Usage(format!(
            "{elements} elements cannot be divided into {dtype} blocks of {}",
            dtype.block_len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of very different sizes, from denormal to near the largest, with zero stretches.
    fn wild_values(count: usize) -> Vec<f32> {
        let mut state = 7u64;
        (0..count)
            .map(|i| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
                let unit = (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
                let sizes = [1.0, 0.02, 1e-42, 1e38, 1e-12, 0.0, 300.0, 1e-5];
                unit * sizes[(i / 96) % sizes.len()]
            })
            .collect()
    }

    #[test]
    fn registry_entries_are_unique_and_can_decode_and_quantize() {
        for (i, codec) in REGISTRY.iter().enumerate() {
            assert!(REGISTRY[..i].iter().all(|other| other.dtype != codec.dtype));
            assert!(can_decode(codec.dtype) && can_quantize(codec.dtype), "{}", codec.dtype);
        }
        assert!(!can_decode(DType::Q8_1) && !can_quantize(DType::I32));
    }

    #[test]
    fn every_simd_level_gives_the_same_bytes_and_values() {
        const ROW: usize = 768;
        let values = wild_values(ROW * 9);
        let wild: Vec<f32> = wild_values(ROW).iter().map(|v| v.abs().min(1e3)).collect();
        let huge: Vec<f32> = wild.iter().map(|v| v * 1e35).collect();
        let importances = [&wild[..], &huge, &[0.0; ROW]];
        for codec in REGISTRY {
            let size = codec.dtype.row_bytes(values.len()).unwrap();
            let plain = (!requires_importance(codec.dtype)).then_some(None);
            for importance in plain.into_iter().chain(importances.map(Some)) {
                let mut expected: Option<(Vec<u8>, Vec<u32>)> = None;
                for level in Level::available() {
                    let mut bytes = vec![0x55; size];
                    quantize_at(level, codec.dtype, &values, ROW, importance, &mut bytes).unwrap();
                    let mut decoded = vec![0f32; values.len()];
                    (codec.decode)(level, &bytes, &mut decoded);
                    let bits = decoded
                        .iter()
                        .map(|v| if v.is_nan() { f32::NAN } else { *v }.to_bits())
                        .collect();
                    let found = (bytes, bits);
                    let expected = expected.get_or_insert_with(|| found.clone());
                    assert!(*expected == found, "{} at {level:?}", codec.dtype);
                }
            }
        }
    }

    #[test]
    fn block_validity_follows_scales() {
        let mut bytes = vec![0u8; 3 * 144];
        assert_eq!(first_invalid_block(DType::Q4_K, &bytes), None);
        bytes[2 * 144 + 3] = 0x7c; // dmin of the third block: infinity
        assert_eq!(first_invalid_block(DType::Q4_K, &bytes), Some(2));
        let halves = [0x00, 0x3c, 0x00, 0x7e];
        assert_eq!(first_invalid_block(DType::F16, &halves), Some(1));
        let infinity = f32::NEG_INFINITY.to_le_bytes();
        assert_eq!(first_invalid_block(DType::F32, &infinity), Some(0));
    }

    #[test]
    fn the_first_non_finite_value_is_found_anywhere() {
        let mut values = vec![1.0f32; 200];
        assert_eq!(first_non_finite(&values), None);
        values[199] = f32::INFINITY;
        assert_eq!(first_non_finite(&values), Some(199));
        values[64] = f32::NAN;
        assert_eq!(first_non_finite(&values), Some(64));
    }
}
