//! The interface of a tensor type, and the loops over blocks that types share.

use crate::base::dtype::DType;
use crate::base::simd::{Level, Work};

/// The functions of one tensor type. The registry has one for each type.
pub(super) struct Codec {
    /// The tensor type.
    pub dtype: DType,
    /// Decodes whole blocks. The caller has checked both lengths.
    pub decode: fn(Level, &[u8], &mut [f32]),
    /// Writes whole rows of whole blocks. The caller has checked the lengths. `None` for types that
    /// are only read.
    pub quantize: Option<fn(Level, Rows<'_>, &mut [u8])>,
    /// Returns whether the scales of one block are finite.
    pub is_valid: fn(&[u8]) -> bool,
}

/// Rows to quantize.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// The values of all rows, one row after the other.
    pub values: &'a [f32],
    /// Values in a row.
    pub row_len: usize,
    /// One value for each column, shared by all rows.
    pub importance: Option<&'a [f32]>,
}

/// A format of `LEN` weights in `BYTES` bytes whose blocks are decoded one by one.
pub(super) trait DecodeBlock<const LEN: usize, const BYTES: usize> {
    /// Decodes one block. Implementations must be `#[inline(always)]`, see [`Work`].
    fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]);
}

struct DecodeAll<'a, F, const LEN: usize, const BYTES: usize> {
    format: std::marker::PhantomData<F>,
    bytes: &'a [u8],
    out: &'a mut [f32],
}

impl<F, const LEN: usize, const BYTES: usize> Work for DecodeAll<'_, F, LEN, BYTES>
where
    F: DecodeBlock<LEN, BYTES>,
{
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (blocks, _) = self.bytes.as_chunks::<BYTES>();
        let (outs, _) = self.out.as_chunks_mut::<LEN>();
        for (block, out) in blocks.iter().zip(outs) {
            F::decode_block(block, out);
        }
    }
}

/// [`Codec::decode`] for a [`DecodeBlock`].
pub(super) fn decode_blocks<F, const LEN: usize, const BYTES: usize>(
    level: Level,
    bytes: &[u8],
    out: &mut [f32],
) where
    F: DecodeBlock<LEN, BYTES>,
{
    level.run(DecodeAll::<F, LEN, BYTES> { format: std::marker::PhantomData, bytes, out });
}

/// A format of `LEN` weights in `BYTES` bytes whose blocks are encoded without importance.
pub(super) trait EncodeBlock<const LEN: usize, const BYTES: usize> {
    /// Encodes one block. Implementations must be `#[inline(always)]`, see [`Work`].
    fn encode_block(weights: &[f32; LEN], out: &mut [u8; BYTES]);
}

struct EncodeAll<'a, F, const LEN: usize, const BYTES: usize> {
    format: std::marker::PhantomData<F>,
    values: &'a [f32],
    out: &'a mut [u8],
}

impl<F, const LEN: usize, const BYTES: usize> Work for EncodeAll<'_, F, LEN, BYTES>
where
    F: EncodeBlock<LEN, BYTES>,
{
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (blocks, _) = self.values.as_chunks::<LEN>();
        let (outs, _) = self.out.as_chunks_mut::<BYTES>();
        for (block, out) in blocks.iter().zip(outs) {
            F::encode_block(block, out);
        }
    }
}

/// [`Codec::quantize`] for an [`EncodeBlock`]. Ignores importance.
pub(super) fn encode_blocks<F, const LEN: usize, const BYTES: usize>(
    level: Level,
    rows: Rows<'_>,
    out: &mut [u8],
) where
    F: EncodeBlock<LEN, BYTES>,
{
    let format = std::marker::PhantomData;
    level.run(EncodeAll::<F, LEN, BYTES> { format, values: rows.values, out });
}

/// Returns whether the F16 at `offset` of a block is finite.
pub(super) fn finite_f16(block: &[u8], offset: usize) -> bool {
    block[offset + 1] & 0x7c != 0x7c
}
