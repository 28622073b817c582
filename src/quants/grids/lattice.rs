//! The common part of the IQ types on grids: splits rows into sub-blocks, searches these and writes
//! blocks. The types differ in their implementations of [`Lattice`] and [`Pack`].

use super::search::{GROUPS, Workspace, fit};
use super::{Grid, signs};
use crate::base::simd::{Level, Work};
use crate::quants::codec::Rows;
use crate::quants::search::nearest_int;
use std::marker::PhantomData;

/// The number of sub-blocks that are prepared together; these are whole blocks.
const BATCH: usize = 16;

/// The parameters of a type's search: sub-blocks of `S` weights in groups of `N`.
pub(crate) trait Lattice<const N: usize, const S: usize> {
    /// The number of scales that are tried on either side of the middle.
    const STEPS: i32;
    /// The distance of neighbouring scales, in units of 2 l + 1 of the highest level.
    const STEP: f32;
    /// A sub-block whose largest magnitude is below this counts as zero.
    const NEGLIGIBLE: f32;
    /// The factor of the block's mean square, which is added to the square of each weight.
    const SPREAD: f32;
    /// Whether the signs of a group have even parity.
    const EVEN_SIGNS: bool;
    /// The groups whose points are chosen again under the fitted scale.
    const REFIT: Refit;

    /// The grid of the type.
    fn grid() -> &'static Grid<N>;

    /// The importance of a weight without an importance matrix. `spread` is `SPREAD` times the
    /// block's mean square.
    fn plain_importance(x: f32, spread: f32) -> f32;

    /// The start of the search in each sub-block of a batch.
    #[inline(always)]
    fn starts(subs: &[SubBlock<S>; BATCH]) -> [Start; BATCH] {
        let top = (2 * Grid::<N>::TOP + 1) as f32;
        let mut starts = [Start { scale: 0.0, reach: 0.0 }; BATCH];
        for (start, sub) in starts.iter_mut().zip(subs) {
            *start = Start { scale: sub.max / top, reach: sub.max };
        }
        starts
    }
}

/// The groups whose points are chosen again under the fitted scale.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refit {
    /// Groups whose rounded code was no point.
    Missed,
    /// All groups, if the rounded code of one was no point.
    AllIfMissed,
    /// All groups.
    All,
}

/// The magnitudes of a sub-block and the importance of each.
#[derive(Clone, Copy)]
pub(crate) struct SubBlock<const S: usize> {
    /// The magnitudes. One is negative where [`signs::make_even`] flipped its sign.
    pub x: [f32; S],
    /// The importance of each magnitude.
    pub importance: [f32; S],
    /// The signs, eight per byte.
    pub signs: [u8; 4],
    /// The largest magnitude.
    pub max: f32,
}

/// The start of a search.
#[derive(Clone, Copy)]
pub(crate) struct Start {
    /// The scale if no candidate fits.
    pub scale: f32,
    /// The magnitude that the middle scale maps to the highest level.
    pub reach: f32,
}

/// The result of a search in a sub-block.
#[derive(Clone, Copy)]
pub(crate) struct Fit {
    /// The scale: not negative, but possibly NaN.
    pub scale: f32,
    /// The index of each group's point.
    pub indices: [u16; GROUPS],
    /// The signs, eight per byte.
    pub signs: [u8; 4],
}

impl<const S: usize> SubBlock<S> {
    const ZERO: Self = Self { x: [0.0; S], importance: [0.0; S], signs: [0; 4], max: 0.0 };

    /// Sub-block `j` of a block, prepared for the search.
    #[inline(always)]
    pub(crate) fn new<F: Lattice<N, S>, const N: usize>(
        block: &[f32; 256],
        importance: Option<&[f32; 256]>,
        spread: f32,
        j: usize,
    ) -> Self {
        let weights = &block.as_chunks::<S>().0[j];
        let mut by_weight = [0.0; S];
        if let Some(importance) = importance {
            let columns = &importance.as_chunks::<S>().0[j];
            for i in 0..S {
                by_weight[i] = columns[i] * (spread + weights[i] * weights[i]).sqrt();
            }
        } else {
            for i in 0..S {
                by_weight[i] = F::plain_importance(weights[i], spread);
            }
        }
        let mut sub = Self { importance: by_weight, ..Self::ZERO };
        let (weights, _) = weights.as_chunks::<8>();
        let (magnitudes, _) = sub.x.as_chunks_mut::<8>();
        for (k, (weights, magnitudes)) in weights.iter().zip(magnitudes).enumerate() {
            sub.signs[k] = signs::split(weights, magnitudes);
            if F::EVEN_SIGNS {
                let importance = &sub.importance.as_chunks::<8>().0[k];
                sub.signs[k] = signs::make_even(weights, importance, magnitudes, sub.signs[k]);
            }
        }
        sub.max = sub.x[1..].iter().fold(sub.x[0], |max, &x| if max > x { max } else { x });
        sub
    }
}

/// The results of a block, ready to write.
pub(crate) struct Block {
    /// The fit of each sub-block; `None` for a sub-block of zeros.
    pub fits: [Option<Fit>; 16],
    /// The code of each scale.
    pub scales: [u8; 16],
    /// 1/31 of the largest scale; `None` if that is zero.
    pub d: Option<f32>,
}

/// Searches all sub-blocks of a block.
#[inline(always)]
fn fit_block<F: Lattice<N, S>, const N: usize, const S: usize>(
    grid: &Grid<N>,
    subs: &[SubBlock<S>],
    starts: &[Start],
    space: &mut Workspace,
) -> Block {
    let mut block = Block { fits: [None; 16], scales: [0; 16], d: None };
    let mut scales = [0.0; 16];
    let mut max = 0.0;
    for j in 0..subs.len() {
        if subs[j].max < F::NEGLIGIBLE || starts[j].reach <= 0.0 {
            continue;
        }
        let fit = fit::<F, N, S>(grid, &subs[j], starts[j], space);
        scales[j] = fit.scale;
        max = if max > fit.scale { max } else { fit.scale };
        block.fits[j] = Some(fit);
    }
    if max != 0.0 {
        let d = max / 31.0;
        block.d = Some(d);
        let inverse = 1.0 / d;
        for j in 0..subs.len() {
            block.scales[j] = nearest_int(0.5 * (inverse * scales[j] - 1.0)).clamp(0, 15) as u8;
        }
    }
    block
}

/// Searches and writes all blocks of some rows.
struct Encode<'a, F, const N: usize, const S: usize, const BYTES: usize> {
    format: PhantomData<F>,
    rows: Rows<'a>,
    out: &'a mut [u8],
}

/// A type on a grid whose blocks have `BYTES` bytes.
pub(crate) trait Pack<const N: usize, const S: usize, const BYTES: usize>:
    Lattice<N, S>
{
    /// Writes a block to `out`, which is filled with zeros.
    fn pack(block: &Block, out: &mut [u8; BYTES]);
}

impl<F, const N: usize, const S: usize, const BYTES: usize> Work for Encode<'_, F, N, S, BYTES>
where
    F: Pack<N, S, BYTES>,
{
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (blocks, _) = self.rows.values.as_chunks::<256>();
        let (outs, _) = self.out.as_chunks_mut::<BYTES>();
        let columns = self.rows.importance.map(|importance| importance.as_chunks::<256>().0);
        let blocks_per_row = self.rows.row_len / 256;
        let grid = F::grid();
        let mut space = Workspace::new(F::STEPS);
        let mut subs = [SubBlock::ZERO; BATCH];
        let (per_block, together) = (256 / S, BATCH * S / 256);
        for (batch, outs) in outs.chunks_mut(together).enumerate() {
            let first = batch * together;
            for (i, subs) in subs.chunks_mut(per_block).take(outs.len()).enumerate() {
                let importance = columns.map(|columns| &columns[(first + i) % blocks_per_row]);
                let spread = F::SPREAD * sum_of_squares(&blocks[first + i]) / 256.0;
                for (j, sub) in subs.iter_mut().enumerate() {
                    *sub = SubBlock::new::<F, N>(&blocks[first + i], importance, spread, j);
                }
            }
            let starts = F::starts(&subs);
            for (i, out) in outs.iter_mut().enumerate() {
                let range = i * per_block..(i + 1) * per_block;
                let (subs, starts) = (&subs[range.clone()], &starts[range]);
                let block = fit_block::<F, N, S>(grid, subs, starts, &mut space);
                *out = [0; BYTES];
                F::pack(&block, out);
            }
        }
    }
}

/// The sum of squares, left to right.
#[inline(always)]
fn sum_of_squares(values: &[f32; 256]) -> f32 {
    let mut sum = 0.0;
    for value in values {
        sum += value * value;
    }
    sum
}

/// [`crate::quants::codec::Codec::quantize`] for a type on a grid.
pub(crate) fn encode<F, const N: usize, const S: usize, const BYTES: usize>(
    level: Level,
    rows: Rows<'_>,
    out: &mut [u8],
) where
    F: Pack<N, S, BYTES>,
{
    level.run(Encode::<F, N, S, BYTES> { format: PhantomData, rows, out });
}
