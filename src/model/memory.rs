//! How much memory a forward pass needs.

use super::forward::{GROUP_BYTES, LOGIT_BYTES, work_floats_per_row};
use crate::arch::HyperParams;
use crate::kernels::PackedMatrix;

/// Peak memory in bytes of [`super::run`] over `n_tokens` tokens in chunks of `ctx`, with logits: the
/// hidden states, and the larger of a layer in f32 with the work buffers and the head in f32 with a
/// tile of logits. The model file's memory map is not counted; the system can drop its pages.
pub fn memory_estimate(hyper: &HyperParams, n_tokens: usize, ctx: usize) -> u64 {
    const F32: u64 = size_of::<f32>() as u64;
    let (query, kv) = (hyper.n_head * hyper.head_dim, hyper.n_head_kv * hyper.head_dim);
    let hidden = n_tokens as u64 * hyper.n_embd as u64 * F32;
    let layer = PackedMatrix::bytes(query, hyper.n_embd)
        + 2 * PackedMatrix::bytes(kv, hyper.n_embd)
        + PackedMatrix::bytes(hyper.n_embd, query)
        + 2 * PackedMatrix::bytes(hyper.n_ff, hyper.n_embd)
        + PackedMatrix::bytes(hyper.n_embd, hyper.n_ff);
    let chunk = ctx as u64 * work_floats_per_row(hyper) as u64 * F32;
    let all = n_tokens as u64 * work_floats_per_row(hyper) as u64 * F32;
    let work = all.min(chunk.max(GROUP_BYTES as u64));
    let head = PackedMatrix::bytes(hyper.n_vocab, hyper.n_embd) + LOGIT_BYTES as u64;
    hidden + (layer + work).max(head)
}
