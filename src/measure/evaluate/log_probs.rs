//! Records of the log-probabilities of one position, in 16 bits each, and their difference from logits.
//!
//! A record is little-endian: `scale` and `low` in f32, then a u16 `q` for each token of the vocabulary,
//! padded to an even number; `log p = scale q + low`. Log-probabilities more than 16 below the largest are
//! raised to that bound. Source: llama.cpp `tools/perplexity/perplexity.cpp`, October 2026.

use crate::kernels::{exp, log_sum_exp};

/// Bytes before the values: `scale` and `low`.
const HEAD: usize = 8;
/// Logits further below the largest are stored as equal.
const SPAN: f32 = 16.0;
const STEPS: f32 = 65535.0;
/// Tokens whose log-probability in the reference is not above this add nothing to the divergence.
const NEGLIGIBLE: f32 = -16.0;

/// Returns the bytes of a record for `n_vocab` tokens.
pub(super) fn record_bytes(n_vocab: usize) -> usize {
    HEAD + 2 * n_vocab.next_multiple_of(2)
}

/// Writes the log-probabilities of finite `logits` into `record`.
///
/// # Panics
/// If `record` is not [`record_bytes`] long.
pub(super) fn encode(logits: &[f32], record: &mut [u8]) {
    assert_eq!(record.len(), record_bytes(logits.len()));
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let least = logits.iter().copied().fold(f32::INFINITY, f32::min).max(top - SPAN);
    let sum = (log_sum_exp(logits) - f64::from(top)) as f32;
    let scale = (top - least) / STEPS;
    let inverse = 1.0 / scale;
    record[..4].copy_from_slice(&scale.to_le_bytes());
    record[4..HEAD].copy_from_slice(&(least - top - sum).to_le_bytes());
    let (values, padding) = record[HEAD..].split_at_mut(2 * logits.len());
    padding.fill(0);
    if !inverse.is_finite() {
        // All logits are equal, or nearly so.
        values.fill(0);
        return;
    }
    // Adding this rounds to an integer, in the low bits of the mantissa.
    const ROUND: f32 = 12582912.0;
    for (value, &logit) in values.chunks_exact_mut(2).zip(logits) {
        let steps = if logit > least { inverse * (logit - least) } else { 0.0 };
        let nearest = (steps + ROUND).to_bits() as u16;
        value.copy_from_slice(&nearest.to_le_bytes());
    }
}

/// How the reference and the model predicted one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Compared {
    /// Negative log-likelihood under the reference.
    pub base_nll: f64,
    /// Kullback-Leibler divergence of the model's distribution from the reference's.
    pub kld: f64,
    /// The token's probability, minus that under the reference.
    pub p_change: f64,
    /// Whether both rank the same token first.
    pub same_top: bool,
}

/// Compares `logits` with the reference's `record` for the same position; `target` is the token that
/// follows. `base` is a reused buffer.
///
/// `KLD = sum of p_base (log p_base - log p)`, over tokens with `log p_base` above -16.
///
/// # Errors
/// If the record's numbers are out of range.
///
/// # Panics
/// If `record` is not [`record_bytes`] long.
pub(super) fn compare(
    logits: &[f32],
    record: &[u8],
    target: u32,
    base: &mut Vec<f32>,
) -> Result<Compared, String> {
    assert_eq!(record.len(), record_bytes(logits.len()));
    let float = |at: usize| f32::from_le_bytes([0, 1, 2, 3].map(|i| record[at + i]));
    let (scale, low) = (float(0), float(4));
    // A scale is at most 16 / 65535. The lowest logit is at most 16 + ln(vocabulary) below the logarithm of
    // the sum.
    if !(0.0..=1.0).contains(&scale) || !(-100.0..=0.0).contains(&low) {
        return Err(format!(
            "a scale of {scale} and a lowest log-probability of {low} are out of range"
        ));
    }
    base.clear();
    let values = record[HEAD..].chunks_exact(2).take(logits.len());
    base.extend(values.map(|v| scale * f32::from(u16::from_le_bytes([v[0], v[1]])) + low));
    let total = log_sum_exp(logits);
    let kld = divergence(base, logits, total as f32);
    let base_log_p = base[target as usize];
    let nll = total - f64::from(logits[target as usize]);
    Ok(Compared {
        base_nll: -f64::from(base_log_p),
        kld,
        p_change: (-nll).exp() - f64::from(base_log_p).exp(),
        same_top: first_largest(logits) == first_largest(base),
    })
}

/// `sum of e^base (base - (logits - total))`, each term in f32 and the sum in f64, in a fixed order.
fn divergence(base: &[f32], logits: &[f32], total: f32) -> f64 {
    const LANES: usize = 8;
    let term = |base: f32, logit: f32| {
        let p = if base > NEGLIGIBLE { exp(base) } else { 0.0 };
        f64::from(p * (base - logit + total))
    };
    let mut lanes = [0f64; LANES];
    let (bases, rows) = (base.chunks_exact(LANES), logits.chunks_exact(LANES));
    let rest = bases.remainder().iter().zip(rows.remainder());
    let rest: f64 = rest.map(|(&base, &logit)| term(base, logit)).sum();
    for (bases, logits) in bases.zip(rows) {
        for ((lane, &base), &logit) in lanes.iter_mut().zip(bases).zip(logits) {
            *lane += term(base, logit);
        }
    }
    lanes.iter().sum::<f64>() + rest
}

/// Returns the index of the first largest value.
fn first_largest(values: &[f32]) -> usize {
    let top = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    values.iter().position(|&v| v == top).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` logits from a small generator, some of them more than 16 below the largest.
    fn logits(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        (0..n).map(|_| 22.0 * next() - 11.0).collect()
    }

    fn encoded(logits: &[f32]) -> Vec<u8> {
        let mut record = vec![0xaa; record_bytes(logits.len())];
        encode(logits, &mut record);
        record
    }

    fn log_softmax(logits: &[f32]) -> Vec<f64> {
        let total = logits.iter().map(|&v| f64::from(v).exp()).sum::<f64>().ln();
        logits.iter().map(|&v| f64::from(v) - total).collect()
    }

    #[test]
    fn a_record_holds_log_probabilities_to_half_a_step() {
        for n in [1001, 1000] {
            let logits = logits(n, 5);
            let record = encoded(&logits);
            assert_eq!(record.len(), 8 + 2 * n + 2 * (n % 2));
            assert!(record[8 + 2 * n..].iter().all(|&b| b == 0), "padding is zero");
            let want = log_softmax(&logits);
            let top = want.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mut base = Vec::new();
            compare(&logits, &record, 0, &mut base).unwrap();
            let mut raised = 0;
            for (&got, &want) in base.iter().zip(&want) {
                let want = want.max(top - 16.0);
                raised += usize::from(want == top - 16.0);
                assert!(
                    (f64::from(got) - want).abs() < 16.0 / 65535.0 / 2.0 + 4e-6,
                    "{got} {want}"
                );
            }
            assert!(raised > 10 && raised < n / 2, "{raised}");
        }
    }

    #[test]
    fn differences_are_those_of_the_definitions() {
        let (a, b) = (logits(777, 1), logits(777, 2));
        let (la, lb) = (log_softmax(&a), log_softmax(&b));
        let record = encoded(&a);
        for target in [0, 300, 776] {
            let got = compare(&b, &record, target, &mut Vec::new()).unwrap();
            let kld: f64 = la.iter().zip(&lb).map(|(a, b)| a.exp() * (a - b)).sum();
            assert!((got.kld / kld - 1.0).abs() < 1e-3 && kld > 0.5, "{} for {kld}", got.kld);
            let target = target as usize;
            let top = la.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let base_nll = -la[target].max(top - 16.0);
            assert!((got.base_nll - base_nll).abs() < 2e-4, "{} for {base_nll}", got.base_nll);
            let p_change = lb[target].exp() - la[target].exp();
            assert!((got.p_change - p_change).abs() < 1e-5, "{} for {p_change}", got.p_change);
            assert!(!got.same_top);
        }
        let same = compare(&a, &record, 3, &mut Vec::new()).unwrap();
        let half_step = f64::from(SPAN / STEPS / 2.0);
        assert!(same.kld.abs() < half_step && same.same_top, "{same:?}");
    }

    #[test]
    fn equal_logits_are_equally_likely() {
        let record = encoded(&[3.0; 8]);
        let got = compare(&[3.0; 8], &record, 5, &mut Vec::new()).unwrap();
        assert!((got.base_nll - 8f64.ln()).abs() < 1e-6 && got.kld.abs() < 1e-6, "{got:?}");
        assert!(got.same_top && got.p_change.abs() < 1e-6, "{got:?}");
    }

    #[test]
    fn records_that_cannot_be_are_refused() {
        let logits = logits(10, 3);
        for (scale, low) in [
            (f32::NAN, -1.0),
            (-1.0, -1.0),
            (1e9, -1.0),
            (1e-4, f32::INFINITY),
            (1e-4, 5.0),
            (1e-4, -1e9),
        ] {
            let mut record = encoded(&logits);
            record[..4].copy_from_slice(&scale.to_le_bytes());
            record[4..8].copy_from_slice(&low.to_le_bytes());
            assert!(compare(&logits, &record, 0, &mut Vec::new()).is_err(), "{scale} {low}");
        }
    }
}
