//! MXFP4: 4-bit floats with a power of two as scale for each 32, as gpt-oss (`_blocks`, `_scales`)
//! and compressed-tensors (`mxfp4-pack-quantized`) store it.
//!
//! Sources: transformers 5.24 `integrations/mxfp4.py` (`convert_moe_packed_tensors`),
//! compressed-tensors 0.20 `compressors/mxfp4`, llama.cpp `conversion/base.py`
//! (`repack_mxfp4_blocks`).

use super::codes;
use crate::quants::fp8;

/// Weights to a scale.
pub(super) const GROUP: usize = 32;
/// Bytes of a block in GGUF.
pub(super) const BLOCK_BYTES: usize = 17;

/// Decodes whole groups.
pub(super) fn decode(packed: &[u8], scales: &[u8], out: &mut [f32]) {
    codes::decode(packed, GROUP, |group| fp8::e8m0(scales[group]), out);
}

/// Whole groups as GGUF's blocks, bit for bit.
pub(super) fn blocks(packed: &[u8], scales: &[u8]) -> Vec<u8> {
    let mut out = vec![0; scales.len() * BLOCK_BYTES];
    let groups = packed.chunks_exact(GROUP / 2).zip(scales);
    for (block, (codes, scale)) in out.chunks_exact_mut(BLOCK_BYTES).zip(groups) {
        block[0] = *scale;
        codes::reorder(codes, &mut block[1..]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::dtype::DType;
    use crate::quants;

    #[test]
    fn blocks_have_the_same_values() {
        let packed: Vec<u8> = (0..16 * 255).map(|i| (i * 37 + i / 16) as u8).collect();
        let scales: Vec<u8> = (0..255).collect();
        let (mut direct, mut by_blocks) = (vec![0f32; 32 * 255], vec![0f32; 32 * 255]);
        decode(&packed, &scales, &mut direct);
        quants::decode(DType::MXFP4, &blocks(&packed, &scales), &mut by_blocks).unwrap();
        for (i, (a, b)) in direct.iter().zip(&by_blocks).enumerate() {
            // GGUF's code 8 is plain zero.
            assert!(a == b, "{i}: {a} {b}");
        }
    }
}
