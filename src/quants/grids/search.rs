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

/// Scales tried together.
const LANES: usize = 8;
/// Most chunks of lanes that a type needs.
const CHUNKS: usize = 4;
/// Most groups in a sub-block.
const GROUPS: usize = 8;
/// Most levels of a grid.
const LEVELS: usize = 8;

type Lanes = [f32; LANES];
type Codes = [u32; LANES];

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

    /// Where the search of each sub-block starts.
    #[inline(always)]
    fn starts(subs: &[SubBlock<S>; 16]) -> [Start; 16] {
        let top = (2 * Grid::<N>::TOP + 1) as f32;
        std::array::from_fn(|j| Start { scale: subs[j].max / top, reach: subs[j].max })
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
        let mut sub = Self { x: [0.0; S], importance: own, signs: [0; 4], max: 0.0 };
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

/// The scales that are tried: their inverses and themselves.
struct Candidates {
    count: usize,
    chunks: usize,
    inverse: [Lanes; CHUNKS],
    scale: [Lanes; CHUNKS],
}

impl Candidates {
    #[inline(always)]
    fn new(steps: i32, step: f32, top: i32, reach: f32) -> Self {
        let count = (2 * steps + 1) as usize;
        let chunks = count.div_ceil(LANES);
        let mut all = Self { count, chunks, inverse: [[0.0; LANES]; 4], scale: [[0.0; LANES]; 4] };
        for chunk in 0..chunks {
            for k in 0..LANES {
                // Lanes past the last candidate repeat it.
                let c = ((chunk * LANES + k) as i32).min(2 * steps) - steps;
                all.inverse[chunk][k] = ((2 * top + 1) as f32 + c as f32 * step) / reach;
                all.scale[chunk][k] = 1.0 / all.inverse[chunk][k];
            }
        }
        all
    }
}

/// Searches one sub-block.
#[inline(always)]
pub(in super::super) fn fit<F: Lattice<N, S>, const N: usize, const S: usize>(
    grid: &Grid<N>,
    sub: &SubBlock<S>,
    start: Start,
) -> Fit {
    let mut roots = [0.0; S];
    for i in 0..S {
        roots[i] = sub.importance[i].sqrt();
    }
    let candidates = Candidates::new(F::STEPS, F::STEP, Grid::<N>::TOP, start.reach);
    // The codes of all groups under each candidate, before and after going to a grid point.
    let mut rounded = [[[0; LANES]; CHUNKS]; GROUPS];
    let mut chosen = [[[0; LANES]; CHUNKS]; GROUPS];
    for (g, (x, roots)) in groups::<N, S>(&sub.x, &roots).enumerate() {
        for chunk in 0..candidates.chunks {
            let (inverse, scale) = (&candidates.inverse[chunk], &candidates.scale[chunk]);
            rounded[g][chunk] = round(x, inverse);
            chosen[g][chunk] = choose(grid, x, roots, scale, &rounded[g][chunk]);
        }
    }
    let (mut scale, best) = best_candidate::<N, S>(sub, &candidates, &chosen, start.scale);
    let mut codes = [0; GROUPS];
    let mut missed = [F::REFIT != Refit::Missed; GROUPS];
    if let Some(c) = best {
        let (chunk, k) = (c / LANES, c % LANES);
        for g in 0..S / N {
            codes[g] = chosen[g][chunk][k];
            missed[g] = chosen[g][chunk][k] != rounded[g][chunk][k];
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

/// The code of a group's rounded levels under each of the inverse scales.
#[inline(always)]
fn round<const N: usize>(x: &[f32; N], inverse: &Lanes) -> Codes {
    let mut codes = [0; LANES];
    for i in 0..N {
        for k in 0..LANES {
            let level = nearest_int(0.5 * (inverse[k] * x[i] - 1.0)).clamp(0, Grid::<N>::TOP);
            codes[k] |= (level as u32) << (Grid::<N>::BITS * i);
        }
    }
    codes
}

/// Goes from codes to grid points, each under its scale.
#[inline(always)]
fn choose<const N: usize>(
    grid: &Grid<N>,
    x: &[f32; N],
    roots: &[f32; N],
    scale: &Lanes,
    rounded: &Codes,
) -> Codes {
    let mut chosen = *rounded;
    let mut terms = None;
    let mut k = 0;
    while k < LANES {
        let code = rounded[k];
        let end = k + rounded[k..].iter().take_while(|&&other| other == code).count();
        if let Place::Neighbours(neighbours) = grid.place(code as usize) {
            let terms = terms.get_or_insert_with(|| Terms::new(x, roots, scale));
            let best = terms.best(grid, neighbours);
            chosen[k..end].copy_from_slice(&best[k..end]);
        }
        k = end;
    }
    chosen
}

/// The loss of each level of each weight of a group, under each scale.
struct Terms<const N: usize>([[Lanes; LEVELS]; N]);

impl<const N: usize> Terms<N> {
    #[inline(always)]
    fn new(x: &[f32; N], roots: &[f32; N], scale: &Lanes) -> Self {
        let mut terms = [[[0.0; LANES]; LEVELS]; N];
        for i in 0..N {
            for level in 0..=Grid::<N>::TOP as usize {
                for k in 0..LANES {
                    let off = scale[k] * (2 * level + 1) as f32 - x[i];
                    terms[i][level][k] = roots[i] * off * off;
                }
            }
        }
        Self(terms)
    }

    /// The code of the first neighbour of least loss (`iq2_find_best_neighbour`,
    /// `iq3_find_best_neighbour`); the first of all where no loss is a number.
    #[inline(always)]
    fn best(&self, grid: &Grid<N>, neighbours: &[u16]) -> Codes {
        let mut least = [f32::MAX; LANES];
        let mut best = [neighbours.first().map_or(0, |&index| grid.code(index)); LANES];
        for &index in neighbours {
            let code = grid.code(index);
            let mut loss = [0.0; LANES];
            for i in 0..N {
                let level = (code as usize >> (Grid::<N>::BITS * i)) % (1 << Grid::<N>::BITS);
                for k in 0..LANES {
                    loss[k] += self.0[i][level][k];
                }
            }
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
}

/// Fits a scale to the codes under each candidate. Returns the scale of the best and its number, or
/// `scale` if there is none.
#[inline(always)]
fn best_candidate<const N: usize, const S: usize>(
    sub: &SubBlock<S>,
    candidates: &Candidates,
    chosen: &[[Codes; CHUNKS]; GROUPS],
    mut scale: f32,
) -> (f32, Option<usize>) {
    let mut xq = [[0.0; LANES]; CHUNKS];
    let mut q2 = [[0.0; LANES]; CHUNKS];
    for g in 0..S / N {
        for i in 0..N {
            let (w, x) = (sub.importance[N * g + i], sub.x[N * g + i]);
            for chunk in 0..candidates.chunks {
                for k in 0..LANES {
                    let q = odd::<N>(chosen[g][chunk][k], i);
                    xq[chunk][k] += w * x * q;
                    q2[chunk][k] += w * q * q;
                }
            }
        }
    }
    let (mut gain, mut best) = (0.0, None);
    for c in 0..candidates.count {
        let (xq, q2) = (xq[c / LANES][c % LANES], q2[c / LANES][c % LANES]);
        if q2 > 0.0 && xq * xq > gain * q2 {
            scale = xq / q2;
            gain = scale * xq;
            best = Some(c);
        }
    }
    (scale, best)
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

/// [`Terms::best`] for one scale.
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

/// Searches a block. `start` gives the search of each sub-block its start.
#[inline(always)]
pub(in super::super) fn fit_block<F: Lattice<N, S>, const N: usize, const S: usize>(
    weights: &[f32; 256],
    importance: Option<&[f32; 256]>,
) -> Block {
    let grid = F::grid();
    let spread = F::SPREAD * weights.iter().fold(0.0, |sum, x| sum + x * x) / 256.0;
    let mut block = Block { fits: [None; 16], scales: [0; 16], d: None };
    let subs: [SubBlock<S>; 16] =
        std::array::from_fn(|j| SubBlock::new::<F, N>(weights, importance, spread, j % (256 / S)));
    let starts = F::starts(&subs);
    let mut scales = [0.0; 16];
    let mut max = 0.0;
    for j in 0..256 / S {
        if subs[j].max < F::NEGLIGIBLE || starts[j].reach <= 0.0 {
            continue;
        }
        let fit = fit::<F, N, S>(grid, &subs[j], starts[j]);
        scales[j] = fit.scale;
        max = if max > fit.scale { max } else { fit.scale };
        block.fits[j] = Some(fit);
    }
    if max != 0.0 {
        let d = max / 31.0;
        block.d = Some(d);
        let inverse = 1.0 / d;
        for j in 0..256 / S {
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
        for (i, (weights, out)) in blocks.iter().zip(outs).enumerate() {
            let importance = columns.map(|columns| &columns[i % blocks_per_row]);
            let block = fit_block::<F, N, S>(weights, importance);
            *out = [0; BYTES];
            F::pack(&block, out);
        }
    }
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
