//! Q4_K: 256 weights in 8 sub-blocks, 4-bit codes: `d * scale * q - dmin * min`.
//!
//! Bytes: F16 `d` and `dmin` (4), packed six-bit scales and minima (12), codes (128). Code byte l
//! of each quarter of 64 weights holds the weights l and l + 32.

use super::affine;
use super::packed_scales::scale_and_min;
use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock};
use crate::quants::floats::f16::read_f16;
use crate::quants::lanes::{Panel, QuantizePanel, U8s, quantize_panels};
use crate::quants::pack::nibbles;
use crate::quants::search::AffineGrid;

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::Q4_K,
    decode: codec::decode_blocks::<Q4_K, 256, 144>,
    quantize: Some(quantize_panels::<Q4_K, 256, 144>),
    is_valid: |block| codec::finite_f16(block, 0) && codec::finite_f16(block, 2),
};

#[allow(non_camel_case_types)] // As GGUF spells it.
struct Q4_K;

impl DecodeBlock<256, 144> for Q4_K {
    #[inline(always)]
    fn decode_block(block: &[u8; 144], out: &mut [f32; 256]) {
        let d = read_f16(block, 0);
        let dmin = read_f16(block, 2);
        for j in 0..8 {
            let (scale, min) = scale_and_min(&block[4..16], j);
            let scale = d * f32::from(scale);
            let min = dmin * f32::from(min);
            let codes = 16 + 32 * (j / 2);
            let shift = 4 * (j % 2);
            for i in 0..32 {
                out[32 * j + i] = scale * f32::from((block[codes + i] >> shift) & 15) - min;
            }
        }
    }
}

impl QuantizePanel<256, 144> for Q4_K {
    #[inline(always)]
    fn quantize_panel(panel: &Panel<256>, out: &mut [U8s; 144]) {
        let plain = AffineGrid { top: 15, start: -1.0, step: 0.1, steps: 20, absolute: false };
        let codes = affine::quantize(panel, plain, u8::MAX, &mut out[..16]);
        for (codes, out) in codes.chunks_exact(64).zip(out[16..].chunks_exact_mut(32)) {
            nibbles(&codes[..32], &codes[32..], out);
        }
    }
}
