//! Draws a token from a row of logits.

use crate::base::error::{Error, Result};
use crate::kernels::exp;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divisor of logits: below 1 likely tokens become likelier, at 0 the likeliest is taken.
    pub temperature: f32,
    /// Draw from at most this many of the likeliest tokens; 0 for no limit.
    pub top_k: usize,
    /// Draw from the fewest likeliest tokens whose probabilities, at this temperature and after `top_k`, sum
    /// to this or more; 1 for all.
    pub top_p: f32,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 }
    }
}

impl Sampling {
    /// Checks the ranges of all values.
    ///
    /// # Errors
    /// [`Error::Usage`] if one is out of range.
    pub fn check(&self) -> Result<()> {
        let Sampling { temperature, top_p, .. } = *self;
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(Error::Usage(format!(
                "a temperature of {temperature}; expected 0 or more"
            )));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(Error::Usage(format!(
                "a top-p of {top_p}; expected more than 0, at most 1"
            )));
        }
        Ok(())
    }
}

/// Draws the tokens of one sequence.
pub(super) struct Sampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
}

impl Sampler {
    /// The sampler of sequence `number`, which has its own stream of the generator.
    pub(super) fn new(sampling: Sampling, seed: u64, number: u64) -> Sampler {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(number);
        Sampler { sampling, rng }
    }

    /// Returns an index below `n`. All are equally likely, within 2^-64 n.
    pub(super) fn index(&mut self, n: usize) -> usize {
        ((u128::from(self.rng.next_u64()) * n as u128) >> 64) as usize
    }

    /// Draws one of the tokens that `allowed` accepts, at least one of which must exist.
    pub(super) fn pick(&mut self, logits: &[f32], allowed: impl Fn(u32) -> bool) -> u32 {
        let all = (0u32..).zip(logits).map(|(id, &logit)| Candidate { id, logit });
        let mut candidates: Vec<Candidate> = all.filter(|c| allowed(c.id)).collect();
        let best = *candidates.iter().min_by(|a, b| a.cmp(b)).expect("a token is allowed");
        let Sampling { temperature, top_k, top_p } = self.sampling;
        if temperature == 0.0 {
            return best.id;
        }
        let weight = |c: &Candidate| f64::from(exp((c.logit - best.logit) / temperature));
        if top_k > 0 {
            keep_best(&mut candidates, top_k);
        }
        let mut total: f64 = candidates.iter().map(weight).sum();
        if top_p < 1.0 {
            total = self.nucleus(&mut candidates, total, weight);
        }
        // 53 bits, from 0 to below 1.
        let point = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * total;
        let mut sum = 0.0;
        for candidate in &candidates {
            sum += weight(candidate);
            if sum > point {
                return candidate.id;
            }
        }
        // Only reached by rounding: the sum was taken in the same order.
        best.id
    }

    /// Keeps the likeliest candidates whose weights sum to `top_p` of `total`, and returns their sum.
    fn nucleus(
        &self,
        candidates: &mut Vec<Candidate>,
        total: f64,
        weight: impl Fn(&Candidate) -> f64,
    ) -> f64 {
        let share = f64::from(self.sampling.top_p) * total;
        // A few usually suffice, and sorting a whole vocabulary takes longer than a small model.
        let mut some = 256;
        loop {
            let mut likeliest = candidates.clone();
            keep_best(&mut likeliest, some);
            let mut sum = 0.0;
            let reached = likeliest.iter().position(|candidate| {
                sum += weight(candidate);
                sum >= share
            });
            if let Some(last) = reached {
                likeliest.truncate(last + 1);
            } else if likeliest.len() < candidates.len() {
                some *= 8;
                continue;
            }
            *candidates = likeliest;
            return sum;
        }
    }
}

#[derive(Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
}

impl Candidate {
    /// The likelier first, the lower id where two are equal.
    fn cmp(&self, other: &Candidate) -> std::cmp::Ordering {
        other.logit.total_cmp(&self.logit).then(self.id.cmp(&other.id))
    }
}

/// Keeps the `n` likeliest, in their order.
fn keep_best(candidates: &mut Vec<Candidate>, n: usize) {
    if n < candidates.len() {
        candidates.select_nth_unstable_by(n - 1, Candidate::cmp);
        candidates.truncate(n);
    }
    candidates.sort_unstable_by(Candidate::cmp);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens 0 to 3 with probabilities of 0.1, 0.4, 0.3 and 0.2.
    fn logits() -> Vec<f32> {
        [0.1f32, 0.4, 0.3, 0.2].iter().map(|p| p.ln() + 3.0).collect()
    }

    fn shares(sampling: Sampling, allowed: impl Fn(u32) -> bool) -> Vec<f64> {
        let (logits, mut sampler, mut counts) = (logits(), Sampler::new(sampling, 1, 2), [0; 4]);
        for _ in 0..20_000 {
            counts[sampler.pick(&logits, &allowed) as usize] += 1;
        }
        counts.iter().map(|&n| n as f64 / 20_000.0).collect()
    }

    #[test]
    fn tokens_come_as_often_as_they_are_likely() {
        let close = |got: Vec<f64>, want: [f64; 4]| {
            // Four standard deviations at the most.
            assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 0.0142), "{got:?} {want:?}");
        };
        let plain = Sampling::default();
        close(shares(plain, |_| true), [0.1, 0.4, 0.3, 0.2]);
        close(shares(plain, |id| id != 1), [1.0 / 6.0, 0.0, 0.5, 1.0 / 3.0]);
        close(shares(Sampling { top_k: 2, ..plain }, |_| true), [0.0, 4.0 / 7.0, 3.0 / 7.0, 0.0]);
        // 0.4 + 0.3 fall short of 0.75, so a third one is taken in.
        let nucleus = [0.0, 4.0 / 9.0, 3.0 / 9.0, 2.0 / 9.0];
        close(shares(Sampling { top_p: 0.75, ..plain }, |_| true), nucleus);
        // At half the temperature probabilities are squared.
        let squared = [1.0 / 30.0, 16.0 / 30.0, 9.0 / 30.0, 4.0 / 30.0];
        close(shares(Sampling { temperature: 0.5, ..plain }, |_| true), squared);
        close(shares(Sampling { temperature: 0.0, ..plain }, |_| true), [0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn a_nucleus_may_be_large() {
        let sampling = Sampling { top_p: 0.9, ..Sampling::default() };
        let (logits, mut sampler) = (vec![1.0; 5000], Sampler::new(sampling, 3, 0));
        let mut picked: Vec<u32> = (0..3000).map(|_| sampler.pick(&logits, |_| true)).collect();
        assert!(picked.iter().all(|&id| id < 4501), "equals come by their ids");
        picked.sort();
        assert!(picked[2900] > 4200);
    }

    #[test]
    fn streams_differ_by_seed_and_sequence_and_repeat() {
        let draw = |seed, number| -> Vec<usize> {
            let mut sampler = Sampler::new(Sampling::default(), seed, number);
            (0..20).map(|_| sampler.index(1000)).collect()
        };
        assert_eq!(draw(1, 1), draw(1, 1));
        assert!(draw(1, 1) != draw(1, 2) && draw(1, 1) != draw(2, 1));
        assert!(draw(5, 0).iter().all(|&index| index < 1000));
    }

    #[test]
    fn figures_without_sense_are_refused() {
        let plain = Sampling::default();
        assert!(plain.check().is_ok());
        for temperature in [-0.1, f32::NAN, f32::INFINITY] {
            assert!(Sampling { temperature, ..plain }.check().is_err());
        }
        for top_p in [0.0, 1.1, f32::NAN] {
            assert!(Sampling { top_p, ..plain }.check().is_err());
        }
    }
}
