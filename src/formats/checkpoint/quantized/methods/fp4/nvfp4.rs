//! NVFP4: 4-bit floats with an E4M3 scale for each 16 and an F32 scale for the whole matrix, as
//! ModelOpt (`weight_scale_2`) and compressed-tensors (`weight_global_scale`, its reciprocal) store
//! it.
//!
//! Sources: ModelOpt `torch/quantization/qtensor/nvfp4_tensor.py` (`dequantize`),
//! compressed-tensors 0.20 `compressors/nvfp4`, llama.cpp `conversion/base.py` (`_nvfp4_pack`).

use super::codes;
use crate::quants::fp8;

/// Weights to a scale.
pub(super) const GROUP: usize = 16;
/// Weights and bytes of a block in GGUF, which has four scales.
pub(super) const BLOCK: usize = 64;
pub(super) const BLOCK_BYTES: usize = 36;

/// How the scale of the whole matrix is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum TensorScale {
    Factor(f32),
    Divisor(f32),
}

impl TensorScale {
    /// What values are multiplied by.
    pub(super) fn factor(self) -> f32 {
        match self {
            TensorScale::Factor(factor) => factor,
            TensorScale::Divisor(divisor) => 1.0 / divisor,
        }
    }

    /// A group's whole scale.
    fn of(self, group: f32) -> f32 {
        match self {
            TensorScale::Factor(factor) => group * factor,
            TensorScale::Divisor(divisor) => group / divisor,
        }
    }
}

/// Decodes whole groups.
pub(super) fn decode(packed: &[u8], scales: &[u8], tensor: TensorScale, out: &mut [f32]) {
    let scale = |group: usize| tensor.of(fp8::E4M3[usize::from(scales[group])]);
    codes::decode(packed, GROUP, scale, out);
}

/// Whole blocks of 64 as GGUF has them, bit for bit; what the matrix's scale multiplies.
///
/// # Errors
/// A scale that is negative or no number, which GGUF's scales cannot be.
pub(super) fn blocks(packed: &[u8], scales: &[u8]) -> Result<Vec<u8>, String> {
    let bad = |&&scale: &&u8| scale > 0x80 || scale == 0x7f;
    if let Some(scale) = scales.iter().find(bad) {
        let value = fp8::E4M3[usize::from(*scale)];
        return Err(format!("a scale of its groups is {value}, which is not possible in NVFP4"));
    }
    let mut out = vec![0; scales.len() / 4 * BLOCK_BYTES];
    let sources = packed.chunks_exact(BLOCK / 2).zip(scales.chunks_exact(4));
    for (block, (codes, scales)) in out.chunks_exact_mut(BLOCK_BYTES).zip(sources) {
        let (block_scales, block_codes) = block.split_at_mut(4);
        for (to, from) in block_scales.iter_mut().zip(scales) {
            *to = from & 0x7f;
        }
        let groups = codes.chunks_exact(GROUP / 2).zip(block_codes.chunks_exact_mut(GROUP / 2));
        groups.for_each(|(codes, out)| codes::reorder(codes, out));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::dtype::DType;
    use crate::quants;

    #[test]
    fn blocks_have_the_same_values() {
        let scales: Vec<u8> = (0..0x7cu8).collect();
        let packed: Vec<u8> = (0..scales.len() * 8).map(|i| (i * 37 + i / 16) as u8).collect();
        let mut direct = vec![0f32; scales.len() * 16];
        let mut by_blocks = direct.clone();
        decode(&packed, &scales, TensorScale::Factor(1.0), &mut direct);
        let blocks = blocks(&packed, &scales).unwrap();
        quants::decode(DType::NVFP4, &blocks, &mut by_blocks).unwrap();
        assert!(direct.iter().zip(&by_blocks).all(|(a, b)| a == b));
    }

    #[test]
    fn scales_that_blocks_cannot_hold_are_errors() {
        assert!(blocks(&[0; 32], &[1, 2, 0x80, 3]).is_ok());
        for bad in [0x81, 0x7f, 0xff] {
            assert!(blocks(&[0; 32], &[1, 2, bad, 3]).is_err());
        }
    }
}
