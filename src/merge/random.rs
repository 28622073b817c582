//! Random numbers that belong to an element of a tensor, not to a run.
//!
//! [`RandomStream`] gives element `i` output `i` of SplitMix64, "Fast splittable pseudorandom number
//! generators", Steele, Lea and Flood 2014 (the finalizer is Stafford's variant 13, as in Vigna's
//! <https://prng.di.unimi.it/splitmix64.c>): its state is a counter, so any output can be had on its
//! own, and neither threads, chunks nor the order of tensors matter. Streams start at the first 64 bits
//! of a SHA-256 of seed, model and tensor.

use sha2::{Digest, Sha256};

/// The random numbers of one tensor of one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RandomStream {
    start: u64,
}

/// The step of SplitMix64's counter, 2^64 over the golden ratio.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

impl RandomStream {
    /// The stream for `tensor` of `model`.
    pub(super) fn new(seed: u64, model: &str, tensor: &str) -> RandomStream {
        let mut hash = Sha256::new();
        hash.update(seed.to_le_bytes());
        // The length sets the names apart: a model 'ab' with 'c' is not 'a' with 'bc'.
        hash.update((model.len() as u64).to_le_bytes());
        hash.update(model);
        hash.update(tensor);
        let digest = hash.finalize();
        let first = digest.first_chunk().expect("SHA-256 has 32 bytes");
        RandomStream { start: u64::from_le_bytes(*first) }
    }

    /// MergedTensor `index`: 64 random bits.
    fn bits(self, index: u64) -> u64 {
        let mut z = self.start.wrapping_add(index.wrapping_add(1).wrapping_mul(GAMMA));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Whether the draw for element `index` succeeds.
    pub(super) fn draw(self, index: u64, chance: Probability) -> bool {
        (self.bits(index) >> 32) < chance.0
    }
}

/// A probability in steps of 2^-32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probability(u64);

impl Probability {
    /// Nearest to `probability`, which is clamped to 0..=1.
    pub(super) fn new(probability: f64) -> Probability {
        Probability((probability.clamp(0.0, 1.0) * 4_294_967_296.0).round() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference implementation's output for the seed 1234567.
    #[test]
    fn outputs_are_those_of_splitmix64() {
        let stream = RandomStream { start: 1234567 };
        let expected = [6457827717110365317u64, 3203168211198807973, 9817491932198370423];
        assert_eq!([0, 1, 2].map(|i| stream.bits(i)), expected);
    }

    #[test]
    fn streams_differ_by_seed_model_and_tensor() {
        let streams = [(0, "a", "bc"), (1, "a", "bc"), (0, "ab", "c"), (0, "a", "bd")]
            .map(|(seed, model, tensor)| RandomStream::new(seed, model, tensor));
        for (i, a) in streams.iter().enumerate() {
            assert!(streams[i + 1..].iter().all(|b| a != b));
        }
        assert_eq!(streams[0], RandomStream::new(0, "a", "bc"));
    }

    #[test]
    fn chances_are_met() {
        let stream = RandomStream::new(7, "m", "t");
        let share = |p: f64| {
            let hits = (0..100_000).filter(|&i| stream.draw(i, Probability::new(p))).count();
            hits as f64 / 1e5
        };
        assert_eq!((share(0.0), share(1.0)), (0.0, 1.0));
        // Five standard deviations.
        for p in [0.1, 0.5, 0.93] {
            assert!((share(p) - p).abs() < 5.0 * (p * (1.0 - p) / 1e5).sqrt(), "{p}");
        }
    }
}
