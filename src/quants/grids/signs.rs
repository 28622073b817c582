//! Signs of IQ types: kept apart from magnitudes, eight a byte, or as seven bits of even parity.

/// Splits eight weights into magnitudes and a byte of signs.
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

/// Gives signs even parity: where it is odd, the weight that matters least is taken to have the other
/// sign, which makes its magnitude negative.
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

/// The byte of signs of even parity whose low seven bits these are (`ksigns_iq2xs`).
#[inline(always)]
pub(crate) fn even(low: u8) -> u8 {
    let low = low & 127;
    low | (low.count_ones() as u8 & 1) << 7
}

/// Four bytes of even parity as four times seven bits.
#[inline(always)]
pub(crate) fn even_word(signs: [u8; 4]) -> u32 {
    (0..4).fold(0, |word, k| word | u32::from(signs[k] & 127) << (7 * k))
}

/// `value`, negated if bit `i` is set.
#[inline(always)]
pub(crate) fn signed(value: f32, signs: u8, i: usize) -> f32 {
    f32::from_bits(value.to_bits() ^ (u32::from(signs) >> i & 1) << 31)
}
