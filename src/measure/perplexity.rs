//! The perplexity of a text, from the log-likelihoods of its tokens.
//!
//! Likelihoods are stored chunk by chunk, so that runs over parts of a text together give what one run
//! over all of it gives, bit for bit. Not here: the distance from a reference (`evaluate`).

use super::tokens::counted;
use crate::kernels::log_sum_exp;
use crate::model::forward::Logits;
use rayon::prelude::*;

/// How likely the counted tokens of one chunk were.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Likelihood {
    /// Sum of the tokens' negative log-likelihoods, in nats.
    pub nll: f64,
    /// Sum of their squares.
    pub squares: f64,
}

impl Likelihood {
    /// Adds tokens with the negative log-likelihoods `nll`.
    pub(super) fn add(&mut self, nll: &[f64]) {
        for v in nll {
            self.nll += v;
            self.squares += v * v;
        }
    }
}

/// The perplexity of a text: `exp` of the mean negative log-likelihood of its tokens. Only tokens in
/// the second half of each chunk count, which have at least half a chunk before them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Perplexity {
    /// Over the first 1, 2, ... chunks.
    pub running: Vec<f64>,
    /// Over all chunks.
    pub estimate: f64,
    /// Standard error of the estimate.
    pub error: f64,
    /// Number of tokens counted.
    pub tokens: usize,
}

impl Perplexity {
    /// The perplexity of `chunks` (at least one) of `ctx` tokens.
    pub fn of(chunks: &[Likelihood], ctx: usize) -> Perplexity {
        let per_chunk = counted(ctx).len();
        let mut total = Likelihood::default();
        for chunk in chunks {
            total.nll += chunk.nll;
            total.squares += chunk.squares;
        }
        let running = running_means(chunks.iter().map(|chunk| chunk.nll), per_chunk);
        let running = running.map(f64::exp).collect();
        let tokens = chunks.len() * per_chunk;
        let n = tokens as f64;
        let mean = total.nll / n;
        let variance = total.squares / n - mean * mean;
        let estimate = mean.exp();
        // The error of the mean, carried over to its exponential.
        let error = (variance.max(0.0) / (n - 1.0)).sqrt() * estimate;
        Perplexity { running, estimate, error, tokens }
    }
}

/// The negative log-likelihood of each of `targets`, the tokens that the rows of `logits` predict.
pub(super) fn losses(logits: &Logits<'_>, targets: &[u32]) -> Vec<f64> {
    let rows = logits.values.par_chunks_exact(logits.n_vocab).zip(targets);
    rows.map(|(row, &target)| log_sum_exp(row) - f64::from(row[target as usize])).collect()
}

/// The means over the first 1, 2, ... chunks of `per_chunk` values each, from the chunks' sums.
pub(super) fn running_means(
    sums: impl Iterator<Item = f64>,
    per_chunk: usize,
) -> impl Iterator<Item = f64> {
    let mut total = (0.0, 0);
    sums.map(move |sum| {
        total = (total.0 + sum, total.1 + per_chunk);
        total.0 / total.1 as f64
    })
}

/// Running perplexities from chunk `first` (0, 1, ...) on, as llama-imatrix and llama-perplexity print
/// them: `[1]16.2622,[2]17.6857`, a few to a line.
pub(super) fn running_text(running: &[f64], first: usize) -> String {
    const PER_LINE: usize = 8;
    let running = running.iter().enumerate().skip(first);
    let shown: Vec<_> = running.map(|(i, ppl)| format!("[{}]{ppl:.4}", i + 1)).collect();
    shown.chunks(PER_LINE).map(|line| line.join(",")).collect::<Vec<_>>().join(",\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perplexity_of_known_likelihoods() {
        // Chunks of 16: positions 8 to 14 count, 7 tokens.
        let chunk = |a: f64| Likelihood { nll: 7.0 * a, squares: 7.0 * a * a };
        let perplexity = Perplexity::of(&[chunk(1.0), chunk(3.0)], 16);
        assert_eq!(perplexity.tokens, 14);
        assert_eq!(perplexity.running, [1f64.exp(), 2f64.exp()]);
        assert_eq!(perplexity.estimate, 2f64.exp());
        // Half of the values are 1, half 3: a variance of 1.
        assert!((perplexity.error - 2f64.exp() / 13f64.sqrt()).abs() < 1e-12);
        assert_eq!(running_text(&perplexity.running, 0), "[1]2.7183,[2]7.3891");
        assert_eq!(running_text(&perplexity.running, 1), "[2]7.3891");
    }

    #[test]
    fn running_means_are_over_all_chunks_so_far() {
        let running: Vec<f64> = running_means([3.0, 9.0].into_iter(), 2).collect();
        assert_eq!(running, [1.5, 3.0]);
    }
}
