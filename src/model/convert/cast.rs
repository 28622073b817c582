//! Changes of a tensor's bytes on the way to GGUF: the order of rows, and the float type.

use crate::base::dtype::DType;
use crate::base::error::{Error, Result};
use crate::quants;
use rayon::prelude::*;

/// Elements that one task handles. Fixed, so that the work is cut alike at any number of threads.
const CHUNK: usize = 1 << 18;

/// Reorders the rows of `bytes` within each of `heads` heads: the two halves of a head, which Hugging
/// Face's rotary embedding pairs, are interleaved, because GGUF's pairs neighbours. Row `h*d + 2*j + k`
/// of the result is row `h*d + k*d/2 + j` of `bytes`, for `d` rows a head.
///
/// # Panics
/// If the rows are no whole number of heads with an even number of rows each.
pub(super) fn interleave_heads(bytes: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    let row_bytes = bytes.len() / rows;
    let dim = rows / heads;
    assert!(rows == heads * dim && dim.is_multiple_of(2), "checked against the hyperparameters");
    let mut out = Vec::with_capacity(bytes.len());
    for head in 0..heads {
        for j in 0..dim / 2 {
            for k in 0..2 {
                let row = head * dim + k * (dim / 2) + j;
                out.extend_from_slice(&bytes[row * row_bytes..][..row_bytes]);
            }
        }
    }
    out
}

/// The largest value that rounds to a finite F16: halfway between 65504 and the next step, exclusive.
const F16_LIMIT: f32 = 65520.0;

/// The bytes of float type `from` as type `to`, rounded to nearest even. `origin`, `tensor` and the number of
/// the first element are for errors.
///
/// # Errors
/// If a value is not finite, or too large for F16: both are named with their index.
pub(super) fn cast(
    origin: &str,
    tensor: &str,
    from: DType,
    (first, bytes): (usize, &[u8]),
    to: DType,
) -> Result<Vec<u8>> {
    let elements = bytes.len() / from.block_bytes();
    let mut out = vec![0u8; elements * to.block_bytes()];
    let in_chunks = bytes.par_chunks(CHUNK * from.block_bytes());
    let out_chunks = out.par_chunks_mut(CHUNK * to.block_bytes());
    let outcomes: Vec<Result<()>> = in_chunks
        .zip(out_chunks)
        .enumerate()
        .map(|(chunk, (input, output))| {
            let mut values = vec![0f32; input.len() / from.block_bytes()];
            quants::decode(from, input, &mut values)?;
            check(origin, tensor, first + chunk * CHUNK, &values, to)?;
            quants::encode_float(to, &values, output)
        })
        .collect();
    // The first failure in the order of the tensor, whichever thread met one first.
    outcomes.into_iter().collect::<Result<()>>()?;
    Ok(out)
}

/// `bytes` plus one in each element, as type `to`. F16 is rounded to F16 before, as llama.cpp adds it.
///
/// # Errors
/// Those of [`cast()`].
pub(super) fn plus_one(
    origin: &str,
    tensor: &str,
    from: DType,
    bytes: &[u8],
    to: DType,
) -> Result<Vec<u8>> {
    let mut values = vec![0f32; bytes.len() / from.block_bytes()];
    quants::decode(from, bytes, &mut values)?;
    values.iter_mut().for_each(|v| *v += 1.0);
    check(origin, tensor, 0, &values, to)?;
    let sum_type = if from == DType::F16 { DType::F16 } else { DType::F32 };
    let mut sums = vec![0u8; values.len() * sum_type.block_bytes()];
    quants::encode_float(sum_type, &values, &mut sums)?;
    if sum_type == to { Ok(sums) } else { cast(origin, tensor, sum_type, (0, &sums), to) }
}

/// Fails at the first value that is not finite. The bytes stay what they are.
pub(super) fn check_finite(origin: &str, tensor: &str, dtype: DType, bytes: &[u8]) -> Result<()> {
    let outcomes: Vec<Result<()>> = bytes
        .par_chunks(CHUNK * dtype.block_bytes())
        .enumerate()
        .map(|(chunk, input)| {
            let suspicious = match dtype {
                DType::F16 => all_ones(input, 0x7c00),
                DType::BF16 => all_ones(input, 0x7f80),
                _ => true,
            };
            if !suspicious {
                return Ok(());
            }
            let mut values = vec![0f32; input.len() / dtype.block_bytes()];
            quants::decode(dtype, input, &mut values)?;
            check(origin, tensor, chunk * CHUNK, &values, dtype)
        })
        .collect();
    outcomes.into_iter().collect()
}

/// Whether any 16-bit element has all bits of `exponent` set, as infinities and NaNs have.
fn all_ones(bytes: &[u8], exponent: u16) -> bool {
    bytes.as_chunks::<2>().0.iter().any(|&pair| u16::from_le_bytes(pair) & exponent == exponent)
}

fn check(origin: &str, tensor: &str, start: usize, values: &[f32], to: DType) -> Result<()> {
    if let Some(at) = quants::first_non_finite(values) {
        let detail = format!("element {} is {}; the weights are damaged", start + at, values[at]);
        return Err(Error::tensor(origin, tensor, detail));
    }
    if to == DType::F16
        && let Some(at) = values.iter().position(|v| v.abs() >= F16_LIMIT)
    {
        let detail = format!(
            "element {} is {}, too large for F16; convert with --type bf16 or f32",
            start + at,
            values[at]
        );
        return Err(Error::tensor(origin, tensor, detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn halves_of_heads_are_interleaved() {
        let rows: Vec<u8> = (0..8).collect();
        assert_eq!(interleave_heads(&rows, 8, 2), [0, 2, 1, 3, 4, 6, 5, 7]);
        assert_eq!(interleave_heads(&rows, 4, 1), [0, 1, 4, 5, 2, 3, 6, 7]);
    }

    #[test]
    fn casts_round_to_nearest_even() {
        let values = [1.0, 1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 65519.0, -0.0];
        let out = cast("m", "t", DType::F32, (0, &bytes(&values)), DType::F16).unwrap();
        let halves: Vec<u16> =
            out.as_chunks::<2>().0.iter().map(|&pair| u16::from_le_bytes(pair)).collect();
        assert_eq!(halves, [0x3c00, 0x3c00, 0x3c02, 0x7bff, 0x8000]);
        let out =
            cast("m", "t", DType::F32, (0, &bytes(&[1.0 + 1.0 / 256.0])), DType::BF16).unwrap();
        assert_eq!(out, [0x80, 0x3f]);
    }

    #[test]
    fn one_is_added_in_the_type_of_the_source() {
        let small = 1.0 / 4096.0;
        let sum = |from: DType| {
            let mut source = vec![0; from.block_bytes()];
            quants::encode_float(from, &[small], &mut source).unwrap();
            let out = plus_one("m", "t", from, &source, DType::F32).unwrap();
            f32::from_le_bytes(out.try_into().unwrap())
        };
        assert_eq!([DType::F32, DType::BF16, DType::F16].map(sum), [1.0 + small, 1.0 + small, 1.0]);
    }

    #[test]
    fn what_f16_cannot_hold_is_named_with_its_index() {
        let mut values = vec![1.0; CHUNK + 7];
        values[CHUNK + 3] = 65520.0;
        let error = cast("m", "w", DType::F32, (0, &bytes(&values)), DType::F16).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("'w'") && text.contains("262147") && text.contains("bf16"), "{text}");
        assert!(cast("m", "w", DType::F32, (0, &bytes(&values)), DType::BF16).is_ok());
    }

    #[test]
    fn values_that_are_not_finite_are_refused_without_a_cast_too() {
        for (dtype, bytes) in [
            (DType::F16, vec![0x00, 0x3c, 0x01, 0x7e]),
            (DType::BF16, vec![0x80, 0x3f, 0x80, 0xff]),
            (DType::F32, bytes(&[0.0, f32::NAN])),
        ] {
            let text = check_finite("m", "w", dtype, &bytes).unwrap_err().to_string();
            assert!(text.contains("element 1"), "{text}");
            assert!(check_finite("m", "w", dtype, &bytes[..bytes.len() / 2]).is_ok());
        }
    }
}
