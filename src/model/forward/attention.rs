//! Causal grouped-query attention within each chunk.
//!
//! A task is one key-value head of one chunk with the query heads that share it. Scores are held
//! for one tile of queries and keys only, whatever the chunk's length: the exponentials of a tile
//! weight the values immediately, and a larger score in a later tile scales down the sums so far.
//! Source: Dao et al., "FlashAttention", 2022, algorithm 1.

use crate::kernels::{
    PackedMatrix, Precision, Rows, Scratch, SoftmaxState, multiply_part, scale, soft_cap,
    softmax_part,
};
use rayon::prelude::*;

/// The queries in a tile; a multiple of the micro-kernel's rows.
const QUERIES: usize = 96;
/// The keys in a tile; a multiple of a panel's outputs. A tile has 98 kB of scores.
const KEYS: usize = 256;

/// The shape of the attention heads, and how their scores are scaled, capped and windowed.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub n_head: usize,
    pub n_head_kv: usize,
    pub head_dim: usize,
    /// The factor of the products of queries and keys.
    pub scale: f32,
    /// The soft cap of scores, `cap * tanh(x / cap)`, if there is one.
    pub soft_cap: Option<f32>,
    /// The number of tokens that a token attends to, including itself; all if `None`.
    pub window: Option<usize>,
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
struct HeadTask<'a> {
    kv_head: usize,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    /// For each row of the chunk, the outputs of the query heads that share the key-value head.
    out: Vec<&'a mut [f32]>,
}

/// Computes attention for consecutive chunks of `lengths` rows. `q`, `k`, `v` and `out` hold the
/// rows of all chunks.
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
        tasks.extend((0..heads.n_head_kv).map(|kv_head| HeadTask {
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
    tasks.into_par_iter().for_each_init(AttentionBuffers::default, |buffers, task| {
        attend_head(heads, task, buffers)
    });
}

/// The keys and values of one key-value head, at the positions of a sequence so far.
pub(super) struct HeadCache {
    keys: PackedMatrix,
    values: PackedMatrix,
}

impl HeadCache {
    /// An empty cache with room for `positions` positions.
    pub(super) fn new(heads: Heads, positions: usize) -> HeadCache {
        HeadCache {
            keys: PackedMatrix::empty(positions, heads.head_dim),
            values: PackedMatrix::empty(heads.head_dim, positions),
        }
    }

    /// The bytes of a cache for `positions` positions.
    pub(super) fn bytes(heads: Heads, positions: usize) -> u64 {
        let (keys, values) = ((positions, heads.head_dim), (heads.head_dim, positions));
        let bytes = |(outputs, inputs)| PackedMatrix::bytes(Precision::F32, outputs, inputs);
        bytes(keys) + bytes(values)
    }
}

/// Computes attention for one token of each of several sequences. `rows` holds the token's position
/// in its sequence and the cache of each key-value head, which receives the token's key and value.
pub(super) fn attend_next(
    heads: Heads,
    rows: Vec<(usize, &mut [HeadCache])>,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
) {
    let (dim, shared) = (heads.head_dim, heads.n_head / heads.n_head_kv);
    let caches = rows
        .into_iter()
        .flat_map(|(position, caches)| caches.iter_mut().map(move |cache| (position, cache)));
    // One task for each key-value head of each row, in the order of the buffers.
    let tasks: Vec<_> = caches
        .zip(q.chunks_exact(shared * dim))
        .zip(k.chunks_exact(dim).zip(v.chunks_exact(dim)))
        .zip(out.chunks_exact_mut(shared * dim))
        .collect();
    tasks.into_par_iter().for_each_init(AttentionBuffers::default, |buffers, task| {
        let ((((position, cache), q), (k, v)), out) = task;
        cache.keys.set_output(position, k);
        cache.values.set_input(position, v);
        for (q, out) in q.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
            let query = Rows::dense(q, dim);
            attend_queries(heads, query, position, &cache.keys, &cache.values, buffers, &mut [out]);
        }
    });
}

/// The buffers that the tasks of a thread reuse.
#[derive(Default)]
struct AttentionBuffers {
    scores: Vec<f32>,
    scratch: Scratch,
}

/// Computes one key-value head of one chunk.
fn attend_head(heads: Heads, task: HeadTask<'_>, buffers: &mut AttentionBuffers) {
    let HeadTask { kv_head, q, k, v, mut out } = task;
    let (length, dim) = (out.len(), heads.head_dim);
    let rows =
        |data, head: usize, stride| Rows { data: tail(data, head * dim), width: dim, stride };
    let keys = PackedMatrix::pack_rows(rows(k, kv_head, heads.kv_width()), length);
    let values = PackedMatrix::pack_transposed(rows(v, kv_head, heads.kv_width()), length);
    let shared = heads.n_head / heads.n_head_kv;
    for member in 0..shared {
        let queries = rows(q, kv_head * shared + member, heads.query_width());
        for start in (0..length).step_by(QUERIES) {
            let end = length.min(start + QUERIES);
            let mut share: Vec<&mut [f32]> =
                out[start..end].iter_mut().map(|row| &mut row[member * dim..][..dim]).collect();
            attend_queries(heads, queries.skip(start), start, &keys, &values, buffers, &mut share);
        }
    }
}

/// Computes attention for the queries at the positions from `start` on, one for each row of `out`.
/// A query attends to all keys up to its position, or to those of the window that ends there.
fn attend_queries(
    heads: Heads,
    queries: Rows<'_>,
    start: usize,
    keys: &PackedMatrix,
    values: &PackedMatrix,
    buffers: &mut AttentionBuffers,
    out: &mut [&mut [f32]],
) {
    let AttentionBuffers { scores, scratch } = buffers;
    let end = start + out.len();
    // The first key that the query at `position` attends to.
    let since = |position: usize| heads.window.map_or(0, |n| (position + 1).saturating_sub(n));
    let begin = since(start) / KEYS * KEYS;
    let mut states = [SoftmaxState::default(); QUERIES];
    for first in (begin..end).step_by(KEYS) {
        let width = end.min(first + KEYS) - first;
        scores.resize(out.len() * width, 0.0);
        let mut tile: Vec<&mut [f32]> = scores.chunks_exact_mut(width).collect();
        multiply_part(queries, keys, (first, 0), false, scratch, &mut tile);
        for (offset, (row, state)) in tile.iter_mut().zip(&mut states).enumerate() {
            let position = start + offset;
            let seen = (position + 1).saturating_sub(first).min(width);
            let (seen, future) = row.split_at_mut(seen);
            let past = since(position).saturating_sub(first).min(seen.len());
            let (past, seen) = seen.split_at_mut(past);
            let shrink = match heads.soft_cap {
                None => softmax_part(seen, heads.scale, state),
                Some(cap) => {
                    soft_cap(seen, heads.scale, cap);
                    softmax_part(seen, 1.0, state)
                }
            };
            past.fill(0.0);
            future.fill(0.0);
            if first > begin && shrink != 1.0 {
                scale(out[offset], shrink);
            }
        }
        multiply_part(Rows::dense(scores, width), values, (0, first), first > begin, scratch, out);
    }
    for (row, state) in out.iter_mut().zip(&states) {
        scale(row, 1.0 / state.sum);
    }
}

fn tail(data: &[f32], first: usize) -> &[f32] {
    &data[first..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_agree_with_a_softmax_over_whole_rows() {
        let scale = 1.0 / 10f32.sqrt();
        let plain =
            Heads { n_head: 4, n_head_kv: 2, head_dim: 10, scale, soft_cap: None, window: None };
        assert_agrees(plain);
        assert_agrees(Heads { scale: 0.2, soft_cap: Some(3.0), ..plain });
        // Windows within a tile, across tiles, and longer than the text.
        for window in [1, 7, KEYS + 30, 10_000] {
            assert_agrees(Heads { window: Some(window), ..plain });
        }
    }

    fn assert_agrees(heads: Heads) {
        let lengths = [QUERIES + KEYS + 7, 3, 2 * KEYS];
        let rows: usize = lengths.iter().sum();
        let values = |width: usize, seed: usize| -> Vec<f32> {
            let value = |i: usize| ((i * 7919 + seed) % 1009) as f32 / 200.0 - 2.5;
            (0..rows * width).map(value).collect()
        };
        let (q, mut k, v) = (values(40, 1), values(20, 2), values(20, 3));
        // Later keys outweigh earlier ones, so that the largest score changes from tile to tile.
        k.iter_mut().enumerate().for_each(|(i, k)| *k *= 1.0 + (i / 20) as f32 / 200.0);
        let mut out = vec![f32::NAN; rows * 40];
        attend(heads, &lengths, &q, &k, &v, &mut out);
        let mut first = 0;
        for length in lengths {
            for (position, head) in (0..length).flat_map(|p| (0..4).map(move |head| (p, head))) {
                let key = |j: usize, d: usize| (first + j) * 20 + head / 2 * 10 + d;
                let row = (first + position) * 40 + head * 10;
                let score = |j| -> f64 {
                    let pairs = (0..10).map(|d| q[row + d] as f64 * k[key(j, d)] as f64);
                    let score = pairs.sum::<f64>() * heads.scale as f64;
                    heads.soft_cap.map_or(score, |cap| cap as f64 * (score / cap as f64).tanh())
                };
                let since = heads.window.map_or(0, |n| (position + 1).saturating_sub(n));
                let scores: Vec<f64> = (since..=position).map(score).collect();
                let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
                for d in 0..10 {
                    let weighted =
                        |(j, s): (usize, &f64)| (s - top).exp() * v[key(since + j, d)] as f64;
                    let want = scores.iter().enumerate().map(weighted).sum::<f64>() / total;
                    let got = out[row + d] as f64;
                    assert!((got - want).abs() < 2e-5, "{position} {head} {d}: {got} for {want}");
                }
            }
            first += length;
        }
    }
}
