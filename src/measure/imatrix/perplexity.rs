//! The perplexity of a text, from the log-likelihoods of its chunks.
//!
//! Kept chunk by chunk, so that runs over parts of a text give together what one run over all of it gives,
//! bit for bit.

use std::ops::Range;

/// How likely the counted tokens of one chunk were.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Likelihood {
    /// Sum of their negative log-likelihoods.
    pub nll: f64,
    /// Sum of the squares of these.
    pub squares: f64,
}

/// The perplexity of a text: `exp` of the mean negative log-likelihood of its tokens. Counted are the
/// tokens in the second half of each chunk, which have at least half a chunk before them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Perplexity {
    /// Over the first 1, 2, ... chunks.
    pub running: Vec<f64>,
    /// Over all chunks.
    pub estimate: f64,
    /// Standard error of the estimate.
    pub error: f64,
    /// Tokens counted.
    pub tokens: usize,
}

/// The positions in a chunk of `ctx` tokens whose logits count. The last one predicts a token of the next
/// chunk.
pub(super) fn counted(ctx: usize) -> Range<usize> {
    ctx / 2..ctx - 1
}

impl Perplexity {
    /// The perplexity of `chunks` of `ctx` tokens, one at least.
    pub fn of(chunks: &[Likelihood], ctx: usize) -> Perplexity {
        let a_chunk = counted(ctx).len();
        let mut total = Likelihood::default();
        let mut running = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            total.nll += chunk.nll;
            total.squares += chunk.squares;
            running.push((total.nll / ((running.len() + 1) * a_chunk) as f64).exp());
        }
        let tokens = chunks.len() * a_chunk;
        let n = tokens as f64;
        let mean = total.nll / n;
        let variance = total.squares / n - mean * mean;
        let estimate = mean.exp();
        // The error of the mean, carried over to its exponential.
        let error = (variance.max(0.0) / (n - 1.0)).sqrt() * estimate;
        Perplexity { running, estimate, error, tokens }
    }

    /// Running perplexities from chunk `first` (of 0, 1, ...) on, as llama-imatrix prints them:
    /// `[1]16.2622,[2]17.6857`, a few to a line.
    pub(super) fn running_text(&self, first: usize) -> String {
        const A_LINE: usize = 8;
        let running = self.running.iter().enumerate().skip(first);
        let shown: Vec<_> = running.map(|(i, ppl)| format!("[{}]{ppl:.4}", i + 1)).collect();
        shown.chunks(A_LINE).map(|line| line.join(",")).collect::<Vec<_>>().join(",\n")
    }
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
        assert_eq!(perplexity.running_text(0), "[1]2.7183,[2]7.3891");
        assert_eq!(perplexity.running_text(1), "[2]7.3891");
    }
}
