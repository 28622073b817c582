//! IQ4_NL: 32 weights, an F16 scale and 4-bit codes of uneven levels: `d * LEVELS[q]`.
//!
//! Bytes: scale (2), then 16 bytes with weight i in the low nibble and weight i + 16 in the high
//! one.

use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock};
use crate::quants::floats::f16::read_f16;
use crate::quants::lanes::{Panel, QuantizePanel, U8s, quantize_panels, store_f16};
use crate::quants::pack::nibbles;

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::IQ4_NL,
    decode: codec::decode_blocks::<IQ4_NL, 32, 18>,
    quantize: Some(quantize_panels::<IQ4_NL, 32, 18>),
    is_valid: |block| codec::finite_f16(block, 0),
};

#[allow(non_camel_case_types)] // As GGUF spells it.
struct IQ4_NL;

impl DecodeBlock<32, 18> for IQ4_NL {
    #[inline(always)]
    fn decode_block(block: &[u8; 18], out: &mut [f32; 32]) {
        super::decode(&block[2..], read_f16(block, 0), out);
    }
}

impl QuantizePanel<32, 18> for IQ4_NL {
    #[inline(always)]
    fn quantize_panel(panel: &Panel<32>, out: &mut [U8s; 18]) {
        let x = &panel.weights;
        let sigma2 = super::twice_mean_square(x);
        let importance = panel.weighted.then_some(&panel.importance);
        let scale = super::fit(x, &super::search_weights(x, importance, &sigma2));
        store_f16(&scale, &mut out[..2]);
        // Codes follow the scale before it is rounded to F16.
        let codes = super::codes(x, &super::inverse(&scale));
        nibbles(&codes[..16], &codes[16..], &mut out[2..]);
    }
}
