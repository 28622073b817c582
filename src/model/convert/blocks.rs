//! Tensors that a checkpoint stores in blocks of a GGUF type, handed through as they are.
//!
//! Source of names and order: llama.cpp `conversion/base.py` (`_repack_nvfp4`, `_flush_nvfp4_experts`),
//! October 2026; its programs multiply a product with `NAME.weight` by `NAME.scale`.

use crate::base::dtype::DType;
use crate::formats::source::{Blocks, TensorInfo, TensorSource};
use crate::model::arch::{Role, TensorDecl};

/// The blocks that make one tensor of the GGUF model: those of a matrix, or of all experts' matrices.
pub(super) struct Kept {
    pub dtype: DType,
    /// Of each matrix.
    parts: Vec<Blocks>,
    stacked: bool,
}

impl Kept {
    /// The blocks of tensors `indices` of `source`, which make what `decl` declares; `None` unless all of
    /// them have some, of one type.
    pub(super) fn of(
        source: &dyn TensorSource,
        decl: &TensorDecl,
        indices: &[usize],
    ) -> Option<Kept> {
        let parts = indices.iter().map(|&index| source.blocks(index));
        let parts = parts.collect::<Option<Vec<Blocks>>>()?;
        let dtype = parts.first()?.dtype;
        // llama.cpp has no scale of the embedding, and one of the head only while the head is NVFP4.
        let scaled = parts.iter().any(|blocks| blocks.scale != 1.0);
        let possible = !decl.plus_one && (decl.role == Role::Layer || !scaled);
        let same = parts.iter().all(|blocks| blocks.dtype == dtype);
        (possible && same).then_some(Kept { dtype, parts, stacked: decl.is_stacked() })
    }

    /// The tensors of scales beside tensor `weight`, with their data. What is 1 everywhere is left out.
    pub(super) fn scales(&self, weight: &str) -> Vec<(TensorInfo, Vec<u8>)> {
        let Some(module) = weight.strip_suffix(".weight") else { return Vec::new() };
        let scales: Vec<f32> = self.parts.iter().map(|blocks| blocks.scale).collect();
        let inputs: Vec<f32> = self.parts.iter().map(|b| b.input_scale.unwrap_or(1.0)).collect();
        let tensor = |(last, values): (&str, Vec<f32>)| {
            let name = format!("{module}.{last}");
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (TensorInfo::new(name, vec![values.len()], DType::F32), bytes)
        };
        debug_assert!(self.stacked || scales.len() == 1);
        [("scale", scales), ("input_scale", inputs)]
            .into_iter()
            .filter(|(_, values)| values.iter().any(|&value| value != 1.0))
            .map(tensor)
            .collect()
    }
}
