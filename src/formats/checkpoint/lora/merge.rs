//! The arithmetic of adapters: products of matrices, DoRA's lengths, rows of tokens.
//!
//! In `B A` the terms of each element are added in the order of the rank, and the sum is scaled
//! before it is added to the weight. Formulas: arXiv:2106.09685 (LoRA), arXiv:2402.09353 (DoRA);
//! PEFT `src/peft/tuners/lora/layer.py` (`get_delta_weight`) and `variants.py`
//! (`DoraLinearVariant.merge_unsafe`), 0.21.

use rayon::prelude::*;

/// Elements that one task computes. Fixed, so that the work is cut alike at any number of threads.
pub(super) const CHUNK: usize = 1 << 18;
/// Columns computed at a time: so many columns of all rows of A stay in the cache.
const COLUMNS: usize = 1024;

/// Adds `scale * (b a)` to the rows of `values`, each of `columns` elements.
pub(super) fn add_product(
    values: &mut [f32],
    columns: usize,
    (b, a): (&[f32], &[f32]),
    (rank, scale): (usize, f32),
) {
    if columns == 0 {
        return;
    }
    let rows = (CHUNK / columns).max(1);
    values.par_chunks_mut(rows * columns).enumerate().for_each(|(chunk, values)| {
        let mut sums = [0f32; COLUMNS];
        for start in (0..columns).step_by(COLUMNS) {
            let end = columns.min(start + COLUMNS);
            let sums = &mut sums[..end - start];
            for (row, values) in values.chunks_exact_mut(columns).enumerate() {
                sums.fill(0.0);
                let row = chunk * rows + row;
                for (k, &factor) in b[row * rank..(row + 1) * rank].iter().enumerate() {
                    let line = &a[k * columns + start..k * columns + end];
                    sums.iter_mut().zip(line).for_each(|(sum, a)| *sum += factor * a);
                }
                values[start..end].iter_mut().zip(&*sums).for_each(|(v, sum)| *v += scale * sum);
            }
        }
    });
}

/// `values`, a matrix of `rows` rows, with rows and columns exchanged.
pub(super) fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
}

/// Gives each row the length `magnitude` has for it, as DoRA does to linear layers. A row of zeros
/// stays.
pub(super) fn scale_rows(values: &mut [f32], columns: usize, magnitude: &[f32]) {
    if columns == 0 {
        return;
    }
    values.par_chunks_mut(columns).zip(magnitude).for_each(|(row, &length)| {
        let sum: f64 = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        let factor = factor(length, sum);
        row.iter_mut().for_each(|v| *v *= factor);
    });
}

/// Gives each column the length `magnitude` has for it, as DoRA does to embeddings.
pub(super) fn scale_columns(values: &mut [f32], magnitude: &[f32]) {
    let columns = magnitude.len();
    if columns == 0 {
        return;
    }
    // Row after row, whatever the number of threads: sums depend on their order.
    let mut sums = vec![0f64; columns];
    for row in values.chunks_exact(columns) {
        sums.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v) * f64::from(v));
    }
    let factors: Vec<f32> = magnitude.iter().zip(&sums).map(|(&m, &sum)| factor(m, sum)).collect();
    values
        .par_chunks_mut(columns)
        .for_each(|row| row.iter_mut().zip(&factors).for_each(|(v, factor)| *v *= factor));
}

/// What turns a vector whose squares sum to `sum` into one of length `length`.
fn factor(length: f32, sum: f64) -> f32 {
    let norm = sum.sqrt() as f32;
    if norm == 0.0 { 1.0 } else { length / norm }
}

/// Replaces the rows `indices` of `values` by those of `rows`.
pub(super) fn replace_rows(values: &mut [f32], columns: usize, indices: &[usize], rows: &[f32]) {
    for (&index, row) in indices.iter().zip(rows.chunks_exact(columns.max(1))) {
        values[index * columns..(index + 1) * columns].copy_from_slice(row);
    }
}
