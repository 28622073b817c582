//! FP4 types: four-bit floats (E2M1) with a scale for each block.
//!
//! Values are stored doubled, as integers, and scales halved.

pub(crate) mod mxfp4;
pub(crate) mod nvfp4;

/// The doubled value of each code. The upper eight are negative.
const VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The midpoints of neighbouring magnitudes.
const MIDPOINTS: [f32; 7] = [0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0];

/// Decodes nibbles: value j from the low half of byte j, value j + bytes from the high half.
#[inline(always)]
pub(crate) fn decode(bytes: &[u8], scale: f32, out: &mut [f32]) {
    let (low, high) = out.split_at_mut(bytes.len());
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        *low = f32::from(VALUES[usize::from(byte & 15)]) * scale;
        *high = f32::from(VALUES[usize::from(byte >> 4)]) * scale;
    }
}

/// Encodes weights as the nearest values, packed as [`decode`] reads them. `magnitude` is the
/// largest |weight|.
#[inline(always)]
pub(crate) fn encode<const N: usize>(
    weights: &[f32; N],
    magnitude: f32,
    scale: f32,
    out: &mut [u8],
) {
    let mut codes = [0u8; N];
    // Up to twice the largest value, differences are exact, so comparing with midpoints gives the
    // same code as a search for the least difference.
    if magnitude <= 24.0 * scale && 12.0 * scale < f32::INFINITY {
        for i in 0..N {
            codes[i] = nearest(weights[i], scale);
        }
    } else {
        for i in 0..N {
            codes[i] = nearest_by_search(weights[i], scale);
        }
    }
    let (low, high) = codes.split_at(N / 2);
    for i in 0..N / 2 {
        out[i] = low[i] | high[i] << 4;
    }
}

/// The code nearest to `weight` by comparison with midpoints.
#[inline(always)]
fn nearest(weight: f32, scale: f32) -> u8 {
    let mut above = 0;
    for midpoint in MIDPOINTS {
        above += i32::from(weight.abs() > midpoint * scale);
    }
    // Code 8, minus zero, is never used.
    let negative = i32::from(weight < 0.0) & i32::from(above > 0);
    (above | negative << 3) as u8
}

/// The first code of least difference in f32 (`best_index_mxfp4` of llama.cpp). If weights are far
/// beyond all values, or values overflow, rounding makes differences equal.
#[cold]
#[inline(never)]
fn nearest_by_search(weight: f32, scale: f32) -> u8 {
    let error = |code: usize| (f32::from(VALUES[code]) * scale - weight).abs();
    (1..16).fold(0, |best, code| if error(code) < error(best) { code } else { best }) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn midpoints_agree_with_the_search() {
        // Every scale that NVFP4 has, down to its smallest, and some powers of two.
        let steps = (8..16).flat_map(|man| (-12..9).map(move |exp| man as f32 * 2f32.powi(exp)));
        for scale in steps.chain([2f32.powi(-128), 2f32.powi(-127), 2f32.powi(124)]) {
            for i in -4096..=4096 {
                let near = i as f32 / 256.0 * scale;
                for bits in [near.to_bits(), near.to_bits() + 1, near.to_bits().saturating_sub(1)] {
                    let weight = f32::from_bits(bits);
                    if weight.abs() <= 24.0 * scale && weight.is_finite() {
                        let expected = nearest_by_search(weight, scale);
                        assert_eq!(nearest(weight, scale), expected, "{weight:e} {scale:e}");
                    }
                }
            }
        }
    }
}
