//! Q3_K: 256 weights in 16 sub-blocks, 3-bit codes: `d * (scale - 32) * (q - 4)`.
//!
//! Bytes: high bits (32; bit k of byte l is that of weight 32 k + l), low two bits as in Q2_K (64),
//! packed six-bit scales (12), F16 `d` (2).

use super::packed_scales::{pack_signed_scales, signed_scale};
use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock};
use crate::quants::floats::f16::read_f16;
use crate::quants::lanes::{
    F32s, LANES, Panel, QuantizePanel, U8s, importance_weights, load_f16, quantize_panels,
    store_f16, sum, twice_mean_square,
};
use crate::quants::pack::{bit_planes, requantize, two_bits};
use crate::quants::search::{fit_self_weighted, fit_symmetric, largest, nearest_int};

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::Q3_K,
    decode: codec::decode_blocks::<Q3_K, 256, 110>,
    quantize: Some(quantize_panels::<Q3_K, 256, 110>),
    is_valid: |block| codec::finite_f16(block, 108),
};

#[allow(non_camel_case_types)] // As GGUF spells it.
struct Q3_K;

impl DecodeBlock<256, 110> for Q3_K {
    #[inline(always)]
    fn decode_block(block: &[u8; 110], out: &mut [f32; 256]) {
        let d = read_f16(block, 108);
        for j in 0..16 {
            let scale = d * signed_scale(&block[96..108], j) as f32;
            let high = 16 * (j % 2);
            let low = 32 + 32 * (j / 8) + high;
            let shift = 2 * ((j / 2) % 4);
            for i in 0..16 {
                let two = (block[low + i] >> shift) & 3;
                let third = (block[high + i] >> (j / 2)) & 1;
                out[16 * j + i] = scale * (i32::from(two | third << 2) - 4) as f32;
            }
        }
    }
}

impl QuantizePanel<256, 110> for Q3_K {
    #[inline(always)]
    fn quantize_panel(panel: &Panel<256>, out: &mut [U8s; 110]) {
        let mut codes = [[0; LANES]; 256];
        let (x, _) = panel.weights.as_chunks::<16>();
        let (sub_codes, _) = codes.as_chunks_mut::<16>();
        if panel.weighted {
            search_weighted(panel, sub_codes, &mut out[96..]);
        } else {
            search_plain(x, sub_codes, &mut out[96..]);
        }

        let d = load_f16(&out[108..]);
        for j in 0..16 {
            let mut scale = F32s::ZERO;
            for k in 0..LANES {
                let packed: [u8; 12] = std::array::from_fn(|byte| out[96 + byte][k]);
                scale[k] = d[k] * signed_scale(&packed, j) as f32;
            }
            // No minimum: adding minus zero is optimized away.
            requantize(&x[j], &scale, &F32s([-0.0; LANES]), (-4, 3), &mut sub_codes[j]);
        }
        bit_planes(&codes, 2, &mut out[..32]);
        two_bits(&codes, &mut out[32..96]);
    }
}

/// Searches for scales with importance, then for their codes and `d`. Fills `tail`, packed scales
/// and `d`.
#[inline(always)]
fn search_weighted(panel: &Panel<256>, codes: &mut [[U8s; 16]], tail: &mut [U8s]) {
    let (x, _) = panel.weights.as_chunks::<16>();
    let (importance, _) = panel.importance.as_chunks::<16>();
    let sigma2 = twice_mean_square(&panel.weights);
    let mut scales = [F32s::ZERO; 16];
    let mut weight_sums = [F32s::ZERO; 16];
    for j in 0..16 {
        let weights = importance_weights(&x[j], &importance[j], &sigma2);
        weight_sums[j] = sum(&weights);
        scales[j] = fit_symmetric(&x[j], &weights, 4, &mut codes[j]);
    }
    let mut scale_codes = [[0; LANES]; 16];
    let d = fit_symmetric(&scales, &weight_sums, 32, &mut scale_codes);
    pack_signed_scales(tail, &scale_codes);
    store_f16(&d, &mut tail[12..14]);
}

/// Searches for scales by descent, then rounds them to multiples of 1/32 of the largest, whose code
/// is -32. Fills `tail` as [`search_weighted`] does.
#[inline(always)]
fn search_plain(x: &[[F32s; 16]], codes: &mut [[U8s; 16]], tail: &mut [U8s]) {
    let mut scales = [F32s::ZERO; 16];
    for j in 0..16 {
        scales[j] = fit_self_weighted(&x[j], 4, &mut codes[j]);
    }
    let (largest, _) = largest(&scales);
    let mut scale_codes = [[0; LANES]; 16];
    let mut d = F32s::ZERO;
    for k in 0..LANES {
        let inverse = -32.0 / largest[k];
        let some = largest[k] != 0.0;
        for j in 0..16 {
            let code = i32::from(nearest_int(inverse * scales[j][k]) as i8).clamp(-32, 31) + 32;
            scale_codes[j][k] = if some { code as u8 } else { 0 };
        }
        d[k] = if some { 1.0 / inverse } else { 0.0 };
    }
    pack_signed_scales(tail, &scale_codes);
    store_f16(&d, &mut tail[12..14]);
}
