//! Weight matrices in the order in which the micro-kernels read them.
//!
//! A pack consists of 32-bit words: one f32, or two inputs in bf16 if the CPU can multiply them. It
//! is a sequence of panels of 32 outputs; a panel has the words of its outputs for one input (or
//! two), then for the next. Weights are decoded, rounded and packed panel by panel, so that the
//! unpacked matrix never exists as a whole.

use crate::base::simd::{InstructionSet, Level, levels};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

/// The outputs of a panel.
pub const PANEL: usize = 32;
/// The inputs that are transposed together: few enough for the first-level cache.
const TRANSPOSED: usize = 16;

/// The precision of the factors of a product. Sums are f32 in either case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Not rounded.
    #[default]
    F32,
    /// Rounded to bf16, 8 significant bits. Twice as fast on CPUs with AVX-512 BF16; others
    /// multiply the same rounded factors as f32, at the speed of [`Precision::F32`].
    Bf16,
}

impl Precision {
    /// [`Precision::Bf16`] if it is faster on this CPU, [`Precision::F32`] otherwise.
    pub fn fastest() -> Precision {
        match Level::current().instructions() >= InstructionSet::Avx512Bf16 {
            true => Precision::Bf16,
            false => Precision::F32,
        }
    }
}

/// The content of the words of a pack, and of the rows that it is multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Words {
    /// One f32.
    F32,
    /// One f32, rounded to bf16.
    Rounded,
    /// Two bf16, that of the lower input in the low half.
    Pairs,
}

impl Words {
    /// The words for `precision` at `level`.
    fn of(precision: Precision, level: Level) -> Words {
        match precision {
            Precision::F32 => Words::F32,
            Precision::Bf16 if level.instructions() >= InstructionSet::Avx512Bf16 => Words::Pairs,
            Precision::Bf16 => Words::Rounded,
        }
    }

    /// The inputs of a word.
    pub(super) fn inputs(self) -> usize {
        if self == Words::Pairs { 2 } else { 1 }
    }

    /// Writes `values` as words; a pair whose second is missing gets a zero.
    #[inline(always)]
    fn write(self, values: &[f32], words: &mut [u32]) {
        match self {
            Words::F32 => words.iter_mut().zip(values).for_each(|(w, v)| *w = v.to_bits()),
            Words::Rounded => words.iter_mut().zip(values).for_each(|(w, &v)| *w = bf16(v) << 16),
            Words::Pairs => {
                let (pairs, last) = values.as_chunks::<2>();
                for (word, &[low, high]) in words.iter_mut().zip(pairs) {
                    *word = bf16(low) | bf16(high) << 16;
                }
                if let [low] = last {
                    words[pairs.len()] = bf16(*low);
                }
            }
        }
    }
}

/// The bits of the nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
fn bf16(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // Set a bit of the upper half: all bits of a NaN's mantissa may be in the half that is dropped.
    let nan = bits >> 16 | 0x40;
    if bits & 0x7fff_ffff > 0x7f80_0000 { nan } else { rounded }
}

/// A weight matrix in panels, ready to multiply with.
pub struct PackedMatrix {
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    pub(super) words: Words,
    /// All panels. In a panel, the words of its outputs for each input or pair of inputs.
    panels: Vec<[u32; PANEL]>,
    /// The owner of the memory after the pack is dropped.
    spare: Option<Spare>,
}

impl Drop for PackedMatrix {
    fn drop(&mut self) {
        if let Some(spare) = &self.spare {
            spare.lock().push(std::mem::take(&mut self.panels));
        }
    }
}

/// Memory of dropped packs, reused for new ones: the system would fill each page of new memory with
/// zeros first. Clones share the memory.
#[derive(Clone, Default)]
pub struct Spare(Arc<Mutex<Vec<Vec<[u32; PANEL]>>>>);

impl Spare {
    fn lock(&self) -> MutexGuard<'_, Vec<Vec<[u32; PANEL]>>> {
        // The list is valid at any time, even if a thread panicked.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes memory of exactly `len` rows of a panel, with arbitrary contents. If there is none,
    /// frees all spare memory and allocates, so that memory never exceeds that of the packs in use
    /// at one time.
    fn take(&self, len: usize) -> Vec<[u32; PANEL]> {
        let mut spare = self.lock();
        match spare.iter().position(|panels| panels.len() == len) {
            Some(at) => spare.swap_remove(at),
            None => {
                spare.clear();
                vec![[0; PANEL]; len]
            }
        }
    }

    /// Frees all spare memory.
    pub fn clear(&self) {
        self.lock().clear();
    }
}

impl PackedMatrix {
    /// Packs the matrix `[outputs, inputs]`. `fill(rows, buffer)` writes a range of its rows to
    /// `buffer`, one after the other. Panels are filled in parallel. The memory of the pack comes
    /// from `spare` and returns there.
    ///
    /// # Errors
    /// The first error of `fill`, in the order of panels.
    pub fn pack<E: Send>(
        precision: Precision,
        outputs: usize,
        inputs: usize,
        spare: &Spare,
        fill: impl Fn(Range<usize>, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<PackedMatrix, E> {
        let level = Level::current();
        PackedMatrix::pack_at(level, precision, outputs, inputs, Some(spare), fill)
    }

    /// [`PackedMatrix::pack`] for products at `level`.
    pub(super) fn pack_at<E: Send>(
        level: Level,
        precision: Precision,
        outputs: usize,
        inputs: usize,
        spare: Option<&Spare>,
        fill: impl Fn(Range<usize>, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<PackedMatrix, E> {
        assert!(outputs > 0 && inputs > 0, "an empty matrix has no product");
        let mut packed = PackedMatrix::new(Words::of(precision, level), outputs, inputs, spare);
        let (words, depth) = (packed.words, packed.depth());
        let results: Vec<Result<(), E>> = packed
            .panels
            .par_chunks_mut(depth)
            .enumerate()
            .map_init(Vec::new, |buffer: &mut Vec<f32>, (index, panel)| {
                let first = index * PANEL;
                let rows = first..outputs.min(first + PANEL);
                buffer.resize(rows.len() * inputs, 0.0);
                fill(rows.clone(), buffer)?;
                if rows.len() < PANEL {
                    panel.fill([0; PANEL]);
                }
                transpose(words, Rows::dense(buffer, inputs), panel);
                Ok(())
            })
            .collect();
        results.into_iter().collect::<Result<(), E>>()?;
        Ok(packed)
    }

    /// Packs `weights`, one row for each output, in f32 on this thread.
    pub fn pack_rows(weights: Rows<'_>, outputs: usize) -> PackedMatrix {
        let mut packed = PackedMatrix::zeros(Words::F32, outputs, weights.width);
        for (index, panel) in packed.panels.chunks_exact_mut(weights.width).enumerate() {
            let first = index * PANEL;
            let end = (outputs - first).min(PANEL) * weights.stride;
            let rows = weights.skip(first);
            transpose(
                Words::F32,
                Rows { data: &rows.data[..end.min(rows.data.len())], ..rows },
                panel,
            );
        }
        packed
    }

    /// Packs the transpose of `weights` in f32: row `i` has the weights of input `i`, one for each
    /// output.
    pub fn pack_transposed(weights: Rows<'_>, inputs: usize) -> PackedMatrix {
        let mut packed = PackedMatrix::zeros(Words::F32, weights.width, inputs);
        for input in 0..inputs {
            for (index, part) in weights.row(input).chunks(PANEL).enumerate() {
                Words::F32.write(part, &mut packed.panels[index * inputs + input]);
            }
        }
        packed
    }

    /// A matrix of zeros in f32, for [`PackedMatrix::set_output`] and [`PackedMatrix::set_input`].
    pub fn empty(outputs: usize, inputs: usize) -> PackedMatrix {
        PackedMatrix::zeros(Words::F32, outputs, inputs)
    }

    /// Writes the weights of one output, a row of the matrix in f32.
    ///
    /// # Panics
    /// If `output` is out of range, the matrix is not f32, or there is not one weight for each
    /// input.
    pub fn set_output(&mut self, output: usize, weights: &[f32]) {
        assert!(self.words == Words::F32 && output < self.outputs && weights.len() == self.inputs);
        let panel = &mut self.panels[output / PANEL * weights.len()..][..weights.len()];
        for (words, weight) in panel.iter_mut().zip(weights) {
            words[output % PANEL] = weight.to_bits();
        }
    }

    /// Writes the weights of one input, a column of the matrix in f32.
    ///
    /// # Panics
    /// If `input` is out of range, the matrix is not f32, or there is not one weight for each
    /// output.
    pub fn set_input(&mut self, input: usize, weights: &[f32]) {
        assert!(self.words == Words::F32 && input < self.inputs && weights.len() == self.outputs);
        for (index, part) in weights.chunks(PANEL).enumerate() {
            Words::F32.write(part, &mut self.panels[index * self.inputs + input]);
        }
    }

    fn zeros(words: Words, outputs: usize, inputs: usize) -> PackedMatrix {
        PackedMatrix::new(words, outputs, inputs, None)
    }

    /// A pack of words that are arbitrary if their memory comes from `spare`, and zero otherwise.
    fn new(words: Words, outputs: usize, inputs: usize, spare: Option<&Spare>) -> PackedMatrix {
        let len = outputs.div_ceil(PANEL) * inputs.div_ceil(words.inputs());
        let panels = spare.map_or_else(|| vec![[0; PANEL]; len], |spare| spare.take(len));
        PackedMatrix { outputs, inputs, words, panels, spare: spare.cloned() }
    }

    /// The words of one output.
    pub(super) fn depth(&self) -> usize {
        self.inputs.div_ceil(self.words.inputs())
    }

    /// The words `depth` of all outputs of panel `index`.
    pub(super) fn panel(&self, index: usize, depth: Range<usize>) -> &[[u32; PANEL]] {
        &self.panels[index * self.depth()..][depth]
    }

    /// The number of outputs, rows of the matrix.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The number of inputs, columns of the matrix.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The size in bytes of a packed matrix `[outputs, inputs]` on this CPU.
    pub fn bytes(precision: Precision, outputs: usize, inputs: usize) -> u64 {
        let depth = inputs.div_ceil(Words::of(precision, Level::current()).inputs());
        outputs.div_ceil(PANEL) as u64 * depth as u64 * size_of::<[u32; PANEL]>() as u64
    }
}

levels! {
    /// Writes `values` as words; a pair whose second is missing gets a zero.
    pub(super) fn write_words(words: Words, values: &[f32], out: &mut [u32]) = write_words_body;
}

#[inline(always)]
fn write_words_body(words: Words, values: &[f32], out: &mut [u32]) {
    words.write(values, out);
}

levels! {
    /// Fills a panel with the rows of `weights`, at most 32, transposed.
    fn transpose(words: Words, weights: Rows<'_>, panel: &mut [[u32; PANEL]]) = transpose_body;
}

#[inline(always)]
fn transpose_body(words: Words, weights: Rows<'_>, panel: &mut [[u32; PANEL]]) {
    let outputs = weights.data.len().div_ceil(weights.stride);
    let mut row = [0u32; TRANSPOSED];
    for (block, slots) in panel.chunks_mut(TRANSPOSED).enumerate() {
        let first = block * TRANSPOSED * words.inputs();
        let end = weights.width.min(first + TRANSPOSED * words.inputs());
        for output in 0..outputs {
            words.write(&weights.row(output)[first..end], &mut row);
            for (slot, &word) in slots.iter_mut().zip(&row) {
                slot[output] = word;
            }
        }
    }
}

/// A matrix in a slice: rows of `width` elements at a distance of `stride`.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// The elements of all rows. The last row may end without its gap.
    pub data: &'a [f32],
    /// The elements of a row.
    pub width: usize,
    /// The distance of the starts of neighbouring rows.
    pub stride: usize,
}

impl<'a> Rows<'a> {
    /// Rows without gaps.
    pub fn dense(data: &'a [f32], width: usize) -> Rows<'a> {
        Rows { data, width, stride: width }
    }

    /// The elements of a row.
    pub(super) fn row(&self, index: usize) -> &'a [f32] {
        &self.data[index * self.stride..][..self.width]
    }

    /// The rows from `first` on.
    pub fn skip(&self, first: usize) -> Rows<'a> {
        Rows { data: &self.data[first * self.stride..], ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 2_654_435_761) % 1_000_003) as f32 * 1e-3 - 500.0).collect()
    }

    fn packed(level: Level, precision: Precision, outputs: usize, w: &[f32]) -> PackedMatrix {
        let inputs = w.len() / outputs;
        let fill = |rows: Range<usize>, buffer: &mut [f32]| -> Result<(), ()> {
            buffer.copy_from_slice(&w[rows.start * inputs..rows.end * inputs]);
            Ok(())
        };
        PackedMatrix::pack_at(level, precision, outputs, inputs, None, fill).unwrap()
    }

    #[test]
    fn packs_agree_with_each_other() {
        let (outputs, inputs, stride) = (70, 41, 90);
        let w = values(outputs * inputs);
        // The last row has no gap after it, like the last head of a chunk.
        let mut wide = vec![f32::NAN; (outputs - 1) * stride + inputs];
        let mut transposed = vec![0.0; outputs * inputs];
        for o in 0..outputs {
            wide[o * stride..][..inputs].copy_from_slice(&w[o * inputs..][..inputs]);
            (0..inputs).for_each(|i| transposed[i * outputs + o] = w[o * inputs + i]);
        }
        let reference = packed(Level::BASELINE, Precision::F32, outputs, &w);
        for (output, input) in [(0, 0), (69, 40), (33, 17)] {
            let word = reference.panel(output / PANEL, input..input + 1)[0][output % PANEL];
            assert_eq!(word, w[output * inputs + input].to_bits());
        }
        let rows = Rows { data: &wide, width: inputs, stride };
        assert_eq!(PackedMatrix::pack_rows(rows, outputs).panels, reference.panels);
        let columns = Rows::dense(&transposed, outputs);
        assert_eq!(PackedMatrix::pack_transposed(columns, inputs).panels, reference.panels);
        let (mut by_rows, mut by_columns) =
            (PackedMatrix::empty(outputs, inputs), PackedMatrix::empty(outputs, inputs));
        (0..outputs).rev().for_each(|o| by_rows.set_output(o, &w[o * inputs..][..inputs]));
        (0..inputs)
            .rev()
            .for_each(|i| by_columns.set_input(i, &transposed[i * outputs..][..outputs]));
        assert_eq!(by_rows.panels, reference.panels);
        assert_eq!(by_columns.panels, reference.panels);
    }

    #[test]
    fn bf16_is_rounded_to_nearest_in_pairs_and_in_f32() {
        let mut w = values(40 * 7);
        (w[3], w[4], w[5]) = (f32::NAN, f32::INFINITY, -0.0);
        let expected = |v: f32| u32::from(half::bf16::from_f32(v).to_bits());
        let level = Level::available().last().unwrap();
        let pairs = packed(level, Precision::Bf16, 40, &w);
        let rounded = packed(Level::BASELINE, Precision::Bf16, 40, &w);
        for (output, row) in w.chunks_exact(7).enumerate() {
            for (input, &v) in row.iter().enumerate() {
                let at = |m: &PackedMatrix, word: usize| {
                    m.panel(output / PANEL, word..word + 1)[0][output % PANEL]
                };
                assert_eq!(at(&rounded, input), expected(v) << 16, "{v}");
                if pairs.words == Words::Pairs {
                    let half = at(&pairs, input / 2) >> (input % 2 * 16) & 0xffff;
                    assert_eq!(half, expected(v), "{v}");
                }
            }
        }
    }

    #[test]
    fn a_failing_fill_is_reported_in_order() {
        let fill = |rows: Range<usize>, _: &mut [f32]| {
            if rows.start >= 64 { Err(rows.start) } else { Ok(()) }
        };
        assert_eq!(
            PackedMatrix::pack(Precision::F32, 200, 4, &Spare::default(), fill).err(),
            Some(64)
        );
    }

    #[test]
    fn memory_of_an_earlier_pack_has_no_effect() {
        let spare = Spare::default();
        let pack = |w: &[f32], spare: &Spare| {
            let fill = |rows: Range<usize>, buffer: &mut [f32]| -> Result<(), ()> {
                buffer.copy_from_slice(&w[rows.start * 7..rows.end * 7]);
                Ok(())
            };
            PackedMatrix::pack(Precision::Bf16, w.len() / 7, 7, spare, fill).unwrap()
        };
        let w = values(40 * 7);
        let fresh = pack(&w, &Spare::default());
        drop(pack(&vec![f32::NAN; 64 * 7], &spare));
        assert_eq!(spare.lock().len(), 1);
        let reused = pack(&w, &spare);
        assert!(spare.lock().is_empty());
        assert_eq!(reused.panels, fresh.panels);
        drop(reused);
        drop(pack(&values(100 * 7), &spare));
        assert_eq!(spare.lock().len(), 1, "memory of another size is freed");
    }
}
