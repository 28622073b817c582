//! What a forward pass reports while it runs: the input of each matrix product, logits, and the
//! hidden states between two layers.

use super::hidden::HiddenStates;
use crate::base::error::Result;
use std::io::Read;

/// The input that one chunk feeds to one or more weight tensors.
pub struct Activations<'a> {
    /// The tensors that are multiplied with this input, such as `blk.0.attn_q.weight`.
    pub tensors: &'a [&'a str],
    /// The chunk's number, from 0.
    pub chunk: usize,
    /// The length of a row: the weight tensors' innermost dimension.
    pub row_len: usize,
    /// One row for each token of the chunk; for an expert, one for each token routed to it.
    pub values: &'a [f32],
    /// The expert whose matrices are multiplied, if the tensors are stacks of experts' matrices.
    pub expert: Option<Expert>,
}

/// One expert of a mixture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expert {
    /// The expert's number, from 0.
    pub index: usize,
    /// The number of experts in the mixture.
    pub count: usize,
}

/// Logits of consecutive positions of one chunk.
pub struct Logits<'a> {
    /// The chunk's number, from 0.
    pub chunk: usize,
    /// The position of the first row in the chunk. A row predicts the token after its position.
    pub position: usize,
    /// The number of logits in a row.
    pub n_vocab: usize,
    /// One row of `n_vocab` logits for each position.
    pub values: &'a [f32],
}

/// Receives what a forward pass computes.
///
/// Calls come from one thread, layer by layer, and for each tensor chunk by chunk. The experts of a
/// stack are reported one after the other; an expert is left out for chunks that route no token to
/// it.
pub trait Observer {
    /// Receives the input of products. All values are finite.
    ///
    /// # Errors
    /// An error ends the pass.
    fn activations(&mut self, input: &Activations<'_>) -> Result<()>;

    /// Receives logits, chunk by chunk and position by position, after all layers. All values are
    /// finite.
    ///
    /// # Errors
    /// An error ends the pass.
    fn logits(&mut self, _logits: &Logits<'_>) -> Result<()> {
        Ok(())
    }

    /// Returns the state to resume from, if an earlier pass has saved one. It is called once,
    /// before all other methods.
    ///
    /// # Errors
    /// An error ends the pass.
    fn resume(&mut self) -> Result<Option<Resumed>> {
        Ok(None)
    }

    /// Receives the hidden states after the first `layers` layers. A later pass can resume from
    /// them.
    ///
    /// # Errors
    /// An error ends the pass.
    fn layers_done(&mut self, _layers: usize, _snapshot: &mut Snapshot<'_>) -> Result<()> {
        Ok(())
    }
}

/// The saved state of an earlier pass over the same chunks.
pub struct Resumed {
    /// The number of completed layers.
    pub layers: usize,
    /// The bytes that [`Snapshot::write`] wrote after these layers.
    pub states: Box<dyn Read>,
}

/// The hidden states between two layers.
pub struct Snapshot<'p> {
    hidden: &'p mut HiddenStates,
    /// The number of elements in each group of chunks.
    groups: Vec<usize>,
}

impl<'p> Snapshot<'p> {
    pub(super) fn new(hidden: &'p mut HiddenStates, groups: Vec<usize>) -> Snapshot<'p> {
        Snapshot { hidden, groups }
    }

    /// Returns the number of elements in all hidden states.
    pub fn elements(&self) -> u64 {
        self.groups.iter().map(|&elements| elements as u64).sum()
    }

    /// Passes all states to `sink` as little-endian f32, one row of the hidden size for each token
    /// of each chunk.
    ///
    /// # Errors
    /// Those of `sink`, and those of reading states from their temporary file.
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
