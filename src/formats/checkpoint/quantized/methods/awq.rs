//! AWQ: integers of 4 bits with a scale and a zero point for each group of inputs and each output.
//!
//! `gemm` packs along the outputs, eight to a word in an interleaved order; `gemv` along the
//! inputs, in order. Source: AutoAWQ 0.2.9 `utils/packing_utils.py`, `modules/linear/gemm.py`,
//! `modules/linear/gemv.py`.

use crate::base::dtype::DType;
use crate::base::error::Result as Outcome;
use crate::formats::checkpoint::quantized::joining::{Joined, Joining};
use crate::formats::checkpoint::quantized::packed::{
    expect_type, float_type, group_size, join_modules, part, word,
};
use crate::formats::checkpoint::quantized::settings::QuantSettings;
use crate::formats::checkpoint::quantized::source::Decoder;
use crate::quants;
use safetensors::Dtype;
use std::ops::Range;

/// The nibble of a word of `gemm` that holds each of its eight outputs.
const NIBBLES: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Which way integers are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AwqLayout {
    Gemm,
    Gemv,
}

pub(super) fn accepts(settings: &QuantSettings) -> bool {
    match settings.method.as_str() {
        "awq" => true,
        "auto-round" | "auto_round" | "intel/auto-round" => {
            settings.str("packing_format").is_some_and(|format| format.contains("awq"))
        }
        _ => false,
    }
}

pub(super) fn join(settings: &QuantSettings, joining: &mut Joining<'_>) -> Outcome<String> {
    let options = options(settings);
    join_modules(joining, &options, join_module);
    Ok(match options {
        Ok((_, Some(size))) => format!("AWQ (4 bits, groups of {size})"),
        _ => "AWQ (4 bits, a scale per row)".to_string(),
    })
}

/// The layout and the group size.
fn options(settings: &QuantSettings) -> Result<(AwqLayout, Option<usize>), String> {
    let number = |key: &str| settings.options.get(key).and_then(serde_json::Value::as_u64);
    // AutoAWQ's own file calls it w_bit.
    if let Some(bits) = number("bits").or_else(|| number("w_bit")).filter(|&bits| bits != 4) {
        return Err(format!("{bits} bits are not read"));
    }
    let layout = match settings.str("version").or_else(|| settings.str("format")) {
        None => AwqLayout::Gemm,
        Some(version) => match version.to_ascii_lowercase().as_str() {
            // The last two name kernels, for weights that are stored as for the first.
            "gemm" | "exllama" | "ipex" => AwqLayout::Gemm,
            "gemv" => AwqLayout::Gemv,
            other => return Err(format!("the layout '{other}' is not read")),
        },
    };
    Ok((layout, group_size(settings)?))
}

fn join_module(
    joining: &Joining<'_>,
    qweight: usize,
    module: &str,
    (layout, group_size): (AwqLayout, Option<usize>),
) -> Result<Joined, String> {
    let beside = |last: &str| part(joining, &format!("{module}.{last}"));
    let (qzeros, scales) = (beside("qzeros")?, beside("scales")?);
    expect_type(joining.tensor(qweight), Dtype::I32)?;
    expect_type(joining.tensor(qzeros), Dtype::I32)?;
    let shape = |index: usize| &joining.tensor(index).shape[..];
    let shapes =
        AwqShapes { qweight: shape(qweight), qzeros: shape(qzeros), scales: shape(scales) };
    let awq = Awq::new(layout, group_size, shapes, float_type(joining.tensor(scales))?)?;
    Ok(Joined {
        name: format!("{module}.weight"),
        shape: vec![awq.outputs, awq.inputs],
        parts: vec![qweight, qzeros, scales],
        decoder: Box::new(awq),
    })
}

impl Decoder for Awq {
    fn rows(&self, parts: &[&[u8]], first: usize, out: &mut [f32]) -> Result<(), String> {
        let parts = AwqParts { qweight: parts[0], qzeros: parts[1], scales: parts[2] };
        self.decode(parts, first..first + out.len() / self.inputs, out)
    }
}

/// Shapes of the tensors of a matrix.
#[derive(Clone, Copy, Debug)]
pub(super) struct AwqShapes<'a> {
    /// `gemm`: `[inputs, outputs / 8]` words; `gemv`: `[outputs, inputs / 8]`.
    pub qweight: &'a [usize],
    /// `[groups, outputs / 8]` or `[outputs, padded groups / 8]` words.
    pub qzeros: &'a [usize],
    /// `[groups, outputs]` or `[outputs, padded groups]`.
    pub scales: &'a [usize],
}

/// The data of these tensors, of the lengths that their shapes need.
#[derive(Clone, Copy, Debug)]
pub(super) struct AwqParts<'a> {
    pub qweight: &'a [u8],
    pub qzeros: &'a [u8],
    pub scales: &'a [u8],
}

/// How a matrix is packed. A value that exists fits the shapes it was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Awq {
    pub inputs: usize,
    pub outputs: usize,
    layout: AwqLayout,
    group_size: usize,
    /// Columns of the scales of `gemv`.
    width: usize,
    scale_type: DType,
}

impl Awq {
    /// `group_size` counts inputs; `None` is all of them.
    ///
    /// # Errors
    /// Why the shapes do not belong together.
    pub(super) fn new(
        layout: AwqLayout,
        group_size: Option<usize>,
        shapes: AwqShapes<'_>,
        scale_type: DType,
    ) -> Result<Awq, String> {
        let AwqShapes { qweight, qzeros, scales } = shapes;
        let misfit = || {
            format!(
                "its parts do not fit together or the configuration: qweight {qweight:?}, qzeros \
                 {qzeros:?}, scales {scales:?}, groups of {group_size:?}"
            )
        };
        let (&[rows, words], &[zero_rows, zero_words], &[scale_rows, scale_columns]) =
            (qweight, qzeros, scales)
        else {
            return Err(misfit());
        };
        let unpacked = words.checked_mul(8).ok_or_else(misfit)?;
        let (inputs, outputs) = match layout {
            AwqLayout::Gemm => (rows, unpacked),
            AwqLayout::Gemv => (unpacked, rows),
        };
        if inputs == 0 || outputs == 0 {
            return Err(misfit());
        }
        let group_size = group_size.unwrap_or(inputs);
        let groups = inputs.div_ceil(group_size.max(1));
        let fits = match layout {
            AwqLayout::Gemm => {
                (zero_rows, zero_words) == (groups, words)
                    && (scale_rows, scale_columns) == (groups, outputs)
            }
            // Padded to whole words, and further to what a kernel reads at once.
            AwqLayout::Gemv => {
                zero_rows == outputs
                    && scale_rows == outputs
                    && Some(scale_columns) == zero_words.checked_mul(8)
                    && scale_columns >= groups
            }
        };
        if !fits || group_size == 0 {
            return Err(misfit());
        }
        Ok(Awq { inputs, outputs, layout, group_size, width: scale_columns, scale_type })
    }

    /// Rows `rows` of the matrix `[outputs, inputs]`, in f32 without rounding.
    pub(super) fn decode(
        &self,
        parts: AwqParts<'_>,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), String> {
        let (groups, count) = (self.inputs.div_ceil(self.group_size), rows.len());
        let mut params = Vec::with_capacity(groups * count);
        for group in 0..groups {
            for output in rows.clone() {
                params.push(self.group(parts, group, output)?);
            }
        }
        // Input after input: neighbouring outputs are in one word.
        for input in 0..self.inputs {
            let params = &params[input / self.group_size * count..][..count];
            for ((row, output), (scale, zero)) in rows.clone().enumerate().zip(params) {
                let code = match self.layout {
                    AwqLayout::Gemm => self.interleaved(parts.qweight, input, output),
                    AwqLayout::Gemv => in_order(parts.qweight, output, self.inputs, input),
                };
                out[row * self.inputs + input] = (code - zero) as f32 * scale;
            }
        }
        Ok(())
    }

    /// Scale and zero point of a group of an output.
    fn group(
        &self,
        parts: AwqParts<'_>,
        group: usize,
        output: usize,
    ) -> Result<(f32, i32), String> {
        let (at, zero) = match self.layout {
            AwqLayout::Gemm => {
                (group * self.outputs + output, self.interleaved(parts.qzeros, group, output))
            }
            AwqLayout::Gemv => {
                let zero = in_order(parts.qzeros, output, self.width, group);
                (output * self.width + group, zero)
            }
        };
        let size = self.scale_type.block_bytes();
        let (bytes, mut scale) = (&parts.scales[at * size..][..size], [0f32]);
        quants::decode(self.scale_type, bytes, &mut scale).map_err(|e| e.to_string())?;
        Ok((scale[0], zero))
    }

    /// The integer of `output` in row `row`, of a matrix packed along the outputs.
    fn interleaved(&self, words: &[u8], row: usize, output: usize) -> i32 {
        let word = word(words, row * (self.outputs / 8) + output / 8);
        (word >> (4 * NIBBLES[output % 8]) & 15) as i32
    }
}

/// The integer at `column` of `row`, of a matrix of `columns` packed in order.
fn in_order(words: &[u8], row: usize, columns: usize, column: usize) -> i32 {
    (word(words, row * (columns / 8) + column / 8) >> (4 * (column % 8)) & 15) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let shapes = |qweight, qzeros, scales| AwqShapes { qweight, qzeros, scales };
        let new = |layout, group_size, shapes| Awq::new(layout, group_size, shapes, DType::F16);
        let gemm = shapes(&[64, 2], &[2, 2], &[2, 16]);
        assert!(new(AwqLayout::Gemm, Some(32), gemm).is_ok());
        assert!(new(AwqLayout::Gemv, Some(32), shapes(&[16, 8], &[16, 4], &[16, 32])).is_ok());
        for (layout, group_size, bad) in [
            (AwqLayout::Gemm, Some(16), gemm),
            (AwqLayout::Gemm, None, gemm),
            (AwqLayout::Gemm, Some(0), gemm),
            (AwqLayout::Gemm, Some(32), shapes(&[64, 2], &[2, 3], &[2, 16])),
            (AwqLayout::Gemm, Some(32), shapes(&[64, 2], &[2, 2], &[2, 17])),
            (AwqLayout::Gemm, Some(32), shapes(&[64, usize::MAX], &[2, 2], &[2, 16])),
            (AwqLayout::Gemm, Some(32), shapes(&[64], &[2, 2], &[2, 16])),
            (AwqLayout::Gemv, Some(32), shapes(&[16, 8], &[16, 4], &[16, 33])),
            (AwqLayout::Gemv, Some(1), shapes(&[16, 8], &[16, 4], &[16, 32])),
        ] {
            assert!(new(layout, group_size, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn outputs_are_interleaved_within_a_word() {
        // Nibble i holds output ORDER[i], as AutoAWQ packs.
        const ORDER: [u32; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
        let word = (0..8).fold(0u32, |word, i| word | (ORDER[i] + 3) << (4 * i));
        let scales: Vec<u8> = [1f32; 8].iter().flat_map(|s| s.to_le_bytes()).collect();
        let (qweight, qzeros) = (word.to_le_bytes(), 0x3333_3333u32.to_le_bytes());
        let shapes = AwqShapes { qweight: &[1, 1], qzeros: &[1, 1], scales: &[1, 8] };
        let awq = Awq::new(AwqLayout::Gemm, None, shapes, DType::F32).unwrap();
        let mut out = [0f32; 8];
        awq.decode(
            AwqParts { qweight: &qweight, qzeros: &qzeros, scales: &scales },
            0..8,
            &mut out,
        )
        .unwrap();
        assert_eq!(out, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    }
}
