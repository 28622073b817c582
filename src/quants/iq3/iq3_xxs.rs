//! IQ3_XXS: 256 weights in 8 sub-blocks, groups of four on a grid of 256 points.
//!
//! Bytes: F16 `d` (2), one index per group (64), then 32 bits per sub-block: four times seven signs
//! of even parity, and from bit 28 on the scale s. A weight is `d / 2 * (s + 1/2) * level`, signed.
//! Source: llama.cpp, `quantize_row_iq3_xxs_impl` and `dequantize_row_iq3_xxs`.

use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock};
use crate::quants::floats::f16::{f16_bytes, read_f16};
use crate::quants::grids::lattice::{Block, Lattice, Pack, Refit, encode};
use crate::quants::grids::{self, Grid, signs};

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::IQ3_XXS,
    decode: codec::decode_blocks::<IQ3_XXS, 256, 98>,
    quantize: Some(encode::<IQ3_XXS, 4, 32, 98>),
    is_valid: |block| codec::finite_f16(block, 0),
};

#[allow(non_camel_case_types)] // As GGUF spells it.
struct IQ3_XXS;

/// The magnitude of each level.
const LEVELS: [f32; 8] = [4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0];

impl DecodeBlock<256, 98> for IQ3_XXS {
    #[inline(always)]
    fn decode_block(block: &[u8; 98], out: &mut [f32; 256]) {
        let points = grids::three_bit_256().points();
        let d = read_f16(block, 0);
        let (words, _) = block[66..].as_chunks::<4>();
        for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let word = u32::from_le_bytes(words[j]);
            let scale = d * (0.5 + (word >> 28) as f32) * 0.5;
            for (g, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let signs = signs::even((word >> (7 * (g / 2))) as u8);
                let point = points[usize::from(block[2 + 8 * j + g])];
                for i in 0..4 {
                    let value = scale * LEVELS[usize::from(point[i] & 7)];
                    out[i] = signs::signed(value, signs, 4 * (g % 2) + i);
                }
            }
        }
    }
}

impl Lattice<4, 32> for IQ3_XXS {
    const STEPS: i32 = 15;
    const STEP: f32 = 0.2;
    const NEGLIGIBLE: f32 = 1e-8;
    const SPREAD: f32 = 2.0;
    const EVEN_SIGNS: bool = true;
    const REFIT: Refit = Refit::Missed;

    fn grid() -> &'static Grid<4> {
        grids::three_bit_256()
    }

    #[inline(always)]
    fn plain_importance(x: f32, _: f32) -> f32 {
        x * x
    }
}

impl Pack<4, 32, 98> for IQ3_XXS {
    #[inline(always)]
    fn pack(block: &Block, out: &mut [u8; 98]) {
        let Some(d) = block.d else {
            return;
        };
        // llama.cpp's empirical factor, which compensates for the rounding of scales.
        out[..2].copy_from_slice(&f16_bytes(d * 1.0125));
        for j in 0..8 {
            let mut word = u32::from(block.scales[j]) << 28;
            if let Some(fit) = &block.fits[j] {
                for (g, index) in fit.indices.iter().enumerate() {
                    out[2 + 8 * j + g] = *index as u8;
                }
                word |= signs::even_word(fit.signs);
            }
            out[66 + 4 * j..][..4].copy_from_slice(&word.to_le_bytes());
        }
    }
}
