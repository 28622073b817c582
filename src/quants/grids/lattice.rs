//! What the IQ types have in common: from rows of weights to sub-blocks, and from what was found for
//! these to blocks. What they differ in is [`Lattice`] and [`Pack`].

use super::search::{GROUPS, Workspace, fit};
use super::{Grid, signs};
use crate::base::simd::{Level, Work};
use crate::quants::codec::Rows;
use crate::quants::search::nearest_int;
use std::marker::PhantomData;

/// Sub-blocks that are prepared together: whole blocks.
const BATCH: usize = 16;

/// What is particular to a type: sub-blocks of `S` weights in groups of `N`.
pub(crate) trait Lattice<const N: usize, const S: usize> {
    /// Scales are tried up to this many steps from the middle, on either side.
    const STEPS: i32;
    /// A step, in units of the highest level's 2 l + 1.
    const STEP: f32;
    /// A sub-block whose largest magnitude is below this counts as zero.
    const NEGLIGIBLE: f32;
    /// How much of the block's mean square counts beside a weight's own square.
    const SPREAD: f32;
    /// Whether signs have even parity.
    const EVEN_SIGNS: bool;
    /// The final fit: whether points that were their group's own code are chosen again.
    const REFIT: Refit;

    fn grid() -> &'static Grid<N>;

    /// The importance of a weight where no matrix gives it; `spread` is `SPREAD` times the mean square.
    fn plain_importance(x: f32, spread: f32) -> f32;

    /// Where the search of each sub-block of a batch starts.
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

/// Which groups have their point chosen again under the fitted scale.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refit {
    /// Those whose code was no point.
    Missed,
    /// All, if one's code was no point.
    AllIfMissed,
    /// All.
    All,
}

/// A sub-block's magnitudes and how much each matters.
#[derive(Clone, Copy)]
pub(crate) struct SubBlock<const S: usize> {
    pub x: [f32; S],
    pub importance: [f32; S],
    pub signs: [u8; 4],
    /// The largest magnitude.
    pub max: f32,
}

/// Where the search starts.
#[derive(Clone, Copy)]
pub(crate) struct Start {
    pub scale: f32,
    /// The magnitude that the middle of the range maps to the highest level.
    pub reach: f32,
}

/// What was found for a sub-block.
#[derive(Clone, Copy)]
pub(crate) struct Fit {
    /// Not negative (nor is it surely a number).
    pub scale: f32,
    /// Index of each group's point.
    pub indices: [u16; GROUPS],
    /// Signs, eight a byte.
    pub signs: [u8; 4],
}

impl<const S: usize> SubBlock<S> {
    const ZERO: Self = Self { x: [0.0; S], importance: [0.0; S], signs: [0; 4], max: 0.0 };

    /// Sub-block `j` of a block whose spread is given.
    #[inline(always)]
    pub(crate) fn new<F: Lattice<N, S>, const N: usize>(
        block: &[f32; 256],
        importance: Option<&[f32; 256]>,
        spread: f32,
        j: usize,
    ) -> Self {
        let weights = &block.as_chunks::<S>().0[j];
        let mut own = [0.0; S];
        if let Some(importance) = importance {
            let columns = &importance.as_chunks::<S>().0[j];
            for i in 0..S {
                own[i] = columns[i] * (spread + weights[i] * weights[i]).sqrt();
            }
        } else {
            for i in 0..S {
                own[i] = F::plain_importance(weights[i], spread);
            }
        }
        let mut sub = Self { importance: own, ..Self::ZERO };
        let (weights, _) = weights.as_chunks::<8>();
        let (magnitudes, _) = sub.x.as_chunks_mut::<8>();
        for (k, (weights, magnitudes)) in weights.iter().zip(magnitudes).enumerate() {
            sub.signs[k] = signs::split(weights, magnitudes);
            if F::EVEN_SIGNS {
                let own = &sub.importance.as_chunks::<8>().0[k];
                sub.signs[k] = signs::make_even(weights, own, magnitudes, sub.signs[k]);
            }
        }
        sub.max = sub.x[1..].iter().fold(sub.x[0], |max, &x| if max > x { max } else { x });
        sub
    }
}

/// A block's fits, `None` for a sub-block of zeros, and the scales' codes.
pub(crate) struct Block {
    pub fits: [Option<Fit>; 16],
    pub scales: [u8; 16],
    /// A 31st of the largest scale; `None` if that is zero.
    pub d: Option<f32>,
}

/// Searches the sub-blocks of a block.
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

struct Encode<'a, F, const N: usize, const S: usize, const BYTES: usize> {
    format: PhantomData<F>,
    rows: Rows<'a>,
    out: &'a mut [u8],
}

/// A type whose blocks are searched here and then written to `BYTES` bytes.
pub(crate) trait Pack<const N: usize, const S: usize, const BYTES: usize>:
    Lattice<N, S>
{
    /// Fills all of `out`, which is zero.
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

#[inline(always)]
fn sum_of_squares(values: &[f32; 256]) -> f32 {
    let mut sum = 0.0;
    for value in values {
        sum += value * value;
    }
    sum
}

/// [`crate::quants::codec::Codec::quantize`] for a type whose blocks are searched here.
pub(crate) fn encode<F, const N: usize, const S: usize, const BYTES: usize>(
    level: Level,
    rows: Rows<'_>,
    out: &mut [u8],
) where
    F: Pack<N, S, BYTES>,
{
    level.run(Encode::<F, N, S, BYTES> { format: PhantomData, rows, out });
}
