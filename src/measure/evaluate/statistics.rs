//! Means with their standard errors, and percentiles, over the counted tokens.
//!
//! Formulas: llama.cpp `tools/perplexity/perplexity.cpp`, `kl_divergence`, October 2026, where Q is the model and
//! base the reference. Sums run over tokens in their order.

use super::log_probs::Compared;
use crate::measure::perplexity;
use serde::{Deserialize, Serialize};

/// Percentiles of divergences.
const KLD_PERCENTILES: &[f64] = &[99.9, 99.0, 95.0, 90.0, 50.0, 10.0, 5.0, 1.0, 0.1];
/// Percentiles of changes in probability.
const CHANGE_PERCENTILES: &[f64] = &[99.9, 99.0, 95.0, 90.0, 75.0, 50.0, 25.0, 10.0, 5.0, 1.0, 0.1];
/// With fewer tokens than this, no standard error is computed.
const FEW: usize = 10;

/// A value with its standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// The standard error; 0 if there are too few tokens.
    pub error: f64,
}

/// The distribution of a quantity over tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// The mean.
    pub mean: Estimate,
    /// The largest value.
    pub maximum: f64,
    /// From the highest to the lowest; the 50th is the median.
    pub percentiles: Vec<Percentile>,
    /// The smallest value.
    pub minimum: f64,
}

/// `percent` of all values do not exceed `value`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Percentile {
    /// From 0 to 100.
    pub percent: f64,
    /// The value.
    pub value: f64,
}

/// How far a model's predictions are from a reference's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// Computed from the reference's log-probabilities, which have 16 bits.
    pub reference_perplexity: Estimate,
    /// Correlation of both negative log-likelihoods over tokens, -1 to 1; `None` if one does not vary.
    pub correlation: Option<f64>,
    /// `ln(PPL / PPL of the reference)`.
    pub log_perplexity_ratio: Estimate,
    /// `PPL / PPL of the reference`.
    pub perplexity_ratio: Estimate,
    /// `PPL - PPL of the reference`.
    pub perplexity_difference: Estimate,
    /// Kullback-Leibler divergence, in nats.
    pub kld: Distribution,
    /// The probability of the token that follows, minus that under the reference; -1 to 1.
    pub probability_change: Distribution,
    /// The root mean square of `probability_change`.
    pub probability_change_rms: Estimate,
    /// The share of positions at which both rank the same token first, 0 to 1.
    pub same_top: Estimate,
    /// Mean Kullback-Leibler divergence over the first 1, 2, ... chunks.
    pub running_kld: Vec<f64>,
}

impl Divergence {
    /// The divergence over tokens with negative log-likelihoods `nll`, `per_chunk` in each chunk.
    pub(super) fn of(nll: &[f64], compared: &[Compared], per_chunk: usize) -> Divergence {
        let pairs = nll.iter().zip(compared);
        let perplexity_here = perplexity(nll.iter().copied());
        let reference_perplexity = perplexity(compared.iter().map(|c| c.base_nll));
        let log_ratio = mean(pairs.clone().map(|(nll, c)| nll - c.base_nll));
        let klds: Vec<f64> = compared.iter().map(|c| c.kld).collect();
        let changes = compared.iter().map(|c| c.p_change);
        let squares = mean(changes.clone().map(|change| change * change));
        let rms = squares.value.sqrt();
        let same = mean(compared.iter().map(|c| f64::from(u8::from(c.same_top))));
        Divergence {
            reference_perplexity,
            correlation: correlation(pairs.map(|(nll, c)| (*nll, c.base_nll))),
            log_perplexity_ratio: log_ratio,
            perplexity_ratio: exp(log_ratio),
            perplexity_difference: Estimate {
                value: perplexity_here.value - reference_perplexity.value,
                error: difference_error(nll, compared, perplexity_here, reference_perplexity),
            },
            running_kld: running_means(&klds, per_chunk).collect(),
            kld: Distribution::of(klds, KLD_PERCENTILES),
            probability_change: Distribution::of(changes.collect(), CHANGE_PERCENTILES),
            probability_change_rms: Estimate {
                value: rms,
                error: if rms > 0.0 { 0.5 / rms * squares.error } else { 0.0 },
            },
            same_top: same,
        }
    }
}

/// Returns the error of `PPL - PPL of the reference`. The error of a perplexity is that of the mean
/// log-likelihood times the perplexity. Both means are correlated, so the result is the error of the mean
/// of `PPL nll - PPL' nll'`.
fn difference_error(nll: &[f64], compared: &[Compared], here: Estimate, base: Estimate) -> f64 {
    let pairs = nll.iter().zip(compared);
    mean(pairs.map(|(nll, c)| here.value * nll - base.value * c.base_nll)).error
}

impl Distribution {
    fn of(mut values: Vec<f64>, percents: &[f64]) -> Distribution {
        let mean = mean(values.iter().copied());
        values.sort_by(f64::total_cmp);
        let at = |&percent: &f64| Percentile { percent, value: percentile(&values, percent) };
        Distribution {
            mean,
            maximum: values.last().copied().unwrap_or(f64::NAN),
            percentiles: percents.iter().map(at).collect(),
            minimum: values.first().copied().unwrap_or(f64::NAN),
        }
    }

    /// Returns the value that `percent` of all values do not exceed, if it was computed.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        self.percentiles.iter().find(|p| p.percent == percent).map(|p| p.value)
    }
}

/// Interpolates linearly between the two sorted values around `percent / 100 (n - 1)`. NaN without values.
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = percent / 100.0 * last as f64;
    let below = (place as usize).min(last);
    let part = place - below as f64;
    (1.0 - part) * sorted[below] + part * sorted[(below + 1).min(last)]
}

/// Returns the mean and its error, `sqrt((mean of squares - mean^2) / (n - 1))`, in two passes.
fn mean(values: impl Iterator<Item = f64> + Clone) -> Estimate {
    let n = values.clone().count();
    if n == 0 {
        return Estimate::default();
    }
    let value = values.clone().sum::<f64>() / n as f64;
    let variance = values.map(|v| (v - value) * (v - value)).sum::<f64>() / n as f64;
    let error = if n > FEW { (variance / (n as f64 - 1.0)).sqrt() } else { 0.0 };
    Estimate { value, error }
}

/// Returns the exponential, with the error carried over to it.
fn exp(of: Estimate) -> Estimate {
    let value = of.value.exp();
    Estimate { value, error: value * of.error }
}

/// Returns the perplexity of tokens with these negative log-likelihoods.
pub(super) fn perplexity(nll: impl Iterator<Item = f64> + Clone) -> Estimate {
    exp(mean(nll))
}

/// Returns the perplexity over the first 1, 2, ... times `per_chunk` tokens.
pub(super) fn running_perplexity(nll: &[f64], per_chunk: usize) -> Vec<f64> {
    running_means(nll, per_chunk).map(f64::exp).collect()
}

fn running_means(values: &[f64], per_chunk: usize) -> impl Iterator<Item = f64> {
    let per_chunk = per_chunk.max(1);
    let sums = values.chunks(per_chunk).map(|chunk| chunk.iter().sum());
    perplexity::running_means(sums, per_chunk)
}

/// Returns Pearson's correlation; `None` if one side does not vary.
fn correlation(pairs: impl Iterator<Item = (f64, f64)> + Clone) -> Option<f64> {
    let n = pairs.clone().count() as f64;
    let (mut a_mean, mut b_mean) = (0.0, 0.0);
    for (a, b) in pairs.clone() {
        a_mean += a / n;
        b_mean += b / n;
    }
    let (mut aa, mut bb, mut ab) = (0.0, 0.0, 0.0);
    for (a, b) in pairs {
        let (a, b) = (a - a_mean, b - b_mean);
        aa += a * a;
        bb += b * b;
        ab += a * b;
    }
    (aa > 0.0 && bb > 0.0).then(|| ab / (aa.sqrt() * bb.sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-12 * want.abs().max(1.0), "{got} for {want}");
    }

    #[test]
    fn means_have_the_error_of_the_sample() {
        let values = (0..12).map(f64::from);
        let got = mean(values.clone());
        close(got.value, 5.5);
        // The variance of 0..12 is (12^2 - 1) / 12.
        close(got.error, (143.0f64 / 12.0 / 11.0).sqrt());
        assert_eq!(mean(values.take(10)).error, 0.0, "too few");
        assert_eq!(mean(std::iter::empty()), Estimate::default());
        close(perplexity([1.0, 3.0].into_iter()).value, 2f64.exp());
    }

    #[test]
    fn percentiles_lie_between_values() {
        let sorted = [1.0, 2.0, 4.0, 8.0];
        close(percentile(&sorted, 50.0), 3.0);
        close(percentile(&sorted, 0.0), 1.0);
        close(percentile(&sorted, 100.0), 8.0);
        close(percentile(&sorted, 90.0), 0.3 * 4.0 + 0.7 * 8.0);
        close(percentile(&[7.0], 99.9), 7.0);
    }

    #[test]
    fn running_values_are_over_all_chunks_so_far() {
        let running: Vec<f64> = running_means(&[1.0, 2.0, 3.0, 6.0], 2).collect();
        assert_eq!(running, [1.5, 3.0]);
        close(running_perplexity(&[1.0, 2.0, 3.0, 6.0], 2)[1], 3f64.exp());
    }

    #[test]
    fn divergence_follows_llama_cpps_formulas() {
        let n = 40;
        let nll: Vec<f64> = (0..n).map(|i| f64::from(i * 7 % 11) * 0.3).collect();
        let compared: Vec<Compared> = (0..n)
            .map(|i| Compared {
                base_nll: nll[i as usize] + f64::from(i * 5 % 7) * 0.1 - 0.25,
                kld: f64::from(i) * 0.01,
                p_change: if i % 2 == 0 { 0.1 } else { -0.2 },
                same_top: i % 4 != 0,
            })
            .collect();
        let got = Divergence::of(&nll, &compared, 20);
        // As llama.cpp computes them: sums, sums of squares and of products.
        let count = f64::from(n);
        let sum = |f: &dyn Fn(usize) -> f64| (0..n as usize).map(f).sum::<f64>() / count;
        let (a, b) = (sum(&|i| nll[i]), sum(&|i| compared[i].base_nll));
        let error = |mean: f64, square: f64| ((square - mean * mean) / (count - 1.0)).sqrt();
        let a_error = error(a, sum(&|i| nll[i] * nll[i]));
        let b_error = error(b, sum(&|i| compared[i].base_nll * compared[i].base_nll));
        let covariance = (sum(&|i| nll[i] * compared[i].base_nll) - a * b) / (count - 1.0);
        close(got.reference_perplexity.value, b.exp());
        close(got.reference_perplexity.error, b.exp() * b_error);
        close(got.correlation.unwrap(), covariance / (a_error * b_error));
        let ratio_error = (a_error * a_error + b_error * b_error - 2.0 * covariance).sqrt();
        close(got.log_perplexity_ratio.value, a - b);
        close(got.log_perplexity_ratio.error, ratio_error);
        close(got.perplexity_ratio.error, (a - b).exp() * ratio_error);
        let (ppl, base) = (a.exp(), b.exp());
        let square = |v: f64| v * v;
        let both = square(ppl * a_error) + square(base * b_error) - 2.0 * ppl * base * covariance;
        close(got.perplexity_difference.value, ppl - base);
        close(got.perplexity_difference.error, both.sqrt());
        let squares = sum(&|i| compared[i].p_change.powi(2));
        let fourths = sum(&|i| compared[i].p_change.powi(4));
        close(got.probability_change_rms.value, squares.sqrt());
        close(got.probability_change_rms.error, 0.5 / squares.sqrt() * error(squares, fourths));
        close(got.same_top.value, 0.75);
        close(got.same_top.error, (0.75 * 0.25 / (count - 1.0)).sqrt());
        close(got.kld.mean.value, 0.195);
        close(got.kld.percentile(50.0).unwrap(), 0.195);
        assert_eq!((got.kld.minimum, got.kld.maximum), (0.0, 0.39));
        assert_eq!(got.running_kld.len(), 2);
        close(got.running_kld[0], 0.095);
    }

    #[test]
    fn what_does_not_vary_has_no_correlation() {
        assert_eq!(correlation([(1.0, 2.0), (1.0, 3.0)].into_iter()), None);
        close(correlation([(1.0, 2.0), (2.0, 4.0)].into_iter()).unwrap(), 1.0);
    }
}
