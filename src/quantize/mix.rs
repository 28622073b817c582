//! Which type each tensor gets: the mix that makes a file of some ftype.
//!
//! The rules are llama.cpp's, so that files are interchangeable; they depend on the tensor's category,
//! the model, whether there is an imatrix, and on counters that advance from tensor to tensor in file
//! order. Source of the rules: llama.cpp `src/llama-quant.cpp` (`llama_tensor_get_type`,
//! `llama_tensor_get_type_impl`, `tensor_type_fallback`), October 2026.

use super::eligible::allows_quantization;
use super::facts::{Family, ModelFacts};
use super::ftype::Ftype;
use super::options::PlanOptions;
use crate::base::dtype::DType;
use crate::formats::source::TensorInfo;
use crate::model::arch::Category;

/// The choice for one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    pub dtype: DType,
    /// The type that the rules wanted where the row length did not allow it.
    pub fallback_from: Option<DType>,
}

/// Layers that deserve more bits: the first and last eighth, and every third between.
fn use_more_bits(layer: usize, n_layer: usize) -> bool {
    let eighth = n_layer / 8;
    layer < eighth || layer >= 7 * n_layer / 8 || (layer - eighth) % 3 == 2
}

/// The number `N` of a name that starts with `blk.N.`.
pub(super) fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()
}

/// The embeddings that some models add in every layer.
const PER_LAYER: &str = "per_layer_token_embd.weight";

/// Parts of names of GLM-5 Next's tensors that get Q8_0 at least.
const GLM5_NEXT_Q8: &[&str] = &["attn_q_a", "attn_q_b", "nextn.eh_proj"];

/// Walks the tensors of a file in file order and chooses a type for each.
pub struct Mix<'a> {
    /// The type whose rules apply.
    ftype: Ftype,
    facts: ModelFacts,
    has_imatrix: bool,
    options: &'a PlanOptions,
    /// Fixed types of embedding and head.
    embedding: Option<DType>,
    output: Option<DType>,
    /// Tensors of attention values and of ffn_down seen so far.
    i_attn_v: usize,
    i_ffn_down: usize,
    /// Of ffn_gate and ffn_up, one for each.
    i_ffn_gate: usize,
    i_ffn_up: usize,
}

impl<'a> Mix<'a> {
    pub fn new(
        ftype: Ftype,
        facts: ModelFacts,
        has_imatrix: bool,
        options: &'a PlanOptions,
    ) -> Mix<'a> {
        Mix {
            ftype: ftype.mixed_as(),
            facts,
            has_imatrix,
            options,
            embedding: options.token_embedding_type.or(ftype.ends()),
            output: options.output_tensor_type.or(ftype.ends()),
            i_attn_v: 0,
            i_ffn_down: 0,
            i_ffn_gate: 0,
            i_ffn_up: 0,
        }
    }

    /// The type of the next tensor. Call it for every tensor, in file order.
    pub fn choose(&mut self, info: &TensorInfo) -> Choice {
        let exactly = |dtype| Choice { dtype, fallback_from: None };
        let left = self.options.leave_output_tensor && info.name == "output.weight";
        if !allows_quantization(info, self.facts.family) || left {
            return exactly(info.dtype);
        }
        let named = self.options.tensor_type(&info.name);
        // Requested types of the ends are taken unchanged, whatever the row length.
        let fixed = match Category::of(&info.name) {
            // A separate table, large in the models that have it: it may be named on its own.
            Category::TokenEmbedding if info.name == PER_LAYER && named.is_some() => None,
            Category::TokenEmbedding => self.embedding,
            Category::Output => self.output,
            _ => None,
        };
        if let Some(dtype) = fixed {
            return exactly(dtype);
        }
        let base = self.ftype.base();
        if !base.is_quantized() {
            return exactly(base);
        }
        // A type requested by name does not advance the counters, so later layers shift.
        let wanted = match named {
            Some(dtype) => dtype,
            None if self.options.pure => base,
            None => self.wanted(info, base),
        };
        let dtype = fit_row(wanted, info.row_len());
        Choice { dtype, fallback_from: (dtype != wanted).then_some(wanted) }
    }

    /// What the rules want, whatever the row length.
    fn wanted(&mut self, info: &TensorInfo, base: DType) -> DType {
        let family = self.facts.family;
        let sensitive = || GLM5_NEXT_Q8.iter().any(|part| info.name.contains(part));
        if family == Family::Glm5Next && sensitive() {
            return DType::Q8_0;
        }
        let category = Category::of(&info.name);
        let is_head = category == Category::Output
            || (self.facts.tied && category == Category::TokenEmbedding);
        if is_head {
            return self.head(info, base);
        }
        if self.ftype == Ftype::MXFP4_MOE {
            return self.mxfp4_moe(info, category);
        }
        if category == Category::TokenEmbedding {
            return self.token_embedding(base);
        }
        if self.is_smallest() {
            return self.smallest(category, base);
        }
        match category {
            _ if category.is_attn_v() => self.attn_v(base),
            Category::AttnK if self.facts.n_expert == 8 => DType::Q8_0,
            Category::AttnK | Category::AttnQ => match self.ftype {
                Ftype::IQ3_XS => DType::IQ3_XXS,
                Ftype::IQ3_XXS => DType::IQ2_S,
                _ => base,
            },
            Category::AttnOutput => self.attn_output(base),
            Category::FfnDown => self.ffn_down(base, &info.name),
            Category::FfnGate => {
                let i = self.layer(self.i_ffn_gate, &info.name);
                self.i_ffn_gate += 1;
                self.ffn_gate_or_up(base, i)
            }
            Category::FfnUp => {
                let i = self.layer(self.i_ffn_up, &info.name);
                self.i_ffn_up += 1;
                self.ffn_gate_or_up(base, i)
            }
            _ => base,
        }
    }

    /// Experts are stacked, so their tensors have three dimensions; in BailingMoE 3 others have too.
    fn mxfp4_moe(&self, info: &TensorInfo, category: Category) -> DType {
        let stacked = info.shape.iter().rev().nth(2).is_some_and(|&n| n > 1);
        let ffn = matches!(category, Category::FfnUp | Category::FfnGate | Category::FfnDown);
        let experts = stacked && (ffn || self.facts.family != Family::BailingMoe3);
        if experts { DType::MXFP4 } else { DType::Q8_0 }
    }

    /// The output head, or the embedding that serves as one.
    fn head(&self, info: &TensorInfo, base: DType) -> DType {
        // Here, as for the head itself, a requested type counts; the fallback follows.
        if let Some(dtype) = self.output {
            return dtype;
        }
        let fits = info.row_len().is_multiple_of(base.block_len());
        match self.ftype {
            Ftype::MXFP4_MOE => DType::Q8_0,
            _ if !fits || base == DType::Q8_0 || self.is_falcon() => DType::Q8_0,
            Ftype::IQ3_XXS => DType::Q5_K,
            _ if self.is_smallest() => DType::Q5_K,
            _ => DType::Q6_K,
        }
    }

    fn token_embedding(&self, base: DType) -> DType {
        match self.ftype {
            Ftype::IQ1_S | Ftype::IQ1_M | Ftype::IQ2_XXS | Ftype::IQ2_XS => DType::Q2_K,
            Ftype::IQ2_S | Ftype::IQ2_M | Ftype::IQ3_XXS => DType::IQ3_S,
            Ftype::TQ1_0 | Ftype::TQ2_0 | Ftype::Q2_0 => DType::Q4_K,
            _ => base,
        }
    }

    /// Whether the file's weights have 1 or 2 bits, in an IQ type: rules of their own apply.
    fn is_smallest(&self) -> bool {
        matches!(
            self.ftype,
            Ftype::IQ1_S
                | Ftype::IQ1_M
                | Ftype::IQ2_XXS
                | Ftype::IQ2_XS
                | Ftype::IQ2_S
                | Ftype::IQ2_M
        )
    }

    fn smallest(&mut self, category: Category, base: DType) -> DType {
        let larger = matches!(self.ftype, Ftype::IQ2_S | Ftype::IQ2_M);
        let raised = if larger { DType::IQ3_S } else { DType::Q2_K };
        let n_expert = self.facts.n_expert;
        match category {
            _ if category.is_attn_v() => {
                self.i_attn_v += 1;
                if self.facts.n_gqa >= 4 || n_expert >= 4 { DType::Q4_K } else { raised }
            }
            Category::AttnK if n_expert == 8 => DType::Q4_K,
            Category::FfnDown => {
                let first_eighth = self.i_ffn_down < self.facts.n_layer / 8;
                self.i_ffn_down += 1;
                if first_eighth { raised } else { base }
            }
            Category::AttnOutput if n_expert == 8 => DType::Q5_K,
            Category::AttnOutput => match self.ftype {
                Ftype::IQ1_S | Ftype::IQ1_M => DType::IQ2_XXS,
                Ftype::IQ2_S | Ftype::IQ2_M => DType::IQ3_S,
                _ => base,
            },
            _ => base,
        }
    }

    /// The layer of the tensor `name`, the `counted`th of its kind. Experts of one layer are not
    /// consecutive in every file, so their names give the layer.
    fn layer(&self, counted: usize, name: &str) -> usize {
        match self.facts.n_expert {
            0 | 1 => counted,
            _ => layer_of(name).unwrap_or(counted),
        }
    }

    fn ffn_gate_or_up(&self, base: DType, i: usize) -> DType {
        let n = self.facts.n_layer;
        let middle = i >= n / 8 && i < 7 * n / 8;
        if self.ftype == Ftype::IQ3_XS && middle { DType::IQ3_XXS } else { base }
    }

    fn attn_v(&mut self, base: DType) -> DType {
        let i = self.i_attn_v;
        self.i_attn_v += 1;
        let more = use_more_bits(i, self.facts.n_attn_v);
        let many_share = self.facts.n_gqa >= 4;
        let mut dtype = match self.ftype {
            Ftype::Q2_K if many_share => DType::Q4_K,
            Ftype::Q2_K => DType::Q3_K,
            Ftype::Q2_K_S | Ftype::IQ3_XXS | Ftype::IQ3_XS | Ftype::IQ3_S if many_share => {
                DType::Q4_K
            }
            Ftype::IQ3_XXS if !self.has_imatrix => DType::IQ3_S,
            Ftype::IQ3_M => DType::Q4_K,
            Ftype::IQ4_NL | Ftype::IQ4_XS if many_share => DType::Q5_K,
            Ftype::Q3_K_M if i < 2 => DType::Q5_K,
            Ftype::Q3_K_M => DType::Q4_K,
            Ftype::Q3_K_L => DType::Q5_K,
            Ftype::Q4_K_M | Ftype::Q5_K_M if more => DType::Q6_K,
            Ftype::Q4_K_S if i < 4 => DType::Q5_K,
            _ => base,
        };
        // Eight query heads share these weights in a 70B: more bits cost next to nothing.
        if self.facts.class_70b && matches!(dtype, DType::Q3_K | DType::Q4_K) {
            dtype = DType::Q5_K;
        }
        if self.facts.n_expert == 8 { DType::Q8_0 } else { dtype }
    }

    fn is_falcon(&self) -> bool {
        self.facts.family == Family::Falcon
    }

    fn attn_output(&self, base: DType) -> DType {
        if self.is_falcon() {
            return if self.ftype == Ftype::Q3_K_L { DType::Q4_K } else { base };
        }
        if self.facts.n_expert == 8 {
            return match self.ftype {
                Ftype::Q2_K
                | Ftype::IQ3_XS
                | Ftype::IQ3_XXS
                | Ftype::Q3_K_S
                | Ftype::Q3_K_M
                | Ftype::IQ4_NL
                | Ftype::Q4_K_S
                | Ftype::Q4_K_M
                | Ftype::IQ3_S
                | Ftype::IQ3_M
                | Ftype::IQ4_XS => DType::Q5_K,
                _ => base,
            };
        }
        match self.ftype {
            Ftype::Q2_K => DType::Q3_K,
            Ftype::IQ3_XXS => DType::IQ3_S,
            Ftype::Q3_K_M | Ftype::IQ3_M => DType::Q4_K,
            Ftype::Q3_K_L => DType::Q5_K,
            _ => base,
        }
    }

    /// Falcon's own rules for ffn_down, where they differ.
    fn ffn_down_of_falcon(&self, base: DType, i: usize) -> Option<DType> {
        let n = self.facts.n_layer;
        let (first, more) = (i < n / 16, use_more_bits(i, n));
        match self.ftype {
            _ if !self.is_falcon() => None,
            Ftype::Q3_K_M if !first && !more => Some(DType::Q3_K),
            Ftype::Q3_K_L => Some(DType::Q4_K),
            Ftype::Q4_K_M if first => Some(DType::Q6_K),
            Ftype::Q4_K_M if more => Some(DType::Q5_K),
            Ftype::Q4_K_M | Ftype::Q4_K_S => Some(base),
            _ => None,
        }
    }

    fn ffn_down(&mut self, base: DType, name: &str) -> DType {
        let n = self.facts.n_layer;
        let i = self.layer(self.i_ffn_down, name);
        self.i_ffn_down += 1;
        if let Some(dtype) = self.ffn_down_of_falcon(base, i) {
            return dtype;
        }
        let first_eighth = i < n / 8;
        match self.ftype {
            Ftype::Q2_K => DType::Q3_K,
            Ftype::Q2_K_S if first_eighth => DType::Q4_K,
            Ftype::IQ3_XXS if !self.has_imatrix && first_eighth => DType::Q4_K,
            Ftype::IQ3_XXS if !self.has_imatrix => DType::Q3_K,
            Ftype::IQ3_M if first_eighth => DType::Q4_K,
            Ftype::IQ3_M if self.facts.n_expert == 8 && use_more_bits(i, n) => DType::Q4_K,
            Ftype::IQ4_NL | Ftype::IQ4_XS if first_eighth && !self.has_imatrix => DType::Q5_K,
            Ftype::Q3_K_M if i < n / 16 => DType::Q5_K,
            Ftype::Q3_K_M => DType::Q4_K,
            Ftype::Q3_K_L => DType::Q5_K,
            Ftype::Q4_K_M | Ftype::Q5_K_M if use_more_bits(i, n) => DType::Q6_K,
            Ftype::Q4_K_S if first_eighth => DType::Q5_K,
            // Early ffn_down layers can go wild in the symmetric types even with an imatrix.
            Ftype::Q4_0 if self.has_imatrix && first_eighth => DType::Q4_1,
            Ftype::Q5_0 if self.has_imatrix && first_eighth => DType::Q5_1,
            _ => base,
        }
    }
}

/// `wanted`, or what takes its place where rows of `row_len` are no whole number of its blocks.
fn fit_row(wanted: DType, row_len: usize) -> DType {
    let fits = |dtype: DType| row_len.is_multiple_of(dtype.block_len());
    if fits(wanted) {
        return wanted;
    }
    let smaller = match wanted {
        DType::IQ1_S
        | DType::IQ1_M
        | DType::IQ2_XXS
        | DType::IQ2_XS
        | DType::IQ2_S
        | DType::IQ3_XXS
        | DType::IQ3_S
        | DType::IQ4_XS => DType::IQ4_NL,
        DType::Q2_0 | DType::Q2_K | DType::Q3_K | DType::TQ1_0 | DType::TQ2_0 => DType::Q4_0,
        DType::Q4_K => DType::Q5_0,
        DType::Q5_K => DType::Q5_1,
        DType::Q6_K => DType::Q8_0,
        // The peer refuses Q1_0 and NVFP4 here; F16 below is what it does for smaller blocks.
        other => other,
    };
    if fits(smaller) { smaller } else { DType::F16 }
}

#[cfg(test)]
mod tests;
