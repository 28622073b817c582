//! The forward pass of the architectures in [`crate::model::arch`], layer by layer over all chunks.
//!
//! [`run`] reads a layer's weights once, packs them in f32 or bf16, takes every chunk through, reports the
//! input of each matrix product to an [`Observer`], and drops the weights; between layers only the
//! chunks' hidden states stay. So a model far larger than memory can be evaluated, at the price that
//! all logits come at the very end. Chunks are independent: positions start at 0 in each. The pass is fitted
//! into a bound on memory ([`Options::memory`]): where there is room the next layer is packed while one is
//! computed, where there is little hidden states go to a temporary file.
//!
//! [`decode`] goes the other way through the same layers: token after token, several sequences at once, with a
//! key-value cache and all layers at hand where memory allows it.
//!
//! Products accumulate in f32; results do not depend on the number of threads. Deliberately absent:
//! choosing tokens, quantized arithmetic, and any knowledge of what observers do.

mod attention;
mod decode;
mod experts;
mod hidden;
mod memory;
mod pass;
mod rope;
mod weights;

pub use decode::{DecodeOptions, Feed, Footprint, decode};
pub use memory::memory_estimate;

use crate::base::error::{Error, Result};
use crate::base::progress::{Progress, Unit};
use crate::formats::gguf::GgufModel;
use crate::kernels::Precision;
use crate::model::arch::HyperParams;
use std::io::Read;
use std::ops::Range;
use std::sync::mpsc::sync_channel;

/// The input of matrix products: what one chunk feeds to one or more weight tensors.
pub struct Activations<'a> {
    /// The tensors that are multiplied with this input; `blk.0.attn_q.weight` and so on.
    pub tensors: &'a [&'a str],
    /// Which chunk, from 0.
    pub chunk: usize,
    /// Length of a row: the weight tensors' innermost dimension.
    pub row_len: usize,
    /// A row for each token of the chunk; of an expert, for each token that it computes.
    pub values: &'a [f32],
    /// The expert whose matrices are multiplied with it, where the tensors are stacks of experts' matrices.
    pub expert: Option<Expert>,
}

/// One expert of a mixture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expert {
    /// From 0.
    pub index: usize,
    /// Experts of the mixture.
    pub count: usize,
}

/// Logits of consecutive positions of one chunk.
pub struct Logits<'a> {
    /// Which chunk, from 0.
    pub chunk: usize,
    /// The first row's position in the chunk; it predicts the token after it.
    pub position: usize,
    pub n_vocab: usize,
    /// A row of `n_vocab` for each position.
    pub values: &'a [f32],
}

/// Sees what goes through the model. Calls come from one thread, and chunks in order for each tensor;
/// tensors come layer by layer. Of stacks of experts each expert comes on its own, one after the other; an
/// expert that computes no token of a chunk is not mentioned.
pub trait Observer {
    /// The input of products. All values are finite.
    fn activations(&mut self, input: &Activations<'_>) -> Result<()>;

    /// Logits, chunk by chunk and position by position, once all layers are done. All values are
    /// finite.
    fn logits(&mut self, _logits: &Logits<'_>) -> Result<()> {
        Ok(())
    }

    /// Where the pass is to begin, if not with the embeddings. Asked once, before all else.
    fn resume(&mut self) -> Result<Option<Resumed>> {
        Ok(None)
    }

    /// The first `layers` layers are done for all chunks; a later pass can go on from `snapshot`.
    fn layers_done(&mut self, _layers: usize, _snapshot: &mut Snapshot<'_>) -> Result<()> {
        Ok(())
    }
}

/// What an earlier pass over the same chunks had done.
pub struct Resumed {
    /// Layers.
    pub layers: usize,
    /// What [`Snapshot::write`] wrote after these.
    pub states: Box<dyn Read>,
}

/// The hidden states between two layers.
pub struct Snapshot<'p> {
    hidden: &'p mut hidden::HiddenStates,
    /// Elements of each group.
    groups: Vec<usize>,
}

impl Snapshot<'_> {
    /// Elements of all states.
    pub fn elements(&self) -> u64 {
        self.groups.iter().map(|&elements| elements as u64).sum()
    }

    /// Hands all states to `sink`, as little-endian f32, a row of the hidden size for each token of each chunk.
    ///
    /// # Errors
    /// Those of `sink`, and of a temporary file that states are in.
    pub fn write(&mut self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        const PIECE: usize = 1 << 16;
        for group in 0..self.groups.len() {
            let states = self.hidden.take(group)?;
            let mut bytes = Vec::with_capacity(PIECE * size_of::<f32>());
            let written = states.chunks(PIECE).try_for_each(|values| {
                bytes.clear();
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                sink(&bytes)
            });
            self.hidden.put(group, states)?;
            written?;
        }
        Ok(())
    }
}

/// What [`run`] computes besides the layers.
#[derive(Clone, Debug)]
pub struct Options {
    /// The positions of each chunk whose logits are wanted; empty for none, and then the head is
    /// never read. What lies beyond a chunk's end is passed over.
    pub logits: Range<usize>,
    /// Of the products with weights. Attention, norms and all sums are f32, and observers see what was not
    /// rounded.
    pub precision: Precision,
    /// Bytes that the whole process may take; see [`default_memory`]. Results do not depend on it.
    pub memory: u64,
    /// What number, from 0, errors give to the first chunk: where it stands in a text of which these
    /// chunks are a part.
    pub first_chunk: usize,
}

/// Half of the machine's memory.
pub fn default_memory() -> u64 {
    crate::base::memory::total() / 2
}

/// Fails as [`run`] does before any work: if the model lacks a tensor, or has one that is wrong or unknown.
/// Gives the number of logits of a position.
pub fn check(model: &GgufModel) -> Result<usize> {
    Ok(weights::Checked::new(model, Precision::F32)?.hyper.n_vocab)
}

/// Takes `chunks` of token ids through `model`, telling `observer` what it meets.
///
/// Fails before any work if the model lacks a tensor, has one of a wrong shape or one the architecture
/// does not know, if a token id is outside the vocabulary, or if memory does not suffice; later if a value is
/// not finite, naming tensor, layer (from 0) and chunk (from 1), or if the temporary file cannot be written.
pub fn run(
    model: &GgufModel,
    chunks: &[Vec<u32>],
    observer: &mut dyn Observer,
    options: &Options,
    progress: &dyn Progress,
) -> Result<()> {
    let checked = weights::Checked::new(model, options.precision)?;
    let n_vocab = checked.hyper.n_vocab;
    for (index, chunk) in chunks.iter().enumerate() {
        if let Some(token) = chunk.iter().find(|&&token| token as usize >= n_vocab) {
            let detail = format!(
                "token {token} of chunk {} is outside the vocabulary of {n_vocab}; the text was \
                 tokenized for another model",
                options.first_chunk + index + 1
            );
            return Err(Error::model(checked.origin(), detail));
        }
    }
    let longest = chunks.iter().map(Vec::len).max().unwrap_or(0);
    if longest > checked.hyper.n_ctx_train {
        let trained = checked.hyper.n_ctx_train;
        progress.warn(&format!(
            "chunks of {longest} tokens are longer than the context of {trained} the model was \
             trained for"
        ));
    }
    let tokens: usize = chunks.iter().map(Vec::len).sum();
    let schedule = checked.needs().fit(tokens, longest, options.memory)?;
    let mut pass =
        pass::Pass::new(&checked, chunks, schedule, options.first_chunk, observer, progress)?;
    let head = head_in_layers(&checked.hyper, &options.logits, longest);
    let (layers_and_head, done) = (checked.hyper.n_layer as u64 + head, pass.first_layer as u64);
    let unit = Unit::LayerTokens(layers_and_head);
    progress.begin("forward pass", tokens as u64 * (layers_and_head - done), unit);
    layers(&checked, &mut pass, schedule.ahead)?;
    pass.head(options.logits.clone(), head)?;
    progress.end();
    Ok(())
}

/// Layers that take about as long as the head does for the positions `wanted` of chunks of `length` tokens, by the
/// products of weights that each multiplies.
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

/// Takes all chunks through all layers. With `ahead`, another thread reads and packs the next layer meanwhile.
fn layers(model: &weights::Checked<'_>, pass: &mut pass::Pass<'_>, ahead: bool) -> Result<()> {
    let layers = pass.first_layer..model.hyper.n_layer;
    if !ahead {
        return layers.into_iter().try_for_each(|index| pass.layer(index, model.layer(index)?));
    }
    std::thread::scope(|scope| {
        // Without room: a layer is handed over only when the one before has been dropped.
        let (give, take) = sync_channel(0);
        let all = layers.clone();
        scope.spawn(move || {
            // An error ends this side when it has been given, and the other side's end ends it at the next.
            for index in all {
                let layer = model.layer(index);
                let failed = layer.is_err();
                if give.send(layer).is_err() || failed {
                    break;
                }
            }
        });
        for index in layers {
            let layer = take.recv().expect("the loader gives every layer up to an error");
            pass.layer(index, layer?)?;
        }
        Ok(())
    })
}
