//! The quality of models: the perplexity of a text, and the KL divergence from a reference.
//!
//! [`evaluate`] runs each model over the same text. A reference runs first: its log-probabilities go to a
//! file in llama.cpp's 16-bit layout ([`Reference`]), and every model is compared with them row by row, so
//! only a tile of logits is in memory. Formulas and layouts: llama.cpp `tools/perplexity/perplexity.cpp`,
//! October 2026. Not here: scores on tasks with right answers, and overlapping windows.

mod comparable;
mod log_probs;
mod reference;
mod statistics;
mod text;

pub use reference::{Keep, Reference};
pub use statistics::{Distribution, Divergence, Estimate, Percentile};
pub use text::Text;

use crate::base::error::{Error, Result};
use crate::base::progress::Progress;
use crate::formats::gguf::GgufModel;
use crate::kernels::Precision;
use crate::measure::perplexity::{losses, running_text};
use crate::model::forward::{self, Activations, Logits, Observer};
use comparable::Prepared;
use log_probs::Compared;
use rayon::prelude::*;
use reference::Recorder;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Tokens in a chunk by default, as in llama-perplexity.
pub const DEFAULT_CTX: usize = 512;
/// Statistics over fewer tokens than this say little; llama-perplexity prints none.
const FEW_TOKENS: usize = 100;

/// A model to evaluate.
pub struct Subject {
    /// Its name in results and messages.
    pub name: String,
    /// The model.
    pub model: GgufModel,
}

/// What models are compared with.
pub enum Against {
    /// Another model, evaluated first.
    Model(Subject),
    /// A file of log-probabilities ([`Reference`]), which also contains the tokens of the text.
    Logits(PathBuf),
}

/// What [`evaluate`] does.
pub struct Options {
    /// The text, in one or more parts that each begin with BOS where the model adds it. May be empty if the
    /// reference is a file. If not, its tokens must be those of the file.
    pub texts: Vec<String>,
    /// Tokens in a chunk; by default [`DEFAULT_CTX`], or the size in the reference's file.
    pub ctx: Option<usize>,
    /// Use at most this many chunks.
    pub chunks: Option<usize>,
    /// The reference, if there is one.
    pub against: Option<Against>,
    /// Write the log-probabilities of the reference or, without one, of the only model to a file.
    pub keep: Option<Keep>,
    /// Precision of products with weights, f32 by default.
    pub precision: Precision,
    /// Bytes of memory that the whole process may take.
    pub memory: u64,
}

impl Default for Options {
    /// No text, no reference; f32, within half of the machine's memory.
    fn default() -> Options {
        Options {
            texts: Vec::new(),
            ctx: None,
            chunks: None,
            against: None,
            keep: None,
            precision: Precision::F32,
            memory: forward::default_memory(),
        }
    }
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluations {
    /// Tokens in a chunk.
    pub ctx: usize,
    /// The reference: a model's name or the path of a file.
    pub reference: Option<String>,
    /// In the order of the subjects.
    pub models: Vec<Evaluation>,
}

/// One model's results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The model's name.
    pub name: String,
    /// Number of chunks evaluated.
    pub chunks: usize,
    /// Number of tokens counted: those in the second half of each chunk.
    pub tokens: usize,
    /// `exp` of the mean negative log-likelihood.
    pub perplexity: Estimate,
    /// Over the first 1, 2, ... chunks.
    pub running_perplexity: Vec<f64>,
    /// The distance from the reference, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
}

/// Evaluates `subjects`, one after the other.
///
/// # Errors
/// Before any work: [`Error::Usage`] if the text does not fill one chunk, or options contradict each other
/// or the reference's file; if a model cannot be evaluated, a file does not hold log-probabilities, or a
/// vocabulary differs from the reference's; if there is no space for the log-probabilities. Later those of
/// [`forward::run`].
pub fn evaluate(
    subjects: &[Subject],
    options: &Options,
    progress: &dyn Progress,
) -> Result<Evaluations> {
    check_options(subjects, options)?;
    let prepare = |subject| Prepared::new(subject, options);
    let prepared: Vec<_> = subjects.iter().map(prepare).collect::<Result<_>>()?;
    let (reference, evaluations) = match &options.against {
        Some(Against::Logits(path)) => {
            let reference = Reference::open(path)?;
            let text = against_file(&prepared, &reference, options, progress)?;
            let evaluations = compare_all(&prepared, &text, &reference, progress)?;
            (Some(path.display().to_string()), (text.ctx(), evaluations))
        }
        Some(Against::Model(subject)) => {
            let base = prepare(subject)?;
            let text = base.text(options)?;
            warn_if_few(&text, progress);
            comparable::check_with_model(&prepared, &base, options, progress)?;
            let (reference, _) = record(&base, &text, options.keep.as_ref(), progress)?;
            let evaluations = compare_all(&prepared, &text, &reference, progress)?;
            (Some(subject.name.clone()), (text.ctx(), evaluations))
        }
        None => (None, alone(&prepared, options, progress)?),
    };
    let (ctx, models) = evaluations;
    Ok(Evaluations { ctx, reference, models })
}

fn check_options(subjects: &[Subject], options: &Options) -> Result<()> {
    let usage = |text: &str| Err(Error::Usage(text.into()));
    if subjects.is_empty() {
        return usage("no model to evaluate");
    }
    let from_file = matches!(options.against, Some(Against::Logits(_)));
    if options.texts.is_empty() && !from_file {
        return usage("no text to evaluate on");
    }
    match &options.keep {
        Some(_) if from_file => {
            usage("the log-probabilities of the reference are in a file already")
        }
        Some(_) if options.against.is_none() && subjects.len() > 1 => usage(
            "of several models the log-probabilities of none are kept; name the one that is the \
             reference, or evaluate it alone",
        ),
        _ => Ok(()),
    }
}

/// Returns the text of the reference's file, which must fit the options.
fn against_file(
    prepared: &[Prepared<'_>],
    reference: &Reference,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Text> {
    let text = reference.text(options.chunks)?;
    if let Some(ctx) = options.ctx
        && ctx != text.ctx()
    {
        let (origin, made) = (reference.origin(), text.ctx());
        let detail = format!("{origin} was made with chunks of {made} tokens, not {ctx}");
        return Err(Error::Usage(detail));
    }
    comparable::check_with_file(prepared, reference, &text, &options.texts)?;
    warn_if_few(&text, progress);
    Ok(text)
}

/// Evaluates models without a reference, each with its own tokens of the text.
fn alone(
    prepared: &[Prepared<'_>],
    options: &Options,
    progress: &dyn Progress,
) -> Result<(usize, Vec<Evaluation>)> {
    comparable::warn_of_vocabularies(prepared, progress);
    let texts: Vec<_> = prepared.iter().map(|p| p.text(options)).collect::<Result<_>>()?;
    warn_if_few(&texts[0], progress);
    let mut evaluations = Vec::with_capacity(prepared.len());
    for (subject, text) in prepared.iter().zip(&texts) {
        evaluations.push(match &options.keep {
            Some(keep) => record(subject, text, Some(keep), progress)?.1,
            None => measure(subject, text, &mut Sink::Nothing, progress)?,
        });
    }
    Ok((texts[0].ctx(), evaluations))
}

fn compare_all(
    prepared: &[Prepared<'_>],
    text: &Text,
    reference: &Reference,
    progress: &dyn Progress,
) -> Result<Vec<Evaluation>> {
    let one = |subject| measure(subject, text, &mut Sink::Compare(reference), progress);
    prepared.iter().map(one).collect()
}

/// Evaluates `subject` and writes its log-probabilities to a file.
fn record(
    subject: &Prepared<'_>,
    text: &Text,
    keep: Option<&Keep>,
    progress: &dyn Progress,
) -> Result<(Reference, Evaluation)> {
    let mut recorder = Recorder::create(text, subject.n_vocab, keep)?;
    let evaluation = measure(subject, text, &mut Sink::Record(&mut recorder), progress)?;
    Ok((recorder.finish()?, evaluation))
}

fn warn_if_few(text: &Text, progress: &dyn Progress) {
    let tokens = text.n_chunks() * text.counted().len();
    if tokens < FEW_TOKENS {
        progress
            .warn(&format!("only {tokens} tokens are counted; statistics of so few say little"));
    }
}

/// Runs a model over the text. Notes its running perplexity as llama-perplexity prints it.
fn measure(
    subject: &Prepared<'_>,
    text: &Text,
    sink: &mut Sink<'_>,
    progress: &dyn Progress,
) -> Result<Evaluation> {
    let chunks = text.chunks(subject.bos());
    let mut observer =
        Measuring { text, sink, nll: Vec::new(), compared: Vec::new(), records: Vec::new() };
    let (precision, memory) = (subject.precision, subject.memory);
    let run = forward::Options { logits: text.counted(), precision, memory, first_chunk: 0 };
    forward::run(&subject.subject.model, &chunks, &mut observer, &run, progress)?;
    let Measuring { nll, compared, .. } = observer;
    let per_chunk = text.counted().len();
    let running = statistics::running_perplexity(&nll, per_chunk);
    let perplexity = statistics::perplexity(nll.iter().copied());
    let name = subject.subject.name.clone();
    progress.note(&format!("{name}\n{}", running_text(&running, 0)));
    let Estimate { value, error } = perplexity;
    progress.note(&format!("Final estimate: PPL = {value:.4} +/- {error:.5}"));
    Ok(Evaluation {
        name,
        chunks: chunks.len(),
        tokens: nll.len(),
        perplexity,
        running_perplexity: running,
        divergence: (!compared.is_empty()).then(|| Divergence::of(&nll, &compared, per_chunk)),
    })
}

/// What is done with logits besides computing the perplexity.
enum Sink<'a> {
    Nothing,
    Record(&'a mut Recorder),
    Compare(&'a Reference),
}

/// Evaluates logits as they are computed: a few positions of one chunk at a time.
struct Measuring<'a, 's> {
    text: &'a Text,
    sink: &'a mut Sink<'s>,
    /// Negative log-likelihood of each token.
    nll: Vec<f64>,
    /// Empty without a reference.
    compared: Vec<Compared>,
    /// Log-probabilities of the current tile, in the file's layout.
    records: Vec<u8>,
}

impl Observer for Measuring<'_, '_> {
    fn activations(&mut self, _: &Activations<'_>) -> Result<()> {
        Ok(())
    }

    fn logits(&mut self, logits: &Logits<'_>) -> Result<()> {
        let rows = logits.values.par_chunks_exact(logits.n_vocab);
        let count = rows.len();
        let targets = self.text.targets(logits.chunk, logits.position, count);
        self.nll.extend(losses(logits, targets));
        let length = log_probs::record_bytes(logits.n_vocab);
        match &mut self.sink {
            Sink::Nothing => {}
            Sink::Record(recorder) => {
                self.records.resize(count * length, 0);
                let records = self.records.par_chunks_exact_mut(length);
                records.zip(rows).for_each(|(record, row)| log_probs::encode(row, record));
                recorder.append(&self.records)?;
            }
            Sink::Compare(reference) => {
                self.records.resize(count * length, 0);
                reference.read(logits.chunk, logits.position, &mut self.records)?;
                let both = rows.zip(self.records.par_chunks_exact(length)).zip(targets);
                let compared: Vec<Result<Compared, String>> = both
                    .map_init(Vec::new, |base, ((row, record), &target)| {
                        log_probs::compare(row, record, target, base)
                    })
                    .collect();
                for (offset, compared) in compared.into_iter().enumerate() {
                    let place = (logits.chunk, logits.position + offset);
                    self.compared
                        .push(compared.map_err(|detail| reference.damaged(place, detail))?);
                }
            }
        }
        Ok(())
    }
}
