//! IQ4_XS: 256 weights in 8 sub-blocks, 4-bit codes of uneven levels:
//! `d * (scale - 32) * LEVELS[q]`.
//!
//! Bytes: F16 `d` (2), the high two bits of the 6-bit scales of sub-blocks, from the lowest bits up
//! (2), their low four bits, two per byte (4), then 16 bytes per sub-block with weight i in the low
//! nibble and weight i + 16 in the high one.

use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock};
use crate::quants::floats::f16::read_f16;
use crate::quants::lanes::{F32s, LANES, Panel, QuantizePanel, U8s, quantize_panels, store_f16};
use crate::quants::pack::nibbles;
use crate::quants::search::nearest_int;

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::IQ4_XS,
    decode: codec::decode_blocks::<IQ4_XS, 256, 136>,
    quantize: Some(quantize_panels::<IQ4_XS, 256, 136>),
    is_valid: |block| codec::finite_f16(block, 0),
};

#[allow(non_camel_case_types)] // As GGUF spells it.
struct IQ4_XS;

impl DecodeBlock<256, 136> for IQ4_XS {
    #[inline(always)]
    fn decode_block(block: &[u8; 136], out: &mut [f32; 256]) {
        let d = read_f16(block, 0);
        for j in 0..8 {
            let low = (block[4 + j / 2] >> (4 * (j % 2))) & 15;
            let high = (block[2 + j / 4] >> (2 * (j % 4))) & 3;
            let scale = d * (i32::from(low | high << 4) - 32) as f32;
            super::decode(&block[8 + 16 * j..][..16], scale, &mut out[32 * j..][..32]);
        }
    }
}

impl QuantizePanel<256, 136> for IQ4_XS {
    #[inline(always)]
    fn quantize_panel(panel: &Panel<256>, out: &mut [U8s; 136]) {
        let (x, _) = panel.weights.as_chunks::<32>();
        let (importance, _) = panel.importance.as_chunks::<32>();
        let sigma2 = super::twice_mean_square(&panel.weights);
        let mut scales = [F32s::ZERO; 8];
        for j in 0..8 {
            let importance = panel.weighted.then_some(&importance[j]);
            scales[j] = super::fit(&x[j], &super::search_weights(&x[j], importance, &sigma2));
        }
        let rounded = store_scales(&scales, &mut out[..8]);
        for j in 0..8 {
            let codes = super::codes(&x[j], &super::inverse(&rounded[j]));
            nibbles(&codes[..16], &codes[16..], &mut out[8 + 16 * j..][..16]);
        }
    }
}

/// Rounds scales to multiples of `d`, 1/32 of the largest, whose code is -32, and stores them.
/// Returns the rounded scales, computed from `d` before it is rounded to F16: codes follow those.
#[inline(always)]
fn store_scales(scales: &[F32s; 8], head: &mut [U8s]) -> [F32s; 8] {
    let (largest, _) = crate::quants::search::largest(scales);
    let mut d = F32s::ZERO;
    for k in 0..LANES {
        d[k] = -largest[k] / 32.0;
    }
    store_f16(&d, &mut head[..2]);
    let inverse = super::inverse(&d);
    head[2..8].fill([0; LANES]);
    let mut rounded = [F32s::ZERO; 8];
    for j in 0..8 {
        for k in 0..LANES {
            let scale = nearest_int(inverse[k] * scales[j][k]).clamp(-32, 31);
            rounded[j][k] = d[k] * scale as f32;
            let code = (scale + 32) as u8;
            head[2 + j / 4][k] |= (code >> 4) << (2 * (j % 4));
            head[4 + j / 2][k] |= (code & 15) << (4 * (j % 2));
        }
    }
    rounded
}
