//! The scales that a search tries, and the grid points of a group under each of them.
//!
//! Here the scales are the lanes, eight at a time: they share all computations that do not depend
//! on the scale, and scales under which a group has the same code share one pass over its
//! neighbours. Each lane performs the operations of the scalar algorithm in their order.

use super::{Grid, Neighbours, Place, TOGETHER};
use crate::quants::search::nearest_int;

/// The number of scales that are computed together.
pub(super) const LANES: usize = 8;
/// The maximum number of scales, with room for lanes past the last.
pub(super) const WIDTH: usize = 32 + LANES;
/// The maximum number of levels in a grid.
pub(super) const LEVELS: usize = 8;

/// A value for each of eight scales.
pub(super) type Lanes = [f32; LANES];
/// A value for each scale that is tried.
type Scales = [f32; WIDTH];
/// A code for each scale that is tried.
pub(super) type Codes = [u32; WIDTH];

/// The scales to try, and values that depend only on them. Lanes past the last are arbitrary.
pub(super) struct Candidates {
    /// The number of scales.
    pub count: usize,
    /// The inverse of each scale.
    inverse: Scales,
    /// The value of each level under each scale.
    values: [[f32; 64]; LEVELS],
}

impl Candidates {
    /// Room for `steps` scales on either side of the middle.
    pub(super) fn new(steps: i32) -> Self {
        let count = (2 * steps + 1) as usize;
        Self { count, inverse: [0.0; WIDTH], values: [[0.0; 64]; LEVELS] }
    }

    /// Sets the scales to those around the one that maps `reach` to the level `top`.
    #[inline(always)]
    pub(super) fn set(&mut self, steps: i32, step: f32, top: i32, reach: f32) {
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

    /// The number of chunks of lanes that hold all scales.
    #[inline(always)]
    pub(super) fn chunks(&self) -> usize {
        self.count.div_ceil(LANES)
    }
}

/// The magnitudes of a group and the square roots of their importance.
#[derive(Clone, Copy)]
pub(super) struct Group<'a, const N: usize> {
    /// The magnitudes.
    pub x: &'a [f32; N],
    /// The square roots of their importance.
    pub roots: &'a [f32; N],
}

/// Rounds the magnitudes of a group to levels, and computes their code, under each scale.
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

/// Replaces codes by those of grid points, each under its scale. Neighbouring scales mostly have
/// the same code, so its neighbours are examined under all of these together.
#[inline(always)]
pub(super) fn choose<const N: usize>(
    grid: &Grid<N>,
    group: Group<'_, N>,
    candidates: &Candidates,
    rounded: &Codes,
    chosen: &mut Codes,
) {
    let count = candidates.count;
    let mut changes = 1u64 << count;
    for c in 1..count {
        changes |= u64::from(rounded[c] != rounded[c - 1]) << c;
    }
    let (mut start, mut last) = (0, None);
    while start < count {
        let end = changes.trailing_zeros() as usize;
        changes &= changes.wrapping_sub(1);
        let code = rounded[start];
        let place = grid.place(code as usize);
        // Later scales overwrite the lanes past the end.
        while start < end {
            let lanes = start.min(WIDTH - LANES);
            let used = (end - lanes).min(LANES);
            let best = match place {
                Place::Point(_) => [code; LANES],
                Place::Neighbours(list) if N == 8 => {
                    let losses = Losses::new(group, &candidates.values, lanes);
                    best_of_long(list, &losses, used, last)
                }
                Place::Neighbours(list) => best_of(list, group, candidates, lanes),
            };
            last = Some(best[used - 1]);
            chosen[lanes..lanes + LANES].copy_from_slice(&best);
            start += LANES;
        }
        start = end;
    }
}

/// The code of the first neighbour of least loss under each of eight scales
/// (`iq3_find_best_neighbour`). If all losses are NaN, the first neighbour.
#[inline(always)]
fn best_of<const N: usize>(
    list: Neighbours<'_>,
    group: Group<'_, N>,
    candidates: &Candidates,
    start: usize,
) -> [u32; LANES] {
    let mut best = Choice::new(list);
    for &code in list.codes() {
        let code = u32::from(code);
        let mut loss = [0.0; LANES];
        for i in 0..N {
            let level = (code as usize >> (Grid::<N>::BITS * i)) % (1 << Grid::<N>::BITS);
            let values = &candidates.values[level % LEVELS][start..start + LANES];
            for k in 0..LANES {
                let off = values[k] - group.x[i];
                loss[k] += group.roots[i] * off * off;
            }
        }
        best.offer(code, &loss);
    }
    best.code
}

/// The factor by which a bound is raised before losses are compared with it: far more than the
/// rounding error of a sum of eight terms.
const SLACK: f32 = 1.0 + 1.0 / 262_144.0;

/// [`best_of`] for grids of 2-bit levels, whose lists are long (`iq2_find_best_neighbour`).
///
/// Most neighbours are skipped: a neighbour cannot be the best if one of its levels, with the best
/// level everywhere else, has a greater loss than some other neighbour. The sums for this test have
/// another order than the losses. All terms are positive, so both are within eight roundings of the
/// true sum, which [`SLACK`] covers. If a term is NaN or infinite, comparisons fail and nothing is
/// skipped.
///
/// The bound is the loss of `guess`, if given. It is proven if a neighbour below it is as good;
/// otherwise the best neighbour becomes the bound of a second round. Only the first `used` scales
/// count.
#[inline(always)]
pub(super) fn best_of_long<const N: usize>(
    list: Neighbours<'_>,
    losses: &Losses<N>,
    used: usize,
    guess: Option<u32>,
) -> [u32; LANES] {
    let codes = list.codes();
    let mut best = Choice::new(list);
    let (first, more) = codes.split_at(codes.len().min(FIRST));
    if more.len() <= SHORT || guess.is_none() {
        for &code in if more.len() <= SHORT { codes } else { first } {
            best.offer(u32::from(code), &losses.of(u32::from(code)));
        }
    }
    if more.len() <= SHORT {
        return best.code;
    }
    let mut bound = guess.map_or(best.least, |code| losses.of(code));
    for _ in 0..2 {
        let excluded = losses.levels_above(&bound, used);
        best = Choice::new(list);
        for start in (0..codes.len()).step_by(TOGETHER) {
            let (codes, count) = list.from(start);
            let mut kept = without(excluded, codes) & ((1 << count) - 1);
            while kept != 0 {
                let code = u32::from(codes[kept.trailing_zeros() as usize % TOGETHER]);
                best.offer(code, &losses.of(code));
                kept &= kept - 1;
            }
        }
        let mut proven = 0;
        for k in 0..LANES {
            proven |= u32::from(best.least[k] <= bound[k]) << k;
        }
        if !proven << (32 - used) == 0 {
            break;
        }
        bound = best.least;
    }
    best.code
}

/// The number of neighbours that set the bound if there is no guess.
const FIRST: usize = 4;
/// If no more neighbours than these remain, all are examined without a bound.
const SHORT: usize = 8;

/// A set of levels of each weight, as bits. For weight i, bits 2 i and 2 i + 1 are levels 1 and 2,
/// as in codes, and bit 16 + 2 i is level 0.
type Levels = u32;

/// Returns one bit for each neighbour: whether it has none of the excluded levels.
#[inline(always)]
fn without(excluded: Levels, codes: &[u16; TOGETHER]) -> u32 {
    let (some, none) = (excluded as u16, (excluded >> 16) as u16);
    let mut kept = 0u16;
    for j in 0..TOGETHER {
        let code = codes[j];
        let found = (code & some) | (!(code | code >> 1) & none);
        kept |= if found == 0 { 1 << j } else { 0 };
    }
    u32::from(kept)
}

/// The loss of each level of each weight of a group under eight scales, for grids of 2-bit levels.
pub(super) struct Losses<const N: usize>([[Lanes; 4]; N]);

impl<const N: usize> Losses<N> {
    /// The losses under eight scales from `start` on. `values` has the value of each level under
    /// each scale.
    #[inline(always)]
    pub(super) fn new<const W: usize>(
        group: Group<'_, N>,
        values: &[[f32; W]; LEVELS],
        start: usize,
    ) -> Self {
        let mut losses = [[[0.0; LANES]; 4]; N];
        for level in 0..=Grid::<N>::TOP as usize % 4 {
            let mut lanes = [0.0; LANES];
            lanes.copy_from_slice(&values[level][start..start + LANES]);
            for i in 0..N {
                for k in 0..LANES {
                    let off = lanes[k] - group.x[i];
                    losses[i][level][k] = group.roots[i] * off * off;
                }
            }
        }
        Self(losses)
    }

    /// The loss of a code: the sum over its levels, left to right.
    #[inline(always)]
    fn of(&self, code: u32) -> Lanes {
        let mut loss = [0.0; LANES];
        for i in 0..N {
            let losses = &self.0[i][(code as usize >> (Grid::<N>::BITS * i)) % 4];
            for k in 0..LANES {
                loss[k] += losses[k];
            }
        }
        loss
    }

    /// The levels whose loss exceeds `bound` under every used scale, whatever the other levels are.
    #[inline(always)]
    fn levels_above(&self, bound: &Lanes, used: usize) -> Levels {
        let top = Grid::<N>::TOP as usize % 4;
        let (mut least, mut total) = ([[0.0; LANES]; N], [0.0; LANES]);
        for i in 0..N {
            least[i] = self.0[i][0];
            for loss in &self.0[i][1..=top] {
                for k in 0..LANES {
                    least[i][k] = if loss[k] < least[i][k] { loss[k] } else { least[i][k] };
                }
            }
            for k in 0..LANES {
                total[k] += least[i][k];
            }
        }
        let mut room = [0.0; LANES];
        for k in 0..LANES {
            room[k] = bound[k] * SLACK;
        }
        let mut within = [0u32; LANES];
        for i in 0..N {
            for level in 0..=top {
                for k in 0..LANES {
                    let more = self.0[i][level][k] - least[i][k];
                    let above = total[k] + more > room[k];
                    let bit = if level == 0 { 1 << 16 } else { level as u32 };
                    within[k] |= if above { 0 } else { bit << (2 * i) };
                }
            }
        }
        let mut all = 0;
        for k in 0..LANES {
            all |= if k < used { within[k] } else { 0 };
        }
        // In the high half, only even bits are levels.
        !all & 0x5555_ffff
    }
}

/// The code of least loss so far under each of eight scales.
struct Choice {
    least: Lanes,
    code: [u32; LANES],
}

impl Choice {
    /// The first neighbour, with the greatest possible loss.
    #[inline(always)]
    fn new(list: Neighbours<'_>) -> Self {
        let first = list.codes().first().copied().unwrap_or(0);
        Self { least: [f32::MAX; LANES], code: [u32::from(first); LANES] }
    }

    /// Adopts a code under the scales where its loss is less.
    #[inline(always)]
    fn offer(&mut self, code: u32, loss: &Lanes) {
        let mut less = [0u32; LANES];
        for k in 0..LANES {
            less[k] = if loss[k] < self.least[k] { u32::MAX } else { 0 };
        }
        for k in 0..LANES {
            self.code[k] = (code & less[k]) | (self.code[k] & !less[k]);
        }
        for k in 0..LANES {
            self.least[k] = if loss[k] < self.least[k] { loss[k] } else { self.least[k] };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{two_bit_256, two_bit_512};
    use super::*;

    /// The first neighbour of least loss, scale by scale, without skipping any.
    fn plain(list: Neighbours<'_>, losses: &Losses<8>) -> [u32; LANES] {
        std::array::from_fn(|k| {
            let loss = |code: &u16| losses.of(u32::from(*code))[k];
            let mut best = (f32::MAX, list.codes()[0]);
            for code in list.codes() {
                best = if loss(code) < best.0 { (loss(code), *code) } else { best };
            }
            u32::from(best.1)
        })
    }

    #[test]
    fn skipped_neighbours_are_never_the_best() {
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        let mut candidates = Candidates::new(9);
        let mut long = 0;
        for turn in 0..4000 {
            let grid = if turn % 2 == 0 { two_bit_256() } else { two_bit_512() };
            // Values on few levels and equal roots make equal losses.
            let coarse = turn % 5 == 0;
            let size = [1.0, 1e-20, 1e-22, 1e18, 1.0][turn / 2 % 5];
            let x = [(); 8].map(|()| {
                let v = 5.5 * uniform();
                size * if coarse { v.round() } else { v }
            });
            let roots = [(); 8].map(|()| match turn % 7 {
                0 => 1.0,
                1 if uniform() < 0.5 => 0.0,
                2 if uniform() < 0.1 => f32::NAN,
                3 if uniform() < 0.1 => f32::INFINITY,
                _ => uniform(),
            });
            let group = Group { x: &x, roots: &roots };
            candidates.set(9, 0.1, 2, 5.0 * size);
            let mut rounded = [0; WIDTH];
            round(&x, &candidates, &mut rounded);
            let Place::Neighbours(list) = grid.place(rounded[9] as usize) else { continue };
            long += usize::from(list.codes().len() > FIRST + SHORT);
            let losses = Losses::new(group, &candidates.values, 6);
            let expected = plain(list, &losses);
            let member = u32::from(*list.codes().last().unwrap());
            for guess in [None, Some(rounded[9]), Some(member), Some(expected[0])] {
                for used in [1, 5, LANES] {
                    let found = best_of_long(list, &losses, used, guess);
                    assert_eq!(found[..used], expected[..used], "turn {turn}");
                }
            }
        }
        assert!(long > 1000);
    }
}
