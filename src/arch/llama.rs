//! The llama family: LLaMA, Mistral 7B, SOLAR 10.7B, SmolLM2 and everything else that loads as
//! `LlamaForCausalLM` or `MistralForCausalLM`.
//!
//! Names: llama.cpp `gguf-py/gguf/tensor_mapping.py` and `constants.py`, October 2026; Hugging Face
//! transformers' llama model for the other side.

use super::{Architecture, Dim::*, Permute, Role, TensorDecl};

const fn layer(hf: &'static str, gguf: &'static str, shape: &'static [super::Dim]) -> TensorDecl {
    TensorDecl { hf, gguf, shape, role: Role::Layer, permute: Permute::None, optional: false }
}

const fn bias(hf: &'static str, gguf: &'static str, shape: &'static [super::Dim]) -> TensorDecl {
    TensorDecl { optional: true, ..layer(hf, gguf, shape) }
}

const fn permuted(decl: TensorDecl, permute: Permute) -> TensorDecl {
    TensorDecl { permute, ..decl }
}

const fn end(
    hf: &'static str,
    gguf: &'static str,
    shape: &'static [super::Dim],
    role: Role,
    optional: bool,
) -> TensorDecl {
    TensorDecl { hf, gguf, shape, role, permute: Permute::None, optional }
}

pub static LLAMA: Architecture = Architecture {
    gguf_name: "llama",
    hf_classes: &["LlamaForCausalLM", "MistralForCausalLM"],
    ignored_suffixes: &[
        ".self_attn.rotary_emb.inv_freq",
        ".attention.rotary_emb.inv_freq",
        ".self_attn.rotary_emb.cos_cached",
        ".self_attn.rotary_emb.sin_cached",
    ],
    #[rustfmt::skip]
    tensors: &[
        end("model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Role::Embedding, false),
        layer("model.layers.{}.input_layernorm.weight", "blk.{}.attn_norm.weight", &[Hidden]),
        permuted(layer("model.layers.{}.self_attn.q_proj.weight", "blk.{}.attn_q.weight", &[Query, Hidden]), Permute::QueryHeads),
        permuted(layer("model.layers.{}.self_attn.k_proj.weight", "blk.{}.attn_k.weight", &[KeyValue, Hidden]), Permute::KeyHeads),
        layer("model.layers.{}.self_attn.v_proj.weight", "blk.{}.attn_v.weight", &[KeyValue, Hidden]),
        layer("model.layers.{}.self_attn.o_proj.weight", "blk.{}.attn_output.weight", &[Hidden, Query]),
        permuted(bias("model.layers.{}.self_attn.q_proj.bias", "blk.{}.attn_q.bias", &[Query]), Permute::QueryHeads),
        permuted(bias("model.layers.{}.self_attn.k_proj.bias", "blk.{}.attn_k.bias", &[KeyValue]), Permute::KeyHeads),
        bias("model.layers.{}.self_attn.v_proj.bias", "blk.{}.attn_v.bias", &[KeyValue]),
        bias("model.layers.{}.self_attn.o_proj.bias", "blk.{}.attn_output.bias", &[Hidden]),
        layer("model.layers.{}.post_attention_layernorm.weight", "blk.{}.ffn_norm.weight", &[Hidden]),
        layer("model.layers.{}.mlp.gate_proj.weight", "blk.{}.ffn_gate.weight", &[FeedForward, Hidden]),
        layer("model.layers.{}.mlp.up_proj.weight", "blk.{}.ffn_up.weight", &[FeedForward, Hidden]),
        layer("model.layers.{}.mlp.down_proj.weight", "blk.{}.ffn_down.weight", &[Hidden, FeedForward]),
        bias("model.layers.{}.mlp.gate_proj.bias", "blk.{}.ffn_gate.bias", &[FeedForward]),
        bias("model.layers.{}.mlp.up_proj.bias", "blk.{}.ffn_up.bias", &[FeedForward]),
        bias("model.layers.{}.mlp.down_proj.bias", "blk.{}.ffn_down.bias", &[Hidden]),
        end("model.norm.weight", "output_norm.weight", &[Hidden], Role::FinalNorm, false),
        end("lm_head.weight", "output.weight", &[Vocab, Hidden], Role::Head, true),
    ],
};
