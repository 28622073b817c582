//! Block formats: what the bytes of each tensor type mean, and how to write them.
//!
//! Sources call [`decode`] to get f32 out of any type; the quantizing driver calls [`quantize`] to write
//! rows of a type. Each type lives in a file of its own and has one line in [`REGISTRY`]. Output is
//! byte for byte that of llama.cpp's stock x86-64 build: plain IEEE f32, left to right, never fused.
//! Rows are independent of each other, so a caller may split them over threads as it likes.
//!
//! Deliberately absent: files, threads, progress, and the choice of a type for a tensor. Tensor names
//! are unknown here, so errors speak of lengths and types; callers add the name.

mod affine_k;
mod bf16;
mod codec;
mod f16;
mod f32;
mod lanes;
mod legacy;
mod pack;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod scales6;
mod search;
mod simd;

use crate::dtype::DType;
use crate::error::{Error, Result};
use codec::{Codec, Rows};
use simd::Level;

/// Every type that can be read here, and how; see [`Codec`].
const REGISTRY: &[Codec] = &[
    f32::CODEC,
    f16::CODEC,
    bf16::CODEC,
    q4_0::CODEC,
    q4_1::CODEC,
    q5_0::CODEC,
    q5_1::CODEC,
    q8_0::CODEC,
    q2_k::CODEC,
    q3_k::CODEC,
    q4_k::CODEC,
    q5_k::CODEC,
    q6_k::CODEC,
];

fn codec(dtype: DType) -> Option<&'static Codec> {
    REGISTRY.iter().find(|codec| codec.dtype == dtype)
}

/// Whether [`decode`] knows the type.
pub fn can_decode(dtype: DType) -> bool {
    codec(dtype).is_some()
}

/// Whether [`quantize`] can write the type. Floats count.
pub fn can_quantize(dtype: DType) -> bool {
    codec(dtype).is_some_and(|codec| codec.quantize.is_some())
}

/// Decodes `bytes` of type `dtype`, any number of whole blocks at any alignment, into `out`.
///
/// Exact: the f32 values are those the format defines. Fails if the type cannot be decoded or if
/// `bytes` is not exactly what `out.len()` elements take.
pub fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    let codec =
        codec(dtype).ok_or_else(|| Error::Usage(format!("cannot decode tensor type {dtype}")))?;
    check_length(dtype, out.len(), bytes.len())?;
    (codec.decode)(Level::best(), bytes, out);
    Ok(())
}

/// Encodes `values` as F32, F16 or BF16, rounding to nearest even: [`quantize`] for types without
/// blocks, where rows do not matter.
pub fn encode_float(dtype: DType, values: &[f32], out: &mut [u8]) -> Result<()> {
    if !dtype.is_float() {
        return Err(Error::Usage(format!("{dtype} is no float type")));
    }
    quantize(dtype, values, values.len(), None, out)
}

/// Writes whole rows of `row_len` values as `dtype`.
///
/// `importance` has `row_len` values, one a column, shared by all rows: the importance matrix's mean
/// squared activations. Types that have no use for it (floats, Q8_0) ignore it. Values should be finite,
/// see [`first_non_finite`]; others give meaningless blocks, not a panic.
///
/// Fails if the type cannot be written, if `row_len` is no whole number of blocks, if `values` is no
/// whole number of rows, or if `importance` or `out` has the wrong length.
pub fn quantize(
    dtype: DType,
    values: &[f32],
    row_len: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<()> {
    quantize_at(Level::best(), dtype, values, row_len, importance, out)
}

/// [`quantize`] at a given SIMD level, which never changes a byte.
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
    if dtype.row_bytes(row_len).is_none() {
        let block = dtype.block_len();
        let detail =
            format!("rows of {row_len} values are no whole number of {dtype} blocks of {block}");
        return Err(Error::Usage(detail));
    }
    if values.is_empty() && out.is_empty() {
        return Ok(());
    }
    if row_len == 0 || !values.len().is_multiple_of(row_len) {
        let detail = format!("{} values are no whole number of rows of {row_len}", values.len());
        return Err(Error::Usage(detail));
    }
    if let Some(importance) = importance
        && importance.len() != row_len
    {
        let given = importance.len();
        let detail = format!("{given} importance values do not fit rows of {row_len} columns");
        return Err(Error::Usage(detail));
    }
    check_length(dtype, values.len(), out.len())?;
    quantize(level, Rows { values, row_len, importance }, out);
    Ok(())
}

/// Index of the first NaN or infinity, if there is one. Both must be refused before quantizing, as
/// they would poison the scale of their whole block.
pub fn first_non_finite(values: &[f32]) -> Option<usize> {
    // Whole chunks first: this is run over every weight, and a search that may stop at any element
    // does not vectorize.
    const CHUNK: usize = 64;
    let any = |chunk: &[f32]| chunk.iter().fold(false, |any, v| any | !v.is_finite());
    let chunk = values.chunks(CHUNK).position(any)?;
    let start = chunk * CHUNK;
    values[start..].iter().position(|v| !v.is_finite()).map(|offset| start + offset)
}

/// Index of the first block of `bytes` whose scale (or value, for floats) is NaN or infinite, if there
/// is one. Infinite scales come from finite weights above what F16 can hold.
///
/// Covers the types that [`decode`] knows, for which it checks what llama.cpp's `ggml_validate_row_data`
/// checks; for others, and for a trailing partial block, it says nothing.
pub fn first_invalid_block(dtype: DType, bytes: &[u8]) -> Option<usize> {
    let codec = codec(dtype)?;
    bytes.chunks_exact(dtype.block_bytes()).position(|block| !(codec.is_valid)(block))
}

fn check_length(dtype: DType, elements: usize, bytes: usize) -> Result<()> {
    match dtype.row_bytes(elements) {
        Some(expected) if expected == bytes => Ok(()),
        Some(expected) => Err(Error::Usage(format!(
            "{elements} elements of type {dtype} take {expected} bytes, not {bytes}"
        ))),
        None => Err(Error::Usage(format!(
            "{elements} elements are no whole number of {dtype} blocks of {}",
            dtype.block_len()
        ))),
    }
}
