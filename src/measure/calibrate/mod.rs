//! Calibration text that the model writes itself, for those who have none.
//!
//! Sequences are sampled token by token, many at a time ([`forward::decode`]), each from BOS where the model has it
//! added and from a random token otherwise, until the model ends it or it is long enough. What comes out reads
//! like what the model was trained on, as far as it remembers; it is made of tokens the model itself finds
//! likely. Liu et al., "LLM-QAT: Data-Free Quantization Aware Training", 2023, calibrate so.
//!
//! A sequence depends on model, seed and its number alone, not on the others, on how many are written at a time,
//! or on threads. Deliberately absent: prompts and chat templates.

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

/// Sequences that are written at the same time, at most: with more a step gets no cheaper per token.
const SLOTS: usize = 64;
/// Sequences at the same time for whose sake weights are rather read anew in each step.
const FEW_SLOTS: usize = 8;
/// What separates sequences in the text.
const SEPARATOR: &str = "\n\n\n";

/// What to write.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tokens in all.
    pub tokens: usize,
    /// Tokens of a sequence, at most.
    pub length: usize,
    pub seed: u64,
    pub sampling: Sampling,
    /// Of products with weights.
    pub precision: Precision,
    /// Bytes that the whole process may take; see [`forward::default_memory`]. What is written does not depend on it.
    pub memory: u64,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub text: String,
    /// Tokens that the text was sampled as; as text they may tokenize a little differently.
    pub tokens: usize,
    pub sequences: usize,
}

/// Lets `model` write.
///
/// # Errors
/// If there is nothing to write, if sampling is asked for that makes no sense, if the model has no tokenizer that is
/// known, or one whose vocabulary is not the model's, and as [`forward::decode`] does.
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

/// How many sequences at a time, and whether the weights stay in memory.
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
    let wanted = options.tokens.div_ceil(options.length).clamp(1, SLOTS);
    let few = (wanted.min(FEW_SLOTS) as u64).saturating_mul(need.slot);
    let hold = need.base.saturating_add(need.weights).saturating_add(few) <= options.memory;
    let fixed = need.base.saturating_add(if hold { need.weights } else { need.parts });
    if fixed.saturating_add(need.slot) > options.memory {
        return Err(Error::Usage(format!(
            "{} of memory do not suffice: writing takes {}, layer by layer and one sequence at a time; give \
             more (--memory) or write shorter sequences",
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
    let fitting = usize::try_from((options.memory - fixed) / need.slot.max(1)).unwrap_or(wanted);
    Ok(DecodeOptions { slots: fitting.min(wanted), positions, precision, hold })
}
