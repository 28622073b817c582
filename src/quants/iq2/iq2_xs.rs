//! IQ2_XS: 256 weights in 16 sub-blocks, groups of eight on a grid of 512 points.
//!
//! Bytes: F16 `d` (2), 16 bits per group with its index and, from bit 9 on, seven signs of even
//! parity (64), 4-bit scales s, two per byte, low nibble first (8). A weight is
//! `d / 4 * (s + 1/2) * level`, signed. Source: llama.cpp, `quantize_row_iq2_xs_impl` and
//! `dequantize_row_iq2_xs`.

use super::LEVELS;
use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock};
use crate::quants::floats::f16::{f16_bytes, read_f16};
use crate::quants::grids::lattice::{Block, Lattice, Pack, Refit, encode};
use crate::quants::grids::{self, Grid, signs};

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::IQ2_XS,
    decode: codec::decode_blocks::<IQ2_XS, 256, 74>,
    quantize: Some(encode::<IQ2_XS, 8, 16, 74>),
    is_valid: |block| codec::finite_f16(block, 0),
};

#[allow(non_camel_case_types)] // As GGUF spells it.
struct IQ2_XS;

impl DecodeBlock<256, 74> for IQ2_XS {
    #[inline(always)]
    fn decode_block(block: &[u8; 74], out: &mut [f32; 256]) {
        let points = grids::two_bit_512().points();
        let d = read_f16(block, 0);
        let (words, _) = block[2..66].as_chunks::<2>();
        for (g, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let code = (block[66 + g / 4] >> (4 * (g / 2 % 2))) & 15;
            let scale = d * (0.5 + f32::from(code)) * 0.25;
            let word = u16::from_le_bytes(words[g]);
            let signs = signs::even((word >> 9) as u8);
            let point = points[usize::from(word & 511)];
            for i in 0..8 {
                out[i] = signs::signed(scale * LEVELS[usize::from(point[i] & 3)], signs, i);
            }
        }
    }
}

impl Lattice<8, 16> for IQ2_XS {
    const STEPS: i32 = 9;
    const STEP: f32 = 0.1;
    const NEGLIGIBLE: f32 = 1e-15;
    const SPREAD: f32 = 1.0;
    const EVEN_SIGNS: bool = true;
    const REFIT: Refit = Refit::Missed;

    fn grid() -> &'static Grid<8> {
        grids::two_bit_512()
    }

    #[inline(always)]
    fn plain_importance(x: f32, _: f32) -> f32 {
        x * x // Unused: the type requires importance.
    }
}

impl Pack<8, 16, 74> for IQ2_XS {
    #[inline(always)]
    fn pack(block: &Block, out: &mut [u8; 74]) {
        let Some(d) = block.d else {
            return;
        };
        out[..2].copy_from_slice(&f16_bytes(d));
        for j in 0..16 {
            if let Some(fit) = &block.fits[j] {
                for g in 0..2 {
                    let word = fit.indices[g] | u16::from(fit.signs[g]) << 9;
                    out[2 + 4 * j + 2 * g..][..2].copy_from_slice(&word.to_le_bytes());
                }
            }
            out[66 + j / 2] |= block.scales[j] << (4 * (j % 2));
        }
    }
}
