//! Micro-kernels of matrix products for x86-64, with as many sums as fit in the registers.
//!
//! Each computes `target[r][c] (+)= sum over k of x[r][k] * panel[k][c]`, in order of `k` and with
//! fused multiply-add, so that an element does not depend on the other rows. Words are f32; those
//! of [`product_bf16`] are pairs of bf16.

use super::matmul::{BLOCK, DEPTH, OutputTile};
use super::pack::PANEL;
use std::arch::x86_64::*;

/// Defines a kernel for `M` rows by a panel of 32 columns, which uses 2 M + 3 of the 32 registers
/// of 512 bits. `$factor` converts words to factors, `$add` adds products to sums.
macro_rules! kernel_512 {
    ($(#[$doc:meta])* $name:ident, $features:literal, $factor:expr, $add:expr) => {
        $(#[$doc])*
        ///
        /// # Panics
        /// If the panel is deeper than a block, or `x` or `target` has too few rows.
        #[target_feature(enable = $features)]
        pub(crate) fn $name<const M: usize>(
            x: &[[u32; BLOCK]],
            panel: &[[u32; PANEL]],
            target: &mut OutputTile<'_, '_>,
        ) {
            assert!(panel.len() <= DEPTH && x.len() >= M);
            let mut sums = [[_mm512_setzero_ps(); 2]; M];
            for (k, columns) in panel.iter().enumerate() {
                // SAFETY: 32 words are two vectors; unaligned loads.
                let b = unsafe {
                    let start = columns.as_ptr().cast::<__m512i>();
                    [_mm512_loadu_si512(start), _mm512_loadu_si512(start.add(1))]
                };
                // Not `map`: its closure is compiled without the instruction set, so they are not
                // inlined.
                let b = [$factor(b[0]), $factor(b[1])];
                for r in 0..M {
                    let a = $factor(_mm512_set1_epi32(x[r][k] as i32));
                    sums[r][0] = $add(sums[r][0], a, b[0]);
                    sums[r][1] = $add(sums[r][1], a, b[1]);
                }
            }
            let add = target.add;
            for r in 0..M {
                let row = target.row(r).as_mut_ptr();
                // SAFETY: `row` points to 32 elements, two vectors; unaligned loads and stores.
                unsafe {
                    if add {
                        sums[r][0] = _mm512_add_ps(sums[r][0], _mm512_loadu_ps(row));
                        sums[r][1] = _mm512_add_ps(sums[r][1], _mm512_loadu_ps(row.add(16)));
                    }
                    _mm512_storeu_ps(row, sums[r][0]);
                    _mm512_storeu_ps(row.add(16), sums[r][1]);
                }
            }
        }
    };
}

kernel_512! {
    /// Words are f32.
    product_avx512,
    "avx512f",
    |words| _mm512_castsi512_ps(words),
    |sum, a, b| _mm512_fmadd_ps(a, b, sum)
}

kernel_512! {
    /// Words are pairs of bf16: `vdpbf16ps` adds both products of a pair to an f32.
    product_bf16,
    "avx512f,avx512bf16",
    // SAFETY: both types have 512 bits, and every bit pattern is valid for either.
    |words: __m512i| unsafe { std::mem::transmute::<__m512i, __m512bh>(words) },
    |sum, a, b| _mm512_dpbf16_ps(sum, a, b)
}

/// Multiplies `M` rows, in `target` those from `first` on, by one half of a panel (16 columns from
/// `16 * half` on). Uses 2 M + 3 of the 16 registers of 256 bits.
///
/// # Panics
/// If the panel is deeper than a block, `half` is over 1, or `x` or `target` has too few rows.
#[target_feature(enable = "avx2,fma")]
pub(super) fn product_avx2<const M: usize>(
    x: &[[u32; BLOCK]],
    panel: &[[u32; PANEL]],
    first: usize,
    half: usize,
    target: &mut OutputTile<'_, '_>,
) {
    assert!(panel.len() <= DEPTH && half < 2 && x.len() >= M);
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    for (k, columns) in panel.iter().enumerate() {
        // SAFETY: half is 0 or 1, so the 16 elements lie within the panel's row of 32; unaligned
        // loads.
        let b = unsafe {
            let start = columns.as_ptr().cast::<f32>().add(16 * half);
            [_mm256_loadu_ps(start), _mm256_loadu_ps(start.add(8))]
        };
        for r in 0..M {
            let a = _mm256_set1_ps(f32::from_bits(x[r][k]));
            sums[r][0] = _mm256_fmadd_ps(a, b[0], sums[r][0]);
            sums[r][1] = _mm256_fmadd_ps(a, b[1], sums[r][1]);
        }
    }
    let add = target.add;
    for (r, sums) in sums.iter_mut().enumerate() {
        let row = target.row(first + r);
        // SAFETY: as for the loads; a row of the target has 32 elements.
        unsafe {
            let start = row.as_mut_ptr().add(16 * half);
            if add {
                sums[0] = _mm256_add_ps(sums[0], _mm256_loadu_ps(start));
                sums[1] = _mm256_add_ps(sums[1], _mm256_loadu_ps(start.add(8)));
            }
            _mm256_storeu_ps(start, sums[0]);
            _mm256_storeu_ps(start.add(8), sums[1]);
        }
    }
}
