//! Floats of four bits, E2M1: MXFP4 and NVFP4, of gpt-oss, compressed-tensors and ModelOpt.
//!
//! Elements are packed in pairs, element 2i of a row in the low half of byte i and element 2i + 1
//! in the high half; GGUF's blocks hold the same codes in another order. Weights are read by what
//! is stored: bytes with a scale of E4M3 for each 16 elements are NVFP4, with a power of two for
//! each 32 MXFP4.

use crate::formats::checkpoint::quantized::joining::{Joined, Joining};
use crate::formats::checkpoint::quantized::packed::{expect_type, part};
use crate::formats::checkpoint::quantized::settings::QuantSettings;
use crate::formats::checkpoint::quantized::source::Decoder;
mod codes;
mod mxfp4;
mod nvfp4;

use self::nvfp4::TensorScale;
use super::fp8;
use crate::base::dtype::DType;
use crate::base::error::Result as Outcome;
use crate::formats::checkpoint::weights::StoredTensor;
use crate::formats::source::Blocks;
use crate::quants;
use safetensors::Dtype;
use serde_json::Value;

/// Formats of compressed-tensors.
const FORMATS: [&str; 2] = ["nvfp4-pack-quantized", "mxfp4-pack-quantized"];

pub(super) fn accepts(settings: &QuantSettings) -> bool {
    match settings.method.as_str() {
        "mxfp4" => true,
        "modelopt" => {
            let algo = settings.str("quant_algo").unwrap_or_default();
            algo.contains("NVFP4") || algo.contains("MXFP4") || algo == "MIXED_PRECISION"
        }
        "compressed-tensors" => match settings.str("format") {
            Some("mixed-precision") => {
                let groups = settings.options.get("config_groups").and_then(Value::as_object);
                groups.is_some_and(|groups| {
                    !groups.is_empty()
                        && groups.values().all(|group| {
                            group
                                .get("format")
                                .and_then(Value::as_str)
                                .is_some_and(|f| FORMATS.contains(&f))
                        })
                })
            }
            Some(format) => FORMATS.contains(&format),
            None => false,
        },
        _ => false,
    }
}

pub(super) fn join(settings: &QuantSettings, joining: &mut Joining<'_>) -> Outcome<String> {
    let mut kinds = join_all(joining);
    // ModelOpt mixes them with FP8 ("MIXED_PRECISION").
    if settings.method == "modelopt"
        && joining
            .tensors()
            .any(|(_, t)| fp8::values(t.dtype).is_some() && t.name.ends_with(".weight"))
    {
        kinds.push(fp8::join_all(joining, None));
    }
    Ok(kinds.join(" and "))
}

/// Joins every weight of four bits; returns what they are, for people.
pub(super) fn join_all(joining: &mut Joining<'_>) -> Vec<String> {
    let mut kinds: Vec<String> = Vec::new();
    for (index, tensor) in joining.tensors() {
        let is_weight = tensor.name.ends_with(".weight") || tensor.name.ends_with(".weight_packed");
        let joined = if joining.is_used(index) {
            continue;
        } else if let Some(name) = tensor.name.strip_suffix("_blocks") {
            expect_type(tensor, Dtype::U8).and_then(|()| join_gpt_oss(joining, index, name))
        } else if tensor.dtype == Dtype::U8 && is_weight {
            join_matrix(joining, index)
        } else {
            continue;
        };
        match joined {
            Ok((kind, joined)) => {
                joining.add(joined);
                if !kinds.iter().any(|known| known == kind) {
                    kinds.push(kind.to_string());
                }
            }
            Err(why) => joining.problem(index, why),
        }
    }
    kinds
}

/// A matrix of compressed-tensors or ModelOpt.
fn join_matrix(joining: &mut Joining<'_>, index: usize) -> Result<(&'static str, Joined), String> {
    let tensor = joining.tensor(index);
    let name = tensor.name.strip_suffix("_packed").unwrap_or(&tensor.name).to_string();
    let scales = part(joining, &format!("{name}_scale"))?;
    if let Some(module) = name.strip_suffix(".weight")
        && joining.find(&format!("{module}.pre_quant_scale")).is_some()
    {
        return Err("its inputs have scales of their own (pre_quant_scale)".to_string());
    }
    if joining.find(&format!("{name}_zero_point")).is_some() {
        return Err("floats of four bits with a zero point are not read".to_string());
    }
    let misfit = || {
        let (has, scales) = (&tensor.shape, &joining.tensor(scales).shape);
        Err(format!("its scales of shape {scales:?} do not fit bytes of shape {has:?}"))
    };
    let &[rows, bytes] = &tensor.shape[..] else { return misfit() };
    let Some(columns) = bytes.checked_mul(2).filter(|&n| n > 0) else { return misfit() };
    let fits = |group: usize| {
        joining.tensor(scales).shape == [rows, columns / group] && columns.is_multiple_of(group)
    };
    let (kind, decoder, extra): (&'static str, Box<dyn Decoder>, Option<usize>) = match joining
        .tensor(scales)
        .dtype
    {
        Dtype::F8_E4M3 if fits(nvfp4::GROUP) => {
            let (scale, at) = tensor_scale(joining, &name)?;
            let input_scale = input_scale(joining, &name);
            ("NVFP4", Box::new(Nvfp4 { columns, scale, input_scale }), at)
        }
        Dtype::U8 | Dtype::F8_E8M0 if fits(mxfp4::GROUP) => {
            ("MXFP4", Box::new(Mxfp4 { columns }), None)
        }
        Dtype::F8_E4M3 | Dtype::U8 | Dtype::F8_E8M0 => return misfit(),
        other => return Err(format!("its scales are {other}, which no format of four bits has")),
    };
    if let Some(extra) = extra {
        joining.leave_out(extra);
    }
    Ok((kind, Joined { name, shape: vec![rows, columns], parts: vec![index, scales], decoder }))
}

/// A single F32 beside a weight.
fn number(joining: &Joining<'_>, index: usize) -> Result<f32, String> {
    let tensor = joining.tensor(index);
    expect_type(tensor, Dtype::F32)?;
    let bytes = joining.bytes(index);
    let &[a, b, c, d] = &bytes[..] else {
        return Err(format!(
            "'{}' has shape {:?}, where one number is needed",
            tensor.name, tensor.shape
        ));
    };
    match f32::from_le_bytes([a, b, c, d]) {
        number if number.is_finite() && number > 0.0 => Ok(number),
        number => Err(format!("'{}' is {number}", tensor.name)),
    }
}

/// The scale of a whole NVFP4 matrix, and where it is stored.
fn tensor_scale(joining: &Joining<'_>, name: &str) -> Result<(TensorScale, Option<usize>), String> {
    if let Some(index) = joining.find(&format!("{name}_scale_2")) {
        return Ok((TensorScale::Factor(number(joining, index)?), Some(index)));
    }
    match joining.find(&format!("{name}_global_scale")) {
        Some(index) => Ok((TensorScale::Divisor(number(joining, index)?), Some(index))),
        None => Ok((TensorScale::Factor(1.0), None)),
    }
}

/// The scale of a matrix's inputs, which hardware that computes in NVFP4 uses.
fn input_scale(joining: &Joining<'_>, name: &str) -> Option<f32> {
    let module = name.strip_suffix(".weight")?;
    let scale = |last: &str| joining.find(&format!("{module}.{last}"));
    if let Some(index) = scale("input_scale") {
        return number(joining, index).ok();
    }
    let global = scale("input_global_scale")?;
    number(joining, global).ok().map(|divisor| 1.0 / divisor)
}

struct Nvfp4 {
    columns: usize,
    scale: TensorScale,
    input_scale: Option<f32>,
}

impl Decoder for Nvfp4 {
    fn rows(&self, parts: &[&[u8]], first: usize, out: &mut [f32]) -> Result<(), String> {
        let [packed, scales] =
            rows_of(parts, first, out.len() / self.columns, self.columns, nvfp4::GROUP)?;
        nvfp4::decode(packed, scales, self.scale, out);
        Ok(())
    }

    fn blocks(&self) -> Option<Blocks> {
        let (scale, input_scale) = (self.scale.factor(), self.input_scale);
        let whole = self.columns.is_multiple_of(nvfp4::BLOCK);
        whole.then_some(Blocks { dtype: DType::NVFP4, scale, input_scale })
    }

    fn encode(&self, parts: &[&[u8]]) -> Result<Vec<u8>, String> {
        nvfp4::blocks(parts[0], parts[1])
    }
}

struct Mxfp4 {
    columns: usize,
}

impl Decoder for Mxfp4 {
    fn rows(&self, parts: &[&[u8]], first: usize, out: &mut [f32]) -> Result<(), String> {
        let [packed, scales] =
            rows_of(parts, first, out.len() / self.columns, self.columns, mxfp4::GROUP)?;
        mxfp4::decode(packed, scales, out);
        Ok(())
    }

    fn blocks(&self) -> Option<Blocks> {
        Some(Blocks { dtype: DType::MXFP4, scale: 1.0, input_scale: None })
    }

    fn encode(&self, parts: &[&[u8]]) -> Result<Vec<u8>, String> {
        let blocks = mxfp4::blocks(parts[0], parts[1]);
        match quants::first_invalid_block(DType::MXFP4, &blocks) {
            None => Ok(blocks),
            Some(block) => Err(format!("the scale of its group {block} is not a number")),
        }
    }
}

/// Codes and scales of `count` rows from row `first` on.
fn rows_of<'a>(
    parts: &[&'a [u8]],
    first: usize,
    count: usize,
    columns: usize,
    group: usize,
) -> Result<[&'a [u8]; 2], String> {
    let cut = |bytes: &'a [u8], row: usize| {
        bytes.get(first * row..(first + count) * row).ok_or("its data are too short".to_string())
    };
    Ok([cut(parts[0], columns / 2)?, cut(parts[1], columns / group)?])
}

/// gpt-oss: `NAME_blocks` of shape `[..., rows, groups, 16]` and `NAME_scales`. A stack is read as
/// transformers reads it, each matrix transposed: its plain checkpoints have inputs before outputs
/// there.
fn join_gpt_oss(
    joining: &Joining<'_>,
    index: usize,
    name: &str,
) -> Result<(&'static str, Joined), String> {
    let tensor = joining.tensor(index);
    let scales = part(joining, &format!("{name}_scales"))?;
    let scale_type = joining.tensor(scales).dtype;
    if !matches!(scale_type, Dtype::U8 | Dtype::F8_E8M0) {
        return Err(format!("its scales are {scale_type}, where U8 is needed"));
    }
    let misfit = |tensor: &StoredTensor| {
        let (has, scales) = (&tensor.shape, &joining.tensor(scales).shape);
        Err(format!("its scales of shape {scales:?} do not fit blocks of shape {has:?}"))
    };
    let Some((&16, outer)) = tensor.shape.split_last() else { return misfit(tensor) };
    if joining.tensor(scales).shape != outer || outer.contains(&0) {
        return misfit(tensor);
    }
    let (shape, decoder): (Vec<usize>, Box<dyn Decoder>) = match *outer {
        [rows, groups] => {
            let columns = groups * mxfp4::GROUP;
            (vec![rows, columns], Box::new(Mxfp4 { columns }))
        }
        [stack, rows, groups] => {
            let columns = groups * mxfp4::GROUP;
            (vec![stack, columns, rows], Box::new(Transposed { rows, columns }))
        }
        _ => return misfit(tensor),
    };
    Ok(("MXFP4", Joined { name: name.to_string(), shape, parts: vec![index, scales], decoder }))
}

/// A stack of matrices of `rows` by `columns` that is read as one of `columns` by `rows`.
struct Transposed {
    rows: usize,
    columns: usize,
}

impl Decoder for Transposed {
    fn rows(&self, parts: &[&[u8]], first: usize, out: &mut [f32]) -> Result<(), String> {
        let (rows, groups) = (self.rows, self.columns / mxfp4::GROUP);
        let mut group = [0f32; mxfp4::GROUP];
        // Row after row of the packed matrices, and of each the groups that the wanted columns
        // touch.
        let wanted = first..first + out.len() / rows;
        let mut at = wanted.start;
        while at < wanted.end {
            let (matrix, column) = (at / self.columns, at % self.columns);
            let within = column % mxfp4::GROUP;
            let count = (mxfp4::GROUP - within).min(wanted.end - at);
            for row in 0..rows {
                let source = (matrix * rows + row) * groups + column / mxfp4::GROUP;
                let codes = parts[0].get(source * 16..source * 16 + 16);
                let scale = parts[1].get(source..source + 1);
                let (Some(codes), Some(scale)) = (codes, scale) else {
                    return Err("its data are too short".to_string());
                };
                mxfp4::decode(codes, scale, &mut group);
                for (n, value) in group[within..within + count].iter().enumerate() {
                    out[(at - first + n) * rows + row] = *value;
                }
            }
            at += count;
        }
        Ok(())
    }
}
