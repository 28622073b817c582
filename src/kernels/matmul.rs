//! Matrix products `out = x . W^T`, where `W` has one output per row, as models store it.
//!
//! `W` is packed in panels of 32 outputs (see `pack`). A micro-kernel multiplies 12 rows by one
//! panel, with 24 vectors of 16 sums in registers. A task copies a block of inputs of up to 192
//! rows, in words of the pack, to the second-level cache and reads each panel once for all of them.
//! Tasks depend on the shape alone, so results depend neither on the number of threads nor on other
//! rows.

use super::elementwise::all_finite;
use super::pack::{PANEL, PackedMatrix, Rows, Words, write_words};
use crate::base::simd::{InstructionSet, Level};
use rayon::prelude::*;
use std::ops::Range;

/// The rows of one call of a micro-kernel.
pub(super) const GROUP: usize = 12;
/// The maximum words of a row in a block: 12 rows of 512 words are 24 kB, a panel of them 64 kB.
pub(super) const DEPTH: usize = 512;
/// Unused words after each row of a block: at a distance of a power of two, rows would compete for
/// the same few cache lines.
const SKEW: usize = 16;
/// The words of a row in a block, with the unused ones.
pub(super) const BLOCK: usize = DEPTH + SKEW;
/// The maximum rows of one task.
const TASK_ROWS: usize = 16 * GROUP;
/// The maximum panels of one task.
const TASK_PANELS: usize = 64;
/// The minimum panels of a task with few rows: less work would not be worth copying the rows.
const FEW_PANELS: usize = 4;

/// A buffer for copies of rows, reused by the tasks of a thread.
#[derive(Default)]
pub struct Scratch(Vec<[u32; BLOCK]>);

/// Options of a product.
#[derive(Clone, Copy, Default)]
pub struct Multiply<'a> {
    /// Values to add to every row, one for each output.
    pub bias: Option<&'a [f32]>,
    /// Whether to add the product to `out` instead of replacing its values.
    pub accumulate: bool,
}

/// The error of a product with a value that is NaN or infinite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NonFinite {
    /// The first row with such a value.
    pub row: usize,
}

/// Computes `out = x . W^T (+ bias) (+ out)` in parallel. `x` has rows of `weights.inputs()`
/// elements, `out` the same number of dense rows of `weights.outputs()`.
///
/// # Errors
/// A result is not finite. All of `out` is computed nevertheless.
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
    assert_eq!(
        out.len(),
        rows * weights.outputs,
        "the length of out is not a multiple of the outputs"
    );
    assert_eq!(x.width, weights.inputs, "x and the weights differ in inputs");
    let mut tasks = split(out, weights.outputs, rows);
    let finite: Vec<bool> = tasks
        .par_iter_mut()
        .map_init(Scratch::default, |scratch, task| {
            let x = x.skip(task.first_row);
            let part = Part {
                weights,
                panels: task.panels.clone(),
                depth: 0..weights.depth(),
                accumulate: extra.accumulate,
            };
            multiply_tile(Level::current(), x, part, scratch, &mut task.out);
            if let Some(bias) = extra.bias {
                let bias = &bias[task.panels.start * PANEL..];
                for row in &mut task.out {
                    row.iter_mut().zip(bias).for_each(|(o, b)| *o += b);
                }
            }
            task.out.iter().all(|row| all_finite(row))
        })
        .collect();
    drop(tasks);
    if finite.into_iter().all(|finite| finite) {
        return Ok(());
    }
    let row = out.chunks_exact(weights.outputs).position(|row| !all_finite(row));
    Err(NonFinite { row: row.expect("one task reported a value that is not finite") })
}

/// Computes `out = x . W^T (+ out)` on this thread with a part of `weights`: the outputs from
/// `outputs` on, as many as the rows of `out` are long, and the inputs from `inputs` on, as many as
/// `x` is wide. The rows of `out` may be anywhere in memory. Attention uses it to compute single
/// tiles.
///
/// # Panics
/// If `outputs` is not the start of a panel, the weights are pairs, the rows of `out` differ in
/// length, or the part exceeds the weights.
pub fn multiply_part(
    x: Rows<'_>,
    weights: &PackedMatrix,
    (outputs, inputs): (usize, usize),
    accumulate: bool,
    scratch: &mut Scratch,
    out: &mut [&mut [f32]],
) {
    let width = out.first().map_or(0, |row| row.len());
    assert!(
        outputs % PANEL == 0 && weights.words != Words::Pairs,
        "a part must start at a panel of f32 words"
    );
    assert!(outputs + width <= weights.outputs, "more outputs than the weights have");
    assert!(inputs + x.width <= weights.inputs, "more inputs than the weights have");
    assert!(out.iter().all(|row| row.len() == width), "rows of different lengths");
    let panels = outputs / PANEL..(outputs + width).div_ceil(PANEL);
    let part = Part { weights, panels, depth: inputs..inputs + x.width, accumulate };
    for (index, rows) in out.chunks_mut(TASK_ROWS).enumerate() {
        multiply_tile(Level::current(), x.skip(index * TASK_ROWS), part.clone(), scratch, rows);
    }
}

/// One task of a product: a range of rows by a range of panels.
struct Task<'a> {
    first_row: usize,
    panels: Range<usize>,
    out: Vec<&'a mut [f32]>,
}

/// Divides `out` into tasks. Neighbouring tasks share panels, which then stay in a core's cache.
fn split(out: &mut [f32], outputs: usize, rows: usize) -> Vec<Task<'_>> {
    let panels = outputs.div_ceil(PANEL);
    // With few rows, as in decoding, use fewer panels per task: otherwise there would be a single
    // task.
    let most = (TASK_PANELS * rows / TASK_ROWS).clamp(FEW_PANELS, TASK_PANELS);
    let (across, down) = (panels.div_ceil(most), rows.div_ceil(TASK_ROWS));
    let width = panels.div_ceil(across);
    let mut tasks: Vec<Task<'_>> = (0..across * down)
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

/// A part of the weights, and how to store its product.
#[derive(Clone)]
struct Part<'a> {
    weights: &'a PackedMatrix,
    /// The panels of the part.
    panels: Range<usize>,
    /// The words of each output.
    depth: Range<usize>,
    /// Whether to add to the values of `out`.
    accumulate: bool,
}

/// Multiplies one row of `x` by `part` for each row of `out`, which begins at the first output of
/// the first panel.
fn multiply_tile(
    level: Level,
    x: Rows<'_>,
    part: Part<'_>,
    scratch: &mut Scratch,
    out: &mut [&mut [f32]],
) {
    let Part { weights, panels, depth, accumulate } = part;
    let words = weights.words;
    // Blocks of about the same depth: storing sums of a thin last block would cost as much as any
    // other.
    let step = depth.len().div_ceil(depth.len().div_ceil(DEPTH).max(1)).max(1);
    if scratch.0.len() < out.len() {
        scratch.0.resize(out.len(), [0; BLOCK]);
    }
    for start in (0..depth.len()).step_by(step) {
        let block = start..depth.len().min(start + step);
        let inputs = block.start * words.inputs()..x.width.min(block.end * words.inputs());
        for (row, copy) in scratch.0.iter_mut().enumerate().take(out.len()) {
            write_words(words, &x.row(row)[inputs.clone()], copy);
        }
        let add = accumulate || start > 0;
        let block = depth.start + block.start..depth.start + block.end;
        for index in panels.clone() {
            let panel = weights.panel(index, block.clone());
            let column = (index - panels.start) * PANEL;
            for (rows, x) in out.chunks_mut(GROUP).zip(scratch.0.chunks(GROUP)) {
                if rows[0].len() >= column + PANEL {
                    product(level, words, x, panel, &mut OutputTile { rows, column, add });
                } else {
                    narrow_product(level, words, x, panel, &mut OutputTile { rows, column, add });
                }
            }
        }
    }
}

/// The destination of a micro-kernel: 32 columns of some rows.
pub(super) struct OutputTile<'t, 'r> {
    /// The rows.
    pub rows: &'t mut [&'r mut [f32]],
    /// The first column.
    pub column: usize,
    /// Whether to add sums instead of replacing values.
    pub add: bool,
}

impl OutputTile<'_, '_> {
    /// The columns of one row.
    #[inline(always)]
    pub(super) fn row(&mut self, row: usize) -> &mut [f32; PANEL] {
        let columns = &mut self.rows[row][self.column..][..PANEL];
        columns.try_into().expect("sliced to that length")
    }
}

/// [`product`] for the last panel, if rows end within it.
#[cold]
fn narrow_product(
    level: Level,
    words: Words,
    x: &[[u32; BLOCK]],
    panel: &[[u32; PANEL]],
    target: &mut OutputTile<'_, '_>,
) {
    let mut sums = [[0f32; PANEL]; GROUP];
    let mut rows: [&mut [f32]; GROUP] = sums.each_mut().map(|row| &mut row[..]);
    let rows = &mut rows[..target.rows.len()];
    product(level, words, x, panel, &mut OutputTile { rows, column: 0, add: false });
    for (row, sums) in target.rows.iter_mut().zip(&sums) {
        let columns = row[target.column..].iter_mut().zip(sums);
        match target.add {
            true => columns.for_each(|(o, s)| *o += s),
            false => columns.for_each(|(o, s)| *o = *s),
        }
    }
}

/// Computes `target[r][c] = sum over k of x[r][k] * panel[k][c]` for the rows of `target`, at most
/// 12.
fn product(
    level: Level,
    words: Words,
    x: &[[u32; BLOCK]],
    panel: &[[u32; PANEL]],
    target: &mut OutputTile<'_, '_>,
) {
    /// Calls `$kernel` for the number of rows.
    #[cfg(target_arch = "x86_64")]
    macro_rules! for_rows {
        ($rows:expr, $kernel:ident $args:tt, $($m:literal)*) => {
            match $rows {
                // SAFETY: the level and the words exist only if the CPU supports the kernel.
                $($m => unsafe { super::x86::$kernel::<$m> $args },)*
                rows => unreachable!("no kernel for {rows} rows"),
            }
        };
    }
    match level.instructions() {
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512Bf16 if words == Words::Pairs => {
            for_rows!(target.rows.len(), product_bf16(x, panel, target), 1 2 3 4 5 6 7 8 9 10 11 12)
        }
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 | InstructionSet::Avx512Bf16 => {
            for_rows!(target.rows.len(), product_avx512(x, panel, target), 1 2 3 4 5 6 7 8 9 10 11 12)
        }
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => {
            for first in (0..target.rows.len()).step_by(6) {
                let rows = (target.rows.len() - first).min(6);
                for half in 0..2 {
                    for_rows!(rows, product_avx2(&x[first..], panel, first, half, target), 1 2 3 4 5 6)
                }
            }
        }
        _ => {
            assert!(words != Words::Pairs, "pairs exist only if the CPU can multiply them");
            for (row, x) in x.iter().enumerate().take(target.rows.len()) {
                let sums = product_baseline(x, panel);
                let add = target.add;
                let columns = target.row(row).iter_mut().zip(&sums);
                columns.for_each(|(o, s)| *o = if add { *o + s } else { *s });
            }
        }
    }
}

/// One row by a panel. Its 32 sums are eight vectors of the smallest registers.
fn product_baseline(x: &[u32], panel: &[[u32; PANEL]]) -> [f32; PANEL] {
    let mut sums = [0f32; PANEL];
    for (&a, columns) in x[..panel.len()].iter().zip(panel) {
        let a = f32::from_bits(a);
        for (sum, &b) in sums.iter_mut().zip(columns) {
            *sum += a * f32::from_bits(b);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::super::pack::Precision;
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

    fn packed(level: Level, precision: Precision, outputs: usize, w: &[f32]) -> PackedMatrix {
        let inputs = w.len() / outputs;
        let fill = |rows: Range<usize>, buffer: &mut [f32]| -> Result<(), ()> {
            buffer.copy_from_slice(&w[rows.start * inputs..rows.end * inputs]);
            Ok(())
        };
        PackedMatrix::pack_at(level, precision, outputs, inputs, None, fill).unwrap()
    }

    fn naive(x: &[f32], w: &[f32], inputs: usize) -> Vec<f64> {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| a as f64 * b as f64).sum();
        let rows = x.chunks_exact(inputs);
        rows.flat_map(|x| w.chunks_exact(inputs).map(move |w| dot(x, w))).collect()
    }

    /// Rows, inputs, outputs.
    const SHAPES: [(usize, usize, usize); 8] = [
        (1, 1, 1),
        (5, 7, 31),
        (12, 64, 32),
        (25, 513, 65),
        (192, 1100, 97),
        (13, 33, 600),
        (11, 1025, 40),
        (7, 2049, 64),
    ];

    #[test]
    fn every_level_precision_and_shape_agrees_with_the_plain_sum() {
        for (rows, inputs, outputs) in SHAPES {
            let (x, w) = (values(rows * inputs, 1), values(outputs * inputs, 2));
            let round =
                |v: &Vec<f32>| v.iter().map(|v| half::bf16::from_f32(*v).to_f32()).collect();
            let (x16, w16): (Vec<f32>, Vec<f32>) = (round(&x), round(&w));
            let budget = 1e-6 * (inputs as f64).sqrt() * 4.0;
            for level in Level::available() {
                for precision in [Precision::F32, Precision::Bf16] {
                    let expected = match precision {
                        Precision::F32 => naive(&x, &w, inputs),
                        Precision::Bf16 => naive(&x16, &w16, inputs),
                    };
                    let weights = &packed(level, precision, outputs, &w);
                    let mut out = vec![f32::NAN; rows * outputs];
                    let mut slices: Vec<_> = out.chunks_exact_mut(outputs).collect();
                    let (panels, depth) = (0..outputs.div_ceil(PANEL), 0..weights.depth());
                    let part = Part { weights, panels, depth, accumulate: false };
                    // Values of an earlier task in the buffer must have no effect.
                    let mut scratch = Scratch(vec![[u32::MAX; BLOCK]; 3]);
                    multiply_tile(level, Rows::dense(&x, inputs), part, &mut scratch, &mut slices);
                    for (got, expected) in out.iter().zip(&expected) {
                        let close = (*got as f64 - expected).abs() <= budget;
                        assert!(close, "{level:?} {precision:?}: {got} for {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn products_add_a_bias_and_accumulate() {
        for (rows, inputs, outputs) in SHAPES.into_iter().chain([(401, 30, 2100)]) {
            let (x, w) = (values(rows * inputs, 1), values(outputs * inputs, 2));
            let expected = naive(&x, &w, inputs);
            let weights = packed(Level::current(), Precision::F32, outputs, &w);
            let mut out = vec![0.5f32; rows * outputs];
            let bias = values(outputs, 7);
            let extra = Multiply { bias: Some(&bias), accumulate: true };
            multiply(Rows::dense(&x, inputs), &weights, extra, &mut out).unwrap();
            let budget = 1e-6 * (inputs as f64).sqrt() * 4.0 + 1e-6;
            for (index, (got, expected)) in out.iter().zip(&expected).enumerate() {
                let expected = expected + 0.5 + bias[index % outputs] as f64;
                assert!((*got as f64 - expected).abs() <= budget, "{got} for {expected}");
            }
        }
    }

    #[test]
    fn a_part_equals_the_same_part_of_the_whole() {
        let (rows, inputs, outputs) = (200, 70, 100);
        let (x, w) = (values(rows * inputs, 1), values(outputs * inputs, 2));
        let weights = packed(Level::current(), Precision::F32, outputs, &w);
        // Outputs 64 to 99 and inputs 20 to 49.
        let part_of = |v: &[f32], skip: usize| -> Vec<f32> {
            v.chunks_exact(inputs).skip(skip).flat_map(|row| row[20..50].to_vec()).collect()
        };
        let (x_part, w_part) = (part_of(&x, 0), part_of(&w, 64));
        let expected = naive(&x_part, &w_part, 30);
        let mut out = vec![1f32; rows * 36];
        let mut slices: Vec<_> = out.chunks_exact_mut(36).collect();
        let x = Rows::dense(&x_part, 30);
        multiply_part(x, &weights, (64, 20), true, &mut Scratch::default(), &mut slices);
        for (got, expected) in out.iter().zip(&expected) {
            assert!((*got as f64 - expected - 1.0).abs() < 1e-4, "{got} for {expected}");
        }
    }

    #[test]
    fn the_first_row_that_is_not_finite_is_reported() {
        let (rows, inputs, outputs) = (400, 16, 700);
        let mut x = values(rows * inputs, 4);
        (x[333 * inputs + 3], x[250 * inputs]) = (f32::NAN, f32::INFINITY);
        let weights =
            packed(Level::current(), Precision::F32, outputs, &values(outputs * inputs, 5));
        let mut out = vec![0.0; rows * outputs];
        let result = multiply(Rows::dense(&x, inputs), &weights, Multiply::default(), &mut out);
        assert_eq!(result, Err(NonFinite { row: 250 }));
    }
}
