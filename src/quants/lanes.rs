//! The loop of every quantizer that searches for scales, over sixteen blocks at a time.
//!
//! Blocks are independent, so sixteen of them are transposed into lanes and searched together: lane
//! k of every value belongs to block k, and no operation mixes lanes. Each lane performs the
//! operations of the scalar algorithm in their order, so the bytes are equal. A type also writes
//! its blocks transposed, as columns of bytes; the loop here transposes them back.

use super::codec::Rows;
use super::floats::f16::f32_to_f16;
use crate::base::simd::{Level, Work};
use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

/// Blocks searched together: one AVX-512 register of f32, two of AVX2.
pub(super) const LANES: usize = 16;

/// One value for each of the blocks. Aligned to a cache line, so that no load crosses two lines.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct F32s(pub [f32; LANES]);

/// A condition for each of the blocks: all bits set or none.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Mask(pub [i32; LANES]);

impl Mask {
    /// The condition that holds in no lane.
    pub(super) const NONE: Mask = Mask([0; LANES]);

    /// Returns `yes` in the lanes where the condition holds, `no` elsewhere.
    ///
    /// Each choice is a separate loop: the compiler does not vectorize a loop with several choices.
    #[inline(always)]
    pub(super) fn choose(&self, yes: &F32s, no: &F32s) -> F32s {
        let mut chosen = F32s::ZERO;
        for k in 0..LANES {
            chosen[k] = if self.0[k] != 0 { yes[k] } else { no[k] };
        }
        chosen
    }

    /// Sets the condition of one lane.
    #[inline(always)]
    pub(super) fn set(&mut self, lane: usize, condition: bool) {
        self.0[lane] = -i32::from(condition);
    }
}

/// One byte for each of the blocks.
pub(super) type U8s = [u8; LANES];

impl F32s {
    /// Zero in every lane.
    pub(super) const ZERO: F32s = F32s([0.0; LANES]);
}

impl Index<usize> for F32s {
    type Output = f32;
    #[inline(always)]
    fn index(&self, lane: usize) -> &f32 {
        &self.0[lane]
    }
}

impl IndexMut<usize> for F32s {
    #[inline(always)]
    fn index_mut(&mut self, lane: usize) -> &mut f32 {
        &mut self.0[lane]
    }
}

/// Sixteen blocks of `LEN` weights, transposed.
pub(super) struct Panel<const LEN: usize> {
    /// The weights to quantize.
    pub weights: [F32s; LEN],
    /// The importance of each weight's column. Valid only if `weighted`.
    pub importance: [F32s; LEN],
    /// Whether there is an importance matrix.
    pub weighted: bool,
    /// Mean square of the row that a block is part of. Valid only if the type sets
    /// [`QuantizePanel::NEEDS_ROW_MEAN_SQUARE`].
    pub row_mean_square: F32s,
}

/// A format of `LEN` weights in `BYTES` bytes that quantizes sixteen blocks at a time.
pub(super) trait QuantizePanel<const LEN: usize, const BYTES: usize> {
    /// Whether the type reads [`Panel::row_mean_square`].
    const NEEDS_ROW_MEAN_SQUARE: bool = false;

    /// Fills all of `out`. Implementations must be `#[inline(always)]`, see [`Work`].
    fn quantize_panel(panel: &Panel<LEN>, out: &mut [U8s; BYTES]);
}

/// [`super::codec::Codec::quantize`] for a [`QuantizePanel`].
pub(super) fn quantize_panels<F, const LEN: usize, const BYTES: usize>(
    level: Level,
    rows: Rows<'_>,
    out: &mut [u8],
) where
    F: QuantizePanel<LEN, BYTES>,
{
    level.run(QuantizeAll::<F, LEN, BYTES> { format: PhantomData, rows, out });
}

struct QuantizeAll<'a, F, const LEN: usize, const BYTES: usize> {
    format: PhantomData<F>,
    rows: Rows<'a>,
    out: &'a mut [u8],
}

impl<F, const LEN: usize, const BYTES: usize> Work for QuantizeAll<'_, F, LEN, BYTES>
where
    F: QuantizePanel<LEN, BYTES>,
{
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let rows = self.rows;
        let (blocks, _) = rows.values.as_chunks::<LEN>();
        let (outs, _) = self.out.as_chunks_mut::<BYTES>();
        let blocks_per_row = rows.row_len / LEN;
        let columns = rows.importance.map(|importance| importance.as_chunks::<LEN>().0);
        let row_means = if F::NEEDS_ROW_MEAN_SQUARE { row_mean_squares(rows) } else { Vec::new() };
        let mut panel = Panel {
            weights: [F32s::ZERO; LEN],
            importance: [F32s::ZERO; LEN],
            weighted: columns.is_some(),
            row_mean_square: F32s::ZERO,
        };
        let mut bytes = [[0; LANES]; BYTES];
        for (group, outs) in outs.chunks_mut(LANES).enumerate() {
            let first = group * LANES;
            // Lanes past the last block repeat the last one; their bytes are not stored.
            let block_of = |lane: usize| first + lane.min(outs.len() - 1);
            transpose(&mut panel.weights, |lane| &blocks[block_of(lane)]);
            if let Some(columns) = columns {
                transpose(&mut panel.importance, |lane| &columns[block_of(lane) % blocks_per_row]);
            }
            if F::NEEDS_ROW_MEAN_SQUARE {
                for lane in 0..LANES {
                    panel.row_mean_square[lane] = row_means[block_of(lane) / blocks_per_row];
                }
            }
            F::quantize_panel(&panel, &mut bytes);
            for (lane, out) in outs.iter_mut().enumerate() {
                for (byte, column) in out.iter_mut().zip(&bytes) {
                    *byte = column[lane];
                }
            }
        }
    }
}

/// Fills `out` with one block in each lane.
#[inline(always)]
fn transpose<'a, const LEN: usize>(out: &mut [F32s; LEN], block: impl Fn(usize) -> &'a [f32; LEN]) {
    let blocks: [&[f32; LEN]; LANES] = std::array::from_fn(block);
    for (i, out) in out.iter_mut().enumerate() {
        for (lane, block) in blocks.iter().enumerate() {
            out[lane] = block[i];
        }
    }
}

/// The mean square of each row, summed left to right. Several rows are summed side by side, which
/// hides the latency of the additions.
#[inline(always)]
fn row_mean_squares(rows: Rows<'_>) -> Vec<f32> {
    const TOGETHER: usize = 8;
    let mut means = Vec::with_capacity(rows.values.len() / rows.row_len);
    for group in rows.values.chunks(TOGETHER * rows.row_len) {
        let count = group.len() / rows.row_len;
        let row_of: [&[f32]; TOGETHER] = std::array::from_fn(|r| {
            let start = r.min(count - 1) * rows.row_len;
            &group[start..start + rows.row_len]
        });
        let mut sums = [0f32; TOGETHER];
        for column in 0..rows.row_len {
            for (sum, row) in sums.iter_mut().zip(row_of) {
                *sum += row[column] * row[column];
            }
        }
        means.extend(sums[..count].iter().map(|sum| sum / rows.row_len as f32));
    }
    means
}

/// The sum of squares of each lane's block, left to right.
#[inline(always)]
pub(super) fn sum_of_squares(weights: &[F32s]) -> F32s {
    let mut sums = F32s::ZERO;
    for x in weights {
        for k in 0..LANES {
            sums[k] += x[k] * x[k];
        }
    }
    sums
}

/// Twice the mean square of each lane's block of 256.
#[inline(always)]
pub(super) fn twice_mean_square(weights: &[F32s; 256]) -> F32s {
    let mut sigma2 = sum_of_squares(weights);
    for k in 0..LANES {
        sigma2[k] = 2.0 * sigma2[k] / 256.0;
    }
    sigma2
}

/// The square of each value.
#[inline(always)]
pub(super) fn squares<const N: usize>(x: &[F32s; N]) -> [F32s; N] {
    let mut squares = *x;
    for square in &mut squares {
        for k in 0..LANES {
            square[k] *= square[k];
        }
    }
    squares
}

/// The sum of each lane's values, left to right.
#[inline(always)]
pub(super) fn sum(values: &[F32s]) -> F32s {
    let mut sums = F32s::ZERO;
    for v in values {
        for k in 0..LANES {
            sums[k] += v[k];
        }
    }
    sums
}

/// The weight of each value in a search: the importance of its column times sqrt(`sigma2` + x^2).
#[inline(always)]
pub(super) fn importance_weights<const N: usize>(
    x: &[F32s; N],
    importance: &[F32s; N],
    sigma2: &F32s,
) -> [F32s; N] {
    let mut weights = [F32s::ZERO; N];
    for i in 0..N {
        for k in 0..LANES {
            weights[i][k] = importance[i][k] * (sigma2[k] + x[i][k] * x[i][k]).sqrt();
        }
    }
    weights
}

/// Rounds values to F16 and stores them in two columns of bytes.
#[inline(always)]
pub(super) fn store_f16(values: &F32s, out: &mut [U8s]) {
    for k in 0..LANES {
        let half = f32_to_f16(values[k]);
        out[0][k] = half as u8;
        out[1][k] = (half >> 8) as u8;
    }
}

/// Reads the values that [`store_f16`] stored.
#[inline(always)]
pub(super) fn load_f16(columns: &[U8s]) -> F32s {
    let mut values = F32s::ZERO;
    for k in 0..LANES {
        values[k] =
            super::floats::f16::f16_to_f32(u16::from_le_bytes([columns[0][k], columns[1][k]]));
    }
    values
}
