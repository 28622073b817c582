//! The category of a tensor for the quantizer, from its GGUF name.
//!
//! GGUF names are standard across architectures, so one table serves all of them.
//! Source: llama.cpp `src/llama-quant.cpp`, `tensor_get_category`, October 2026.

/// A tensor's category in the choice of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Category {
    TokenEmbedding,
    Output,
    AttnQ,
    AttnK,
    AttnV,
    AttnQkv,
    AttnKvB,
    AttnOutput,
    FfnUp,
    FfnGate,
    FfnDown,
    Other,
}

/// The part of a name for each category; the first that occurs decides.
const PARTS: &[(&str, Category)] = &[
    ("attn_qkv.weight", Category::AttnQkv),
    ("attn_kv_b.weight", Category::AttnKvB),
    ("attn_v.weight", Category::AttnV),
    ("attn_k.weight", Category::AttnK),
    ("attn_q.weight", Category::AttnQ),
    ("attn_output.weight", Category::AttnOutput),
    ("ffn_up", Category::FfnUp),
    ("ffn_gate", Category::FfnGate),
    ("ffn_down", Category::FfnDown),
];

impl Category {
    /// The category of the tensor with the GGUF name `name`.
    pub fn of(name: &str) -> Category {
        match name {
            "output.weight" => Category::Output,
            "token_embd.weight" | "per_layer_token_embd.weight" => Category::TokenEmbedding,
            _ => {
                let found = PARTS.iter().find(|(part, _)| name.contains(part));
                found.map_or(Category::Other, |&(_, category)| category)
            }
        }
    }

    /// Whether the tensor takes part in the special treatment of attention values.
    pub fn is_attn_v(self) -> bool {
        matches!(self, Category::AttnV | Category::AttnQkv | Category::AttnKvB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fall_into_their_categories() {
        assert_eq!(Category::of("blk.3.attn_v.weight"), Category::AttnV);
        assert_eq!(Category::of("blk.3.ffn_down_exps.weight"), Category::FfnDown);
        assert_eq!(Category::of("blk.3.attn_norm.weight"), Category::Other);
        assert_eq!(Category::of("output.weight"), Category::Output);
        assert_eq!(Category::of("output_norm.weight"), Category::Other);
    }
}
