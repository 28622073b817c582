//! Q6_K: 256 weights in 16 sub-blocks, 6-bit codes: `d * scale * (q - 32)`.
//!
//! Bytes: low nibbles (128), high two bits (64), a signed scale for each sub-block (16), F16 `d`
//! (2). In each half of 128 weights, low byte l of 64 holds the weights l and l + 64; high byte l
//! of 32 holds the weights l, l + 32, l + 64 and l + 96.

use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock};
use crate::quants::floats::f16::read_f16;
use crate::quants::lanes::{
    F32s, LANES, Panel, QuantizePanel, U8s, load_f16, quantize_panels, squares, store_f16,
};
use crate::quants::pack::requantize;
use crate::quants::search::{NEGLIGIBLE, fit_symmetric, largest, nearest_int};

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::Q6_K,
    decode: codec::decode_blocks::<Q6_K, 256, 210>,
    quantize: Some(quantize_panels::<Q6_K, 256, 210>),
    is_valid: |block| codec::finite_f16(block, 208),
};

#[allow(non_camel_case_types)] // As GGUF spells it.
struct Q6_K;

impl DecodeBlock<256, 210> for Q6_K {
    #[inline(always)]
    fn decode_block(block: &[u8; 210], out: &mut [f32; 256]) {
        let d = read_f16(block, 208);
        for j in 0..16 {
            let scale = d * f32::from(block[192 + j] as i8);
            // Sub-block j lies in quarter `quarter` of half j / 8.
            let quarter = (j / 2) % 4;
            let low = 64 * (j / 8) + 32 * (quarter % 2) + 16 * (j % 2);
            let high = 128 + 32 * (j / 8) + 16 * (j % 2);
            for i in 0..16 {
                let nibble = (block[low + i] >> (4 * (quarter / 2))) & 15;
                let two = (block[high + i] >> (2 * quarter)) & 3;
                out[16 * j + i] = scale * (i32::from(nibble | two << 4) - 32) as f32;
            }
        }
    }
}

impl QuantizePanel<256, 210> for Q6_K {
    #[inline(always)]
    fn quantize_panel(panel: &Panel<256>, out: &mut [U8s; 210]) {
        let mut codes = [[0; LANES]; 256];
        let (x, _) = panel.weights.as_chunks::<16>();
        let (importance, _) = panel.importance.as_chunks::<16>();
        let (sub_codes, _) = codes.as_chunks_mut::<16>();
        let mut scales = [F32s::ZERO; 16];
        for j in 0..16 {
            let weights = if panel.weighted { importance[j] } else { squares(&x[j]) };
            scales[j] = fit_symmetric(&x[j], &weights, 32, &mut sub_codes[j]);
        }
        let (largest, magnitude) = largest(&scales);
        store_scales(&scales, &largest, &magnitude, &mut out[192..]);

        let d = load_f16(&out[208..]);
        for j in 0..16 {
            let mut scale = F32s::ZERO;
            for k in 0..LANES {
                scale[k] = d[k] * f32::from(out[192 + j][k] as i8);
            }
            // No minimum: adding minus zero is optimized away.
            requantize(&x[j], &scale, &F32s([-0.0; LANES]), (-32, 31), &mut sub_codes[j]);
        }
        for column in &mut codes {
            for k in 0..LANES {
                column[k] = if magnitude[k] < NEGLIGIBLE { 0 } else { column[k] };
            }
        }
        pack_codes(&codes, &mut out[..192]);
    }
}

/// Rounds scales to multiples of 1/128 of the largest, whose code is -128. If all scales are
/// negligible, codes and `d` are zero.
#[inline(always)]
fn store_scales(scales: &[F32s; 16], largest: &F32s, magnitude: &F32s, tail: &mut [U8s]) {
    let mut d = F32s::ZERO;
    for k in 0..LANES {
        let inverse = -128.0 / largest[k];
        let some = magnitude[k] >= NEGLIGIBLE;
        for j in 0..16 {
            let code = nearest_int(inverse * scales[j][k]).min(127) as u8;
            tail[j][k] = if some { code } else { 0 };
        }
        d[k] = if some { 1.0 / inverse } else { 0.0 };
    }
    store_f16(&d, &mut tail[16..18]);
}

/// Packs the low four bits of all codes, then their high two bits.
#[inline(always)]
fn pack_codes(codes: &[U8s; 256], out: &mut [U8s]) {
    let (low, high) = out.split_at_mut(128);
    for (half, codes) in codes.chunks_exact(128).enumerate() {
        for l in 0..64 {
            for k in 0..LANES {
                low[64 * half + l][k] = (codes[l][k] & 15) | codes[l + 64][k] << 4;
            }
        }
        for l in 0..32 {
            for k in 0..LANES {
                high[32 * half + l][k] = (codes[l][k] >> 4)
                    | (codes[l + 32][k] >> 4) << 2
                    | (codes[l + 64][k] >> 4) << 4
                    | (codes[l + 96][k] >> 4) << 6;
            }
        }
    }
}
