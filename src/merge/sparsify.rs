//! Sparsifying task vectors: which elements of a difference from the base model are kept, and what they
//! are multiplied by so that the loss is made up for.
//!
//! The rules are mergekit's (`sparsify.py`, 0.1.5), exact and defined everywhere: a density of 1 keeps
//! all, 0 nothing, and any other at least one element where elements are counted. Nothing but the
//! selections is held: differences are computed anew in each pass.

use super::chunks::Job;
use super::random::{Probability, RandomStream};
use super::select::{ElementScores, TopSelection};
use super::sums;
use crate::base::error::Result;

/// How a method sparsifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sparsify {
    /// Not at all; `density` means nothing.
    Never,
    /// Keeps the `int(density n)` elements of the greatest magnitude.
    Smallest,
    /// Drops the `int(gamma n)` elements of the greatest magnitude and keeps the `int(density n)` next;
    /// where that leaves too few, fewer are dropped from the top.
    SmallestAndOutliers,
    /// Keeps each element with the probability `density`.
    Random,
    /// Keeps each element with a probability from `density - epsilon` for the least magnitude of its row
    /// to `density + epsilon` for the greatest, evenly by rank.
    RandomByRank,
}

/// How the loss is made up for: the values of the parameter `rescale`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rescale {
    No,
    /// By the ratio of the sums of magnitudes before and after.
    L1,
    /// Each kept element by one over the probability, or share, with which it was kept.
    Density,
}

/// The words for `rescale`; flags are 0 and 1.
pub(super) const RESCALE_WORDS: &[(&str, f64)] =
    &[("none", 0.0), ("l1", 1.0), ("density", DENSITY)];
const DENSITY: f64 = 2.0;

/// Sums of magnitudes below are not divided by.
const SMALLEST_SUM: f64 = 1e-7;

/// What is kept of one model's task vector.
pub(super) struct SparseTaskVector {
    kept: KeptElements,
    scale: f32,
}

enum KeptElements {
    All,
    Nothing,
    /// The elements in `within` that are not in `outliers`.
    Band {
        within: TopSelection,
        outliers: Option<TopSelection>,
    },
    Random(RandomStream, Probability),
    ByRank(KeepByRank),
    /// One list of bits for each chunk of `step` elements.
    Drawn {
        step: usize,
        masks: Vec<Vec<u64>>,
    },
}

struct KeepByRank {
    stream: RandomStream,
    row: usize,
    density: f64,
    epsilon: f64,
    /// Whether each element is divided by its own probability.
    unbiased: bool,
}

impl SparseTaskVector {
    /// Decides what is kept of input `at`, whose task vector is its difference from the base model. All
    /// chunks, here and later, are of `step` elements; whole rows for [`Sparsify::RandomByRank`].
    pub(super) fn decide(
        job: &Job<'_>,
        rule: Sparsify,
        at: usize,
        step: usize,
    ) -> Result<SparseTaskVector> {
        let params = &job.plan.inputs[at].params;
        let whole = SparseTaskVector { kept: KeptElements::All, scale: 1.0 };
        let density = match rule {
            Sparsify::Never => return Ok(whole),
            _ => params.need("density"),
        };
        if density >= 1.0 {
            return Ok(whole);
        }
        if density <= 0.0 {
            return Ok(SparseTaskVector { kept: KeptElements::Nothing, ..whole });
        }
        let rescale = match job.plan.params.get("rescale") {
            Some(DENSITY) => Rescale::Density,
            Some(value) if value != 0.0 => Rescale::L1,
            _ => Rescale::No,
        };
        let input = &job.inputs[at];
        let stream = || RandomStream::new(job.seed, &input.model, &input.tensor);
        let kept = match rule {
            Sparsify::Never => KeptElements::All,
            Sparsify::Smallest => band(job, at, step, density, 0.0)?,
            Sparsify::SmallestAndOutliers => band(job, at, step, density, params.need("gamma"))?,
            Sparsify::Random => KeptElements::Random(stream(), Probability::new(density)),
            Sparsify::RandomByRank => KeptElements::ByRank(KeepByRank {
                stream: stream(),
                row: job.row().max(1),
                density,
                epsilon: params.need("epsilon"),
                unbiased: rescale == Rescale::Density,
            }),
        };
        let sparse = SparseTaskVector { kept, scale: 1.0 };
        match (rescale, &sparse.kept) {
            (Rescale::No, _) | (Rescale::Density, KeptElements::ByRank(_)) => Ok(sparse),
            (Rescale::Density, _) => {
                Ok(SparseTaskVector { scale: (1.0 / density) as f32, ..sparse })
            }
            (Rescale::L1, _) => sparse.with_l1(job, at, step),
        }
    }

    /// Measures the sums of magnitudes; what was costly to decide is noted down on the way.
    fn with_l1(self, job: &Job<'_>, at: usize, step: usize) -> Result<SparseTaskVector> {
        let costly = matches!(self.kept, KeptElements::ByRank(_) | KeptElements::Random(..));
        let chunks = job.each(&[at, job.base()], step, |start, inputs| {
            let (delta, base) = inputs.split_at_mut(1);
            sums::subtract(&mut delta[0], &base[0]);
            let before = sums::magnitudes(&delta[0]);
            let bits = match &self.kept {
                KeptElements::ByRank(ranked) => ranked.draw(start, &delta[0]),
                KeptElements::Random(stream, chance) => {
                    draw(*stream, *chance, start, delta[0].len())
                }
                _ => Vec::new(),
            };
            match costly {
                true => apply_bits(&bits, &mut delta[0]),
                false => self.apply(start, &mut delta[0]),
            }
            (before, sums::magnitudes(&delta[0]), bits)
        })?;
        let (mut before, mut after) = (0.0, 0.0);
        let mut masks = Vec::new();
        for (whole, rest, bits) in chunks {
            before += whole;
            after += rest;
            masks.push(bits);
        }
        let measurable = before >= SMALLEST_SUM && after >= SMALLEST_SUM;
        let scale = if measurable { (before / after) as f32 } else { 1.0 };
        let kept = if costly { KeptElements::Drawn { step, masks } } else { self.kept };
        Ok(SparseTaskVector { kept, scale })
    }

    /// Makes what is dropped of a chunk zero and scales the rest.
    pub(super) fn apply(&self, start: usize, delta: &mut [f32]) {
        match &self.kept {
            KeptElements::All => return,
            KeptElements::Nothing => return delta.fill(0.0),
            KeptElements::Band { within, outliers } => {
                let scores: Vec<f32> = delta.iter().map(|d| d.abs()).collect();
                let mut mask = Vec::new();
                within.mask(start, &scores, &mut mask);
                retain(delta, mask.iter().copied());
                if let Some(outliers) = outliers {
                    outliers.mask(start, &scores, &mut mask);
                    retain(delta, mask.iter().map(|outlier| !outlier));
                }
            }
            KeptElements::Random(stream, chance) => {
                let draws = (start as u64..).map(|index| stream.draw(index, *chance));
                retain(delta, draws);
            }
            KeptElements::ByRank(ranked) => ranked.apply(start, delta),
            KeptElements::Drawn { step, masks } => apply_bits(&masks[start / step], delta),
        }
        if self.scale != 1.0 {
            delta.iter_mut().for_each(|d| *d *= self.scale);
        }
    }
}

/// Counts as mergekit does: the product of two floats, cut off.
fn share(density: f64, elements: usize) -> usize {
    (density * elements as f64) as usize
}

fn band(job: &Job<'_>, at: usize, step: usize, density: f64, gamma: f64) -> Result<KeptElements> {
    let n = job.info.elements();
    let wanted = share(density, n).max(1).min(n);
    let outliers = share(gamma, n).min(n - wanted);
    let score = |_: usize, inputs: &[Vec<f32>], scores: &mut [f32]| {
        for ((score, x), base) in scores.iter_mut().zip(&inputs[0]).zip(&inputs[1]) {
            *score = (x - base).abs();
        }
    };
    let scores = ElementScores { which: &[at, job.base()], step, score: &score };
    let mut cuts = scores.largest(job, &[outliers + wanted, outliers])?.into_iter();
    let within = cuts.next().expect("one for each size");
    Ok(KeptElements::Band { within, outliers: cuts.next().filter(|_| outliers > 0) })
}

/// Makes the elements zero that are not kept.
fn retain(delta: &mut [f32], kept: impl Iterator<Item = bool>) {
    for (d, kept) in delta.iter_mut().zip(kept) {
        *d = if kept { *d } else { 0.0 };
    }
}

/// One bit for each of `len` elements from `start` on: whether it is kept.
fn draw(stream: RandomStream, chance: Probability, start: usize, len: usize) -> Vec<u64> {
    let word = |at: usize| {
        let bits = 0..64.min(len - at);
        let kept = |bit: usize| stream.draw((start + at + bit) as u64, chance);
        bits.fold(0u64, |word, bit| word | u64::from(kept(bit)) << bit)
    };
    (0..len).step_by(64).map(word).collect()
}

fn apply_bits(bits: &[u64], delta: &mut [f32]) {
    for (delta, bits) in delta.chunks_mut(64).zip(bits) {
        for (bit, d) in delta.iter_mut().enumerate() {
            // All ones where the element is kept.
            let mask = ((bits >> bit & 1) as u32).wrapping_neg();
            *d = f32::from_bits(d.to_bits() & mask);
        }
    }
}

impl KeepByRank {
    /// Calls `each` with the index in the chunk and the probability of every element.
    fn probabilities(&self, delta: &[f32], mut each: impl FnMut(usize, f64)) {
        let mut order: Vec<u64> = Vec::with_capacity(self.row);
        for (row, values) in delta.chunks(self.row).enumerate() {
            order.clear();
            let keyed = |(at, d): (usize, &f32)| u64::from(d.abs().to_bits()) << 32 | at as u64;
            order.extend(values.iter().enumerate().map(keyed));
            order.sort_unstable();
            let last = (values.len() - 1) as f64;
            for (rank, keyed) in order.iter().enumerate() {
                // A row of one element has no ranks: it stands in the middle.
                let place = if last > 0.0 { rank as f64 / last } else { 0.5 };
                let probability = (self.density - self.epsilon) + place * 2.0 * self.epsilon;
                each(row * self.row + (keyed & 0xFFFF_FFFF) as usize, probability);
            }
        }
    }

    /// One bit for each element of the chunk: whether it is kept.
    fn draw(&self, start: usize, delta: &[f32]) -> Vec<u64> {
        let mut bits = vec![0u64; delta.len().div_ceil(64)];
        self.probabilities(delta, |at, probability| {
            let kept = self.stream.draw((start + at) as u64, Probability::new(probability));
            bits[at / 64] |= u64::from(kept) << (at % 64);
        });
        bits
    }

    fn apply(&self, start: usize, delta: &mut [f32]) {
        let mut factors = vec![0f32; delta.len()];
        self.probabilities(delta, |at, probability| {
            let kept = self.stream.draw((start + at) as u64, Probability::new(probability));
            let factor = if self.unbiased { (1.0 / probability) as f32 } else { 1.0 };
            factors[at] = if kept { factor } else { 0.0 };
        });
        delta.iter_mut().zip(factors).for_each(|(d, factor)| *d *= factor);
    }
}
