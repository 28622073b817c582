//! The signs of weights in IQ types: eight bits per group of eight weights, or seven if their
//! parity is even, so that the eighth follows from them.

/// Splits eight weights into magnitudes and a byte of signs. NaN counts as negative.
#[inline(always)]
pub(crate) fn split(weights: &[f32; 8], magnitudes: &mut [f32; 8]) -> u8 {
    let mut signs = 0;
    for i in 0..8 {
        let negative = weights[i] < 0.0 || weights[i].is_nan();
        magnitudes[i] = if negative { -weights[i] } else { weights[i] };
        signs |= u8::from(negative) << i;
    }
    signs
}

/// Makes the parity of signs even: if it is odd, flips the sign of the weight of least
/// importance * x^2, which makes its magnitude negative. Returns the new signs.
#[inline(always)]
pub(crate) fn make_even(
    weights: &[f32; 8],
    importance: &[f32; 8],
    magnitudes: &mut [f32; 8],
    signs: u8,
) -> u8 {
    if signs.count_ones().is_multiple_of(2) {
        return signs;
    }
    let mut least = 0;
    let mut least_loss = importance[0] * weights[0] * weights[0];
    for i in 1..8 {
        let loss = importance[i] * weights[i] * weights[i];
        if loss < least_loss {
            (least_loss, least) = (loss, i);
        }
    }
    magnitudes[least] = -magnitudes[least];
    signs ^ 1 << least
}

/// The byte of even parity with the low seven bits `low` (`ksigns_iq2xs` of llama.cpp).
#[inline(always)]
pub(crate) fn even(low: u8) -> u8 {
    let low = low & 127;
    low | (low.count_ones() as u8 & 1) << 7
}

/// Packs four bytes of even parity as four times seven bits.
#[inline(always)]
pub(crate) fn even_word(signs: [u8; 4]) -> u32 {
    (0..4).fold(0, |word, k| word | u32::from(signs[k] & 127) << (7 * k))
}

/// `value`, negated if bit `i` of `signs` is set.
#[inline(always)]
pub(crate) fn signed(value: f32, signs: u8, i: usize) -> f32 {
    f32::from_bits(value.to_bits() ^ (u32::from(signs) >> i & 1) << 31)
}
