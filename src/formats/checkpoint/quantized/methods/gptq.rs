//! GPTQ: integers of 2, 3, 4 or 8 bits, packed along the inputs, with a scale and a zero point for
//! each group of inputs and each output.
//!
//! Sources: GPTQModel 7.7.0 `nn_modules/qlinear/__init__.py` (`dequantize_weight`),
//! `utils/model.py` (`convert_gptq_v1_to_v2_format_module`), AutoGPTQ 0.7.1 `qlinear_cuda.py`,
//! llama.cpp `conversion/base.py` (`dequant_gptq`).

use crate::base::dtype::DType;
use crate::base::error::Result as Outcome;
use crate::formats::checkpoint::quantized::joining::{Joined, Joining};
use crate::formats::checkpoint::quantized::packed::{
    expect_type, field, float_type, group_size, join_modules, part, place, word,
};
use crate::formats::checkpoint::quantized::settings::QuantSettings;
use crate::formats::checkpoint::quantized::source::Decoder;
use crate::quants;
use safetensors::Dtype;
use std::ops::Range;

const BITS: [usize; 4] = [2, 3, 4, 8];

/// How zero points are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ZeroPoints {
    /// Less one: the format `gptq`.
    MinusOne,
    /// As they are: `gptq_v2`.
    Plain,
}

pub(super) fn accepts(settings: &QuantSettings) -> bool {
    match settings.method.as_str() {
        "gptq" => true,
        // AutoRound's own packing is this one, too.
        "auto-round" | "auto_round" | "intel/auto-round" => {
            settings.str("packing_format").is_none_or(|format| !format.contains("awq"))
        }
        _ => false,
    }
}

pub(super) fn join(settings: &QuantSettings, joining: &mut Joining<'_>) -> Outcome<String> {
    let options = options(settings);
    join_modules(joining, &options, join_module);
    let bits = options.ok().and_then(|options| options.bits);
    let bits = bits.map_or("several widths".to_string(), |bits| format!("{bits} bits"));
    Ok(match settings.options.get("group_size").and_then(serde_json::Value::as_i64) {
        Some(size) if size > 0 => format!("GPTQ ({bits}, groups of {size})"),
        _ => format!("GPTQ ({bits}, a scale per row)"),
    })
}

/// What the settings say of all modules.
fn options(settings: &QuantSettings) -> Result<GptqOptions, String> {
    let zero_points = match settings.method.as_str() {
        "gptq" => {
            let key = ["checkpoint_format", "format"].into_iter().find_map(|key| settings.str(key));
            match key.unwrap_or("gptq").to_ascii_lowercase().as_str() {
                "gptq" => ZeroPoints::MinusOne,
                "gptq_v2" => ZeroPoints::Plain,
                other => return Err(format!("the layout '{other}' is not known")),
            }
        }
        // AutoRound 0.16 `inference/backend.py` (`GPTQ_FORMAT`, `GPTQ_FORMAT_NO_ZP`).
        _ => match settings.str("packing_format").unwrap_or("auto_round") {
            "auto_round:auto_gptq" | "auto_gptq" => ZeroPoints::MinusOne,
            "auto_round" | "auto_round:gptqmodel" => ZeroPoints::Plain,
            other => return Err(format!("the packing_format '{other}' is not known")),
        },
    };
    if settings.str("data_type").is_some_and(|kind| kind != "int") {
        return Err("only integers are read".to_string());
    }
    // Modules that differ from the rest: GPTQModel's and AutoRound's keys.
    let differ = ["dynamic", "extra_config"].into_iter().any(|key| {
        settings.options.get(key).and_then(|v| v.as_object()).is_some_and(|map| !map.is_empty())
    });
    let bits = settings.options.get("bits").and_then(serde_json::Value::as_u64);
    let bits = bits.filter(|_| !differ).map(|bits| bits as usize);
    match bits {
        Some(bits) if !BITS.contains(&bits) => Err(format!("{bits} bits are not read")),
        bits => Ok(GptqOptions { bits, group_size: group_size(settings)?, zero_points }),
    }
}

fn join_module(
    joining: &Joining<'_>,
    qweight: usize,
    module: &str,
    options: GptqOptions,
) -> Result<Joined, String> {
    let beside = |last: &str| part(joining, &format!("{module}.{last}"));
    let (qzeros, scales) = (beside("qzeros")?, beside("scales")?);
    let g_idx = joining.find(&format!("{module}.g_idx"));
    for &words in [qweight, qzeros].iter().chain(&g_idx) {
        expect_type(joining.tensor(words), Dtype::I32)?;
    }
    let shape = |index: usize| &joining.tensor(index).shape[..];
    let shapes = GptqShapes {
        qweight: shape(qweight),
        qzeros: shape(qzeros),
        scales: shape(scales),
        g_idx: g_idx.map(shape),
    };
    let gptq = Gptq::new(options, shapes, float_type(joining.tensor(scales))?)?;
    Ok(Joined {
        name: format!("{module}.weight"),
        shape: vec![gptq.outputs, gptq.inputs],
        parts: [qweight, qzeros, scales].into_iter().chain(g_idx).collect(),
        decoder: Box::new(gptq),
    })
}

impl Decoder for Gptq {
    fn rows(&self, parts: &[&[u8]], first: usize, out: &mut [f32]) -> Result<(), String> {
        let parts = GptqParts {
            qweight: parts[0],
            qzeros: parts[1],
            scales: parts[2],
            g_idx: parts.get(3).copied(),
        };
        self.decode(parts, first..first + out.len() / self.inputs, out)
    }
}

/// What the configuration says of a matrix.
#[derive(Clone, Copy, Debug)]
pub(super) struct GptqOptions {
    /// `None` if modules may differ, so that the shapes decide.
    pub bits: Option<usize>,
    /// Inputs to a group; all of them if `None`.
    pub group_size: Option<usize>,
    pub zero_points: ZeroPoints,
}

/// Shapes of the tensors of a matrix.
#[derive(Clone, Copy, Debug)]
pub(super) struct GptqShapes<'a> {
    /// `[inputs * bits / 32, outputs]` words.
    pub qweight: &'a [usize],
    /// `[groups, outputs * bits / 32]` words.
    pub qzeros: &'a [usize],
    /// `[groups, outputs]`.
    pub scales: &'a [usize],
    /// `[inputs]`, the group of each input.
    pub g_idx: Option<&'a [usize]>,
}

/// The data of these tensors, of the lengths that their shapes need.
#[derive(Clone, Copy, Debug)]
pub(super) struct GptqParts<'a> {
    pub qweight: &'a [u8],
    pub qzeros: &'a [u8],
    pub scales: &'a [u8],
    pub g_idx: Option<&'a [u8]>,
}

/// How a matrix is packed. A value that exists fits the shapes it was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gptq {
    pub inputs: usize,
    pub outputs: usize,
    bits: usize,
    groups: usize,
    group_size: usize,
    zero_points: ZeroPoints,
    scale_type: DType,
}

impl Gptq {
    /// # Errors
    /// Why the shapes do not belong together, or not to the options.
    pub(super) fn new(
        options: GptqOptions,
        shapes: GptqShapes<'_>,
        scale_type: DType,
    ) -> Result<Gptq, String> {
        let (GptqShapes { qweight, qzeros, scales, g_idx }, fail) = (shapes, || describe(&shapes));
        let (&[words, outputs], &[zero_rows, zero_words], &[groups, scale_columns]) =
            (qweight, qzeros, scales)
        else {
            return Err(fail());
        };
        if outputs == 0 || groups == 0 || zero_rows != groups || scale_columns != outputs {
            return Err(fail());
        }
        let inputs_at = |bits: usize| -> Option<usize> {
            match g_idx {
                Some(&[inputs]) => (words_for(inputs, bits)? == words).then_some(inputs),
                Some(_) => None,
                None => Some(words.checked_mul(32)? / bits),
            }
        };
        let fits = |bits: usize| {
            let inputs = inputs_at(bits).filter(|&n| n > 0)?;
            (words_for(outputs, bits)? == zero_words).then_some((bits, inputs))
        };
        let candidates = BITS.into_iter().filter(|&b| options.bits.is_none_or(|bits| bits == b));
        let (bits, inputs) = candidates.filter_map(fits).next().ok_or_else(fail)?;
        let group_size = options.group_size.unwrap_or(inputs).min(inputs).max(1);
        let group_size = match (g_idx, options.bits) {
            _ if inputs.div_ceil(group_size) == groups => group_size,
            // The list says which group an input is of; there may be any number.
            (Some(_), _) => group_size,
            (None, None) if inputs.is_multiple_of(groups) => inputs / groups,
            (None, _) => {
                let detail = format!(
                    "{groups} groups of {group_size} do not cover its {inputs} inputs, and there is no g_idx"
                );
                return Err(detail);
            }
        };
        let GptqOptions { zero_points, .. } = options;
        Ok(Gptq { inputs, outputs, bits, groups, group_size, zero_points, scale_type })
    }

    /// The group of each input.
    fn groups(&self, g_idx: Option<&[u8]>) -> Result<Vec<usize>, String> {
        let Some(bytes) = g_idx else {
            return Ok((0..self.inputs).map(|input| input / self.group_size).collect());
        };
        let group = |input: usize| {
            let group = word(bytes, input) as i32;
            let within = usize::try_from(group).ok().filter(|&group| group < self.groups);
            let groups = self.groups;
            within.ok_or_else(|| {
                format!("its g_idx puts input {input} into group {group}, and there are {groups}")
            })
        };
        (0..self.inputs).map(group).collect()
    }

    /// The zero point of output `output` in group `group`.
    fn zero_point(&self, qzeros: &[u8], group: usize, output: usize) -> u32 {
        let bits = self.bits;
        let words = (self.outputs * bits).div_ceil(32);
        let (at, shift) = place(output, bits);
        // Zero points of 0 were stored by subtracting words, so that the borrow is to be undone
        // too.
        let add = match (self.zero_points, bits) {
            (ZeroPoints::MinusOne, 2 | 4 | 8) => u32::MAX / ((1 << bits) - 1),
            _ => 0,
        };
        let read = |at: usize| word(qzeros, group * words + at).wrapping_add(add);
        let value = field(read(at), || read(at + 1), shift, bits);
        match (self.zero_points, bits) {
            (ZeroPoints::MinusOne, 3) => (value + 1) & 7,
            _ => value,
        }
    }

    /// Rows `rows` of the matrix `[outputs, inputs]`, in f32 without rounding.
    ///
    /// # Errors
    /// A group in `g_idx` that does not exist.
    pub(super) fn decode(
        &self,
        parts: GptqParts<'_>,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), String> {
        let (bits, count) = (self.bits, rows.len());
        let groups = self.groups(parts.g_idx)?;
        let mut scales = vec![0f32; self.groups * count];
        let mut zeros = vec![0i32; self.groups * count];
        let size = self.scale_type.block_bytes();
        for group in 0..self.groups {
            let start = (group * self.outputs + rows.start) * size;
            let bytes = &parts.scales[start..start + count * size];
            let scales = &mut scales[group * count..][..count];
            quants::decode(self.scale_type, bytes, scales).map_err(|e| e.to_string())?;
            for (zero, output) in zeros[group * count..][..count].iter_mut().zip(rows.clone()) {
                *zero = self.zero_point(parts.qzeros, group, output) as i32;
            }
        }
        for (input, group) in groups.into_iter().enumerate() {
            let (at, shift) = place(input, bits);
            let scales = &scales[group * count..][..count];
            let zeros = &zeros[group * count..][..count];
            for (column, output) in rows.clone().enumerate() {
                let read = |at: usize| word(parts.qweight, at * self.outputs + output);
                let code = field(read(at), || read(at + 1), shift, bits) as i32;
                out[column * self.inputs + input] = scales[column] * (code - zeros[column]) as f32;
            }
        }
        Ok(())
    }
}

/// Words that `count` fields of `bits` bits take.
fn words_for(count: usize, bits: usize) -> Option<usize> {
    Some(count.checked_mul(bits)?.div_ceil(32))
}

fn describe(shapes: &GptqShapes<'_>) -> String {
    let GptqShapes { qweight, qzeros, scales, g_idx } = shapes;
    let g_idx = g_idx.map(|shape| format!(", g_idx {shape:?}")).unwrap_or_default();
    format!(
        "its parts do not fit together or the configuration: qweight {qweight:?}, qzeros {qzeros:?}, \
         scales {scales:?}{g_idx}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: GptqOptions =
        GptqOptions { bits: Some(4), group_size: Some(32), zero_points: ZeroPoints::MinusOne };

    fn shapes<'a>(
        qweight: &'a [usize],
        qzeros: &'a [usize],
        scales: &'a [usize],
    ) -> GptqShapes<'a> {
        GptqShapes { qweight, qzeros, scales, g_idx: None }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let new = |options, shapes| Gptq::new(options, shapes, DType::F16);
        let good = shapes(&[8, 16], &[2, 2], &[2, 16]);
        let found = new(OPTIONS, good).unwrap();
        assert_eq!((found.inputs, found.outputs, found.groups), (64, 16, 2));
        for bad in [
            shapes(&[8], &[2, 2], &[2, 16]),
            shapes(&[8, 16], &[2, 3], &[2, 16]),
            shapes(&[8, 16], &[1, 2], &[2, 16]),
            shapes(&[8, 16], &[2, 2], &[2, 15]),
            shapes(&[8, 0], &[2, 0], &[2, 0]),
            shapes(&[8, 16], &[3, 2], &[3, 16]),
            shapes(&[usize::MAX, 16], &[2, 2], &[2, 16]),
            GptqShapes { g_idx: Some(&[63, 1]), ..good },
            GptqShapes { g_idx: Some(&[128]), ..good },
        ] {
            assert!(new(OPTIONS, bad).is_err(), "{bad:?}");
        }
        assert!(new(GptqOptions { bits: Some(8), ..OPTIONS }, good).is_err());
        // Where modules may differ, the shapes say what a matrix has.
        let mixed = GptqOptions { bits: None, ..OPTIONS };
        assert_eq!(new(mixed, shapes(&[16, 16], &[1, 4], &[1, 16])).unwrap().bits, 8);
    }

    #[test]
    fn a_group_that_does_not_exist_is_an_error() {
        let shapes = GptqShapes { g_idx: Some(&[8]), ..shapes(&[1, 8], &[2, 1], &[2, 8]) };
        let gptq = Gptq::new(OPTIONS, shapes, DType::F32).unwrap();
        for bad in [2i32, -1, i32::MAX] {
            let g_idx: Vec<u8> =
                [0, 1, 0, bad, 0, 0, 0, 0].iter().flat_map(|g| g.to_le_bytes()).collect();
            let (qweight, qzeros, scales) = ([0; 32], [0; 8], [0; 64]);
            let parts = GptqParts {
                qweight: &qweight,
                qzeros: &qzeros,
                scales: &scales,
                g_idx: Some(&g_idx),
            };
            let error = gptq.decode(parts, 0..8, &mut [0.0; 64]).unwrap_err();
            assert!(error.contains("input 3 into group"), "{error}");
        }
    }

    #[test]
    fn a_zero_point_of_zero_survives_its_borrow() {
        // Zero points 0, 5, 8, ... as GPTQModel's subtraction of 0x11111111 stores them.
        let plain = 0x1234_5850u32;
        let stored = plain.wrapping_sub(0x1111_1111);
        let shapes = shapes(&[1, 8], &[1, 1], &[1, 8]);
        let gptq = Gptq::new(OPTIONS, shapes, DType::F32).unwrap();
        let zeros: Vec<u32> =
            (0..8).map(|output| gptq.zero_point(&stored.to_le_bytes(), 0, output)).collect();
        assert_eq!(zeros, [0, 5, 8, 5, 4, 3, 2, 1]);
    }
}
