//! FP8: weights of eight bits, E4M3 or E5M2, each times its scale, in f32.
//!
//! Read by what is stored, so one reader serves `fp8` (DeepSeek, transformers'
//! `FineGrainedFP8Config`, vLLM's own, Mistral), `fbgemm_fp8`, ModelOpt's FP8 and
//! compressed-tensors: a weight `X` and `X_scale_inv`, `X_scale`, `qscale_weight` or `scale`, of
//! any of the shapes that [`ScaleGrid`] knows. The product is what llama.cpp's converter
//! (`conversion/base.py`, `dequant_simple`) and transformers (`Fp8Dequantize`) compute before they
//! round to the output's type.

use crate::base::error::Result;
use crate::formats::checkpoint::quantized::joining::{Joined, Joining};
use crate::formats::checkpoint::quantized::scales::ScaleGrid;
use crate::formats::checkpoint::quantized::settings::QuantSettings;
use crate::formats::checkpoint::quantized::source::Decoder;
use crate::formats::checkpoint::weights::{StoredKind, StoredTensor};
use crate::quants::fp8;
use safetensors::Dtype;

pub(super) fn accepts(settings: &QuantSettings) -> bool {
    match settings.method.as_str() {
        "fp8" | "fbgemm_fp8" => true,
        "modelopt" => settings.str("quant_algo").is_some_and(|algo| algo.starts_with("FP8")),
        _ => false,
    }
}

pub(super) fn join(settings: &QuantSettings, joining: &mut Joining<'_>) -> Result<String> {
    let block = match settings.sizes("weight_block_size").as_deref() {
        Some(&[rows, columns]) => Some([rows, columns]),
        // The default of transformers, for scales whose blocks at the edge are not whole.
        _ => Some([128, 128]),
    };
    Ok(join_all(joining, block))
}

/// Joins the FP8 tensors of a folder whose configuration is silent. One without a scale is a plain
/// cast.
pub(crate) fn join_unnamed(joining: &mut Joining<'_>) -> String {
    for (index, weight) in joining.tensors() {
        if let (Some(values), None) = (values(weight.dtype), scale_of(joining, weight)) {
            joining.add(Joined {
                name: weight.name.clone(),
                shape: weight.shape.clone(),
                parts: vec![index],
                decoder: Box::new(Cast { values, columns: weight.shape.last().map_or(1, |&n| n) }),
            });
        }
    }
    let cast = joining.count() > 0;
    let text = join_all(joining, Some([128, 128]));
    if cast { "FP8 without scales".to_string() } else { text }
}

/// The values of FP8 codes, if the stored type is one.
pub(super) fn values(dtype: Dtype) -> Option<&'static [f32; 256]> {
    match dtype {
        Dtype::F8_E4M3 => Some(&fp8::E4M3),
        Dtype::F8_E5M2 => Some(&fp8::E5M2),
        _ => None,
    }
}

/// Joins every FP8 tensor with its scale; returns what the weights are, for people.
pub(super) fn join_all(joining: &mut Joining<'_>, block: Option<[usize; 2]>) -> String {
    let (mut types, mut layouts) = (Vec::new(), Vec::new());
    for (index, weight) in joining.tensors() {
        let scale = scale_of(joining, weight);
        match (values(weight.dtype), scale) {
            _ if joining.is_used(index) => {}
            (Some(values), Some(scale)) => {
                match ScaleGrid::new(&weight.shape, joining.tensor(scale), block) {
                    Ok(grid) => {
                        note(&mut types, weight.dtype.to_string().replace("F8_", ""));
                        note(&mut layouts, layout(&weight.shape, &grid));
                        if let Some(zero) = joining.find(&format!("{}_zero_point", weight.name)) {
                            // Kept by older writers though floats have none.
                            if joining.bytes(zero).iter().any(|&byte| byte != 0) {
                                joining.problem(index, "has zero points, which floats have not");
                                continue;
                            }
                            joining.leave_out(zero);
                        }
                        joining.add(Joined {
                            name: weight.name.clone(),
                            shape: weight.shape.clone(),
                            parts: vec![index, scale],
                            decoder: Box::new(Fp8 { values, grid }),
                        });
                    }
                    Err(why) => joining.problem(index, why),
                }
            }
            (Some(_), None) => joining.problem(index, "has no scale beside it"),
            (None, Some(scale)) if weight.kind() == StoredKind::Float => {
                let (name, dtype) = (&joining.tensor(scale).name, weight.dtype);
                joining.problem(index, format!("is {dtype} and yet has a scale, '{name}'"));
            }
            (None, _) => {}
        }
    }
    format!("FP8 {} ({})", types.join(" and "), layouts.join(", "))
}

/// The scale of `weight`, under one of the names that writers give it.
fn scale_of(joining: &Joining<'_>, weight: &StoredTensor) -> Option<usize> {
    let name = &weight.name;
    let beside = |suffix: &str| joining.find(&format!("{name}{suffix}"));
    let in_place = |last: &str| {
        let module = name.strip_suffix(".weight")?;
        joining.find(&format!("{module}.{last}"))
    };
    beside("_scale_inv")
        .or_else(|| beside("_scale"))
        .or_else(|| in_place("qscale_weight"))
        .or_else(|| in_place("scale"))
}

fn note(list: &mut Vec<String>, what: String) {
    if !list.contains(&what) {
        list.push(what);
    }
}

/// What a scale covers, for people.
pub(super) fn layout(shape: &[usize], grid: &ScaleGrid) -> String {
    let [down, across] = grid.block();
    match (grid.extent(), shape.last().copied().unwrap_or(1)) {
        ([1, 1], _) => "a scale per tensor".to_string(),
        ([_, 1], _) if down == 1 => "a scale per row".to_string(),
        (_, _) if down == 1 => format!("groups of {across}"),
        _ => format!("blocks of {down}x{across}"),
    }
}

/// Codes that are the weights.
struct Cast {
    values: &'static [f32; 256],
    columns: usize,
}

impl Decoder for Cast {
    fn rows(&self, parts: &[&[u8]], first: usize, out: &mut [f32]) -> Result<(), String> {
        decode(self.values, parts[0], first * self.columns, out)
    }
}

/// The values of the codes from number `start` on.
fn decode(values: &[f32; 256], codes: &[u8], start: usize, out: &mut [f32]) -> Result<(), String> {
    let codes =
        codes.get(start..start + out.len()).ok_or("the data of its weights are too short")?;
    out.iter_mut().zip(codes).for_each(|(out, &code)| *out = values[usize::from(code)]);
    Ok(())
}

/// Codes and their scales.
struct Fp8 {
    values: &'static [f32; 256],
    grid: ScaleGrid,
}

impl Decoder for Fp8 {
    fn rows(&self, parts: &[&[u8]], first: usize, out: &mut [f32]) -> Result<(), String> {
        self.grid.scaled_rows(parts[1], first, out, |start, out| {
            decode(self.values, parts[0], start, out)
        })
    }
}
