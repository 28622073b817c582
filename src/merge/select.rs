//! Selecting the largest of a tensor's elements, exactly, without sorting and without holding them.
//!
//! Every element has a score, computed anew in each pass from its chunk. Two passes count the scores by
//! the upper and then the lower half of their bits, which finds the score at which the `k` largest begin;
//! a third, where only some of the elements with that very score belong, counts those by chunk. Of equal
//! scores the lower index goes first, so the selections for growing `k` contain each other.

use super::chunks::Job;
use crate::base::error::Result;

/// Where selecting gets its scores: which inputs are needed, in chunks of which length, and how they are
/// scored.
pub(super) struct ElementScores<'a> {
    pub which: &'a [usize],
    pub step: usize,
    pub score: &'a Score<'a>,
}

/// Gets the index of the first element, the inputs' values and the scores to fill, which are finite.
pub(super) type Score<'a> = dyn Fn(usize, &[Vec<f32>], &mut [f32]) + Sync + 'a;

/// The `k` elements with the largest scores.
#[derive(Clone, Debug)]
pub(super) struct TopSelection {
    /// Elements with a greater key belong.
    key: u32,
    /// Of those with this key, how many of each chunk belong, from its first on; all if absent.
    ties: Option<Vec<u64>>,
    step: usize,
}

/// Bits that order as the values do; NaN, which there is none of, would be greater than all.
fn key(score: f32) -> u32 {
    let bits = score.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

fn value(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key & !(1 << 31) } else { !key })
}

/// A score by rank: how many elements are above it, and how many have it.
struct RankedScore {
    key: u32,
    above: u64,
    equal: u64,
}

const BUCKETS: usize = 1 << 16;

impl ElementScores<'_> {
    fn add(&self, start: usize, inputs: &[Vec<f32>], mut count: impl FnMut(u32)) {
        let mut scores = vec![0.0; inputs[0].len()];
        (self.score)(start, inputs, &mut scores);
        scores.iter().for_each(|&score| count(key(score)));
    }

    /// Counts by bucket, for each of `counts` lists; `bucket` says where a key counts in list `n`.
    fn histograms(
        &self,
        job: &Job<'_>,
        counts: usize,
        bucket: impl Fn(usize, u32) -> Option<u16> + Sync,
    ) -> Result<Vec<Vec<u64>>> {
        job.tally(
            self.which,
            self.step,
            || vec![vec![0u64; BUCKETS]; counts],
            |tally, start, inputs| {
                self.add(start, inputs, |key| {
                    for (list, counts) in tally.iter_mut().enumerate() {
                        if let Some(bucket) = bucket(list, key) {
                            counts[usize::from(bucket)] += 1;
                        }
                    }
                });
            },
            |total, tally| {
                for (total, tally) in total.iter_mut().flatten().zip(tally.iter().flatten()) {
                    *total += tally;
                }
            },
        )
    }

    /// The scores at `ranks`, counted from 1 at the largest; ranks must be from 1 to the number of
    /// elements.
    fn find(&self, job: &Job<'_>, ranks: &[u64]) -> Result<Vec<RankedScore>> {
        let upper = self.histograms(job, 1, |_, key| Some((key >> 16) as u16))?;
        let halves: Vec<(u32, u64)> = ranks.iter().map(|&rank| reach(&upper[0], rank)).collect();
        let lower = self.histograms(job, ranks.len(), |list, key| {
            (key >> 16 == halves[list].0).then_some(key as u16)
        })?;
        let found =
            ranks.iter().zip(&halves).zip(&lower).map(|((&rank, &(high, above)), counts)| {
                let (low, more) = reach(counts, rank - above);
                RankedScore {
                    key: high << 16 | low,
                    above: above + more,
                    equal: counts[low as usize],
                }
            });
        Ok(found.collect())
    }

    /// The scores at `ranks`, counted from 0 at the smallest.
    ///
    /// # Panics
    /// If a rank is not less than the number of elements.
    pub(super) fn ascending(&self, job: &Job<'_>, ranks: &[usize]) -> Result<Vec<f32>> {
        let n = job.info.elements();
        let ranks: Vec<u64> = ranks.iter().map(|&rank| (n - rank) as u64).collect();
        Ok(self.find(job, &ranks)?.iter().map(|found| value(found.key)).collect())
    }

    /// The selections of the `k` largest for each of `sizes`, from none to all elements.
    pub(super) fn largest(&self, job: &Job<'_>, sizes: &[usize]) -> Result<Vec<TopSelection>> {
        let n = job.info.elements();
        let inner: Vec<u64> =
            sizes.iter().filter(|&&k| k > 0 && k < n).map(|&k| k as u64).collect();
        let found = if inner.is_empty() { Vec::new() } else { self.find(job, &inner)? };
        let split = |(found, &k): (&RankedScore, &u64)| found.above + found.equal > k;
        let ties = match found.iter().zip(&inner).any(split) {
            true => job.each(self.which, self.step, |start, inputs| {
                let mut counts = vec![0u64; found.len()];
                self.add(start, inputs, |key| {
                    for (count, found) in counts.iter_mut().zip(&found) {
                        *count += u64::from(key == found.key);
                    }
                });
                counts
            })?,
            false => Vec::new(),
        };
        let mut cuts = found.iter().zip(&inner).enumerate().map(|(at, (found, &k))| {
            let mut left = k - found.above;
            let of_chunk = |counts: &Vec<u64>| {
                let here = counts[at].min(left);
                left -= here;
                here
            };
            let partial = found.equal > k - found.above;
            let ties = partial.then(|| ties.iter().map(of_chunk).collect());
            TopSelection { key: found.key, ties, step: self.step }
        });
        let cut = |&k: &usize| match k {
            0 => TopSelection { key: u32::MAX, ties: None, step: self.step },
            k if k >= n => TopSelection { key: 0, ties: None, step: self.step },
            _ => cuts.next().expect("one for each inner size"),
        };
        Ok(sizes.iter().map(cut).collect())
    }
}

/// The bucket that holds the element of rank `rank`, counted from the top, and how many are above it.
fn reach(counts: &[u64], rank: u64) -> (u32, u64) {
    let mut above = 0;
    for (bucket, &count) in counts.iter().enumerate().rev() {
        if above + count >= rank {
            return (bucket as u32, above);
        }
        above += count;
    }
    unreachable!("ranks are no greater than the number of elements")
}

impl TopSelection {
    /// Whether each element of the chunk at `start` belongs, from its scores.
    pub(super) fn mask(&self, start: usize, scores: &[f32], mask: &mut Vec<bool>) {
        mask.clear();
        let ties = self.ties.as_ref().map(|ties| ties[start / self.step]);
        match ties {
            None => mask.extend(scores.iter().map(|&s| key(s) >= self.key)),
            Some(0) => mask.extend(scores.iter().map(|&s| key(s) > self.key)),
            Some(mut left) => mask.extend(scores.iter().map(|&s| {
                let tied = key(s) == self.key && left > 0;
                left -= u64::from(tied);
                tied || key(s) > self.key
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::chunks::CHUNK;
    use crate::merge::methods::testing::{Case, noise};

    fn selected(values: &[f32], step: usize, sizes: &[usize]) -> Vec<Vec<bool>> {
        Case::new(&[values]).run(|job| {
            let score = |_: usize, inputs: &[Vec<f32>], out: &mut [f32]| {
                out.copy_from_slice(&inputs[0]);
            };
            let scores = ElementScores { which: &[0], step, score: &score };
            let cuts = scores.largest(job, sizes).unwrap();
            let all = cuts.iter().map(|cut| {
                let mut mask = Vec::new();
                let chunks = values.chunks(step).enumerate().flat_map(|(chunk, values)| {
                    cut.mask(chunk * step, values, &mut mask);
                    mask.clone()
                });
                chunks.collect()
            });
            all.collect()
        })
    }

    /// Against sorting by score and index.
    #[test]
    fn selections_are_those_of_a_stable_sort() {
        let mut drawn = noise(11, 2 * CHUNK + 77);
        let few_levels: Vec<f32> = drawn.iter().map(|v| (v * 4.0).round() / 4.0).collect();
        drawn[5] = -0.0;
        for values in [&drawn[..300], &few_levels[..300], &few_levels, &[0.0; 90], &[1.5]] {
            let n = values.len();
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|&a, &b| key(values[b]).cmp(&key(values[a])));
            let sizes = [0, 1.min(n), n / 3, n / 2, n - 1, n];
            for step in [64, CHUNK] {
                for (mask, &k) in selected(values, step, &sizes).iter().zip(&sizes) {
                    let mut expected = vec![false; n];
                    order[..k].iter().for_each(|&i| expected[i] = true);
                    assert!(*mask == expected, "{k} of {n} in steps of {step}");
                }
            }
        }
    }

    #[test]
    fn ranks_are_those_of_sorting() {
        let values = noise(3, CHUNK + 1000);
        let mut sorted = values.clone();
        sorted.sort_by(f32::total_cmp);
        let n = values.len();
        let ranks = [0, n / 4, n / 2, n - 1];
        let found = Case::new(&[&values]).run(|job| {
            let score = |_: usize, inputs: &[Vec<f32>], out: &mut [f32]| {
                out.copy_from_slice(&inputs[0]);
            };
            ElementScores { which: &[0], step: CHUNK, score: &score }
                .ascending(job, &ranks)
                .unwrap()
        });
        assert_eq!(found, ranks.map(|rank| sorted[rank]));
    }
}
