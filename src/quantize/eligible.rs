//! Which tensors may change their type at all, and which must not without an importance matrix.
//!
//! Source of the lists: llama.cpp `src/llama-quant.cpp` (`tensor_allows_quantization`,
//! `tensor_requires_imatrix`), October 2026.

use super::facts::Family;
use super::ftype::Ftype;
use crate::base::dtype::DType;
use crate::formats::source::TensorInfo;
use crate::model::arch::Category;

/// Parts of names that mark tensors which are never quantized: small, or sensitive, or tables.
const NEVER: &[&str] = &[
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
];

/// The same for GLM-5 Next alone.
const NEVER_GLM5_NEXT: &[&str] = &[
    "hc_",
    "indexer.attn_q_b",
    "indexer.attn_k",
    "indexer.proj",
    "indexer_compressor_gate",
    "indexer_compressor_ape",
    "ssm_f_a.weight",
    "ssm_f_b.weight",
    "ssm_g_a.weight",
    "ssm_g_b.weight",
    "ssm_beta.weight",
    "attn_kv_a_mqa.weight",
    "attn_k_b.weight",
    "attn_v_b.weight",
];

/// Whether `info` may change its type at all. Others keep the source's.
pub fn allows_quantization(info: &TensorInfo, family: Family) -> bool {
    let contains_any = |parts: &[&str]| parts.iter().any(|part| info.name.contains(part));
    // Outer dimensions of length 1 do not count, as in ggml_n_dims.
    let dims = info.shape.iter().skip_while(|&&d| d == 1).count();
    dims >= 2
        && info.name.ends_with("weight")
        && info.name != "position_embd.weight"
        && info.name != "token_types.weight"
        && !contains_any(NEVER)
        && !(family == Family::Glm5Next && contains_any(NEVER_GLM5_NEXT))
}

/// Whether `dtype` for this tensor would be garbage without an importance matrix.
pub fn requires_imatrix(name: &str, dtype: DType, ftype: Ftype) -> bool {
    if matches!(Category::of(name), Category::Output | Category::TokenEmbedding) {
        return false;
    }
    match dtype {
        DType::IQ3_XXS
        | DType::IQ2_XXS
        | DType::IQ2_XS
        | DType::IQ2_S
        | DType::IQ1_M
        | DType::IQ1_S => true,
        DType::Q2_K => ftype == Ftype::Q2_K_S,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_sensitive_tensors_stay() {
        let allowed = |name: &str, shape: &[usize], family| {
            allows_quantization(&TensorInfo::new(name, shape.to_vec(), DType::F16), family)
        };
        assert!(allowed("blk.0.attn_q.weight", &[64, 64], Family::Common));
        assert!(!allowed("blk.0.attn_q.weight", &[1, 64], Family::Common));
        assert!(!allowed("blk.0.attn_q.bias", &[64, 64], Family::Common));
        assert!(!allowed("blk.0.ffn_gate_inp.weight", &[8, 64], Family::Common));
        assert!(allowed("blk.0.attn_k_b.weight", &[64, 64], Family::Common));
        assert!(!allowed("blk.0.attn_k_b.weight", &[64, 64], Family::Glm5Next));
    }

    #[test]
    fn only_q2_k_in_q2_k_s_needs_an_imatrix() {
        assert!(requires_imatrix("blk.0.attn_q.weight", DType::Q2_K, Ftype::Q2_K_S));
        assert!(!requires_imatrix("blk.0.attn_q.weight", DType::Q2_K, Ftype::Q2_K));
        assert!(!requires_imatrix("token_embd.weight", DType::Q2_K, Ftype::Q2_K_S));
        assert!(requires_imatrix("blk.0.attn_q.weight", DType::IQ2_S, Ftype::Q8_0));
        assert!(!requires_imatrix("blk.0.attn_q.weight", DType::IQ3_S, Ftype::IQ3_S));
    }
}
