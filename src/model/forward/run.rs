//! Runs chunks of tokens through a model, layer by layer, within a limit on memory.
//!
//! Each layer's weights are read once, packed as f32 or bf16, applied to every chunk and dropped.
//! If memory allows it, the next layer is packed meanwhile; if memory is scarce, hidden states go
//! to a temporary file. Results depend neither on that nor on the number of threads.

use super::observer::Observer;
use super::pass::ForwardPass;
use super::weights::CheckedModel;
use crate::base::error::{Error, Result};
use crate::base::progress::{Progress, Unit};
use crate::formats::gguf::GgufModel;
use crate::kernels::Precision;
use crate::model::arch::HyperParams;
use std::ops::Range;
use std::sync::mpsc::sync_channel;

/// How [`run`] works, and which logits it computes.
#[derive(Clone, Debug)]
pub struct Options {
    /// The positions of each chunk whose logits are computed, cut off at the chunk's end. If the
    /// range is empty, the output head is not read.
    pub logits: Range<usize>,
    /// The precision of weights and inputs in products with weights. Attention, norms and all sums
    /// are f32, and observers see inputs before they are rounded.
    pub precision: Precision,
    /// The bytes that the whole process may use, see [`default_memory`]. Results do not depend on
    /// it.
    pub memory: u64,
    /// The number of the first chunk in error messages, from 0, if the chunks are part of a longer
    /// text.
    pub first_chunk: usize,
}

/// Returns the default limit on memory in bytes: half of the machine's memory.
pub fn default_memory() -> u64 {
    crate::base::memory::total() / 2
}

/// Checks that the forward pass can run `model`, and returns the number of logits of a position.
///
/// # Errors
/// If the model lacks a tensor, or has one of a wrong shape or unknown name.
pub fn check(model: &GgufModel) -> Result<usize> {
    Ok(CheckedModel::new(model, Precision::F32)?.hyper.n_vocab)
}

/// Runs `chunks` of token ids through `model` and reports to `observer`. Chunks are independent:
/// positions start at 0 in each.
///
/// # Errors
/// Before any work: those of [`check`], a token id outside the vocabulary, too little memory.
/// Later: a value that is not finite, with its tensor, layer (from 0) and chunk (from 1); a
/// temporary file that cannot be written; those of `observer`.
pub fn run(
    model: &GgufModel,
    chunks: &[Vec<u32>],
    observer: &mut dyn Observer,
    options: &Options,
    progress: &dyn Progress,
) -> Result<()> {
    let checked = CheckedModel::new(model, options.precision)?;
    check_tokens(&checked, chunks, options.first_chunk)?;
    let longest = chunks.iter().map(Vec::len).max().unwrap_or(0);
    if longest > checked.hyper.n_ctx_train {
        let trained = checked.hyper.n_ctx_train;
        progress.warn(&format!(
            "chunks of {longest} tokens are longer than the context of {trained} the model was \
             trained for"
        ));
    }
    let tokens: usize = chunks.iter().map(Vec::len).sum();
    let schedule = checked.memory_needs().fit(tokens, longest, options.memory)?;
    let first_chunk = options.first_chunk;
    let mut pass = ForwardPass::new(&checked, chunks, schedule, first_chunk, observer, progress)?;
    let head = head_in_layers(&checked.hyper, &options.logits, longest);
    let (layers_and_head, done) = (checked.hyper.n_layer as u64 + head, pass.first_layer as u64);
    let unit = Unit::LayerTokens(layers_and_head);
    progress.begin("forward pass", tokens as u64 * (layers_and_head - done), unit);
    run_layers(&checked, &mut pass, schedule.ahead)?;
    pass.head(options.logits.clone(), head)?;
    progress.end();
    Ok(())
}

/// Fails if a token id of `chunks` is outside the model's vocabulary.
fn check_tokens(model: &CheckedModel<'_>, chunks: &[Vec<u32>], first_chunk: usize) -> Result<()> {
    let n_vocab = model.hyper.n_vocab;
    for (index, chunk) in chunks.iter().enumerate() {
        if let Some(token) = chunk.iter().find(|&&token| token as usize >= n_vocab) {
            let detail = format!(
                "token {token} of chunk {} is outside the vocabulary of {n_vocab}; the text was \
                 tokenized for another model",
                first_chunk + index + 1
            );
            return Err(Error::model(model.origin(), detail));
        }
    }
    Ok(())
}

/// Estimates how many layers take as long as the head does for the positions `wanted` of chunks of
/// `length` tokens. The measure is the number of weights that each multiplies.
fn head_in_layers(hyper: &HyperParams, wanted: &Range<usize>, length: usize) -> u64 {
    let attention = 2 * (hyper.n_head + hyper.n_head_kv) * hyper.head_dim;
    let feed_forward = match &hyper.experts {
        Some(experts) => 3 * experts.used * experts.n_ff,
        None => 3 * hyper.n_ff,
    };
    let logits = wanted.end.min(length).saturating_sub(wanted.start);
    let head = hyper.n_vocab as f64 * logits as f64 / length.max(1) as f64;
    (head / (attention + feed_forward).max(1) as f64).ceil() as u64
}

/// Takes all chunks through all layers. If `ahead`, another thread reads and packs the next layer
/// meanwhile.
fn run_layers(model: &CheckedModel<'_>, pass: &mut ForwardPass<'_>, ahead: bool) -> Result<()> {
    let layers = pass.first_layer..model.hyper.n_layer;
    if !ahead {
        return layers.into_iter().try_for_each(|index| pass.layer(index, model.layer(index)?));
    }
    std::thread::scope(|scope| {
        // No buffer: the loader hands over a layer only when the one before has been dropped.
        let (loaded, next_layer) = sync_channel(0);
        let all = layers.clone();
        scope.spawn(move || {
            for index in all {
                let layer = model.layer(index);
                let failed = layer.is_err();
                // Sending fails once the pass has ended.
                if loaded.send(layer).is_err() || failed {
                    break;
                }
            }
        });
        for index in layers {
            let layer = next_layer.recv().expect("the loader sends every layer up to an error");
            pass.layer(index, layer?)?;
        }
        Ok(())
    })
}
