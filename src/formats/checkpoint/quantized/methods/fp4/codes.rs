//! The codes of E2M1, the four-bit float: their values, and the order in which GGUF packs them.

/// Values by code; the highest bit is the sign.
pub(super) const VALUES: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// The values of `packed`, times `scale(group)` for each `group` elements.
pub(super) fn decode(packed: &[u8], group: usize, scale: impl Fn(usize) -> f32, out: &mut [f32]) {
    let groups = packed.chunks_exact(group / 2).zip(out.chunks_exact_mut(group));
    for (index, (bytes, out)) in groups.enumerate() {
        let scale = scale(index);
        for (byte, pair) in bytes.iter().zip(out.chunks_exact_mut(2)) {
            pair[0] = VALUES[usize::from(byte & 15)] * scale;
            pair[1] = VALUES[usize::from(byte >> 4)] * scale;
        }
    }
}

/// Brings the codes of `packed` into the order of GGUF's blocks: byte i of the result holds element
/// i in its low half, and the element half a group further in the high one.
pub(super) fn reorder(packed: &[u8], out: &mut [u8]) {
    let code = |element: usize| packed[element / 2] >> (4 * (element % 2)) & 15;
    let half = packed.len();
    for (i, out) in out.iter_mut().enumerate() {
        *out = code(i) | code(i + half) << 4;
    }
}
