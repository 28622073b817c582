//! The work buffers of a forward pass, and the row operations that dense layers, experts and
//! decoding share.

use super::weights::Norm;
use crate::kernels::{all_finite, geglu, rms_norm, scale, soft_cap, swiglu};
use crate::model::arch::{Activation, HyperParams};
use rayon::prelude::*;

/// Buffers that every group of chunks reuses; the names say the width of their rows.
/// [`super::memory::work_floats_per_row`] counts their elements and must change with them.
#[derive(Default)]
pub(super) struct WorkBuffers {
    /// The group's hidden states while it goes through a layer.
    pub hidden: Vec<f32>,
    pub normed: Vec<f32>,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub attended: Vec<f32>,
    pub gate: Vec<f32>,
    pub up: Vec<f32>,
}

/// The buffer that a product reads.
#[derive(Clone, Copy)]
pub(super) enum ProductInput {
    Normed,
    Attended,
    Gate,
}

impl WorkBuffers {
    /// Makes every buffer exactly `rows` rows long.
    pub(super) fn resize(&mut self, hyper: &HyperParams, rows: usize) {
        let (query, kv) = (hyper.n_head * hyper.head_dim, hyper.n_head_kv * hyper.head_dim);
        let fit = |buffer: &mut Vec<f32>, width: usize| buffer.resize(rows * width, 0.0);
        fit(&mut self.normed, hyper.n_embd);
        fit(&mut self.q, query);
        fit(&mut self.k, kv);
        fit(&mut self.v, kv);
        fit(&mut self.attended, query);
        // In a mixture of experts, these hold only the router's output.
        let [gate, up] = hyper.experts.map_or([hyper.n_ff; 2], |experts| [experts.count, 0]);
        fit(&mut self.gate, gate);
        fit(&mut self.up, up);
    }

    pub(super) fn input(&self, input: ProductInput) -> &[f32] {
        match input {
            ProductInput::Normed => &self.normed,
            ProductInput::Attended => &self.attended,
            ProductInput::Gate => &self.gate,
        }
    }
}

/// `gate = activation(gate) * up`, for rows of `width` elements.
pub(super) fn activate(activation: Activation, width: usize, gate: &mut [f32], up: &[f32]) {
    let rows = gate.par_chunks_mut(width).zip(up.par_chunks(width));
    rows.for_each(|(gate, up)| match activation {
        Activation::Silu => swiglu(gate, up),
        Activation::GeluTanh => geglu(gate, up),
    });
}

/// Normalizes the rows of `x` into `out`. Returns the first row that is not finite.
pub(super) fn normalize(norm: &Norm, eps: f32, x: &[f32], out: &mut [f32]) -> Option<usize> {
    let width = norm.weight.len();
    let rows = out.par_chunks_mut(width).zip(x.par_chunks(width));
    rows.for_each(|(out, x)| rms_norm(x, &norm.weight, eps, out));
    first_non_finite_row(out, width)
}

/// Normalizes each head of `rows` rows in place. Returns the first row that is not finite.
pub(super) fn normalize_heads(norm: &Norm, eps: f32, rows: usize, x: &mut [f32]) -> Option<usize> {
    let width = norm.weight.len();
    x.par_chunks_mut(width).for_each_init(
        || vec![0.0; width],
        |copy, head| {
            copy.copy_from_slice(head);
            rms_norm(copy, &norm.weight, eps, head);
        },
    );
    first_non_finite_row(x, x.len() / rows)
}

/// The first row of `width` elements that has a value that is not finite.
pub(super) fn first_non_finite_row(values: &[f32], width: usize) -> Option<usize> {
    values.par_chunks(width).position_first(|row| !all_finite(row))
}

/// Applies the model's scale and soft cap to `logits`, the head's products.
pub(super) fn scale_logits(hyper: &HyperParams, logits: &mut [f32]) {
    let factor = 1.0 / hyper.logit_scale;
    logits.par_chunks_mut(hyper.n_vocab).for_each(|row| match hyper.logit_soft_cap {
        Some(cap) => soft_cap(row, factor, cap),
        None if factor != 1.0 => scale(row, factor),
        None => {}
    });
}
