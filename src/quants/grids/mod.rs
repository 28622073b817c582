//! Grids: the combinations of levels, called points, that groups of weights may have in IQ types.
//!
//! A code packs the levels of a group, the first in the lowest bits: eight of 2 bits or four of 3.
//! A file holds the index of a point in its grid. A quantizer rounds weights to levels; if their
//! code is no point, it chooses among its neighbours: all points at the few shortest distances, by
//! distance, then by index (`iq2xs_init_impl` and `iq3xs_init_impl` of llama.cpp).

mod candidates;
pub(super) mod lattice;
mod search;
pub(super) mod signs;
mod three_bit_256;
mod three_bit_512;
mod two_bit_1024;
mod two_bit_2048;
mod two_bit_256;
mod two_bit_512;

use std::sync::OnceLock;

/// A grid whose points have `N` levels, with the neighbours of every code.
pub(super) struct Grid<const N: usize> {
    /// The levels of each point.
    points: Vec<[u8; N]>,
    /// For each code: the index of its point, or -1 minus the start of its list in `neighbours`.
    places: Vec<i32>,
    /// Lists of codes, each preceded by its length, and [`TOGETHER`] zeros at the end.
    neighbours: Vec<u16>,
}

/// The number of neighbours that are examined together. Reading as many from any place of a list is
/// always possible.
pub(super) const TOGETHER: usize = 16;

/// The relation of a code to a grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// The code is the point with this index.
    Point(usize),
    /// The code is no point; these are its neighbours.
    Neighbours(Neighbours<'a>),
}

/// The neighbours of a code that is no point, nearest first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Neighbours<'a> {
    /// The number of neighbours.
    count: usize,
    /// The neighbours and all that follows them in [`Grid::neighbours`].
    rest: &'a [u16],
}

impl<'a> Neighbours<'a> {
    /// The codes of the neighbours.
    #[inline(always)]
    pub(super) fn codes(self) -> &'a [u16] {
        &self.rest[..self.count]
    }

    /// The codes from `start` on, and how many of them are neighbours. The others are arbitrary.
    #[inline(always)]
    pub(super) fn from(self, start: usize) -> (&'a [u16; TOGETHER], usize) {
        let codes = self.rest[start..].first_chunk();
        (codes.unwrap_or(&[0; TOGETHER]), (self.count - start).min(TOGETHER))
    }
}

impl PartialEq for Neighbours<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.codes() == other.codes()
    }
}

impl Eq for Neighbours<'_> {}

impl<const N: usize> Grid<N> {
    /// The bits of a level in a code.
    pub(super) const BITS: usize = if N == 8 { 2 } else { 3 };
    /// The highest level. Grids with levels of 2 bits use three of the four.
    pub(super) const TOP: i32 = if N == 8 { 2 } else { 7 };

    /// The levels of each point.
    pub(super) fn points(&self) -> &[[u8; N]] {
        &self.points
    }

    /// Looks up `code`. A code with a level above [`Grid::TOP`] has no neighbours.
    #[inline(always)]
    pub(super) fn place(&self, code: usize) -> Place<'_> {
        match self.places.get(code) {
            Some(&index) if index >= 0 => Place::Point(index as usize),
            Some(&place) => {
                let start = (-1 - place) as usize;
                let count = usize::from(self.neighbours[start]);
                Place::Neighbours(Neighbours { count, rest: &self.neighbours[start + 1..] })
            }
            None => Place::Neighbours(Neighbours { count: 0, rest: &[] }),
        }
    }

    /// The code of `levels`.
    #[inline(always)]
    pub(super) fn pack(levels: &[u8; N]) -> usize {
        let mut code = 0;
        for i in 0..N {
            code |= usize::from(levels[i]) << (Self::BITS * i);
        }
        code
    }

    /// The levels of `code`.
    fn unpack(code: u16) -> [u8; N] {
        std::array::from_fn(|i| (code >> (Self::BITS * i)) as u8 & ((1 << Self::BITS) - 1))
    }

    /// Builds the grid of `codes`. The neighbours of a code are the points at the `shells` shortest
    /// distances.
    fn build(codes: &'static [u16], shells: usize) -> Self {
        let points: Vec<[u8; N]> = codes.iter().map(|&code| Self::unpack(code)).collect();
        let top = Self::TOP as u8;
        let last = Self::pack(&[top; N]);
        // The list at 0 is empty, for codes with a level above all points.
        let mut neighbours = vec![0u16];
        let mut places = vec![-1i32; last + 1];
        for (index, &code) in codes.iter().enumerate() {
            places[usize::from(code)] = index as i32;
        }
        let half = Halves::<N>::new(codes);
        let mut distances = vec![0u8; codes.len()];
        for code in 0..=last as u16 {
            let possible = Self::unpack(code).iter().all(|&level| level <= top);
            if places[usize::from(code)] >= 0 || !possible {
                continue;
            }
            places[usize::from(code)] = -1 - neighbours.len() as i32;
            let start = neighbours.len();
            neighbours.push(0);
            let present = half.distances(code, &mut distances);
            for distance in (0..=u8::MAX).filter(|&d| present[usize::from(d)]).take(shells) {
                let at = distances.iter().zip(codes).filter(|&(&d, _)| d == distance);
                neighbours.extend(at.map(|(_, &code)| code));
            }
            neighbours[start] = (neighbours.len() - start - 1) as u16;
        }
        neighbours.extend([0; TOGETHER]);
        Self { points, places, neighbours }
    }
}

/// Square distances between halves of codes, in a table: a distance takes two look-ups.
struct Halves<const N: usize> {
    /// For each half, the distances to all halves.
    table: Vec<u8>,
    /// The low and the high half of each point.
    points: Vec<[u8; 2]>,
}

impl<const N: usize> Halves<N> {
    const BITS: usize = Grid::<N>::BITS * N / 2;

    fn new(codes: &[u16]) -> Self {
        let size = 1u16 << Self::BITS;
        let mut table = Vec::with_capacity(usize::from(size) * usize::from(size));
        for a in 0..size {
            for b in 0..size {
                let (a, b) = (Grid::<N>::unpack(a), Grid::<N>::unpack(b));
                table.push(a.iter().zip(b).map(|(a, b)| a.abs_diff(b).pow(2)).sum());
            }
        }
        let points = codes.iter().map(|&code| Self::split(code)).collect();
        Self { table, points }
    }

    /// The low and the high half of `code`.
    fn split(code: u16) -> [u8; 2] {
        [(code & ((1 << Self::BITS) - 1)) as u8, (code >> Self::BITS) as u8]
    }

    /// Computes the distance of every point from `code`. Returns which distances occur.
    fn distances(&self, code: u16, out: &mut [u8]) -> [bool; 256] {
        let [low, high] = Self::split(code).map(|half| {
            let start = usize::from(half) << Self::BITS;
            &self.table[start..start + (1 << Self::BITS)]
        });
        let mut present = [false; 256];
        for (&[a, b], out) in self.points.iter().zip(out) {
            *out = low[usize::from(a)] + high[usize::from(b)];
            present[usize::from(*out)] = true;
        }
        present
    }
}

/// The grid of IQ2_XXS.
pub(super) fn two_bit_256() -> &'static Grid<8> {
    static GRID: OnceLock<Grid<8>> = OnceLock::new();
    GRID.get_or_init(|| Grid::build(&two_bit_256::CODES, 2))
}

/// The grid of IQ2_XS.
pub(super) fn two_bit_512() -> &'static Grid<8> {
    static GRID: OnceLock<Grid<8>> = OnceLock::new();
    GRID.get_or_init(|| Grid::build(&two_bit_512::CODES, 2))
}

/// The grid of IQ2_S.
pub(super) fn two_bit_1024() -> &'static Grid<8> {
    static GRID: OnceLock<Grid<8>> = OnceLock::new();
    GRID.get_or_init(|| Grid::build(&two_bit_1024::CODES, 1))
}

/// The grid of IQ1_S and IQ1_M.
pub(super) fn two_bit_2048() -> &'static Grid<8> {
    static GRID: OnceLock<Grid<8>> = OnceLock::new();
    GRID.get_or_init(|| Grid::build(&two_bit_2048::CODES, 3))
}

/// The grid of IQ3_XXS.
pub(super) fn three_bit_256() -> &'static Grid<4> {
    static GRID: OnceLock<Grid<4>> = OnceLock::new();
    GRID.get_or_init(|| Grid::build(&three_bit_256::CODES, 2))
}

/// The grid of IQ3_S.
pub(super) fn three_bit_512() -> &'static Grid<4> {
    static GRID: OnceLock<Grid<4>> = OnceLock::new();
    GRID.get_or_init(|| Grid::build(&three_bit_512::CODES, 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares every `stride`th code's neighbours with sorting all points by distance and index.
    fn check<const N: usize>(grid: &Grid<N>, shells: usize, stride: usize) {
        let top = *grid.points().iter().flatten().max().unwrap();
        for code in (0..=Grid::pack(&[top; N])).step_by(stride) {
            let levels = Grid::<N>::unpack(code as u16);
            let mut sorted: Vec<(i32, u16)> = (0..)
                .zip(grid.points())
                .map(|(index, point)| {
                    let off = point.iter().zip(levels).map(|(a, b)| i32::from(*a) - i32::from(b));
                    (off.map(|off| off * off).sum(), index)
                })
                .collect();
            sorted.sort();
            let mut nearest: Vec<i32> = sorted.iter().map(|entry| entry.0).collect();
            nearest.dedup();
            sorted.retain(|entry| nearest[..shells].contains(&entry.0));
            let point = |entry: &(i32, u16)| &grid.points()[usize::from(entry.1)];
            let codes: Vec<u16> = sorted.iter().map(|e| Grid::pack(point(e)) as u16).collect();
            let expected = if levels.iter().any(|&level| level > top) {
                Place::Neighbours(Neighbours { count: 0, rest: &[] })
            } else if sorted[0].0 == 0 {
                Place::Point(usize::from(sorted[0].1))
            } else {
                Place::Neighbours(Neighbours { count: codes.len(), rest: &codes })
            };
            assert_eq!(grid.place(code), expected, "{code}");
        }
    }

    #[test]
    fn neighbours_equal_those_of_sorting_all_points() {
        check(two_bit_256(), 2, 7);
        check(two_bit_512(), 2, 17);
        check(two_bit_1024(), 1, 37);
        check(two_bit_2048(), 3, 101);
        check(three_bit_256(), 2, 1);
        check(three_bit_512(), 3, 1);
        let none = Place::Neighbours(Neighbours { count: 0, rest: &[] });
        assert_eq!(two_bit_256().place(43_691), none);
    }

    #[test]
    fn indices_follow_ascending_codes() {
        assert!(two_bit_2048::CODES.is_sorted() && three_bit_512::CODES.is_sorted());
        assert_eq!(three_bit_512().points()[4], [7, 0, 0, 0]);
        assert_eq!(Grid::pack(&two_bit_512().points()[100]), 1540);
    }
}
