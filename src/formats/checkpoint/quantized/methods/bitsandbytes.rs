//! bitsandbytes: NF4 and FP4 with a magnitude for each block, whose magnitudes may be quantized
//! again, and integers of 8 bits with a magnitude for each row.
//!
//! Source: bitsandbytes 0.50 `functional.py` (`QuantState`), `backends/default/ops.py`.

use crate::base::dtype::DType;
use crate::base::error::Result as Outcome;
use crate::formats::checkpoint::quantized::joining::{Joined, Joining};
use crate::formats::checkpoint::quantized::packed::{expect_type, part};
use crate::formats::checkpoint::quantized::settings::QuantSettings;
use crate::formats::checkpoint::quantized::source::Decoder;
use crate::formats::source::TensorInfo;
use crate::quants;
use safetensors::Dtype;
use serde::Deserialize;
use std::ops::Range;

/// What precedes the kind of code in the name of the quantization state.
const STATE: &str = ".quant_state.bitsandbytes__";

pub(super) fn accepts(settings: &QuantSettings) -> bool {
    settings.method == "bitsandbytes"
}

pub(super) fn join(_: &QuantSettings, joining: &mut Joining<'_>) -> Outcome<String> {
    let mut kinds: Vec<String> = Vec::new();
    let mut note = |kind: String| {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    };
    for (index, tensor) in joining.tensors() {
        if let Some((weight, kind)) = tensor.name.split_once(STATE) {
            match join_four_bits(joining, index, weight) {
                Ok(joined) => {
                    joining.add(joined);
                    joining.leave_out(index);
                    note(kind.to_ascii_uppercase());
                }
                Err(why) => joining.problem(index, why),
            }
        } else if let Some(module) = tensor.name.strip_suffix(".SCB") {
            match join_eight_bits(joining, index, module) {
                Ok(joined) => {
                    joining.add(joined);
                    note("8 bits".to_string());
                }
                Err(why) => joining.problem(index, why),
            }
        }
    }
    Ok(format!("bitsandbytes {}", kinds.join(" and ")))
}

fn join_four_bits(joining: &Joining<'_>, state: usize, name: &str) -> Result<Joined, String> {
    let weight = part(joining, name)?;
    let beside = |last: &str| part(joining, &format!("{name}.{last}"));
    let (absmax, map) = (beside("absmax")?, beside("quant_map")?);
    let nested = joining.find(&format!("{name}.nested_absmax"));
    let nested = nested.map(|absmax| Ok::<_, String>([absmax, beside("nested_quant_map")?]));
    let nested = nested.transpose()?;
    expect_type(joining.tensor(state), Dtype::U8)?;
    let magnitudes = if nested.is_some() { Dtype::U8 } else { Dtype::F32 };
    expect_type(joining.tensor(absmax), magnitudes)?;
    expect_type(joining.tensor(map), Dtype::F32)?;
    for &part in nested.iter().flatten() {
        expect_type(joining.tensor(part), Dtype::F32)?;
    }
    let count = |index: usize| joining.tensor(index).shape.iter().product::<usize>();
    let counts = PartCounts {
        // They may be stored under a float's name (`bnb_4bit_quant_storage`).
        packed: joining.bytes(weight).len(),
        absmax: count(absmax),
        quant_map: count(map),
        nested: nested
            .map(|[absmax, map]| NestedCounts { absmax: count(absmax), quant_map: count(map) }),
    };
    let bits = FourBits::new(&joining.bytes(state), counts)?;
    if TensorInfo::new(name, bits.shape.clone(), DType::F32).bytes().is_none() {
        return Err(format!("its quantization state has the impossible shape {:?}", bits.shape));
    }
    Ok(Joined {
        name: name.to_string(),
        shape: bits.shape.clone(),
        parts: [weight, absmax, map].into_iter().chain(nested.into_iter().flatten()).collect(),
        decoder: Box::new(bits),
    })
}

impl Decoder for FourBits {
    fn rows(&self, parts: &[&[u8]], first: usize, out: &mut [f32]) -> Result<(), String> {
        let nested = parts.get(3..5).map(|nested| [nested[0], nested[1]]);
        let parts =
            FourBitParts { packed: parts[0], absmax: parts[1], quant_map: parts[2], nested };
        let columns = self.shape.last().copied().unwrap_or(1).max(1);
        self.decode(parts, first..first + out.len() / columns, out);
        Ok(())
    }
}

fn join_eight_bits(joining: &Joining<'_>, scb: usize, module: &str) -> Result<Joined, String> {
    let weight = part(joining, &format!("{module}.weight"))?;
    let (tensor, scales) = (joining.tensor(weight), joining.tensor(scb));
    expect_type(tensor, Dtype::I8)?;
    expect_type(scales, Dtype::F32)?;
    if let Some(format) = joining.find(&format!("{module}.weight_format"))
        && joining.bytes(format).iter().any(|&byte| byte != 0)
    {
        return Err("its weight_format is not row-major".to_string());
    }
    match tensor.shape[..] {
        [rows, columns] if scales.shape.iter().product::<usize>() == rows => Ok(Joined {
            name: tensor.name.clone(),
            shape: vec![rows, columns],
            parts: vec![weight, scb],
            decoder: Box::new(EightBits { columns }),
        }),
        _ => {
            let detail = format!(
                "its scales of shape {:?} do not fit weights of {:?}",
                scales.shape, tensor.shape
            );
            Err(detail)
        }
    }
}

struct EightBits {
    columns: usize,
}

impl Decoder for EightBits {
    fn rows(&self, parts: &[&[u8]], first: usize, out: &mut [f32]) -> Result<(), String> {
        let rows = first..first + out.len() / self.columns.max(1);
        eight_bits(parts[0], parts[1], self.columns, rows, out);
        Ok(())
    }
}

/// What `weight.quant_state.bitsandbytes__nf4` holds, JSON in a tensor of bytes.
#[derive(Debug, Deserialize)]
struct QuantState {
    blocksize: usize,
    dtype: String,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_dtype: Option<String>,
    nested_offset: Option<f64>,
}

/// Magnitudes that are quantized themselves.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Nested {
    blocksize: usize,
    offset: f32,
}

/// How many numbers each tensor beside the weights holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct PartCounts {
    /// Bytes of the weights.
    pub packed: usize,
    pub absmax: usize,
    pub quant_map: usize,
    pub nested: Option<NestedCounts>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct NestedCounts {
    pub absmax: usize,
    pub quant_map: usize,
}

/// The data of these tensors, of the lengths that were checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct FourBitParts<'a> {
    pub packed: &'a [u8],
    /// F32, or codes of one byte where magnitudes are nested.
    pub absmax: &'a [u8],
    pub quant_map: &'a [u8],
    /// Magnitudes of magnitudes and the values of their codes, F32.
    pub nested: Option<[&'a [u8]; 2]>,
}

/// How weights of four bits are packed. A value that exists fits the counts it was made from.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FourBits {
    pub shape: Vec<usize>,
    /// What bitsandbytes rounds the values to.
    pub dtype: DType,
    blocksize: usize,
    nested: Option<Nested>,
}

impl FourBits {
    /// Reads the quantization state.
    ///
    /// # Errors
    /// What is wrong with it, or does not fit the other tensors.
    pub(super) fn new(state: &[u8], counts: PartCounts) -> Result<FourBits, String> {
        let state: QuantState = serde_json::from_slice(state)
            .map_err(|e| format!("its quantization state is not usable: {e}"))?;
        let dtype = match state.dtype.as_str() {
            "float16" => DType::F16,
            "bfloat16" => DType::BF16,
            "float32" => DType::F32,
            other => return Err(format!("its quantization state has the unknown dtype '{other}'")),
        };
        let (shape, blocksize) = (state.shape, state.blocksize);
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).unwrap_or(0);
        if elements == 0 || blocksize == 0 {
            let detail = format!("shape {shape:?} in blocks of {blocksize}");
            return Err(format!("its quantization state is not possible: {detail}"));
        }
        let blocks = elements.div_ceil(blocksize);
        let nested = match (state.nested_blocksize, counts.nested) {
            (None, None) => None,
            (Some(blocksize), Some(found)) => {
                if state.nested_dtype.as_deref().is_some_and(|dtype| dtype != "float32") {
                    return Err("its nested_dtype is not float32".to_string());
                }
                let fits = blocksize > 0 && blocks.div_ceil(blocksize) == found.absmax;
                if !fits || found.quant_map != 256 {
                    return Err(format!("its nested scales do not fit {blocks} blocks: {found:?}"));
                }
                let offset = state.nested_offset.unwrap_or(0.0) as f32;
                Some(Nested { blocksize, offset })
            }
            (Some(_), None) => {
                return Err("its nested_absmax or nested_quant_map is missing".to_string());
            }
            (None, Some(_)) => {
                return Err("it has nested scales, and its quantization state has none".to_string());
            }
        };
        let expected = (elements.div_ceil(2), blocks, 16);
        let found = (counts.packed, counts.absmax, counts.quant_map);
        if expected != found {
            let detail = format!(
                "bytes of weights, absmax and quant_map have lengths {found:?}, where shape {shape:?} \
                 in blocks of {blocksize} needs {expected:?}"
            );
            return Err(detail);
        }
        Ok(FourBits { shape, dtype, blocksize, nested })
    }

    /// Rows `rows` of the weights, in f32; bitsandbytes rounds them to `dtype`.
    pub(super) fn decode(&self, parts: FourBitParts<'_>, rows: Range<usize>, out: &mut [f32]) {
        let columns = self.shape.last().copied().unwrap_or(1);
        let start = rows.start * columns;
        let mut block = (usize::MAX, 0f32);
        for (element, out) in (start..).zip(out.iter_mut()) {
            let index = element / self.blocksize;
            if index != block.0 {
                block = (index, self.magnitude(parts, index));
            }
            // The first of two is in the high half.
            let byte = parts.packed[element / 2];
            let code = if element.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
            *out = float(parts.quant_map, usize::from(code)) * block.1;
        }
    }

    fn magnitude(&self, parts: FourBitParts<'_>, block: usize) -> f32 {
        let (Some(nested), Some([absmax, map])) = (self.nested, parts.nested) else {
            return float(parts.absmax, block);
        };
        let code = usize::from(parts.absmax[block]);
        float(map, code) * float(absmax, block / nested.blocksize) + nested.offset
    }
}

/// Rows of integers of 8 bits: `columns` in each, times the row's magnitude `scb` over 127.
pub(super) fn eight_bits(
    weights: &[u8],
    scb: &[u8],
    columns: usize,
    rows: Range<usize>,
    out: &mut [f32],
) {
    /// 1 / 127, as bitsandbytes writes it.
    const RECIPROCAL: f32 = 7.874_016e-3;
    for (row, out) in rows.zip(out.chunks_exact_mut(columns.max(1))) {
        let scale = float(scb, row);
        for (out, weight) in out.iter_mut().zip(&weights[row * columns..][..columns]) {
            *out = f32::from(*weight as i8) * scale * RECIPROCAL;
        }
    }
}

/// Number `index` of F32 data that are known to hold it.
fn float(bytes: &[u8], index: usize) -> f32 {
    let mut value = [0f32];
    // Four bytes of F32 always decode.
    let _ = quants::decode(DType::F32, &bytes[4 * index..4 * index + 4], &mut value);
    value[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: &str =
        r#"{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [4, 32]}"#;
    const COUNTS: PartCounts = PartCounts { packed: 64, absmax: 2, quant_map: 16, nested: None };

    #[test]
    fn states_that_do_not_fit_are_refused() {
        let new = |state: &str, counts| FourBits::new(state.as_bytes(), counts);
        let found = new(STATE, COUNTS).unwrap();
        assert_eq!((found.shape, found.dtype), (vec![4, 32], DType::BF16));
        let nested = Some(NestedCounts { absmax: 1, quant_map: 256 });
        for (from, to, counts) in [
            ("64", "0", COUNTS),
            ("64", "32", COUNTS),
            ("64", "-64", COUNTS),
            ("[4, 32]", "[4, 64]", COUNTS),
            ("[4, 32]", "[18446744073709551615, 32]", COUNTS),
            ("[4, 32]", "[]", PartCounts { packed: 1, absmax: 1, ..COUNTS }),
            ("bfloat16", "int8", COUNTS),
            ("}", "", COUNTS),
            ("}", r#", "nested_blocksize": 256}"#, COUNTS),
            ("}", r#", "nested_blocksize": 0}"#, PartCounts { nested, ..COUNTS }),
            ("", "", PartCounts { nested, ..COUNTS }),
            ("", "", PartCounts { packed: 63, ..COUNTS }),
            ("", "", PartCounts { absmax: 1, ..COUNTS }),
            ("", "", PartCounts { quant_map: 15, ..COUNTS }),
        ] {
            let state =
                if from.is_empty() { STATE.to_string() } else { STATE.replacen(from, to, 1) };
            let expected_shape = state.contains("[]");
            assert!(expected_shape || new(&state, counts).is_err(), "{state} {counts:?}");
        }
        let state = STATE.replace('}', r#", "nested_blocksize": 256, "nested_offset": 0.5}"#);
        assert!(new(&state, PartCounts { nested, ..COUNTS }).is_ok());
    }

    #[test]
    fn a_row_may_end_within_a_block() {
        let state = STATE.replace("[4, 32]", "[3, 30]");
        let map: Vec<u8> = (0..16).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let absmax: Vec<u8> = [2f32, 8.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let packed: Vec<u8> = (0..45).map(|i| ((i % 16) << 4) | (15 - i % 16)).collect();
        let bits = FourBits::new(state.as_bytes(), PartCounts { packed: 45, ..COUNTS }).unwrap();
        let parts =
            FourBitParts { packed: &packed, absmax: &absmax, quant_map: &map, nested: None };
        let mut all = [0f32; 90];
        bits.decode(parts, 0..3, &mut all);
        assert_eq!(all[62..66], [30.0, 0.0, 0.0, 120.0].map(|v: f32| v));
        let mut last = [0f32; 30];
        bits.decode(parts, 2..3, &mut last);
        assert_eq!(last, all[60..]);
    }
}
