//! What IQ1_S and IQ1_M share: three levels a weight, shifted up or down, on the grid of 2048 points.
//!
//! A weight is -1, 0 or 1, plus or minus an eighth, times a scale. With three levels the best split can be
//! found exactly: sort the weights, take sums from the left, and try every pair of boundaries
//! (`quantize_row_iq1_s_impl` and `_m_impl` of llama.cpp). Groups of eight whose levels are no point of
//! the grid move to the neighbour of least weighted square error (`iq1_find_best_neighbour2`).

use super::codec::Rows;
use super::grids::{self, Grid, Place};
use super::simd::{Level, Work};
use std::marker::PhantomData;

/// How far levels are shifted.
const DELTA: f32 = 0.125;
/// What the levels stand for when they are shifted up.
pub(super) const UP: [f32; 3] = [-1.0 + DELTA, DELTA, 1.0 + DELTA];
/// And down.
pub(super) const DOWN: [f32; 3] = [-1.0 - DELTA, -DELTA, 1.0 - DELTA];

/// Pairs of boundaries that are tried together.
pub(super) const TOGETHER: usize = 16;
/// Room for `N + 1` sums and a chunk that reaches past them.
pub(super) type Sums = [f32; 33 + TOGETHER];

/// A format that is written block by block, of `BYTES` bytes each, from weights and their columns'
/// importance.
pub(super) trait EncodeBlock<const BYTES: usize> {
    /// Must be `#[inline(always)]`, see [`Work`].
    fn encode_block(x: &[f32; 256], importance: Option<&[f32; 256]>, out: &mut [u8; BYTES]);
}

/// [`super::codec::Codec::quantize`] for these formats.
pub(super) fn quantize<F: EncodeBlock<BYTES>, const BYTES: usize>(
    level: Level,
    rows: Rows,
    out: &mut [u8],
) {
    level.run(Encode::<F, BYTES> { format: PhantomData, rows, out });
}

struct Encode<'a, F, const BYTES: usize> {
    format: PhantomData<F>,
    rows: Rows<'a>,
    out: &'a mut [u8],
}

impl<F: EncodeBlock<BYTES>, const BYTES: usize> Work for Encode<'_, F, BYTES> {
    #[inline(always)]
    fn run(self) {
        let columns = self.rows.importance.map(|importance| importance.as_chunks::<256>().0);
        let blocks = self.rows.values.as_chunks::<256>().0;
        for (b, out) in self.out.as_chunks_mut::<BYTES>().0.iter_mut().enumerate() {
            let importance = columns.map(|columns| &columns[b % columns.len()]);
            F::encode_block(&blocks[b], importance, out);
        }
    }
}

/// The sub-block's largest magnitude.
#[inline(always)]
pub(super) fn largest<const N: usize>(x: &[f32; N]) -> f32 {
    x.iter().fold(0.0, |max, x| if max > x.abs() { max } else { x.abs() })
}

/// The positions of `x` in ascending order of its values, equal ones in their order. By counting how
/// many come before each, which needs no branches; NaN, which compares with nothing, does no harm.
#[inline(always)]
pub(super) fn ascending<const N: usize>(x: &[f32; N]) -> [u8; N] {
    let mut ranks = [0u8; N];
    for j in 0..N {
        for i in 0..N {
            let before = (x[j] < x[i]) | ((x[j] == x[i]) & (j < i));
            ranks[i] += u8::from(before);
        }
    }
    let mut order = [0; N];
    for i in 0..N {
        order[usize::from(ranks[i])] = i as u8;
    }
    order
}

/// Levels in the order of the weights: 0 below the first boundary, 1 up to the second, then 2; turned
/// round if the scale came out negative.
#[inline(always)]
pub(super) fn levels<const N: usize>(
    order: &[u8; N],
    split: (usize, usize),
    turn: bool,
) -> [u8; N] {
    let mut levels = [0; N];
    for (at, &i) in order.iter().enumerate() {
        let level = u8::from(at >= split.0) + u8::from(at >= split.1);
        levels[usize::from(i)] = if turn { 2 - level } else { level };
    }
    levels
}

/// Whether a fit by these sums beats the best so far.
#[inline(always)]
pub(super) fn beats(xq: f32, q2: f32, best: f32) -> bool {
    (q2 > 0.0) & (xq * xq > best * q2)
}

/// The point for eight weights and their levels: the one with these levels, or the best neighbour.
#[inline(always)]
fn nearest_point(
    grid: &Grid<8>,
    levels: &[u8; 8],
    x: &[f32; 8],
    weights: &[f32; 8],
    scale: f32,
    values: &[f32; 3],
) -> (u16, bool) {
    let list = match grid.place(Grid::<8>::pack(levels)) {
        Place::Point(index) => return (index as u16, true),
        Place::Neighbours(list) => list,
    };
    let mut costs = [[0f32; 4]; 8];
    for i in 0..8 {
        for level in 0..3 {
            let off = scale * values[level] - x[i];
            costs[i][level] = weights[i] * off * off;
        }
    }
    let halves = first_halves(&costs);
    // Should no error be finite, the nearest neighbour serves.
    let (mut best, mut found) = (f32::MAX, list.first().copied().unwrap_or(0));
    for &index in list {
        let code = grid.code(index) as usize;
        let mut cost = halves[code & 255];
        for i in 4..8 {
            cost += costs[i][(code >> (2 * i)) & 3];
        }
        if cost < best {
            (best, found) = (cost, index);
        }
    }
    (found, false)
}

/// The costs of the first four of eight levels, summed from the left, for every code of theirs.
#[inline(always)]
fn first_halves(costs: &[[f32; 4]; 8]) -> [f32; 256] {
    let mut sums = [0f32; 256];
    for c in 0..3 {
        for d in 0..3 {
            for b in 0..3 {
                for a in 0..3 {
                    sums[a | b << 2 | c << 4 | d << 6] =
                        costs[0][a] + costs[1][b] + costs[2][c] + costs[3][d];
                }
            }
        }
    }
    sums
}

/// The points of a sub-block's `G` groups, and the scale, fitted to them if any group had to move.
/// `values` are what each group's levels stand for.
#[inline(always)]
pub(super) fn place<const G: usize>(
    levels: &[u8],
    x: &[f32],
    weights: &[f32],
    scale: f32,
    values: [&[f32; 3]; G],
) -> ([u16; G], f32) {
    let grid = grids::two_bit_2048();
    let (levels, x) = (levels.as_chunks::<8>().0, x.as_chunks::<8>().0);
    let weights = weights.as_chunks::<8>().0;
    let (mut indices, mut all_on_grid) = ([0; G], true);
    for g in 0..G {
        let (index, on_grid) =
            nearest_point(grid, &levels[g], &x[g], &weights[g], scale, values[g]);
        indices[g] = index;
        all_on_grid &= on_grid;
    }
    let mut sums = (0.0, 0.0);
    if !all_on_grid {
        for g in 0..G {
            let point = &grid.points()[usize::from(indices[g])];
            add_fit(&mut sums, point, &x[g], &weights[g], values[g], 1.0);
        }
    }
    let fitted = sums.0 > 0.0 && sums.1 > 0.0;
    (indices, if fitted { sums.0 / sums.1 } else { scale })
}

/// Sums of weight * x * value and weight * value^2 over the values that a point stands for, added to
/// `sums` from the left.
#[inline(always)]
pub(super) fn add_fit(
    sums: &mut (f32, f32),
    point: &[u8; 8],
    x: &[f32; 8],
    weights: &[f32; 8],
    values: &[f32; 3],
    times: f32,
) {
    for i in 0..8 {
        let q = values[usize::from(point[i].min(2))] * times;
        sums.0 += weights[i] * q * x[i];
        sums.1 += weights[i] * q * q;
    }
}

/// The 3-bit code of a scale in units of `1 / inverse`, which stands for twice the code plus one.
#[inline(always)]
pub(super) fn scale_code(inverse: f32, scale: f32) -> u16 {
    super::search::nearest_int(0.5 * (inverse * scale - 1.0)).clamp(0, 7) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_ascending_and_stable() {
        let mut x = [0f32; 16];
        for (i, x) in x.iter_mut().enumerate() {
            *x = [0.5, -1.0, 0.0, -0.0, 2.0][i % 5];
        }
        let order = ascending(&x);
        let mut expected: Vec<u8> = (0..16).collect();
        expected.sort_by(|&a, &b| x[usize::from(a)].partial_cmp(&x[usize::from(b)]).unwrap());
        assert_eq!(order.as_slice(), expected);
        ascending(&[f32::NAN; 16]);
    }

    #[test]
    fn off_grid_groups_take_the_neighbour_of_least_error() {
        let grid = super::super::grids::two_bit_2048();
        let x = [0.9f32, -1.1, 0.1, 0.2, 1.3, -0.4, 0.0, 0.7];
        let weights = [1.0f32, 2.0, 0.5, 1.0, 1.0, 3.0, 1.0, 0.1];
        for code in (0..6561).step_by(7) {
            let levels = std::array::from_fn(|i| (code / 3usize.pow(i as u32) % 3) as u8);
            let (index, on_grid) = nearest_point(grid, &levels, &x, &weights, 0.8, &UP);
            let Place::Neighbours(list) = grid.place(Grid::<8>::pack(&levels)) else {
                assert!(on_grid && grid.points()[usize::from(index)] == levels);
                continue;
            };
            let error = |&index: &u16| {
                let point = &grid.points()[usize::from(index)];
                let term = |i: usize| {
                    let off = 0.8 * UP[usize::from(point[i])] - x[i];
                    weights[i] * off * off
                };
                (1..8).fold(term(0), |sum, i| sum + term(i))
            };
            let best = list.iter().map(error).fold(f32::MAX, f32::min);
            assert_eq!(Some(&index), list.iter().find(|i| error(i) == best));
        }
    }
}
