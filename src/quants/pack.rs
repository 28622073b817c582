//! Code layouts that several types share. A column holds a byte or a code of each of sixteen
//! blocks, see [`super::lanes`].

use super::lanes::{F32s, LANES, U8s};
use super::search::nearest_int;

/// Quantizes weights again, with the scale as it was stored: codes are `(x + min) / scale`, clamped
/// to `low..=high`, minus `low`. In lanes whose scale is zero, `codes` stay unchanged.
#[inline(always)]
pub(super) fn requantize<const N: usize>(
    x: &[F32s; N],
    scale: &F32s,
    min: &F32s,
    (low, high): (i32, i32),
    codes: &mut [U8s; N],
) {
    for i in 0..N {
        for k in 0..LANES {
            let code = nearest_int((x[i][k] + min[k]) / scale[k]).clamp(low, high) - low;
            codes[i][k] = if scale[k] != 0.0 { code as u8 } else { codes[i][k] };
        }
    }
}

/// Packs two 4-bit codes per byte: those of `low` in the low nibble, those of `high` in the high
/// one.
#[inline(always)]
pub(super) fn nibbles(low: &[U8s], high: &[U8s], out: &mut [U8s]) {
    for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
        for k in 0..LANES {
            out[k] = (low[k] & 15) | high[k] << 4;
        }
    }
}

/// Packs four 2-bit codes per byte, as Q2_K and Q3_K do: byte l of each half of 128 codes holds the
/// codes l, l + 32, l + 64 and l + 96, from the lowest bits up.
#[inline(always)]
pub(super) fn two_bits(codes: &[U8s; 256], out: &mut [U8s]) {
    for (half, out) in out.chunks_exact_mut(32).enumerate() {
        let codes = &codes[128 * half..][..128];
        for (l, out) in out.iter_mut().enumerate() {
            for k in 0..LANES {
                out[k] = (codes[l][k] & 3)
                    | (codes[l + 32][k] & 3) << 2
                    | (codes[l + 64][k] & 3) << 4
                    | (codes[l + 96][k] & 3) << 6;
            }
        }
    }
}

/// Packs bit number `bit` of every code, eight codes per byte: bit j of byte l is from code 32 j +
/// l.
#[inline(always)]
pub(super) fn bit_planes(codes: &[U8s], bit: u32, out: &mut [U8s]) {
    for (l, out) in out.iter_mut().enumerate() {
        *out = [0; LANES];
        for (j, codes) in codes.chunks_exact(32).enumerate() {
            for k in 0..LANES {
                out[k] |= ((codes[l][k] >> bit) & 1) << j;
            }
        }
    }
}
