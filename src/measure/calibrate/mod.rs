//! Calibration text that the model generates itself.
//!
//! Sequences are sampled token by token, many at a time ([`forward::decode`]). Each begins with BOS where
//! the model adds it, and with a random token otherwise. Method: Liu et al., "LLM-QAT: Data-Free
//! Quantization Aware Training", 2023. A sequence depends only on model, seed and its number.
//! Not here: prompts and chat templates.

mod sampler;
mod sequences;

pub use sampler::Sampling;

use crate::base::error::{Error, Result};
use crate::base::progress::{Progress, Unit};
use crate::base::size;
use crate::formats::gguf::GgufModel;
use crate::kernels::Precision;
use crate::model::forward::{self, DecodeOptions, Footprint};
use crate::model::tokenizer::{Detokenizer, Role, Tokenizer};
use sequences::Sequences;

/// Maximum number of sequences generated at the same time. More do not make a step cheaper per token.
const SLOTS: usize = 64;
/// Number of sequences at the same time that has priority over holding the weights in memory.
const FEW_SLOTS: usize = 8;
/// What separates sequences in the text.
const SEPARATOR: &str = "\n\n\n";

/// What to generate.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of tokens of the whole text.
    pub tokens: usize,
    /// Maximum number of tokens of a sequence.
    pub length: usize,
    /// Seed of the random generator.
    pub seed: u64,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Precision of products with weights.
    pub precision: Precision,
    /// Bytes of memory that the whole process may take; see [`forward::default_memory`]. The text does not
    /// depend on it.
    pub memory: u64,
}

/// A generated text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The text.
    pub text: String,
    /// Number of tokens that were sampled. The text may tokenize a little differently.
    pub tokens: usize,
    /// Number of sequences.
    pub sequences: usize,
}

/// Generates text with `model`.
///
/// # Errors
/// If `options` ask for no token, or their sampling is invalid; if the model's tokenizer is unknown or does
/// not fit its vocabulary; those of [`forward::decode`].
pub fn write(model: &GgufModel, options: &Options, progress: &dyn Progress) -> Result<Written> {
    options.sampling.check()?;
    if options.tokens == 0 || options.length < 2 {
        let text = "nothing to write: tokens must be 1 or more, a sequence's length 2 or more";
        return Err(Error::Usage(text.into()));
    }
    let (tokenizer, vocabulary) = (
        Tokenizer::from_metadata(model.origin(), &model.metadata)?,
        Detokenizer::from_metadata(model.origin(), &model.metadata)?,
    );
    let n_vocab = forward::check(model)?;
    let roles: Vec<Role> = (0..n_vocab as u32).map(|id| vocabulary.role(id)).collect();
    let bos = tokenizer.bos_id().filter(|_| tokenizer.add_bos());
    let mut sequences = Sequences::new(options, roles, bos)?;
    let decoding = plan(model, options, progress)?;
    progress.begin("writing", options.tokens as u64, Unit::Tokens);
    let mut written = 0;
    let first = sequences.begin(decoding.slots);
    forward::decode(model, &decoding, first, &mut |logits| {
        let feeds = sequences.step(logits);
        let now = sequences.written().min(options.tokens);
        progress.advance((now - written) as u64);
        written = now;
        Ok(feeds)
    })?;
    progress.end();
    let sequences = sequences.finish();
    let texts: Vec<String> = sequences.iter().map(|ids| vocabulary.text(ids)).collect();
    let tokens = sequences.iter().map(Vec::len).sum();
    let mut text = texts.join(SEPARATOR);
    text.push('\n');
    Ok(Written { text, tokens, sequences: texts.len() })
}

/// Chooses how many sequences are generated at a time, and whether the weights stay in memory.
fn plan(model: &GgufModel, options: &Options, progress: &dyn Progress) -> Result<DecodeOptions> {
    let (precision, positions) = (options.precision, options.length);
    let need = Footprint::of(model, precision, positions)?;
    let architecture = model.metadata.str("general.architecture").unwrap_or_default();
    let trained = model.metadata.u64(&format!("{architecture}.context_length")).unwrap_or(u64::MAX);
    if positions as u64 > trained {
        progress.warn(&format!(
            "sequences of {positions} tokens are longer than the context of {trained} the model was \
             trained for"
        ));
    }
    let most = options.tokens.div_ceil(options.length).clamp(1, SLOTS);
    let few = (most.min(FEW_SLOTS) as u64).saturating_mul(need.slot);
    let hold = need.base.saturating_add(need.weights).saturating_add(few) <= options.memory;
    let fixed = need.base.saturating_add(if hold { need.weights } else { need.parts });
    if fixed.saturating_add(need.slot) > options.memory {
        return Err(Error::Usage(format!(
            "{} of memory do not suffice: generating takes {}, layer by layer and one sequence at a time; give \
             more (--memory) or generate shorter sequences",
            size::display(options.memory),
            size::display(fixed.saturating_add(need.slot))
        )));
    }
    if !hold {
        progress.warn(
            "the weights do not fit the memory that may be used (--memory), so they are read anew for \
             every token, which is slow",
        );
    }
    let fitting = usize::try_from((options.memory - fixed) / need.slot.max(1)).unwrap_or(most);
    Ok(DecodeOptions { slots: fitting.min(most), positions, precision, hold })
}
