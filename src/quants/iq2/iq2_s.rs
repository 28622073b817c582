//! IQ2_S: 256 weights in 16 sub-blocks, groups of eight on a grid of 1,024 points.
//!
//! Bytes: F16 `d` (2), the low eight bits of the index of each group (32), one sign bit per weight
//! (32), the high two bits of indices, four groups per byte from the lowest bits up (8), 4-bit
//! scales s, two per byte, low nibble first (8). A weight is `d / 4 * (s + 1/2) * level`, signed.
//! Source: llama.cpp, `quantize_row_iq2_s_impl` and `dequantize_row_iq2_s`.

use super::LEVELS;
use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock};
use crate::quants::floats::f16::{f16_bytes, read_f16};
use crate::quants::grids::lattice::{Block, Lattice, Pack, Refit, encode};
use crate::quants::grids::{self, Grid, signs};

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::IQ2_S,
    decode: codec::decode_blocks::<IQ2_S, 256, 82>,
    quantize: Some(encode::<IQ2_S, 8, 16, 82>),
    is_valid: |block| codec::finite_f16(block, 0),
};

#[allow(non_camel_case_types)] // As GGUF spells it.
struct IQ2_S;

impl DecodeBlock<256, 82> for IQ2_S {
    #[inline(always)]
    fn decode_block(block: &[u8; 82], out: &mut [f32; 256]) {
        let points = grids::two_bit_1024().points();
        let d = read_f16(block, 0);
        for (g, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let code = (block[74 + g / 4] >> (4 * (g / 2 % 2))) & 15;
            let scale = d * (0.5 + f32::from(code)) * 0.25;
            let high = usize::from((block[66 + g / 4] >> (2 * (g % 4))) & 3) << 8;
            let point = points[usize::from(block[2 + g]) | high];
            for i in 0..8 {
                let value = scale * LEVELS[usize::from(point[i] & 3)];
                out[i] = signs::signed(value, block[34 + g], i);
            }
        }
    }
}

impl Lattice<8, 16> for IQ2_S {
    const STEPS: i32 = 9;
    const STEP: f32 = 0.1;
    const NEGLIGIBLE: f32 = 1e-8;
    const SPREAD: f32 = 2.0;
    const EVEN_SIGNS: bool = false;
    const REFIT: Refit = Refit::Missed;

    fn grid() -> &'static Grid<8> {
        grids::two_bit_1024()
    }

    #[inline(always)]
    fn plain_importance(x: f32, spread: f32) -> f32 {
        0.25 * spread + x * x
    }
}

impl Pack<8, 16, 82> for IQ2_S {
    #[inline(always)]
    fn pack(block: &Block, out: &mut [u8; 82]) {
        // llama.cpp's empirical factor, which compensates for the rounding of scales.
        out[..2].copy_from_slice(&f16_bytes(block.d.unwrap_or(0.0) * 0.9875));
        for j in 0..16 {
            if let Some(fit) = &block.fits[j] {
                for g in 0..2 {
                    let place = 2 * j + g;
                    out[2 + place] = fit.indices[g] as u8;
                    out[34 + place] = fit.signs[g];
                    out[66 + place / 4] |= ((fit.indices[g] >> 8) as u8) << (2 * (place % 4));
                }
            }
            out[74 + j / 2] |= block.scales[j] << (4 * (j % 2));
        }
    }
}
