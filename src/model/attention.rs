//! Causal grouped-query attention within each chunk.
//!
//! A task is one key-value head of one chunk with the query heads that share it. Scores are computed
//! for blocks of queries against the keys up to the block's end, so no more than a block of scores
//! exists per thread.

use crate::kernels::{PackedMatrix, Rows, multiply_rows, softmax};
use rayon::prelude::*;

/// Queries in a block of scores; a multiple of the micro-kernel's rows.
const BLOCK: usize = 96;

/// The shape of the attention heads.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub n_head: usize,
    pub n_head_kv: usize,
    pub head_dim: usize,
}

impl Heads {
    fn query_width(&self) -> usize {
        self.n_head * self.head_dim
    }

    fn kv_width(&self) -> usize {
        self.n_head_kv * self.head_dim
    }
}

/// One key-value head of one chunk.
struct Task<'a> {
    kv_head: usize,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    /// For each row of the chunk the outputs of the query heads that share the key-value head.
    out: Vec<&'a mut [f32]>,
}

/// Attention for consecutive chunks of `lengths` rows; `q`, `k`, `v` and `out` hold all their rows.
pub(super) fn attend(
    heads: Heads,
    lengths: &[usize],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
) {
    let (query_width, kv_width) = (heads.query_width(), heads.kv_width());
    let mut tasks = Vec::with_capacity(lengths.len() * heads.n_head_kv);
    let (mut row, mut rest) = (0, out);
    for &length in lengths {
        let (chunk, tail) = rest.split_at_mut(length * query_width);
        rest = tail;
        let first = tasks.len();
        tasks.extend((0..heads.n_head_kv).map(|kv_head| Task {
            kv_head,
            q: &q[row * query_width..][..length * query_width],
            k: &k[row * kv_width..][..length * kv_width],
            v: &v[row * kv_width..][..length * kv_width],
            out: Vec::with_capacity(length),
        }));
        for values in chunk.chunks_exact_mut(query_width) {
            let shares = values.chunks_exact_mut(query_width / heads.n_head_kv);
            for (task, share) in tasks[first..].iter_mut().zip(shares) {
                task.out.push(share);
            }
        }
        row += length;
    }
    tasks.into_par_iter().for_each_init(Vec::new, |scores, task| run(heads, task, scores));
}

fn run(heads: Heads, task: Task<'_>, scores: &mut Vec<f32>) {
    let Task { kv_head, q, k, v, mut out } = task;
    let (length, dim) = (out.len(), heads.head_dim);
    let rows =
        |data, head: usize, stride| Rows { data: tail(data, head * dim), width: dim, stride };
    let keys = PackedMatrix::pack_rows(rows(k, kv_head, heads.kv_width()), length);
    let values = PackedMatrix::pack_transposed(rows(v, kv_head, heads.kv_width()), length);
    let scale = 1.0 / (dim as f32).sqrt();
    let shared = heads.n_head / heads.n_head_kv;
    for member in 0..shared {
        let queries = rows(q, kv_head * shared + member, heads.query_width());
        for start in (0..length).step_by(BLOCK) {
            let end = length.min(start + BLOCK);
            scores.resize((end - start) * end, 0.0);
            let mut block: Vec<&mut [f32]> = scores.chunks_exact_mut(end).collect();
            multiply_rows(queries.skip(start), &keys, &mut block);
            for (offset, row) in block.iter_mut().enumerate() {
                let (seen, future) = row.split_at_mut(start + offset + 1);
                softmax(seen, scale);
                future.fill(0.0);
            }
            let mut share: Vec<&mut [f32]> =
                out[start..end].iter_mut().map(|row| &mut row[member * dim..][..dim]).collect();
            multiply_rows(Rows::dense(scores, end), &values, &mut share);
        }
    }
}

fn tail(data: &[f32], first: usize) -> &[f32] {
    &data[first..]
}
