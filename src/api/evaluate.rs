//! Measuring models: perplexity, and divergence from a reference.

use super::{Model, setters};
use crate::base::error::Result;
use crate::base::progress::Progress;
use crate::measure::evaluate::{self, Against, Evaluation, Subject};
use crate::model::forward;

/// How to evaluate.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct EvaluateOptions<'a> {
    /// The model that all others are compared with, evaluated first.
    pub reference: Option<&'a Model>,
    /// Tokens in a chunk; 512 if `None`.
    pub ctx: Option<usize>,
    /// The number of chunks to use at most.
    pub chunks: Option<usize>,
    /// Bytes that the process may take.
    pub memory: u64,
}

impl Default for EvaluateOptions<'_> {
    /// All chunks of 512 tokens, no reference, within half of the machine's memory.
    fn default() -> Self {
        let memory = forward::default_memory();
        EvaluateOptions { reference: None, ctx: None, chunks: None, memory }
    }
}

impl<'a> EvaluateOptions<'a> {
    setters! {
        /// Sets [`EvaluateOptions::reference`].
        reference: Option<&'a Model>,
        /// Sets [`EvaluateOptions::ctx`].
        ctx: Option<usize>,
        /// Sets [`EvaluateOptions::chunks`].
        chunks: Option<usize>,
        /// Sets [`EvaluateOptions::memory`].
        memory: u64,
    }
}

/// Measures the perplexity of `text` under each of `models` and, with a reference, the KL divergence of
/// their predictions from the reference's. Formulas are those of llama-perplexity.
///
/// # Errors
/// If the text is shorter than one chunk, a model cannot be run, or its vocabulary differs from the
/// reference's.
///
/// # Examples
/// ```
/// use aqueduct::{EvaluateOptions, Model, Silent, evaluate};
///
/// let model = Model::open("recipes/demo/clerk")?;
/// let merged = Model::open("recipes/demo.yml")?;
/// let text = std::fs::read_to_string("calibration/aqueduct-v1.txt").unwrap();
/// let options = EvaluateOptions::default().reference(Some(&model)).ctx(Some(64)).chunks(Some(2));
/// let measured = evaluate(&[&merged], &text, &options, &Silent)?;
/// assert!(measured[0].perplexity.value > 1.0);
/// assert!(measured[0].divergence.is_some());
/// # Ok::<(), aqueduct::Error>(())
/// ```
pub fn evaluate(
    models: &[&Model],
    text: &str,
    options: &EvaluateOptions<'_>,
    progress: &dyn Progress,
) -> Result<Vec<Evaluation>> {
    let subject = |model: &Model| -> Result<Subject> {
        Ok(Subject { name: model.name(), model: model.to_gguf(false, progress)? })
    };
    let subjects = models.iter().map(|model| subject(model)).collect::<Result<Vec<_>>>()?;
    let against = options.reference.map(|model| subject(model).map(Against::Model)).transpose()?;
    let run = evaluate::Options {
        texts: vec![text.to_string()],
        ctx: options.ctx,
        chunks: options.chunks,
        against,
        memory: options.memory,
        ..evaluate::Options::default()
    };
    Ok(evaluate::evaluate(&subjects, &run, progress)?.models)
}
