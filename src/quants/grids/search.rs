//! The search for the scale, the signs and the grid points of each sub-block of an IQ type.
//!
//! A magnitude is approximated by `scale * (2 l + 1)`, l being a level of the group's point. A range of
//! scales is tried; under each, levels are rounded to, and a group whose code is no point takes the
//! best of its neighbours. The scales that are tried are lanes here, eight together: what is computed
//! for all of them is the same but for the scale, and the scales that give a group the same code
//! share one pass over its neighbours.

use super::super::codec::Rows;
use super::super::search::nearest_int;
use super::super::simd::{Level, Work};
use super::signs;
use super::{Grid, Place};
use std::marker::PhantomData;

/// Scales looked at together.
const LANES: usize = 8;
/// Most scales that are tried, and room for lanes past the last.
const WIDTH: usize = 32 + LANES;
/// Sub-blocks that are prepared together: whole blocks.
const BATCH: usize = 16;
/// Most groups in a sub-block.
const GROUPS: usize = 8;
/// Most levels of a grid.
const LEVELS: usize = 8;

type Lanes = [f32; LANES];
/// A value for each scale that is tried.
type Scales = [f32; WIDTH];
/// A code for each scale that is tried.
type Codes = [u32; WIDTH];

/// What is particular to a type: sub-blocks of `S` weights in groups of `N`.
pub(in super::super) trait Lattice<const N: usize, const S: usize> {
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
pub(in super::super) enum Refit {
    /// Those whose code was no point.
    Missed,
    /// All, if one's code was no point.
    AllIfMissed,
    /// All.
    All,
}

/// A sub-block's magnitudes and how much each matters.
#[derive(Clone, Copy)]
pub(in super::super) struct SubBlock<const S: usize> {
    pub x: [f32; S],
    pub importance: [f32; S],
    pub signs: [u8; 4],
    /// The largest magnitude.
    pub max: f32,
}

/// Where the search starts.
#[derive(Clone, Copy)]
pub(in super::super) struct Start {
    pub scale: f32,
    /// The magnitude that the middle of the range maps to the highest level.
    pub reach: f32,
}

/// What was found for a sub-block.
#[derive(Clone, Copy)]
pub(in super::super) struct Fit {
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
    pub fn new<F: Lattice<N, S>, const N: usize>(
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

/// The scales that are tried, and what depends on them alone. Lanes past the last hold anything.
struct Candidates {
    count: usize,
    inverse: Scales,
    /// Under each scale, what each level stands for.
    values: [[f32; 64]; LEVELS],
}

impl Candidates {
    fn new(steps: i32) -> Self {
        let count = (2 * steps + 1) as usize;
        Self { count, inverse: [0.0; WIDTH], values: [[0.0; 64]; LEVELS] }
    }

    /// Sets the scales to those around the one that maps `reach` to the level `top`.
    #[inline(always)]
    fn set(&mut self, steps: i32, step: f32, top: i32, reach: f32) {
        for chunk in 0..self.chunks() {
            let inverse = &mut self.inverse.as_chunks_mut::<LANES>().0[chunk];
            let mut scale = [0.0; LANES];
            for k in 0..LANES {
                let away = (chunk * LANES + k) as i32 - steps;
                inverse[k] = ((2 * top + 1) as f32 + away as f32 * step) / reach;
                scale[k] = 1.0 / inverse[k];
            }
            for level in 0..=top as usize {
                let values = &mut self.values[level].as_chunks_mut::<LANES>().0[chunk];
                for k in 0..LANES {
                    values[k] = scale[k] * (2 * level + 1) as f32;
                }
            }
        }
    }

    /// Whole chunks of lanes that hold all scales.
    #[inline(always)]
    fn chunks(&self) -> usize {
        self.count.div_ceil(LANES)
    }
}

/// What searching a sub-block fills anew, kept to save clearing it.
struct Workspace<const N: usize> {
    candidates: Candidates,
    /// The codes of all groups under each candidate.
    rounded: [Codes; GROUPS],
    /// And the grid points that they were taken to.
    chosen: [Codes; GROUPS],
    losses: Losses<N>,
}

impl<const N: usize> Workspace<N> {
    fn new(steps: i32) -> Self {
        let codes = [[0; WIDTH]; GROUPS];
        let losses = Losses([[[0.0; WIDTH]; 4]; N]);
        Self { candidates: Candidates::new(steps), rounded: codes, chosen: codes, losses }
    }
}

/// Searches one sub-block.
#[inline(always)]
fn fit<F: Lattice<N, S>, const N: usize, const S: usize>(
    grid: &Grid<N>,
    sub: &SubBlock<S>,
    start: Start,
    space: &mut Workspace<N>,
) -> Fit {
    let mut roots = [0.0; S];
    for i in 0..S {
        roots[i] = sub.importance[i].sqrt();
    }
    let Workspace { candidates, rounded, chosen, losses } = space;
    candidates.set(F::STEPS, F::STEP, Grid::<N>::TOP, start.reach);
    for (g, (x, roots)) in groups::<N, S>(&sub.x, &roots).enumerate() {
        round(x, candidates, &mut rounded[g]);
        choose(grid, Group { x, roots }, candidates, &rounded[g], losses, &mut chosen[g]);
    }
    let (mut scale, best) = best_candidate::<N, S>(sub, candidates, chosen, start.scale);
    let mut codes = [0; GROUPS];
    let mut missed = [F::REFIT != Refit::Missed; GROUPS];
    if let Some(c) = best {
        for g in 0..S / N {
            codes[g] = chosen[g][c];
            missed[g] = chosen[g][c] != rounded[g][c];
        }
    }
    if F::REFIT == Refit::All || F::REFIT == Refit::AllIfMissed && missed[..S / N].contains(&true) {
        missed = [true; GROUPS];
    }
    if missed[..S / N].contains(&true) && scale > 0.0 {
        refit(grid, sub, &roots, &missed, &mut scale, &mut codes);
    }
    finish(grid, sub, scale, &codes)
}

#[inline(always)]
fn groups<'a, const N: usize, const S: usize>(
    x: &'a [f32; S],
    roots: &'a [f32; S],
) -> impl Iterator<Item = (&'a [f32; N], &'a [f32; N])> {
    x.as_chunks::<N>().0.iter().zip(roots.as_chunks::<N>().0)
}

/// A group's magnitudes and the roots of how much they matter.
#[derive(Clone, Copy)]
struct Group<'a, const N: usize> {
    x: &'a [f32; N],
    roots: &'a [f32; N],
}

/// The code of a group's rounded levels under each scale.
#[inline(always)]
fn round<const N: usize>(x: &[f32; N], candidates: &Candidates, codes: &mut Codes) {
    let inverses = candidates.inverse.as_chunks::<LANES>().0;
    let chunks = codes.as_chunks_mut::<LANES>().0;
    for (inverse, codes) in inverses.iter().zip(chunks).take(candidates.chunks()) {
        let mut sum = [0; LANES];
        for i in 0..N {
            let mut levels = [0; LANES];
            for k in 0..LANES {
                levels[k] = nearest_int(0.5 * (inverse[k] * x[i] - 1.0)).clamp(0, Grid::<N>::TOP);
            }
            for k in 0..LANES {
                sum[k] |= (levels[k] as u32) << (Grid::<N>::BITS * i);
            }
        }
        *codes = sum;
    }
}

/// Goes from codes to grid points, each under its scale. As scales change little by little, a code
/// mostly stays for several, and its neighbours are looked at under all of these together.
#[inline(always)]
fn choose<const N: usize>(
    grid: &Grid<N>,
    group: Group<N>,
    candidates: &Candidates,
    rounded: &Codes,
    losses: &mut Losses<N>,
    chosen: &mut Codes,
) {
    if N == 8 {
        losses.fill(group, candidates);
    }
    let count = candidates.count;
    let mut changes = 1u64 << count;
    for c in 1..count {
        changes |= u64::from(rounded[c] != rounded[c - 1]) << c;
    }
    let mut start = 0;
    while start < count {
        let end = changes.trailing_zeros() as usize;
        changes &= changes.wrapping_sub(1);
        let code = rounded[start];
        let place = grid.place(code as usize);
        // Lanes past the end are written anew by what follows.
        while start < end {
            let lanes = start.min(WIDTH - LANES);
            let best = match place {
                Place::Point(_) => [code; LANES],
                Place::Neighbours(list) if N == 8 => best_of(grid, list, losses, lanes),
                Place::Neighbours(list) => best_of(grid, list, &(group, candidates), lanes),
            };
            chosen[lanes..lanes + LANES].copy_from_slice(&best);
            start += LANES;
        }
        start = end;
    }
}

/// How far points are from a group's magnitudes.
trait Loss {
    /// The loss of a point under the eight scales from `start` on. Not a closure, since those are not
    /// inlined always.
    fn of(&self, code: u32, start: usize) -> Lanes;
}

impl<const N: usize> Loss for (Group<'_, N>, &Candidates) {
    #[inline(always)]
    fn of(&self, code: u32, start: usize) -> Lanes {
        let &(group, candidates) = self;
        let mut loss = [0.0; LANES];
        for i in 0..N {
            let level = (code as usize >> (Grid::<N>::BITS * i)) % (1 << Grid::<N>::BITS);
            let values = &candidates.values[level % LEVELS][start..start + LANES];
            for k in 0..LANES {
                let off = values[k] - group.x[i];
                loss[k] += group.roots[i] * off * off;
            }
        }
        loss
    }
}

/// The loss of each level of each weight of a group, under each scale: for grids of many neighbours.
struct Losses<const N: usize>([[Scales; 4]; N]);

impl<const N: usize> Losses<N> {
    #[inline(always)]
    fn fill(&mut self, group: Group<N>, candidates: &Candidates) {
        for i in 0..N {
            for level in 0..=Grid::<N>::TOP as usize % 4 {
                let out = self.0[i][level].as_chunks_mut::<LANES>().0;
                let values = candidates.values[level].as_chunks::<LANES>().0;
                for (out, values) in out.iter_mut().zip(values).take(candidates.chunks()) {
                    for k in 0..LANES {
                        let off = values[k] - group.x[i];
                        out[k] = group.roots[i] * off * off;
                    }
                }
            }
        }
    }
}

impl<const N: usize> Loss for Losses<N> {
    #[inline(always)]
    fn of(&self, code: u32, start: usize) -> Lanes {
        let mut loss = [0.0; LANES];
        for i in 0..N {
            let level = (code as usize >> (Grid::<N>::BITS * i)) % 4;
            let losses = &self.0[i][level][start..start + LANES];
            for k in 0..LANES {
                loss[k] += losses[k];
            }
        }
        loss
    }
}

/// The code of the first neighbour of least loss under each of eight scales (`iq2_find_best_neighbour`,
/// `iq3_find_best_neighbour`); the first of all where no loss is a number.
#[inline(always)]
fn best_of<const N: usize>(
    grid: &Grid<N>,
    neighbours: &[u16],
    losses: &impl Loss,
    start: usize,
) -> [u32; LANES] {
    let mut least = [f32::MAX; LANES];
    let mut best = [neighbours.first().map_or(0, |&index| grid.code(index)); LANES];
    for &index in neighbours {
        let code = grid.code(index);
        let loss = losses.of(code, start);
        let mut less = [0u32; LANES];
        for k in 0..LANES {
            less[k] = if loss[k] < least[k] { u32::MAX } else { 0 };
        }
        for k in 0..LANES {
            best[k] = (code & less[k]) | (best[k] & !less[k]);
        }
        for k in 0..LANES {
            least[k] = if loss[k] < least[k] { loss[k] } else { least[k] };
        }
    }
    best
}

/// Fits a scale to the codes under each candidate. Returns the scale of the best and its number, or
/// `scale` if there is none.
#[inline(always)]
fn best_candidate<const N: usize, const S: usize>(
    sub: &SubBlock<S>,
    candidates: &Candidates,
    chosen: &[Codes; GROUPS],
    mut scale: f32,
) -> (f32, Option<usize>) {
    let (mut gain, mut best) = (0.0, None);
    for chunk in 0..candidates.chunks() {
        let (xq, q2) = sums::<N, S>(sub, chosen, chunk);
        for k in 0..LANES.min(candidates.count - chunk * LANES) {
            if q2[k] > 0.0 && xq[k] * xq[k] > gain * q2[k] {
                scale = xq[k] / q2[k];
                gain = scale * xq[k];
                best = Some(chunk * LANES + k);
            }
        }
    }
    (scale, best)
}

/// Weighted sums of x q and of q^2 under each candidate of a chunk.
#[inline(always)]
fn sums<const N: usize, const S: usize>(
    sub: &SubBlock<S>,
    chosen: &[Codes; GROUPS],
    chunk: usize,
) -> (Lanes, Lanes) {
    let (mut xq, mut q2) = ([0.0; LANES], [0.0; LANES]);
    for g in 0..S / N {
        let codes = chosen[g].as_chunks::<LANES>().0[chunk];
        for i in 0..N {
            let (w, x) = (sub.importance[N * g + i], sub.x[N * g + i]);
            let mut q = [0.0; LANES];
            for k in 0..LANES {
                q[k] = odd::<N>(codes[k], i);
            }
            for k in 0..LANES {
                xq[k] += w * x * q[k];
            }
            for k in 0..LANES {
                q2[k] += w * q[k] * q[k];
            }
        }
    }
    (xq, q2)
}

/// 2 l + 1 of the level at `i` of a code.
#[inline(always)]
fn odd<const N: usize>(code: u32, i: usize) -> f32 {
    let mask = (2 << Grid::<N>::BITS) - 2;
    ((code << 1 >> (Grid::<N>::BITS * i)) & mask | 1) as i32 as f32
}

/// Chooses the points of `missed` groups again, under the fitted scale, then fits the scale again.
#[inline(always)]
fn refit<const N: usize, const S: usize>(
    grid: &Grid<N>,
    sub: &SubBlock<S>,
    roots: &[f32; S],
    missed: &[bool; GROUPS],
    scale: &mut f32,
    codes: &mut [u32; GROUPS],
) {
    let inverse = 1.0 / *scale;
    for (g, (x, roots)) in groups::<N, S>(&sub.x, roots).enumerate().filter(|(g, _)| missed[*g]) {
        let mut code = 0;
        for i in 0..N {
            let level = nearest_int(0.5 * (inverse * x[i] - 1.0)).clamp(0, Grid::<N>::TOP);
            code |= (level as u32) << (Grid::<N>::BITS * i);
        }
        codes[g] = match grid.place(code as usize) {
            Place::Point(_) => code,
            Place::Neighbours(neighbours) => best_neighbour(grid, x, roots, *scale, neighbours),
        };
    }
    let (mut xq, mut q2) = (0.0, 0.0);
    for i in 0..S {
        let (w, q) = (sub.importance[i], odd::<N>(codes[i / N], i % N));
        xq += w * sub.x[i] * q;
        q2 += w * q * q;
    }
    if q2 > 0.0 {
        *scale = xq / q2;
    }
}

/// [`best_of`] for one scale.
#[inline(always)]
fn best_neighbour<const N: usize>(
    grid: &Grid<N>,
    x: &[f32; N],
    roots: &[f32; N],
    scale: f32,
    neighbours: &[u16],
) -> u32 {
    let mut terms = [[0.0; LEVELS]; N];
    for i in 0..N {
        for level in 0..LEVELS {
            let off = scale * (2 * level + 1) as f32 - x[i];
            terms[i][level] = roots[i] * off * off;
        }
    }
    let mut least = f32::MAX;
    let mut best = neighbours.first().map_or(0, |&index| grid.code(index));
    for &index in neighbours {
        let code = grid.code(index);
        let mut loss = 0.0;
        for i in 0..N {
            loss += terms[i][(code as usize >> (Grid::<N>::BITS * i)) % (1 << Grid::<N>::BITS)];
        }
        (least, best) = if loss < least { (loss, code) } else { (least, best) };
    }
    best
}

/// Makes the scale positive and looks up the points.
#[inline(always)]
fn finish<const N: usize, const S: usize>(
    grid: &Grid<N>,
    sub: &SubBlock<S>,
    scale: f32,
    codes: &[u32; GROUPS],
) -> Fit {
    let mut fit = Fit { scale, indices: [0; GROUPS], signs: sub.signs };
    if scale < 0.0 {
        fit.scale = -scale;
        fit.signs = sub.signs.map(|signs| !signs);
    }
    for g in 0..S / N {
        if let Place::Point(index) = grid.place(codes[g] as usize) {
            fit.indices[g] = index as u16;
        }
    }
    fit
}

/// A block's fits, `None` for a sub-block of zeros, and the scales' codes.
pub(in super::super) struct Block {
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
    space: &mut Workspace<N>,
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
pub(in super::super) trait Pack<const N: usize, const S: usize, const BYTES: usize>:
    Lattice<N, S>
{
    /// Fills all of `out`, which is zero.
    fn pack(block: &Block, out: &mut [u8; BYTES]);
}

impl<F, const N: usize, const S: usize, const BYTES: usize> Work for Encode<'_, F, N, S, BYTES>
where
    F: Pack<N, S, BYTES>,
{
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

/// [`super::super::codec::Codec::quantize`] for a type whose blocks are searched here.
pub(in super::super) fn encode<F, const N: usize, const S: usize, const BYTES: usize>(
    level: Level,
    rows: Rows,
    out: &mut [u8],
) where
    F: Pack<N, S, BYTES>,
{
    level.run(Encode::<F, N, S, BYTES> { format: PhantomData, rows, out });
}
