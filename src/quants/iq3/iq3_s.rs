//! IQ3_S: 256 weights in 8 sub-blocks, groups of four on a grid of 512 points.
//!
//! Bytes: F16 `d` (2), the low eight bits of the index of each group (64), their ninth bits, one
//! byte per sub-block (8), one sign bit per weight (32), 4-bit scales s, two per byte, low nibble
//! first (4). A weight is `d * (1 + 2 s) * level`, signed. Source: llama.cpp,
//! `quantize_row_iq3_s_impl` and `dequantize_row_iq3_s`.

use crate::base::dtype::DType;
use crate::quants::codec::{self, Codec, DecodeBlock};
use crate::quants::floats::f16::{f16_bytes, read_f16};
use crate::quants::grids::lattice::{Block, Lattice, Pack, Refit, encode};
use crate::quants::grids::{self, Grid, signs};

pub(crate) const CODEC: Codec = Codec {
    dtype: DType::IQ3_S,
    decode: codec::decode_blocks::<IQ3_S, 256, 110>,
    quantize: Some(encode::<IQ3_S, 4, 32, 110>),
    is_valid: |block| codec::finite_f16(block, 0),
};

#[allow(non_camel_case_types)] // As GGUF spells it.
struct IQ3_S;

impl DecodeBlock<256, 110> for IQ3_S {
    #[inline(always)]
    fn decode_block(block: &[u8; 110], out: &mut [f32; 256]) {
        let points = grids::three_bit_512().points();
        let d = read_f16(block, 0);
        for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let scale = d * f32::from(1 + 2 * ((block[106 + j / 2] >> (4 * (j % 2))) & 15));
            for (g, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let high = usize::from(block[66 + j] >> g & 1) << 8;
                let point = points[usize::from(block[2 + 8 * j + g]) | high];
                let signs = block[74 + 4 * j + g / 2];
                for i in 0..4 {
                    let value = scale * f32::from(2 * point[i] + 1);
                    out[i] = signs::signed(value, signs, 4 * (g % 2) + i);
                }
            }
        }
    }
}

impl Lattice<4, 32> for IQ3_S {
    const STEPS: i32 = 9;
    const STEP: f32 = 0.2;
    const NEGLIGIBLE: f32 = f32::from_bits(1);
    const SPREAD: f32 = 2.0;
    const EVEN_SIGNS: bool = false;
    const REFIT: Refit = Refit::AllIfMissed;

    fn grid() -> &'static Grid<4> {
        grids::three_bit_512()
    }

    #[inline(always)]
    fn plain_importance(x: f32, _: f32) -> f32 {
        x * x
    }
}

impl Pack<4, 32, 110> for IQ3_S {
    #[inline(always)]
    fn pack(block: &Block, out: &mut [u8; 110]) {
        out[..2].copy_from_slice(&f16_bytes(block.d.unwrap_or(0.0) * 1.033));
        // As in llama.cpp, a sub-block of zeros takes no place, so the indices and signs of later
        // sub-blocks are stored where the decoder reads those of earlier ones.
        let fits = (0..8).filter_map(|j| Some((j, block.fits[j].as_ref()?)));
        for (place, (j, fit)) in fits.enumerate() {
            for (g, index) in fit.indices.iter().enumerate() {
                out[2 + 8 * place + g] = *index as u8;
                out[66 + j] |= ((index >> 8) as u8) << g;
            }
            out[74 + 4 * place..][..4].copy_from_slice(&fit.signs);
        }
        for j in 0..4 {
            out[106 + j] = block.scales[2 * j] | block.scales[2 * j + 1] << 4;
        }
    }
}
