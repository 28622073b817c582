//! The search for the scale and the grid points of a sub-block of an IQ type.
//!
//! A magnitude is approximated by `scale * (2 l + 1)`, where l is a level of its group's point. For
//! each of a range of scales, magnitudes are rounded to levels, groups whose code is no point move
//! to the best neighbour, and a scale is fitted to the codes by least squares. The points of the
//! best fit are then chosen again under the fitted scale.

use super::candidates::{
    Candidates, Codes, Group, LANES, LEVELS, Lanes, Losses, WIDTH, best_of_long, choose, round,
};
use super::lattice::{Fit, Lattice, Refit, Start, SubBlock};
use super::{Grid, Neighbours, Place};
use crate::quants::search::nearest_int;

/// The maximum number of groups in a sub-block.
pub(super) const GROUPS: usize = 8;

/// Buffers that every search overwrites, reused to avoid clearing them.
pub(super) struct Workspace {
    /// The scales to try.
    candidates: Candidates,
    /// The rounded codes of all groups under each candidate.
    rounded: [Codes; GROUPS],
    /// The codes of the points that the groups moved to.
    chosen: [Codes; GROUPS],
}

impl Workspace {
    /// Buffers for searches with `steps` scales on either side of the middle.
    pub(super) fn new(steps: i32) -> Self {
        let codes = [[0; WIDTH]; GROUPS];
        Self { candidates: Candidates::new(steps), rounded: codes, chosen: codes }
    }
}

/// Searches one sub-block.
#[inline(always)]
pub(super) fn fit<F: Lattice<N, S>, const N: usize, const S: usize>(
    grid: &Grid<N>,
    sub: &SubBlock<S>,
    start: Start,
    space: &mut Workspace,
) -> Fit {
    let mut roots = [0.0; S];
    for i in 0..S {
        roots[i] = sub.importance[i].sqrt();
    }
    let Workspace { candidates, rounded, chosen } = space;
    candidates.set(F::STEPS, F::STEP, Grid::<N>::TOP, start.reach);
    for (g, (x, roots)) in groups::<N, S>(&sub.x, &roots).enumerate() {
        round(x, candidates, &mut rounded[g]);
        choose(grid, Group { x, roots }, candidates, &rounded[g], &mut chosen[g]);
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

/// The magnitudes of each group, with the roots of their importance.
#[inline(always)]
fn groups<'a, const N: usize, const S: usize>(
    x: &'a [f32; S],
    roots: &'a [f32; S],
) -> impl Iterator<Item = (&'a [f32; N], &'a [f32; N])> {
    x.as_chunks::<N>().0.iter().zip(roots.as_chunks::<N>().0)
}

/// Fits a scale to the codes under each candidate. Returns the best scale and the number of its
/// candidate, or `scale` if no candidate fits.
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

/// The weighted sums of x q and of q^2 under each candidate of a chunk.
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

/// 2 l + 1, where l is level `i` of a code.
#[inline(always)]
fn odd<const N: usize>(code: u32, i: usize) -> f32 {
    let mask = (2 << Grid::<N>::BITS) - 2;
    ((code << 1 >> (Grid::<N>::BITS * i)) & mask | 1) as i32 as f32
}

/// Chooses the points of `missed` groups again under the fitted scale, then fits the scale again.
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
            Place::Neighbours(list) => best_neighbour(x, roots, *scale, list, codes[g]),
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

/// The best neighbour under a single scale. `guess` is likely to be it.
#[inline(always)]
fn best_neighbour<const N: usize>(
    x: &[f32; N],
    roots: &[f32; N],
    scale: f32,
    list: Neighbours<'_>,
    guess: u32,
) -> u32 {
    if N == 8 {
        let mut values = [[0.0; LANES]; LEVELS];
        for level in 0..4 {
            values[level] = [scale * (2 * level + 1) as f32; LANES];
        }
        return best_of_long(list, &Losses::new(Group { x, roots }, &values, 0), 1, Some(guess))[0];
    }
    let mut terms = [[0.0; LEVELS]; N];
    for i in 0..N {
        for level in 0..LEVELS {
            let off = scale * (2 * level + 1) as f32 - x[i];
            terms[i][level] = roots[i] * off * off;
        }
    }
    let mut least = f32::MAX;
    let mut best = list.codes().first().map_or(0, |&code| u32::from(code));
    for &code in list.codes() {
        let mut loss = 0.0;
        for i in 0..N {
            let level = usize::from(code) >> (Grid::<N>::BITS * i);
            loss += terms[i][level % (1 << Grid::<N>::BITS)];
        }
        (least, best) = if loss < least { (loss, u32::from(code)) } else { (least, best) };
    }
    best
}

/// Makes the scale positive and looks up the indices of the points.
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
