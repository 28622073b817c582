//! Scale tensors of a GGUF file: the weights `NAME.weight` are multiplied by `NAME.scale`, which
//! holds one number or one for each expert. Files with NVFP4 weights have them. `NAME.input_scale`
//! is for programs that quantize activations and does not change the weights.
//!
//! Source: llama.cpp `src/llama-model.cpp` (the generic pass over `.scale`), October 2026.

use crate::base::error::{Error, Result};
use crate::formats::source::{TensorInfo, TensorSource, TensorTable};

/// The weight to which the scale or input scale `name` belongs; `None` for all other tensors.
pub fn scaled_weight<'a>(table: &'a TensorTable, name: &str) -> Option<&'a TensorInfo> {
    let module = name.strip_suffix(".input_scale").or_else(|| name.strip_suffix(".scale"))?;
    // The embedding has no scale.
    (module.starts_with("blk.") || module == "output")
        .then(|| table.get(&format!("{module}.weight")))?
}

/// The index of the scale tensor of `weight`, if there is one.
pub fn scale_tensor(table: &TensorTable, weight: &str) -> Option<usize> {
    let name = format!("{}.scale", weight.strip_suffix(".weight")?);
    scaled_weight(table, &name)?;
    table.find(&name)
}

/// The scale of matrix `matrix` of the tensor `weight`; 1 if the tensor has no scales.
///
/// # Errors
/// Errors of reading; a wrong number of scales; a scale that is not finite.
pub fn weight_scale(source: &dyn TensorSource, weight: &str, matrix: usize) -> Result<f32> {
    let table = source.table();
    let Some(index) = scale_tensor(table, weight) else { return Ok(1.0) };
    let info = &table.infos()[index];
    let fail = |detail: String| Error::tensor(source.origin(), &info.name, detail);
    let scales = source.read(index)?.to_f32().map_err(|error| fail(error.to_string()))?;
    let matrices = table.get(weight).map_or(1, TensorInfo::matrices);
    if scales.len() != matrices {
        return Err(fail(format!(
            "has {} scales, but '{weight}' has {matrices} matrices",
            scales.len()
        )));
    }
    match scales.get(matrix) {
        Some(scale) if scale.is_finite() => Ok(*scale),
        found => Err(fail(format!("the scale of matrix {matrix} is {found:?}"))),
    }
}
