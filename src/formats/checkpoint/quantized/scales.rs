//! Scales of weights: one for a tensor, a row, a group of columns or a block, over matrices and
//! stacks.

use crate::base::dtype::DType;
use crate::formats::checkpoint::weights::StoredTensor;
use crate::quants::{self, fp8};
use safetensors::Dtype;

/// How the numbers of a tensor of scales (or zero points) are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NumberFormat {
    Float(DType),
    /// E4M3, as NVFP4 has it.
    E4m3,
    /// A power of two. Also the meaning of U8 (torch had no type for it at first).
    E8m0,
    I8,
}

impl NumberFormat {
    /// The meaning of a stored type as a scale; `None` for types that are none.
    pub(super) fn of_scale(dtype: Dtype) -> Option<NumberFormat> {
        Some(match dtype {
            Dtype::F32 => NumberFormat::Float(DType::F32),
            Dtype::F16 => NumberFormat::Float(DType::F16),
            Dtype::BF16 => NumberFormat::Float(DType::BF16),
            Dtype::F8_E4M3 => NumberFormat::E4m3,
            Dtype::F8_E8M0 | Dtype::U8 => NumberFormat::E8m0,
            _ => return None,
        })
    }

    fn bytes(self) -> usize {
        match self {
            NumberFormat::Float(dtype) => dtype.block_bytes(),
            _ => 1,
        }
    }

    /// Decodes `out.len()` numbers from number `start` on; `bytes` must hold them.
    fn decode(self, bytes: &[u8], start: usize, out: &mut [f32]) -> Result<(), String> {
        let size = self.bytes();
        let range = start * size..(start + out.len()) * size;
        let bytes = bytes.get(range).ok_or("the data of its scales are too short")?;
        match self {
            NumberFormat::Float(dtype) => {
                quants::decode(dtype, bytes, out).map_err(|e| e.to_string())?
            }
            _ => {
                for (out, &byte) in out.iter_mut().zip(bytes) {
                    *out = match self {
                        NumberFormat::E4m3 => fp8::E4M3[usize::from(byte)],
                        NumberFormat::E8m0 => fp8::e8m0(byte),
                        _ => f32::from(byte as i8),
                    };
                }
            }
        }
        Ok(())
    }
}

/// Which scale belongs to which element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ScaleGrid {
    number: NumberFormat,
    /// Rows and columns of one matrix of the weights.
    matrix: [usize; 2],
    /// Whether each matrix of a stack has scales of its own.
    per_matrix: bool,
    /// Scales of one matrix.
    rows: usize,
    columns: usize,
    /// Weights to a scale, down and across.
    block: [usize; 2],
}

impl ScaleGrid {
    /// The grid of `scale`, for weights of `shape`. `block` is the size of blocks by the
    /// configuration; where it does not fit, the shapes decide if they can.
    ///
    /// # Errors
    /// Why the two do not belong together.
    pub(super) fn new(
        shape: &[usize],
        scale: &StoredTensor,
        block: Option<[usize; 2]>,
    ) -> Result<ScaleGrid, String> {
        let number = NumberFormat::of_scale(scale.dtype).ok_or_else(|| {
            format!("its scale '{}' is {}, which is no scale's type", scale.name, scale.dtype)
        })?;
        ScaleGrid::of_numbers(number, shape, scale, block)
    }

    /// The same for numbers of a known meaning, such as zero points.
    pub(super) fn of_numbers(
        number: NumberFormat,
        shape: &[usize],
        scale: &StoredTensor,
        block: Option<[usize; 2]>,
    ) -> Result<ScaleGrid, String> {
        let misfit = || {
            let (name, has) = (&scale.name, &scale.shape);
            let blocks = match block {
                Some([rows, columns]) => format!(" in blocks of {rows}x{columns}"),
                None => String::new(),
            };
            format!(
                "its scale '{name}' has shape {has:?}, which does not fit weights of {shape:?}{blocks}"
            )
        };
        let (stack, matrix) = match *shape {
            [columns] => (1, [1, columns]),
            [rows, columns] => (1, [rows, columns]),
            [stack, rows, columns] => (stack, [rows, columns]),
            _ => return Err(misfit()),
        };
        if shape.contains(&0) {
            return Err(misfit());
        }
        let one = scale.shape.iter().all(|&n| n == 1);
        let (per_matrix, [rows, columns]) = match *scale.shape {
            _ if one => (false, [1, 1]),
            // One-dimensional scales belong to the outermost dimension.
            [n] if shape.len() == 3 && n == stack => (true, [1, 1]),
            [n] if shape.len() == 2 && n == matrix[0] => (false, [n, 1]),
            [rows, columns] if shape.len() == 2 => (false, [rows, columns]),
            // ModelOpt's scales of blocks.
            [rows, 1, columns, 1] if shape.len() == 2 => (false, [rows, columns]),
            [n, rows] if shape.len() == 3 && n == stack && rows == matrix[0] => (true, [rows, 1]),
            [n, 1] if shape.len() == 3 && n == stack => (true, [1, 1]),
            [n, rows, columns] if shape.len() == 3 && n == stack => (true, [rows, columns]),
            _ => return Err(misfit()),
        };
        let size = |axis: usize, count: usize| -> Option<usize> {
            let extent = matrix[axis];
            let stated = block.map(|block| block[axis]).filter(|b| extent.div_ceil(*b) == count);
            match count {
                0 => None,
                1 => Some(extent),
                _ if count == extent => Some(1),
                _ => stated.or_else(|| extent.is_multiple_of(count).then_some(extent / count)),
            }
        };
        match (size(0, rows), size(1, columns)) {
            (Some(down), Some(across)) => {
                let block = [down, across];
                Ok(ScaleGrid { number, matrix, per_matrix, rows, columns, block })
            }
            _ => Err(misfit()),
        }
    }

    /// Weights to a scale, down and across; the whole extent where one scale covers it.
    pub(super) fn block(&self) -> [usize; 2] {
        self.block
    }

    /// Columns of the weights.
    pub(super) fn columns(&self) -> usize {
        self.matrix[1]
    }

    /// Scales down and across one matrix.
    pub(super) fn extent(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// Decodes the scales of row `row` (of all matrices' rows) into `out`, one for each
    /// [`ScaleGrid::block`]`()[1]` columns.
    pub(super) fn row(&self, bytes: &[u8], row: usize, out: &mut Vec<f32>) -> Result<(), String> {
        let (matrix, within) = (row / self.matrix[0], row % self.matrix[0]);
        let first = if self.per_matrix { matrix * self.rows } else { 0 };
        out.clear();
        out.resize(self.columns, 0.0);
        self.number.decode(bytes, (first + within / self.block[0]) * self.columns, out)
    }

    /// Fills whole rows of weights, from row `first` on, with code times scale. `codes` writes the
    /// values of the codes from an element number on; `scales` are the bytes of the scales.
    ///
    /// # Errors
    /// Those of `codes`, and scales that are too short.
    pub(super) fn scaled_rows(
        &self,
        scales: &[u8],
        first: usize,
        out: &mut [f32],
        codes: impl Fn(usize, &mut [f32]) -> Result<(), String>,
    ) -> Result<(), String> {
        let columns = self.columns();
        let mut scales_of_row = Vec::new();
        for (n, row) in out.chunks_mut(columns).enumerate() {
            codes((first + n) * columns, row)?;
            self.row(scales, first + n, &mut scales_of_row)?;
            for (values, &scale) in row.chunks_mut(self.block()[1]).zip(&scales_of_row) {
                values.iter_mut().for_each(|value| *value *= scale);
            }
        }
        Ok(())
    }
}
