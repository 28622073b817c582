//! From a text to an importance matrix, with the perplexity of the text on the way.

use super::ImportanceMatrix;
use super::collector::{Collector, MIN_ROWS};
use crate::error::{Error, Result};
use crate::gguf::GgufModel;
use crate::kernels::{Precision, log_sum_exp};
use crate::model::{self, Activations, Logits, Observer};
use crate::progress::Progress;
use crate::tokenizer::Tokenizer;
use rayon::prelude::*;

/// How [`compute`] works. Defaults are llama-imatrix's, but for the precision.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tokens in a chunk, 16 or more.
    pub ctx: usize,
    /// Use no more chunks than this.
    pub chunks: Option<usize>,
    /// Collect for `output.weight` too.
    pub process_output: bool,
    /// The token that takes the place of each chunk's first: BOS where the model has it added.
    pub bos: Option<u32>,
    /// Of products with weights; by default the one that is fastest on this processor.
    pub precision: Precision,
    /// Bytes that the whole process may take.
    pub memory: u64,
    /// Names of the texts, which are kept in the file.
    pub datasets: Vec<String>,
}

impl Default for Options {
    fn default() -> Options {
        let ctx = super::DEFAULT_CHUNK as usize;
        let precision = Precision::fastest();
        let (memory, datasets) = (model::default_memory(), Vec::new());
        Options { ctx, chunks: None, process_output: false, bos: None, precision, memory, datasets }
    }
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

/// What [`compute`] returns.
#[derive(Clone, Debug)]
pub struct Computed {
    pub imatrix: ImportanceMatrix,
    pub perplexity: Perplexity,
}

/// The tokens of `texts`, each with BOS before it where the model has it added, and the token that is
/// to begin each chunk ([`Options::bos`]).
pub fn tokenize(tokenizer: &Tokenizer, texts: &[String]) -> Result<(Vec<u32>, Option<u32>)> {
    let mut tokens = Vec::new();
    for text in texts {
        tokens.extend(tokenizer.encode_document(text, false)?);
    }
    Ok((tokens, tokenizer.bos_id().filter(|_| tokenizer.add_bos())))
}

/// Cuts `tokens` into chunks of `options.ctx`; the tail that fills none is dropped, and BOS overwrites
/// each chunk's first token where the model has it added.
///
/// Fails if there is not enough text for one chunk, or a chunk is too small.
pub fn chunk_tokens(tokens: &[u32], options: &Options) -> Result<Vec<Vec<u32>>> {
    let ctx = options.ctx;
    if ctx < MIN_ROWS || u32::try_from(ctx).is_err() {
        return Err(Error::Usage(format!(
            "a context of {ctx} tokens: an importance matrix needs {MIN_ROWS} or more"
        )));
    }
    if tokens.len() < ctx {
        return Err(Error::Usage(format!(
            "the calibration text has {} tokens, which do not fill one context of {ctx}; give more \
             text or a smaller context",
            tokens.len()
        )));
    }
    let limit = options.chunks.unwrap_or(usize::MAX);
    if limit == 0 {
        return Err(Error::Usage("no chunks to compute an importance matrix from".into()));
    }
    let mut chunks: Vec<_> = tokens.chunks_exact(ctx).take(limit).map(<[u32]>::to_vec).collect();
    if let Some(bos) = options.bos {
        chunks.iter_mut().for_each(|chunk| chunk[0] = bos);
    }
    Ok(chunks)
}

/// Takes `tokens` through `model` and returns the importance matrix and the perplexity.
///
/// Reports running perplexity by [`Progress::note`] as llama-imatrix prints it. As layers are the outer
/// loop, the figures come together at the end. Fails as [`chunk_tokens`] and
/// [`model::run`] do.
pub fn compute(
    model: &GgufModel,
    tokens: &[u32],
    options: &Options,
    progress: &dyn Progress,
) -> Result<Computed> {
    let chunks = chunk_tokens(tokens, options)?;
    if tokens.len() < 2 * options.ctx {
        progress.warn("the calibration text fills only one chunk; means over so little are poor");
    }
    let mut observer = Calibration {
        collector: Collector::new(options.process_output),
        chunks: &chunks,
        total: Sum::default(),
        perplexity: Perplexity::default(),
    };
    // The last position predicts a token of the next chunk, which is not counted.
    let options_run = model::Options {
        logits: options.ctx / 2..options.ctx - 1,
        precision: options.precision,
        memory: options.memory,
    };
    model::run(model, &chunks, &mut observer, &options_run, progress)?;
    let perplexity = observer.finish();
    let (estimate, error) = (perplexity.estimate, perplexity.error);
    progress.note(&running_text(&perplexity.running));
    progress.note(&format!("Final estimate: PPL = {estimate:.4} +/- {error:.5}"));
    let (count, size) = (chunks.len() as u32, options.ctx as u32);
    let imatrix = observer.collector.finish(options.datasets.clone(), count, size);
    if let Some(warning) = imatrix.unseen_experts() {
        progress.warn(&warning);
    }
    Ok(Computed { imatrix, perplexity })
}

/// Running perplexities as llama-imatrix prints them: `[1]16.2622,[2]17.6857`, a few to a line.
fn running_text(running: &[f64]) -> String {
    const A_LINE: usize = 8;
    let shown: Vec<_> =
        running.iter().enumerate().map(|(i, ppl)| format!("[{}]{ppl:.4}", i + 1)).collect();
    shown.chunks(A_LINE).map(|line| line.join(",")).collect::<Vec<_>>().join(",\n")
}

/// Negative log-likelihoods, their squares, and how many.
#[derive(Default)]
struct Sum {
    nll: f64,
    squares: f64,
    tokens: usize,
}

/// Collects activations and perplexity in one pass.
struct Calibration<'a> {
    collector: Collector,
    chunks: &'a [Vec<u32>],
    total: Sum,
    perplexity: Perplexity,
}

impl Observer for Calibration<'_> {
    fn activations(&mut self, input: &Activations<'_>) -> Result<()> {
        self.collector.add(input)
    }

    fn logits(&mut self, logits: &Logits<'_>) -> Result<()> {
        let chunk = &self.chunks[logits.chunk];
        let targets = &chunk[logits.position + 1..];
        let nll: Vec<f64> = logits
            .values
            .par_chunks_exact(logits.n_vocab)
            .zip(targets)
            .map(|(row, &target)| log_sum_exp(row) - f64::from(row[target as usize]))
            .collect();
        for v in &nll {
            self.total.nll += v;
            self.total.squares += v * v;
        }
        self.total.tokens += nll.len();
        if logits.position + nll.len() + 1 == chunk.len() {
            let running = (self.total.nll / self.total.tokens as f64).exp();
            self.perplexity.running.push(running);
        }
        Ok(())
    }
}

impl Calibration<'_> {
    fn finish(&mut self) -> Perplexity {
        let n = self.total.tokens as f64;
        let mean = self.total.nll / n;
        let variance = self.total.squares / n - mean * mean;
        let estimate = mean.exp();
        // The error of the mean, carried over to its exponential.
        let error = (variance.max(0.0) / (n - 1.0)).sqrt() * estimate;
        Perplexity {
            estimate,
            error,
            tokens: self.total.tokens,
            ..std::mem::take(&mut self.perplexity)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_drop_the_tail_and_begin_with_bos() {
        let tokens: Vec<u32> = (0..70).collect();
        let mut options = Options { ctx: 32, bos: Some(99), ..Options::default() };
        let chunks = chunk_tokens(&tokens, &options).unwrap();
        assert_eq!(chunks.len(), 2);
        assert_eq!((chunks[0][0], chunks[0][1], chunks[1][0], chunks[1][31]), (99, 1, 99, 63));
        options.bos = None;
        options.chunks = Some(1);
        assert_eq!(chunk_tokens(&tokens, &options).unwrap(), [tokens[..32].to_vec()]);
    }

    #[test]
    fn too_little_text_is_an_error() {
        let with = |ctx| Options { ctx, ..Options::default() };
        assert!(chunk_tokens(&[1; 100], &with(101)).is_err());
        assert!(chunk_tokens(&[1; 100], &with(100)).is_ok());
        assert!(chunk_tokens(&[1; 100], &with(8)).is_err());
        let none = Options { chunks: Some(0), ..with(50) };
        assert!(chunk_tokens(&[1; 100], &none).is_err());
    }
}
