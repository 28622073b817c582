//! Micro-kernels of the matrix product for x86-64: as many accumulators as fit the registers.
//!
//! Both compute `acc[r][c] = sum over k of x[r][k] * panel[k][c]`, each sum in order of `k` with fused
//! multiply-add, so an element does not depend on which rows it is computed with.

use super::matmul::{BLOCK, DEPTH, PANEL};
use std::arch::x86_64::*;

/// `M` rows by a panel of 32 columns in 2 M + 3 of the 32 registers of 512 bits.
///
/// # Panics
/// If the panel is deeper than a block, or `x` or `acc` has too few rows.
#[target_feature(enable = "avx512f")]
pub fn product_avx512<const M: usize>(
    x: &[[f32; BLOCK]],
    panel: &[[f32; PANEL]],
    acc: &mut [[f32; PANEL]],
) {
    assert!(panel.len() <= DEPTH && x.len() >= M && acc.len() >= M);
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    for (k, columns) in panel.iter().enumerate() {
        // SAFETY: a row of the panel holds 32 elements, two vectors; unaligned loads.
        let b = unsafe {
            [_mm512_loadu_ps(columns.as_ptr()), _mm512_loadu_ps(columns.as_ptr().add(16))]
        };
        for r in 0..M {
            let a = _mm512_set1_ps(x[r][k]);
            sums[r][0] = _mm512_fmadd_ps(a, b[0], sums[r][0]);
            sums[r][1] = _mm512_fmadd_ps(a, b[1], sums[r][1]);
        }
    }
    for r in 0..M {
        // SAFETY: `acc[r]` holds 32 elements, two vectors; unaligned stores.
        unsafe {
            _mm512_storeu_ps(acc[r].as_mut_ptr(), sums[r][0]);
            _mm512_storeu_ps(acc[r].as_mut_ptr().add(16), sums[r][1]);
        }
    }
}

/// `M` rows by one half (columns `16 * half ..`) of a panel in 2 M + 3 of the 16 registers of 256 bits.
///
/// # Panics
/// If the panel is deeper than a block, `half` is over 1, or `x` or `acc` has too few rows.
#[target_feature(enable = "avx2,fma")]
pub fn product_avx2<const M: usize>(
    x: &[[f32; BLOCK]],
    panel: &[[f32; PANEL]],
    half: usize,
    acc: &mut [[f32; PANEL]],
) {
    assert!(panel.len() <= DEPTH && half < 2 && x.len() >= M && acc.len() >= M);
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    for (k, columns) in panel.iter().enumerate() {
        // SAFETY: half is 0 or 1, so the 16 elements lie within the panel's row of 32.
        let b = unsafe {
            let start = columns.as_ptr().add(16 * half);
            [_mm256_loadu_ps(start), _mm256_loadu_ps(start.add(8))]
        };
        for r in 0..M {
            let a = _mm256_set1_ps(x[r][k]);
            sums[r][0] = _mm256_fmadd_ps(a, b[0], sums[r][0]);
            sums[r][1] = _mm256_fmadd_ps(a, b[1], sums[r][1]);
        }
    }
    for r in 0..M {
        // SAFETY: as for the loads; `acc` has M rows of 32 elements.
        unsafe {
            let start = acc[r].as_mut_ptr().add(16 * half);
            _mm256_storeu_ps(start, sums[r][0]);
            _mm256_storeu_ps(start.add(8), sums[r][1]);
        }
    }
}
