//! Matrix products `out = x . W^T` where `W`, as models store it, holds one output per row.
//!
//! Weights are packed once into panels of 32 outputs, input by input, which is the order in which the
//! micro-kernel reads them; a pack serves every product of a layer. A micro-kernel takes 12 rows and one panel, so that 24 vectors of 16 accumulators stay in
//! registers; the inputs are cut into blocks so that 12 rows of them stay in the first-level cache and a
//! few panels of them in the second. Splits depend on the shape alone, so results do not depend on the
//! number of threads, nor a row's result on the rows around it.

use super::elementwise::all_finite;
use super::simd::Level;
use rayon::prelude::*;
use std::ops::Range;

/// Outputs in a panel.
pub const PANEL: usize = 32;
/// Rows that one micro-kernel call computes.
pub(super) const GROUP: usize = 12;
/// Inputs in a block: 12 rows of 512 are 24 kB, a panel of 512 is 64 kB.
pub(super) const DEPTH: usize = 512;
/// What separates the copies of rows of a block: rows at a distance of a power of two would compete
/// for the same few cache lines.
const SKEW: usize = 16;
/// A row of a block, with what separates it from the next.
pub(super) const BLOCK: usize = DEPTH + SKEW;
/// Rows and panels of one task, at most: 16 panels of a block are 1 MB.
const TASK_ROWS: usize = 16 * GROUP;
const TASK_PANELS: usize = 16;

/// A weight matrix in panels, ready to multiply with.
pub struct PackedMatrix {
    outputs: usize,
    inputs: usize,
    /// Panel after panel; in a panel, for each input the weights of its outputs.
    panels: Vec<[f32; PANEL]>,
}

impl PackedMatrix {
    /// Packs the matrix `[outputs, inputs]` whose rows `fill(range, buffer)` writes, one after the
    /// other, into `buffer`. Panels are filled in parallel; the first error in panel order is
    /// returned.
    pub fn pack<E: Send>(
        outputs: usize,
        inputs: usize,
        fill: impl Fn(Range<usize>, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<PackedMatrix, E> {
        assert!(outputs > 0 && inputs > 0, "an empty matrix has no product");
        let mut panels = vec![[0f32; PANEL]; outputs.div_ceil(PANEL) * inputs];
        let results: Vec<Result<(), E>> = panels
            .par_chunks_mut(inputs)
            .enumerate()
            .map_init(Vec::new, |buffer: &mut Vec<f32>, (index, panel)| {
                let first = index * PANEL;
                let rows = first..outputs.min(first + PANEL);
                buffer.resize(rows.len() * inputs, 0.0);
                fill(rows, buffer)?;
                for (lane, row) in buffer.chunks_exact(inputs).enumerate() {
                    for (slot, &weight) in panel.iter_mut().zip(row) {
                        slot[lane] = weight;
                    }
                }
                Ok(())
            })
            .collect();
        results.into_iter().collect::<Result<(), E>>()?;
        Ok(PackedMatrix { outputs, inputs, panels })
    }

    /// Packs `weights`, `[outputs, inputs]` row after row at distance `stride`, on this thread.
    pub fn pack_rows(weights: Rows<'_>, outputs: usize) -> PackedMatrix {
        let inputs = weights.width;
        let mut panels = vec![[0f32; PANEL]; outputs.div_ceil(PANEL) * inputs];
        for output in 0..outputs {
            let panel = &mut panels[output / PANEL * inputs..][..inputs];
            for (slot, &weight) in panel.iter_mut().zip(weights.row(output)) {
                slot[output % PANEL] = weight;
            }
        }
        PackedMatrix { outputs, inputs, panels }
    }

    /// Packs the transpose of `weights`: row `i` of it holds what input `i` gives to each output.
    pub fn pack_transposed(weights: Rows<'_>, inputs: usize) -> PackedMatrix {
        let outputs = weights.width;
        let mut panels = vec![[0f32; PANEL]; outputs.div_ceil(PANEL) * inputs];
        for input in 0..inputs {
            for (index, part) in weights.row(input).chunks(PANEL).enumerate() {
                panels[index * inputs + input][..part.len()].copy_from_slice(part);
            }
        }
        PackedMatrix { outputs, inputs, panels }
    }

    pub fn outputs(&self) -> usize {
        self.outputs
    }

    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Bytes that a packed matrix `[outputs, inputs]` takes.
    pub fn bytes(outputs: usize, inputs: usize) -> u64 {
        outputs.div_ceil(PANEL) as u64 * inputs as u64 * size_of::<[f32; PANEL]>() as u64
    }
}

/// Rows of `width` elements at a distance of `stride` in a slice.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub data: &'a [f32],
    pub width: usize,
    pub stride: usize,
}

impl<'a> Rows<'a> {
    /// Rows without gaps.
    pub fn dense(data: &'a [f32], width: usize) -> Rows<'a> {
        Rows { data, width, stride: width }
    }

    fn row(&self, index: usize) -> &'a [f32] {
        &self.data[index * self.stride..][..self.width]
    }

    /// The rows from `first` on.
    pub fn skip(&self, first: usize) -> Rows<'a> {
        Rows { data: &self.data[first * self.stride..], ..*self }
    }
}

/// What a product does besides the sum.
#[derive(Clone, Copy, Default)]
pub struct Multiply<'a> {
    /// Added to every row; one element for each output.
    pub bias: Option<&'a [f32]>,
    /// Add to what `out` holds instead of replacing it.
    pub accumulate: bool,
}

/// A product holds a NaN or an infinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NonFinite {
    /// The first row that does.
    pub row: usize,
}

/// `out = x . W^T (+ bias) (+ out)`, in parallel. `x` has rows of `weights.inputs()` elements,
/// `out` as many dense rows of `weights.outputs()`. Fails if the result is not finite, after computing
/// all of it.
///
/// # Panics
/// If the slices do not fit the shapes.
pub fn multiply(
    x: Rows<'_>,
    weights: &PackedMatrix,
    extra: Multiply<'_>,
    out: &mut [f32],
) -> Result<(), NonFinite> {
    let rows = out.len() / weights.outputs;
    assert_eq!(out.len(), rows * weights.outputs, "out holds no whole rows");
    assert_eq!(x.width, weights.inputs, "inputs of x and of the weights");
    let mut tasks = split(out, weights.outputs, rows);
    let finite: Vec<bool> = tasks
        .par_iter_mut()
        .map(|task| {
            let x = x.skip(task.first_row);
            multiply_tile(Level::current(), x, weights, task.panels.clone(), extra, &mut task.out);
            task.out.iter().all(|row| all_finite(row))
        })
        .collect();
    drop(tasks);
    if finite.into_iter().all(|finite| finite) {
        return Ok(());
    }
    let row = out.chunks_exact(weights.outputs).position(|row| !all_finite(row));
    Err(NonFinite { row: row.expect("a tile of it is not finite") })
}

/// `out = x . W^T` on this thread, for row slices that need not be neighbours in memory. Slices shorter
/// than `weights.outputs()` take the first outputs, and rows of `x` narrower than `weights.inputs()`
/// meet the first inputs, so that causal attention computes no more than it needs.
///
/// # Panics
/// If the slices of `out` differ in length or do not fit the shapes.
pub fn multiply_rows(x: Rows<'_>, weights: &PackedMatrix, out: &mut [&mut [f32]]) {
    let outputs = out.first().map_or(0, |row| row.len());
    assert!(outputs <= weights.outputs && x.width <= weights.inputs, "more than the weights have");
    assert!(out.iter().all(|row| row.len() == outputs), "rows of different lengths");
    let panels = 0..outputs.div_ceil(PANEL);
    multiply_tile(Level::current(), x, weights, panels, Multiply::default(), out);
}

/// One task of a product: some rows by some panels.
struct Task<'a> {
    first_row: usize,
    panels: Range<usize>,
    out: Vec<&'a mut [f32]>,
}

/// Cuts `out` into tasks; neighbours share panels, which then stay in a core's cache.
fn split(out: &mut [f32], outputs: usize, rows: usize) -> Vec<Task<'_>> {
    let panels = outputs.div_ceil(PANEL);
    let (across, down) = (panels.div_ceil(TASK_PANELS), rows.div_ceil(TASK_ROWS));
    let width = panels.div_ceil(across);
    let mut tasks: Vec<Task> = (0..across * down)
        .map(|index| {
            let first = index / down * width;
            Task {
                first_row: index % down * TASK_ROWS,
                panels: first..panels.min(first + width),
                out: Vec::with_capacity(TASK_ROWS),
            }
        })
        .collect();
    for (row, values) in out.chunks_exact_mut(outputs).enumerate() {
        for (column, part) in values.chunks_mut(width * PANEL).enumerate() {
            tasks[column * down + row / TASK_ROWS].out.push(part);
        }
    }
    tasks
}

/// The product of all rows of `out` by `panels`; `out[r]` begins at the first panel's first output.
fn multiply_tile(
    level: Level,
    x: Rows<'_>,
    weights: &PackedMatrix,
    panels: Range<usize>,
    extra: Multiply<'_>,
    out: &mut [&mut [f32]],
) {
    let mut acc = [[0f32; PANEL]; GROUP];
    let mut block = [[0f32; BLOCK]; GROUP];
    for start in (0..x.width).step_by(DEPTH) {
        let depth = start..x.width.min(start + DEPTH);
        for (group, rows) in out.chunks_mut(GROUP).enumerate() {
            for (row, copy) in block.iter_mut().enumerate().take(rows.len()) {
                let inputs = &x.row(group * GROUP + row)[depth.clone()];
                copy[..inputs.len()].copy_from_slice(inputs);
            }
            for index in panels.clone() {
                let panel = &weights.panels[index * weights.inputs..][depth.clone()];
                product(level, rows.len(), &block, panel, &mut acc);
                let column = (index - panels.start) * PANEL;
                let bias = extra.bias.filter(|_| start == 0).map(|bias| &bias[index * PANEL..]);
                let add = start > 0 || extra.accumulate;
                for (row, sums) in rows.iter_mut().zip(&acc) {
                    let row = &mut row[column..];
                    let width = row.len().min(PANEL);
                    store(sums, add, bias, &mut row[..width]);
                }
            }
        }
    }
}

/// Writes one row's sums, or adds them, with their part of the bias.
#[inline(always)]
fn store(sums: &[f32; PANEL], add: bool, bias: Option<&[f32]>, row: &mut [f32]) {
    // A whole panel has a length the compiler knows; that saves a call for each.
    match (<&mut [f32; PANEL]>::try_from(&mut *row), add) {
        (Ok(row), true) => row.iter_mut().zip(sums).for_each(|(o, s)| *o += s),
        (Ok(row), false) => *row = *sums,
        (Err(_), true) => row.iter_mut().zip(sums).for_each(|(o, s)| *o += s),
        (Err(_), false) => row.copy_from_slice(&sums[..row.len()]),
    }
    if let Some(bias) = bias {
        row.iter_mut().zip(bias).for_each(|(o, b)| *o += b);
    }
}

/// `acc[r][c] = sum over k of x[r][k] * panel[k][c]` for the first `rows` rows.
fn product(
    level: Level,
    rows: usize,
    x: &[[f32; BLOCK]; GROUP],
    panel: &[[f32; PANEL]],
    acc: &mut [[f32; PANEL]; GROUP],
) {
    assert!(rows <= GROUP);
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Level` is Avx512 only where the processor has it.
        Level::Avx512 => unsafe {
            use super::x86::product_avx512;
            macro_rules! cases {
                ($($m:literal)*) => {
                    match rows {
                        $($m => product_avx512::<$m>(x, panel, acc),)*
                        _ => {}
                    }
                };
            }
            cases!(1 2 3 4 5 6 7 8 9 10 11 12)
        },
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => {
            use super::x86::product_avx2;
            for first in (0..rows).step_by(6) {
                let x = &x[first..];
                for half in 0..2 {
                    let acc = &mut acc[first..];
                    macro_rules! cases {
                        ($($m:literal)*) => {
                            match (rows - first).min(6) {
                                // SAFETY: `Level` is Avx2 only where the processor has it.
                                $($m => unsafe {
                                    product_avx2::<$m>(x, panel, half, acc)
                                },)*
                                _ => {}
                            }
                        };
                    }
                    cases!(1 2 3 4 5 6)
                }
            }
        }
        _ => {
            for (row, sums) in acc.iter_mut().enumerate().take(rows) {
                *sums = product_baseline(&x[row], panel);
            }
        }
    }
}

/// One row by a panel; 32 accumulators are eight vectors of the smallest registers.
fn product_baseline(x: &[f32], panel: &[[f32; PANEL]]) -> [f32; PANEL] {
    let mut sums = [0f32; PANEL];
    for (&a, columns) in x[..panel.len()].iter().zip(panel) {
        for (sum, &b) in sums.iter_mut().zip(columns) {
            *sum += a * b;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reproducible values between -1 and 1.
    fn values(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let step = |_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 40) as f32) / (1u64 << 23) as f32 - 1.0
        };
        (0..n).map(step).collect()
    }

    fn packed(outputs: usize, inputs: usize, w: &[f32]) -> PackedMatrix {
        let fill = |rows: Range<usize>, buffer: &mut [f32]| -> Result<(), ()> {
            buffer.copy_from_slice(&w[rows.start * inputs..rows.end * inputs]);
            Ok(())
        };
        PackedMatrix::pack(outputs, inputs, fill).unwrap()
    }

    fn naive(x: &[f32], w: &[f32], inputs: usize, outputs: usize) -> Vec<f64> {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| a as f64 * b as f64).sum();
        let rows = x.chunks_exact(inputs);
        let out: Vec<f64> =
            rows.flat_map(|x| w.chunks_exact(inputs).map(move |w| dot(x, w))).collect();
        assert_eq!(out.len(), x.len() / inputs * outputs);
        out
    }

    #[test]
    fn every_level_and_shape_agrees_with_the_plain_sum() {
        for (rows, inputs, outputs) in
            [(1, 1, 1), (5, 7, 31), (12, 64, 32), (25, 513, 65), (200, 1100, 97), (13, 33, 600)]
        {
            let (x, w) = (values(rows * inputs, 1), values(outputs * inputs, 2));
            let want = naive(&x, &w, inputs, outputs);
            let weights = packed(outputs, inputs, &w);
            let budget = 1e-6 * (inputs as f64).sqrt() * 4.0;
            for level in Level::available() {
                let mut out = vec![f32::NAN; rows * outputs];
                let mut slices: Vec<_> = out.chunks_exact_mut(outputs).collect();
                let panels = 0..outputs.div_ceil(PANEL);
                let x = Rows::dense(&x, inputs);
                multiply_tile(level, x, &weights, panels, Multiply::default(), &mut slices);
                for (got, want) in out.iter().zip(&want) {
                    assert!((*got as f64 - want).abs() <= budget, "{level:?}: {got} for {want}");
                }
            }
            let mut out = vec![0.5f32; rows * outputs];
            let bias = vec![0.25; outputs];
            let extra = Multiply { bias: Some(&bias), accumulate: true };
            multiply(Rows::dense(&x, inputs), &weights, extra, &mut out).unwrap();
            for (got, want) in out.iter().zip(&want) {
                assert!((*got as f64 - want - 0.75).abs() <= budget + 1e-6);
            }
        }
    }

    #[test]
    fn packs_agree_with_each_other() {
        let (outputs, inputs, stride) = (70, 40, 90);
        let w = values(outputs * inputs, 3);
        let mut wide = vec![f32::NAN; outputs * stride];
        let mut transposed = vec![0.0; outputs * inputs];
        for o in 0..outputs {
            wide[o * stride..][..inputs].copy_from_slice(&w[o * inputs..][..inputs]);
            (0..inputs).for_each(|i| transposed[i * outputs + o] = w[o * inputs + i]);
        }
        let reference = packed(outputs, inputs, &w);
        let rows = Rows { data: &wide, width: inputs, stride };
        assert_eq!(PackedMatrix::pack_rows(rows, outputs).panels, reference.panels);
        let columns = Rows::dense(&transposed, outputs);
        assert_eq!(PackedMatrix::pack_transposed(columns, inputs).panels, reference.panels);
    }

    #[test]
    fn the_first_row_that_is_not_finite_is_named() {
        let (rows, inputs, outputs) = (400, 16, 700);
        let mut x = values(rows * inputs, 4);
        (x[333 * inputs + 3], x[250 * inputs]) = (f32::NAN, f32::INFINITY);
        let weights = packed(outputs, inputs, &values(outputs * inputs, 5));
        let mut out = vec![0.0; rows * outputs];
        let result = multiply(Rows::dense(&x, inputs), &weights, Multiply::default(), &mut out);
        assert_eq!(result, Err(NonFinite { row: 250 }));
    }

    #[test]
    fn a_failing_fill_is_reported_in_order() {
        let fill = |rows: Range<usize>, _: &mut [f32]| {
            if rows.start >= 64 { Err(rows.start) } else { Ok(()) }
        };
        assert_eq!(PackedMatrix::pack(200, 4, fill).err(), Some(64));
    }
}
