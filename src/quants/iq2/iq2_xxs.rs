//! IQ2_XXS: 256 weights in 8 sub-blocks, groups of eight on a grid of 256 points.
//!
//! Bytes: F16 `d` (2), then for each sub-block one index per group (4) and 32 bits: four times
//! seven signs of even parity, and from bit 28 on the scale s. A weight is
//! `d / 4 * (s + 1/2) * level`, signed. Source: llama.cpp, `quantize_row_iq2_xxs_impl` and
//! `dequantize_row_iq2_xxs`.

use super::LEVELS;
use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock};
use crate::quants::floats::f16::{f16_bytes, read_f16};
use crate::quants::grids::lattice::{Block, Lattice, Pack, Refit, Start, SubBlock, encode};
use crate::quants::grids::{self, Grid, signs};
use crate::quants::lanes::{F32s, LANES};
use crate::quants::search::fit_non_negative;

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::IQ2_XXS,
    decode: codec::decode_blocks::<IQ2_XXS, 256, 66>,
    quantize: Some(encode::<IQ2_XXS, 8, 32, 66>),
    is_valid: |block| codec::finite_f16(block, 0),
};

#[allow(non_camel_case_types)] // As GGUF spells it.
struct IQ2_XXS;

impl DecodeBlock<256, 66> for IQ2_XXS {
    #[inline(always)]
    fn decode_block(block: &[u8; 66], out: &mut [f32; 256]) {
        let points = grids::two_bit_256().points();
        let d = read_f16(block, 0);
        let (words, _) = block[2..].as_chunks::<4>();
        for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let word = u32::from_le_bytes(words[2 * j + 1]);
            let scale = d * (0.5 + (word >> 28) as f32) * 0.25;
            for (g, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let signs = signs::even((word >> (7 * g)) as u8);
                let point = points[usize::from(words[2 * j][g])];
                for i in 0..8 {
                    out[i] = signs::signed(scale * LEVELS[usize::from(point[i] & 3)], signs, i);
                }
            }
        }
    }
}

impl Lattice<8, 32> for IQ2_XXS {
    const STEPS: i32 = 6;
    const STEP: f32 = 0.1;
    const NEGLIGIBLE: f32 = 1e-15;
    const SPREAD: f32 = 1.0;
    const EVEN_SIGNS: bool = true;
    const REFIT: Refit = Refit::All;

    fn grid() -> &'static Grid<8> {
        grids::two_bit_256()
    }

    #[inline(always)]
    fn plain_importance(x: f32, _: f32) -> f32 {
        x * x // Unused: the type requires importance.
    }

    /// The search is centred on the scale that fits magnitudes to codes 0..=4, ignoring the grid.
    #[inline(always)]
    fn starts(subs: &[SubBlock<32>; 16]) -> [Start; 16] {
        let (mut x, mut weights) = ([F32s::ZERO; 32], [F32s::ZERO; 32]);
        for i in 0..32 {
            for k in 0..LANES {
                x[i][k] = subs[k].x[i];
                weights[i][k] = subs[k].importance[i];
            }
        }
        let scale = fit_non_negative(&x, &weights, 4, &mut [[0; LANES]; 32]);
        scale.0.map(|scale| Start { scale, reach: scale * 3.0 })
    }
}

impl Pack<8, 32, 66> for IQ2_XXS {
    #[inline(always)]
    fn pack(block: &Block, out: &mut [u8; 66]) {
        let Some(d) = block.d else {
            return;
        };
        out[..2].copy_from_slice(&f16_bytes(d));
        for j in 0..8 {
            let mut word = u32::from(block.scales[j]) << 28;
            if let Some(fit) = &block.fits[j] {
                for g in 0..4 {
                    out[2 + 8 * j + g] = fit.indices[g] as u8;
                }
                word |= signs::even_word(fit.signs);
            }
            out[6 + 8 * j..][..4].copy_from_slice(&word.to_le_bytes());
        }
    }
}
