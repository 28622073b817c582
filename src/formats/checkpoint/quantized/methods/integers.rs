//! Integers with scales and zero points, as compressed-tensors stores them: a weight is (code -
//! zero point) times its scale. Codes are bytes (`weight` of type I8), or several in words of
//! 32 bits along a row (`weight_packed`).
//!
//! Source of the layouts: compressed-tensors 0.20 `compressors/pack_quantized` and
//! `naive_quantized`; of the one in which no code crosses a word, llama.cpp `conversion/base.py`
//! (`dequant_packed`).

use crate::formats::checkpoint::quantized::joining::{Joined, Joining};
use crate::formats::checkpoint::quantized::scales::{NumberFormat, ScaleGrid};
use crate::formats::checkpoint::quantized::source::Decoder;
use crate::formats::checkpoint::weights::StoredTensor;
use safetensors::Dtype;

/// What the configuration says of integer weights, of all groups together: the tensors' shapes tell
/// which of them is meant.
#[derive(Clone, Debug, Default)]
pub(super) struct Widths {
    pub bits: Vec<u32>,
    pub group_sizes: Vec<usize>,
    pub blocks: Vec<[usize; 2]>,
}

impl Widths {
    /// The grid of the scales, of the first size of blocks or groups that fits.
    fn grid(&self, shape: &[usize], scale: &StoredTensor) -> Result<ScaleGrid, String> {
        let groups = self.group_sizes.iter().map(|&size| [1, size]);
        let mut blocks = self.blocks.iter().copied().chain(groups);
        let first = blocks.next();
        let grid = ScaleGrid::new(shape, scale, first);
        blocks.fold(grid, |grid, block| grid.or_else(|_| ScaleGrid::new(shape, scale, Some(block))))
    }
}

/// Codes of a number of bits in words of 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packing {
    bits: u32,
    /// Whether codes lie end to end, across words; else a word holds as many as are whole.
    dense: bool,
}

impl Packing {
    /// Words that `count` codes take.
    fn words(self, count: usize) -> Option<usize> {
        match self.dense {
            true => Some(count.checked_mul(self.bits as usize)?.div_ceil(32)),
            false => Some(count.div_ceil((32 / self.bits) as usize)),
        }
    }

    /// The packing of `count` codes into `words`, of one of the widths; `None` unless that is
    /// certain.
    fn of(widths: &[u32], count: usize, words: usize) -> Option<Packing> {
        let known = |bits: &&u32| (1..=8).contains(*bits);
        let fitting = |dense: bool| {
            let packings = widths.iter().filter(known).map(move |&bits| Packing { bits, dense });
            let mut found: Vec<_> = packings.filter(|p| p.words(count) == Some(words)).collect();
            found.dedup();
            found
        };
        let found = Some(fitting(true)).filter(|found| !found.is_empty());
        match found.unwrap_or_else(|| fitting(false))[..] {
            [packing] => Some(packing),
            _ => None,
        }
    }

    /// Code `index`, from words that `word` gives.
    fn code(self, index: usize, word: impl Fn(usize) -> u32) -> i32 {
        let bits = self.bits as usize;
        let (at, shift) = match self.dense {
            true => (index * bits / 32, index * bits % 32),
            false => (index / (32 / bits), index % (32 / bits) * bits),
        };
        let mut code = word(at) >> shift;
        if shift + bits > 32 {
            code |= word(at + 1) << (32 - shift);
        }
        (code & ((1 << bits) - 1)) as i32
    }
}

/// Joins all integer weights of compressed-tensors; returns what they are, for people.
pub(super) fn join_all(joining: &mut Joining<'_>, widths: &Widths) -> Vec<String> {
    let mut kinds = Vec::new();
    for (index, weight) in joining.tensors() {
        if joining.is_used(index) {
            continue;
        }
        let (name, packed) = match (weight.dtype, weight.name.strip_suffix("_packed")) {
            (Dtype::I32, Some(name)) => (name, true),
            (Dtype::I8, None) if joining.find(&format!("{}_scale", weight.name)).is_some() => {
                (&weight.name[..], false)
            }
            _ => continue,
        };
        match joined(joining, index, name, packed, widths) {
            Ok((joined, kind)) => {
                for suffix in ["_shape", "_g_idx"] {
                    if let Some(beside) = joining.find(&format!("{name}{suffix}")) {
                        joining.leave_out(beside);
                    }
                }
                joining.add(joined);
                if !kinds.contains(&kind) {
                    kinds.push(kind);
                }
            }
            Err(why) => joining.problem(index, why),
        }
    }
    kinds
}

/// The tensor `name` made of stored tensor `index` and those beside it, and what it is for people.
fn joined(
    joining: &Joining<'_>,
    index: usize,
    name: &str,
    packed: bool,
    widths: &Widths,
) -> Result<(Joined, String), String> {
    let beside = |suffix: &str| joining.find(&format!("{name}{suffix}"));
    let weight = joining.tensor(index);
    let (shape, codes) = match packed {
        true => unpacked_shape(joining, beside("_shape"), weight, widths)?,
        false => (weight.shape.clone(), CodeStorage::Bytes),
    };
    let scale = beside("_scale").ok_or("has no weight_scale beside it")?;
    let scale_tensor = joining.tensor(scale);
    let columns = shape.last().copied().unwrap_or(0);
    let order = beside("_g_idx").map(|order| group_order(joining, order, columns)).transpose()?;
    let grid = match order.as_ref().and_then(Option::as_ref) {
        Some(order) => {
            let groups = scale_tensor.shape.last().copied().unwrap_or(0);
            if order.iter().any(|&group| group as usize >= groups) {
                return Err(format!("its weight_g_idx names more groups than {groups} scales"));
            }
            widths.grid(&shape, scale_tensor)?
        }
        None => widths.grid(&shape, scale_tensor)?,
    };
    let mut parts = vec![index, scale];
    let zero = match beside("_zero_point") {
        Some(zero) => {
            parts.push(zero);
            zero_points(&shape, &grid, joining.tensor(zero), codes)?
        }
        None => ZeroPointStorage::None,
    };
    let bits = codes.bits();
    let kind = format!("{bits} bits, {}", super::fp8::layout(&shape, &grid));
    let offset = if packed { 1 << (bits - 1) } else { 0 };
    let rows = if shape.len() > 1 { shape[shape.len() - 2] } else { 1 };
    let order = order.flatten();
    let decoder = Box::new(Integers { codes, offset, rows, columns, grid, zero, order });
    Ok((Joined { name: name.to_string(), shape, parts, decoder }, kind))
}

/// The shape of packed weights before packing, and how they are packed.
fn unpacked_shape(
    joining: &Joining<'_>,
    shape: Option<usize>,
    weight: &StoredTensor,
    widths: &Widths,
) -> Result<(Vec<usize>, CodeStorage), String> {
    let stored = shape.ok_or("has no weight_shape beside it")?;
    let values = integers(joining, stored, 3).ok_or("its weight_shape is no list of sizes")?;
    let shape: Option<Vec<usize>> = values.iter().map(|&n| usize::try_from(n).ok()).collect();
    let shape = shape.ok_or("its weight_shape has negative sizes")?;
    let misfit = || {
        let (has, widths) = (&weight.shape, &widths.bits);
        format!("{has:?} words do not hold weights of {shape:?} in one of {widths:?} bits")
    };
    let ([front @ .., columns], [packed_front @ .., words]) = (&shape[..], &weight.shape[..])
    else {
        return Err(misfit());
    };
    if front != packed_front || front.is_empty() || front.contains(&0) || *columns == 0 {
        return Err(misfit());
    }
    let packing = Packing::of(&widths.bits, *columns, *words).ok_or_else(misfit)?;
    Ok((shape, CodeStorage::Packed { packing, words: *words }))
}

/// The integers of a small stored tensor of at most `most`.
fn integers(joining: &Joining<'_>, index: usize, most: usize) -> Option<Vec<i64>> {
    let tensor = joining.tensor(index);
    let count = tensor.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    if count > most {
        return None;
    }
    let bytes = joining.bytes(index);
    match tensor.dtype {
        Dtype::I64 => {
            Some(bytes.as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b)).collect())
        }
        Dtype::I32 => {
            Some(bytes.as_chunks::<4>().0.iter().map(|&b| i32::from_le_bytes(b).into()).collect())
        }
        _ => None,
    }
}

/// The group of each column, of weights that were quantized in the order of their activations;
/// `None` where none is set (all -1).
fn group_order(
    joining: &Joining<'_>,
    order: usize,
    columns: usize,
) -> Result<Option<Vec<u32>>, String> {
    let fail = || "its weight_g_idx is no list of a group for each column".to_string();
    let groups = integers(joining, order, columns).ok_or_else(fail)?;
    if groups.len() != columns {
        return Err(fail());
    }
    if groups.iter().all(|&group| group == -1) {
        return Ok(None);
    }
    let groups: Option<Vec<u32>> = groups.iter().map(|&g| u32::try_from(g).ok()).collect();
    groups.map(Some).ok_or_else(fail)
}

fn zero_points(
    shape: &[usize],
    grid: &ScaleGrid,
    zero: &StoredTensor,
    codes: CodeStorage,
) -> Result<ZeroPointStorage, String> {
    let misfit = || {
        let (has, dtype) = (&zero.shape, zero.dtype);
        format!("its zero points, {has:?} of type {dtype}, do not fit its scales")
    };
    match (zero.dtype, codes) {
        (Dtype::I8, _) => {
            let zeros = ScaleGrid::of_numbers(NumberFormat::I8, shape, zero, Some(grid.block()))?;
            let alike = zeros.extent() == grid.extent() && zeros.block() == grid.block();
            if alike { Ok(ZeroPointStorage::Bytes(zeros)) } else { Err(misfit()) }
        }
        (Dtype::I32, CodeStorage::Packed { packing, .. }) => {
            let [rows, groups] = grid.extent();
            let words = packing.words(rows).ok_or_else(misfit)?;
            let stack = if shape.len() == 3 { vec![shape[0]] } else { Vec::new() };
            let expected = [&stack[..], &[words, groups]].concat();
            let per_row = grid.block()[0] == 1;
            if zero.shape == expected && per_row {
                Ok(ZeroPointStorage::Packed { packing, words, groups })
            } else {
                Err(misfit())
            }
        }
        _ => Err(misfit()),
    }
}

/// How codes are stored.
#[derive(Clone, Copy, Debug)]
enum CodeStorage {
    Bytes,
    /// So many words to a row.
    Packed {
        packing: Packing,
        words: usize,
    },
}

impl CodeStorage {
    fn bits(self) -> u32 {
        match self {
            CodeStorage::Bytes => 8,
            CodeStorage::Packed { packing, .. } => packing.bits,
        }
    }
}

enum ZeroPointStorage {
    None,
    /// Signed, one for each scale.
    Bytes(ScaleGrid),
    /// Packed as the weights are, but down the rows.
    Packed {
        packing: Packing,
        words: usize,
        groups: usize,
    },
}

/// Parts: codes, scales, and zero points if there are any.
struct Integers {
    codes: CodeStorage,
    /// What is subtracted from codes, and from packed zero points, which are unsigned.
    offset: i32,
    /// Rows of one matrix.
    rows: usize,
    columns: usize,
    grid: ScaleGrid,
    zero: ZeroPointStorage,
    /// The group of each column, where that is not by their order.
    order: Option<Vec<u32>>,
}

impl Integers {
    /// The codes of row `row`, of all matrices' rows.
    fn codes(&self, bytes: &[u8], row: usize, out: &mut [i32]) -> Result<(), String> {
        let short = "the data of its weights are too short";
        match self.codes {
            CodeStorage::Bytes => {
                let start = row * self.columns;
                let codes = bytes.get(start..start + self.columns).ok_or(short)?;
                out.iter_mut().zip(codes).for_each(|(out, &code)| *out = i32::from(code as i8));
            }
            CodeStorage::Packed { packing, words } => {
                let start = row * words * 4;
                let row = bytes.get(start..start + words * 4).ok_or(short)?.as_chunks::<4>().0;
                let word = |at: usize| u32::from_le_bytes(row[at]);
                for (column, out) in out.iter_mut().enumerate() {
                    *out = packing.code(column, word) - self.offset;
                }
            }
        }
        Ok(())
    }

    /// The zero points of row `row`, one for each of its scales.
    fn zeros(&self, parts: &[&[u8]], row: usize, out: &mut Vec<f32>) -> Result<(), String> {
        match &self.zero {
            ZeroPointStorage::None => {
                out.clear();
                out.resize(self.grid.extent()[1], 0.0);
                Ok(())
            }
            ZeroPointStorage::Bytes(grid) => grid.row(parts[2], row, out),
            ZeroPointStorage::Packed { packing, words, groups } => {
                let (matrix, within) = (row / self.rows, row % self.rows);
                let size = words * groups * 4;
                let bytes = parts[2].get(matrix * size..(matrix + 1) * size);
                let all = bytes.ok_or("the data of its zero points are too short")?;
                let all = all.as_chunks::<4>().0;
                out.clear();
                for group in 0..*groups {
                    let word = |at: usize| u32::from_le_bytes(all[at * groups + group]);
                    out.push((packing.code(within, word) - self.offset) as f32);
                }
                Ok(())
            }
        }
    }
}

impl Decoder for Integers {
    fn rows(&self, parts: &[&[u8]], first: usize, out: &mut [f32]) -> Result<(), String> {
        let (mut scales, mut zeros) = (Vec::new(), Vec::new());
        let mut codes = vec![0; self.columns];
        for (n, values) in out.chunks_mut(self.columns).enumerate() {
            self.codes(parts[0], first + n, &mut codes)?;
            self.grid.row(parts[1], first + n, &mut scales)?;
            self.zeros(parts, first + n, &mut zeros)?;
            let across = self.grid.block()[1];
            for (column, (value, &code)) in values.iter_mut().zip(&codes).enumerate() {
                let group = match &self.order {
                    Some(order) => order[column] as usize,
                    None => column / across,
                };
                // Codes and zero points are integers of eight bits, so the difference is
                // exact.
                *value = (code as f32 - zeros[group]) * scales[group];
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_cross_words_where_packing_is_dense() {
        for bits in 1..=8u32 {
            for dense in [true, false] {
                let packing = Packing { bits, dense };
                let codes: Vec<u32> = (0..75).map(|i| (i * 37 + 11) & ((1 << bits) - 1)).collect();
                let mut words = vec![0u32; packing.words(codes.len()).unwrap()];
                let per_word = (32 / bits) as usize;
                for (i, &code) in codes.iter().enumerate() {
                    for bit in 0..bits as usize {
                        let at = if dense {
                            i * bits as usize + bit
                        } else {
                            i / per_word * 32 + i % per_word * bits as usize + bit
                        };
                        words[at / 32] |= (code >> bit & 1) << (at % 32);
                    }
                }
                let read = |i| packing.code(i, |at| words[at]) as u32;
                assert_eq!((0..75).map(read).collect::<Vec<_>>(), codes, "{bits} {dense}");
            }
        }
    }

    #[test]
    fn the_count_of_words_tells_the_width() {
        let of = |widths: &[u32], count, words| Packing::of(widths, count, words);
        assert_eq!(of(&[4, 8], 64, 8), Some(Packing { bits: 4, dense: true }));
        assert_eq!(of(&[4, 8], 64, 16), Some(Packing { bits: 8, dense: true }));
        assert_eq!(of(&[3], 64, 6), Some(Packing { bits: 3, dense: true }));
        assert_eq!(of(&[3], 64, 7), Some(Packing { bits: 3, dense: false }));
        assert_eq!(of(&[4], 64, 9), None);
        assert_eq!(of(&[4, 3], 8, 1), None, "either");
        assert_eq!(of(&[0, 9], 8, 1), None);
    }
}
