//! IQ1 types: weights are -1, 0 or 1, plus or minus 1/8, times a scale, on the grid of 2048 points.
//!
//! With three levels, the best split is found exactly: sort the weights, compute prefix sums and
//! try every pair of boundaries (llama.cpp: `quantize_row_iq1_s_impl`, `_m_impl`). Groups of eight
//! off the grid move to the neighbour of least weighted square error (`iq1_find_best_neighbour2`).
//! A trial must beat the best one in rounded sums, so trials run in order, on sixteen sub-blocks in
//! lanes.

pub(crate) mod iq1_m;
pub(crate) mod iq1_s;

use crate::quants::grids::{self, Grid, Neighbours, Place};
use crate::quants::lanes::{F32s, LANES, Mask, U8s};

/// The distance by which levels are shifted.
pub(crate) const DELTA: f32 = 0.125;
/// The values of the levels when shifted up.
pub(crate) const UP: [f32; 3] = [-1.0 + DELTA, DELTA, 1.0 + DELTA];
/// The values of the levels when shifted down.
pub(crate) const DOWN: [f32; 3] = [-1.0 - DELTA, -DELTA, 1.0 - DELTA];

/// The largest magnitude of each lane.
#[inline(always)]
pub(crate) fn largest<const N: usize>(x: &[F32s; N]) -> F32s {
    let mut largest = F32s::ZERO;
    for x in x {
        for k in 0..LANES {
            largest[k] = if largest[k] > x[k].abs() { largest[k] } else { x[k].abs() };
        }
    }
    largest
}

/// The rank of each value in the ascending order of its lane; equal values stay in their order.
///
/// Compares all pairs, which needs no branches. Ranks are always below `N`, but not unique if a
/// value is NaN.
#[inline(always)]
pub(crate) fn ranks<const N: usize>(x: &[F32s; N]) -> [[i32; LANES]; N] {
    let mut ranks = [[0; LANES]; N];
    for i in 0..N {
        ranks[i] = [(N - 1 - i) as i32; LANES];
        for j in 0..i {
            for k in 0..LANES {
                let after = i32::from(x[j][k] <= x[i][k]);
                ranks[i][k] += after;
                ranks[j][k] -= after;
            }
        }
    }
    ranks
}

/// Replaces terms by their prefix sums.
#[inline(always)]
pub(crate) fn accumulate(terms: &mut [F32s]) {
    for at in 1..terms.len() {
        for k in 0..LANES {
            terms[at][k] += terms[at - 1][k];
        }
    }
}

/// The best split of each lane found so far.
pub(crate) struct Best {
    score: F32s,
    /// The scale fitted to the best split.
    pub scale: F32s,
    /// The best [`Trial`] as one number; a float, because masks choose between floats. Negative:
    /// none.
    trial: F32s,
}

/// A split to try.
#[derive(Clone, Copy)]
pub(crate) struct Trial {
    /// The rank of the first weight with level 1.
    pub first: usize,
    /// The rank of the first weight with level 2.
    pub second: usize,
    /// The groups that are shifted down, one bit for each.
    pub down: usize,
}

impl Best {
    /// No split yet.
    pub(crate) fn new() -> Best {
        Best { score: F32s([f32::MIN; LANES]), scale: F32s::ZERO, trial: F32s([-1.0; LANES]) }
    }

    /// Adopts a trial in the lanes where it is better. `xq` and `q2` are its sums of x q and of
    /// q^2.
    #[inline(always)]
    pub(crate) fn offer(&mut self, xq: &F32s, q2: &F32s, trial: Trial) {
        let (mut scale, mut score, mut better) = (F32s::ZERO, F32s::ZERO, Mask::NONE);
        for k in 0..LANES {
            scale[k] = xq[k] / q2[k];
        }
        for k in 0..LANES {
            score[k] = scale[k] * xq[k];
            better.set(k, (q2[k] > 0.0) & (xq[k] * xq[k] > self.score[k] * q2[k]));
        }
        let number = (trial.first * 64 + trial.second) * 4 + trial.down;
        self.scale = better.choose(&scale, &self.scale);
        self.score = better.choose(&score, &self.score);
        self.trial = better.choose(&F32s([number as f32; LANES]), &self.trial);
    }

    /// The best trial of a lane; `None` if all of its weights in the search are zero.
    #[inline(always)]
    pub(crate) fn trial(&self, lane: usize) -> Option<Trial> {
        let number = self.trial[lane];
        let bits = number as usize;
        let trial = Trial { first: bits / 256, second: bits / 4 % 64, down: bits % 4 };
        (number >= 0.0).then_some(trial)
    }
}

/// Sub-blocks of `N` weights in `G` groups, ready to write. Lanes in which no weight counts have
/// scale zero and the first point of the grid.
pub(crate) struct Fitted<const N: usize, const G: usize> {
    /// The scale of each sub-block.
    pub scale: F32s,
    /// The groups that are shifted down, as in [`Trial`].
    pub down: U8s,
    /// The level of each weight.
    pub levels: [U8s; N],
    /// The index of the point of each group.
    pub indices: [[u16; LANES]; G],
}

/// Makes sub-blocks of their best splits. Mirrors splits with a negative scale, moves every group
/// to the grid, and fits the scale again where a group moved. `bits` has the bit of [`Trial::down`]
/// for each group.
#[inline(always)]
pub(crate) fn fit<const N: usize, const G: usize>(
    best: &Best,
    ranks: &[[i32; LANES]; N],
    x: &[F32s; N],
    weights: &[F32s; N],
    negligible: f32,
    bits: &[u8; G],
) -> Fitted<N, G> {
    let largest = largest(x);
    let (mut scale, mut down, mut live) = (F32s::ZERO, [0; LANES], [false; LANES]);
    let (mut first, mut second, mut turn) = ([0; LANES], [0; LANES], [0; LANES]);
    let all_bits = bits.iter().fold(0, |all, bit| all | bit);
    for k in 0..LANES {
        let Some(trial) = best.trial(k) else { continue };
        if largest[k] < negligible {
            continue;
        }
        live[k] = true;
        scale[k] = best.scale[k].abs();
        turn[k] = i32::from(best.scale[k] < 0.0);
        down[k] = trial.down as u8 ^ if turn[k] != 0 { all_bits } else { 0 };
        (first[k], second[k]) = (trial.first as i32, trial.second as i32);
    }
    let mut levels = [[0; LANES]; N];
    for i in 0..N {
        for k in 0..LANES {
            let level = i32::from(ranks[i][k] >= first[k]) + i32::from(ranks[i][k] >= second[k]);
            levels[i][k] = if turn[k] != 0 { 2 - level } else { level } as u8;
        }
    }
    let shifts = bits.map(|bit| {
        let mut shift = F32s::ZERO;
        for k in 0..LANES {
            shift[k] = if down[k] & bit != 0 { -DELTA } else { DELTA };
        }
        shift
    });
    let mut fitted = Fitted { scale, down, levels, indices: [[0; LANES]; G] };
    place(&mut fitted, x, weights, &shifts, &live);
    fitted
}

/// Moves every group to the point with its levels or, if there is none, to the best neighbour.
#[inline(always)]
fn place<const N: usize, const G: usize>(
    fitted: &mut Fitted<N, G>,
    x: &[F32s; N],
    weights: &[F32s; N],
    shifts: &[F32s; G],
    live: &[bool; LANES],
) {
    let grid = grids::two_bit_2048();
    let mut moved = Mask::NONE;
    for g in 0..G {
        let mut costs = [[F32s::ZERO; 3]; 8];
        for i in 0..8 {
            for level in 0..3 {
                for k in 0..LANES {
                    let value = level as f32 - 1.0 + shifts[g][k];
                    let off = fitted.scale[k] * value - x[8 * g + i][k];
                    costs[i][level][k] = weights[8 * g + i][k] * off * off;
                }
            }
        }
        for k in 0..LANES {
            let mut levels = [0; 8];
            for i in 0..8 {
                levels[i] = fitted.levels[8 * g + i][k];
            }
            let index = match grid.place(Grid::<8>::pack(&levels)) {
                _ if !live[k] => 0,
                Place::Point(index) => index as u16,
                Place::Neighbours(list) => {
                    moved.set(k, true);
                    best_neighbour(grid, list, &costs, k)
                }
            };
            fitted.indices[g][k] = index;
            for i in 0..8 {
                fitted.levels[8 * g + i][k] = grid.points()[usize::from(index)][i];
            }
        }
    }
    let (mut xq, mut q2, mut refitted) = (F32s::ZERO, F32s::ZERO, F32s::ZERO);
    add_fit(&mut xq, &mut q2, &fitted.levels, x, weights, shifts, &F32s([1.0; LANES]));
    for k in 0..LANES {
        refitted[k] = xq[k] / q2[k];
        moved.set(k, (moved.0[k] != 0) & (xq[k] > 0.0) & (q2[k] > 0.0));
    }
    fitted.scale = moved.choose(&refitted, &fitted.scale);
}

/// The index of the neighbour of least error in lane `k`; of equally good ones, the first.
#[inline(always)]
fn best_neighbour(grid: &Grid<8>, list: Neighbours<'_>, lanes: &[[F32s; 3]; 8], k: usize) -> u16 {
    let mut costs = [[0f32; 4]; 8];
    for i in 0..8 {
        for level in 0..3 {
            costs[i][level] = lanes[i][level][k];
        }
    }
    let halves = first_halves(&costs);
    // If no error is finite, take the nearest neighbour.
    let list = list.codes();
    let (mut best, mut found) = (f32::MAX, list.first().copied().unwrap_or(0));
    for &point in list {
        let code = usize::from(point);
        let mut cost = halves[code & 255];
        for i in 4..8 {
            cost += costs[i][(code >> (2 * i)) & 3];
        }
        if cost < best {
            (best, found) = (cost, point);
        }
    }
    match grid.place(usize::from(found)) {
        Place::Point(index) => index as u16,
        Place::Neighbours(_) => 0,
    }
}

/// The costs of the first four of eight levels, summed left to right, for each code of the four.
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

/// Adds weight * x * q and weight * q^2 to the sums, left to right, where q is the value of a
/// level, multiplied by `times`.
#[inline(always)]
pub(crate) fn add_fit<const N: usize, const G: usize>(
    xq: &mut F32s,
    q2: &mut F32s,
    levels: &[U8s; N],
    x: &[F32s; N],
    weights: &[F32s; N],
    shifts: &[F32s; G],
    times: &F32s,
) {
    for i in 0..N {
        let shift = &shifts[i / (N / G)];
        for k in 0..LANES {
            let q = (f32::from(levels[i][k]) - 1.0 + shift[k]) * times[k];
            xq[k] += weights[i][k] * q * x[i][k];
            q2[k] += weights[i][k] * q * q;
        }
    }
}

/// The 3-bit code c of a scale: the scale is about (2 c + 1) / `inverse`.
#[inline(always)]
pub(crate) fn scale_code(inverse: f32, scale: f32) -> u16 {
    crate::quants::search::nearest_int(0.5 * (inverse * scale - 1.0)).clamp(0, 7) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_ascend_and_equal_values_stay_in_order() {
        let mut x = [F32s::ZERO; 16];
        for (i, x) in x.iter_mut().enumerate() {
            for k in 0..LANES {
                x[k] = [0.5, -1.0, 0.0, -0.0, 2.0][(i * (k + 1)) % 5];
            }
        }
        let ranks = ranks(&x);
        for k in 0..LANES {
            let mut order: Vec<usize> = (0..16).collect();
            order.sort_by(|&a, &b| x[a][k].partial_cmp(&x[b][k]).unwrap());
            for (rank, i) in order.into_iter().enumerate() {
                assert_eq!(ranks[i][k], rank as i32);
            }
        }
        let unordered = super::ranks(&[F32s([f32::NAN; LANES]); 16]);
        assert!(unordered.as_flattened().iter().all(|rank| (0..16).contains(rank)));
    }

    #[test]
    fn off_grid_groups_take_the_neighbour_of_least_error() {
        let grid = grids::two_bit_2048();
        let x = [0.9f32, -1.1, 0.1, 0.2, 1.3, -0.4, 0.0, 0.7];
        let weights = [1.0f32, 2.0, 0.5, 1.0, 1.0, 3.0, 1.0, 0.1];
        let shifts = [F32s([DELTA; LANES])];
        for code in (0..6561).step_by(7) {
            let levels: [u8; 8] = std::array::from_fn(|i| (code / 3usize.pow(i as u32) % 3) as u8);
            let mut fitted = Fitted {
                scale: F32s([0.8; LANES]),
                down: [0; LANES],
                levels: levels.map(|level| [level; LANES]),
                indices: [[0; LANES]],
            };
            let lanes = |v: [f32; 8]| v.map(|v| F32s([v; LANES]));
            place(&mut fitted, &lanes(x), &lanes(weights), &shifts, &[true; LANES]);
            let index = fitted.indices[0][5];
            let point = grid.points()[usize::from(index)];
            assert_eq!(fitted.levels.map(|lanes| lanes[5]), point);
            let Place::Neighbours(list) = grid.place(Grid::<8>::pack(&levels)) else {
                assert!(point == levels && fitted.scale[5] == 0.8);
                continue;
            };
            let error = |&code: &u16| {
                let point: [u8; 8] = std::array::from_fn(|i| (code >> (2 * i)) as u8 & 3);
                let term = |i: usize| {
                    let off = 0.8 * UP[usize::from(point[i])] - x[i];
                    weights[i] * off * off
                };
                (1..8).fold(term(0), |sum, i| sum + term(i))
            };
            let best = list.codes().iter().map(error).fold(f32::MAX, f32::min);
            let first = list.codes().iter().find(|code| error(code) == best);
            assert_eq!(Some(&(Grid::pack(&point) as u16)), first);
        }
    }
}
