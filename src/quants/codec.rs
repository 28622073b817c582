//! What a tensor type must provide, and the loops over blocks that types share.

use crate::base::dtype::DType;
use crate::base::simd::{Level, Work};

/// One tensor type: its line in the registry.
pub(super) struct Codec {
    pub dtype: DType,
    /// Decodes whole blocks; the lengths have been checked against each other.
    pub decode: fn(Level, &[u8], &mut [f32]),
    /// Writes whole rows of whole blocks, lengths checked; `None` for types that are only read.
    pub quantize: Option<fn(Level, Rows<'_>, &mut [u8])>,
    /// Whether one block's scales are finite.
    pub is_valid: fn(&[u8]) -> bool,
}

/// Rows to quantize.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// Row after row.
    pub values: &'a [f32],
    pub row_len: usize,
    /// One value a column, shared by all rows.
    pub importance: Option<&'a [f32]>,
}

/// A format of `LEN` weights in `BYTES` bytes that decodes block by block.
pub(super) trait DecodeBlock<const LEN: usize, const BYTES: usize> {
    /// Must be `#[inline(always)]`, see [`Work`].
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

/// [`Codec::decode`] for a format that decodes block by block.
pub(super) fn decode_blocks<F, const LEN: usize, const BYTES: usize>(
    level: Level,
    bytes: &[u8],
    out: &mut [f32],
) where
    F: DecodeBlock<LEN, BYTES>,
{
    level.run(DecodeAll::<F, LEN, BYTES> { format: std::marker::PhantomData, bytes, out });
}

/// A format of `LEN` weights in `BYTES` bytes that writes a block from its weights alone.
pub(super) trait EncodeBlock<const LEN: usize, const BYTES: usize> {
    /// Must be `#[inline(always)]`, see [`Work`].
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

/// [`Codec::quantize`] for a format that writes a block from its weights alone, ignoring importance.
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

/// Whether the F16 at `offset` of a block is finite.
pub(super) fn finite_f16(block: &[u8], offset: usize) -> bool {
    block[offset + 1] & 0x7c != 0x7c
}
