//! Q5_K: 256 weights in 8 sub-blocks, 5-bit codes: `d * scale * q - dmin * min`.
//!
//! Bytes: F16 `d` and `dmin` (4), packed six-bit scales and minima (12), fifth bits (32; bit j of
//! byte l is that of weight 32 j + l), low nibbles as in Q4_K (128).

use super::affine;
use super::packed_scales::scale_and_min;
use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock};
use crate::quants::floats::f16::read_f16;
use crate::quants::lanes::{Panel, QuantizePanel, U8s, quantize_panels};
use crate::quants::pack::{bit_planes, nibbles};
use crate::quants::search::AffineGrid;

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::Q5_K,
    decode: codec::decode_blocks::<Q5_K, 256, 176>,
    quantize: Some(quantize_panels::<Q5_K, 256, 176>),
    is_valid: |block| codec::finite_f16(block, 0) && codec::finite_f16(block, 2),
};

#[allow(non_camel_case_types)] // As GGUF spells it.
struct Q5_K;

impl DecodeBlock<256, 176> for Q5_K {
    #[inline(always)]
    fn decode_block(block: &[u8; 176], out: &mut [f32; 256]) {
        let d = read_f16(block, 0);
        let dmin = read_f16(block, 2);
        for j in 0..8 {
            let (scale, min) = scale_and_min(&block[4..16], j);
            let scale = d * f32::from(scale);
            let min = dmin * f32::from(min);
            let codes = 48 + 32 * (j / 2);
            let shift = 4 * (j % 2);
            for i in 0..32 {
                let low = (block[codes + i] >> shift) & 15;
                let high = (block[16 + i] >> j) & 1;
                out[32 * j + i] = scale * f32::from(low | high << 4) - min;
            }
        }
    }
}

impl QuantizePanel<256, 176> for Q5_K {
    #[inline(always)]
    fn quantize_panel(panel: &Panel<256>, out: &mut [U8s; 176]) {
        let plain = AffineGrid { top: 31, start: -0.5, step: 0.1, steps: 15, absolute: false };
        let codes = affine::quantize(panel, plain, 63, &mut out[..16]);
        bit_planes(&codes, 4, &mut out[16..48]);
        for (codes, out) in codes.chunks_exact(64).zip(out[48..].chunks_exact_mut(32)) {
            nibbles(&codes[..32], &codes[32..], out);
        }
    }
}
