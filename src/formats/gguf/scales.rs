//! Factors of weights that stand beside them: a product with `NAME.weight` is multiplied by `NAME.scale`, one number
//! or one for each expert. Files of NVFP4 weights have them. `NAME.input_scale` is for programs that
//! quantize inputs, too, and changes no weight.
//!
//! Source: llama.cpp `src/llama-model.cpp` (the generic pass over `.scale`), October 2026.

use crate::base::error::{Error, Result};
use crate::formats::source::{TensorInfo, TensorSource, TensorTable};

/// The weight that tensor `name` is a scale of, or of whose inputs; `None` for all other tensors.
pub fn scaled_weight<'a>(table: &'a TensorTable, name: &str) -> Option<&'a TensorInfo> {
    let module = name.strip_suffix(".input_scale").or_else(|| name.strip_suffix(".scale"))?;
    // The embedding has none.
    (module.starts_with("blk.") || module == "output")
        .then(|| table.get(&format!("{module}.weight")))?
}

/// The tensor of scales of `weight`, if it has one.
pub fn scale_tensor(table: &TensorTable, weight: &str) -> Option<usize> {
    let name = format!("{}.scale", weight.strip_suffix(".weight")?);
    scaled_weight(table, &name)?;
    table.find(&name)
}

/// What matrix `matrix` of tensor `weight` is multiplied by: 1 where nothing says otherwise.
///
/// # Errors
/// Those of reading; a tensor of scales without one for the matrix, or one that is no number.
pub fn weight_scale(source: &dyn TensorSource, weight: &str, matrix: usize) -> Result<f32> {
    let table = source.table();
    let Some(index) = scale_tensor(table, weight) else { return Ok(1.0) };
    let info = &table.infos()[index];
    let fail = |detail: String| Error::tensor(source.origin(), &info.name, detail);
    let scales = source.read(index)?.to_f32().map_err(|error| fail(error.to_string()))?;
    let matrices = table.get(weight).map_or(1, TensorInfo::matrices);
    if scales.len() != matrices {
        return Err(fail(format!("{} scales, where '{weight}' needs {matrices}", scales.len())));
    }
    match scales.get(matrix) {
        Some(scale) if scale.is_finite() => Ok(*scale),
        found => Err(fail(format!("the scale of matrix {matrix} is {found:?}"))),
    }
}
