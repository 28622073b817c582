//! The scales that the search tries, and the grid points of a group under each of them.
//!
//! The scales are lanes here, eight together: what is computed for all of them is the same but for
//! the scale, and the scales that give a group the same code share one pass over its neighbours. Each
//! lane does the operations of the scalar algorithm in their order.

use super::super::search::nearest_int;
use super::{Grid, Place};

/// Scales looked at together.
pub(super) const LANES: usize = 8;
/// Most scales that are tried, and room for lanes past the last.
pub(super) const WIDTH: usize = 32 + LANES;
/// Most levels of a grid.
pub(super) const LEVELS: usize = 8;

/// A value for each of eight scales.
pub(super) type Lanes = [f32; LANES];
/// A value for each scale that is tried.
type Scales = [f32; WIDTH];
/// A code for each scale that is tried.
pub(super) type Codes = [u32; WIDTH];

/// The scales that are tried, and what depends on them alone. Lanes past the last hold anything.
pub(super) struct Candidates {
    pub count: usize,
    inverse: Scales,
    /// Under each scale, what each level stands for.
    values: [[f32; 64]; LEVELS],
}

impl Candidates {
    pub fn new(steps: i32) -> Self {
        let count = (2 * steps + 1) as usize;
        Self { count, inverse: [0.0; WIDTH], values: [[0.0; 64]; LEVELS] }
    }

    /// Sets the scales to those around the one that maps `reach` to the level `top`.
    #[inline(always)]
    pub fn set(&mut self, steps: i32, step: f32, top: i32, reach: f32) {
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
    pub fn chunks(&self) -> usize {
        self.count.div_ceil(LANES)
    }
}

/// A group's magnitudes and the roots of how much they matter.
#[derive(Clone, Copy)]
pub(super) struct Group<'a, const N: usize> {
    pub x: &'a [f32; N],
    pub roots: &'a [f32; N],
}

/// The code of a group's rounded levels under each scale.
#[inline(always)]
pub(super) fn round<const N: usize>(x: &[f32; N], candidates: &Candidates, codes: &mut Codes) {
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
pub(super) fn choose<const N: usize>(
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
pub(super) struct Losses<const N: usize>([[Scales; 4]; N]);

impl<const N: usize> Losses<N> {
    pub fn new() -> Self {
        Self([[[0.0; WIDTH]; 4]; N])
    }

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
