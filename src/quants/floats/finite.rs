//! Finds NaN and infinity in encoded F32, F16 and BF16 values, at the speed of memory.
//!
//! Values that are copied without decoding must be checked as well. In all three types the exponent
//! of NaN and infinity is all ones. Whole chunks are tested in lanes; only a chunk that holds such
//! a value is searched for its position.

use crate::base::dtype::DType;
use crate::base::simd::{Level, Work};

/// Bytes of a chunk: long enough to hide the cost of the dispatch, short enough that searching one
/// is cheap.
const CHUNK: usize = 1 << 14;

/// The index of the first element of `bytes` that is NaN or infinite. Ignores a trailing partial
/// element. Returns `None` for types that are not floats.
pub(crate) fn first_non_finite(level: Level, dtype: DType, bytes: &[u8]) -> Option<usize> {
    match dtype {
        DType::F16 => first_of(level, bytes, |pair| is_full(pair, 0x7c00)),
        DType::BF16 => first_of(level, bytes, |pair| is_full(pair, 0x7f80)),
        DType::F32 => first_of(level, bytes, |quad: &[u8; 4]| {
            const EXPONENT: u32 = 0x7f80_0000;
            u32::from_le_bytes(*quad) & EXPONENT == EXPONENT
        }),
        _ => None,
    }
}

/// Returns whether the bits of `exponent` are all ones.
#[inline(always)]
fn is_full(pair: &[u8; 2], exponent: u16) -> bool {
    u16::from_le_bytes(*pair) & exponent == exponent
}

fn first_of<const BYTES: usize>(
    level: Level,
    bytes: &[u8],
    is_bad: impl Fn(&[u8; BYTES]) -> bool + Copy,
) -> Option<usize> {
    let (elements, _) = bytes.as_chunks::<BYTES>();
    let any = |chunk: &[[u8; BYTES]]| level.run(Any { elements: chunk, is_bad });
    let per_chunk = CHUNK / BYTES;
    let (number, chunk) = elements.chunks(per_chunk).enumerate().find(|(_, chunk)| any(chunk))?;
    chunk.iter().position(is_bad).map(|at| number * per_chunk + at)
}

/// Tests whether any element of a chunk is bad.
struct Any<'a, F, const BYTES: usize> {
    elements: &'a [[u8; BYTES]],
    is_bad: F,
}

impl<F: Fn(&[u8; BYTES]) -> bool, const BYTES: usize> Work for Any<'_, F, BYTES> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        // No early exit: a loop that may stop at any element is not vectorized.
        self.elements.iter().fold(false, |any, element| any | (self.is_bad)(element))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quants::{decode, encode_float};

    /// Compares with decoding, for 16-bit values alone and for bad values at several places of a
    /// row.
    #[test]
    fn bits_and_decoded_values_agree_at_every_level() {
        for dtype in [DType::F16, DType::BF16] {
            for bits in (0..=u16::MAX).step_by(7).chain(0x7b00..0x7d00).chain(0xff00..=0xffff) {
                let mut value = [0f32];
                decode(dtype, &bits.to_le_bytes(), &mut value).unwrap();
                let expected = (!value[0].is_finite()).then_some(0);
                let found = first_non_finite(Level::current(), dtype, &bits.to_le_bytes());
                assert_eq!(found, expected, "{dtype} {bits:#x}");
            }
        }
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let mut bytes = vec![0; 20_000 * dtype.block_bytes() + 1];
            let len = bytes.len() - 1;
            let largest = if dtype == DType::F16 { 65504.0 } else { 3.3e38 };
            encode_float(dtype, &vec![-largest; 20_000], &mut bytes[..len]).unwrap();
            for level in Level::available() {
                assert_eq!(first_non_finite(level, dtype, &bytes), None);
            }
            for at in [19_999, 8_192, 4_095, 0] {
                let place = at * dtype.block_bytes()..(at + 1) * dtype.block_bytes();
                let bad = if at % 2 == 0 { f32::NAN } else { f32::NEG_INFINITY };
                encode_float(dtype, &[bad], &mut bytes[place]).unwrap();
                for level in Level::available() {
                    assert_eq!(first_non_finite(level, dtype, &bytes), Some(at), "{dtype}");
                }
            }
        }
    }
}
