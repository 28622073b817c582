//! What the rules of the mix need to know of a model, read from its metadata and tensor names.

use crate::base::error::{Error, Result};
use crate::formats::gguf::{Array, Metadata, Value};
use crate::formats::source::TensorInfo;
use crate::model::arch::Category;

/// Architectures with rules of their own. All others share the common ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Common,
    Falcon,
    Glm5Next,
    BailingMoe3,
}

impl Family {
    /// The family of the architecture with the GGUF name `arch`.
    pub fn of(arch: &str) -> Family {
        match arch {
            "falcon" => Family::Falcon,
            "glm5-next" => Family::Glm5Next,
            "bailingmoe3" => Family::BailingMoe3,
            _ => Family::Common,
        }
    }
}

/// What the rules need to know of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelFacts {
    /// Whose rules apply.
    pub family: Family,
    /// Layers, `block_count`; 0 in projectors.
    pub n_layer: usize,
    /// Query heads per key-value head, in layer 0.
    pub n_gqa: usize,
    /// Experts; 0 for dense models.
    pub n_expert: usize,
    /// Deep with grouped-query attention: the class of Llama-2-70B, and of any stack of 80 layers.
    pub class_70b: bool,
    /// There is no `output.weight`: the embedding serves as the head.
    pub tied: bool,
    /// Tensors whose category counts as attention values.
    pub n_attn_v: usize,
}

impl ModelFacts {
    /// Reads the facts from `metadata` and the tensors' names.
    ///
    /// # Errors
    /// The architecture or its number of layers is missing.
    pub fn new(origin: &str, metadata: &Metadata, tensors: &[TensorInfo]) -> Result<ModelFacts> {
        let arch = metadata.str("general.architecture").ok_or_else(|| {
            Error::model(origin, "metadata key 'general.architecture' is missing; is it a model?")
        })?;
        let n_layer = match arch {
            // A projector of images or sound. The peer reads nothing of it.
            "clip" => 0,
            _ => metadata.require_usize(origin, &format!("{arch}.block_count"))?,
        };
        let count = |key: &str| first_count(metadata, &format!("{arch}.{key}"));
        let n_head = count("attention.head_count").unwrap_or(0);
        let n_head_kv = count("attention.head_count_kv").unwrap_or(n_head);
        // Layers that predict further tokens do not count for the class.
        let depth = n_layer.saturating_sub(count("nextn_predict_layers").unwrap_or(0));
        let category = |info: &TensorInfo| Category::of(&info.name);
        Ok(ModelFacts {
            family: Family::of(arch),
            n_layer,
            n_gqa: n_head.checked_div(n_head_kv).unwrap_or(0),
            n_expert: count("expert_count").unwrap_or(0),
            class_70b: is_class_70b(arch, depth, n_head != n_head_kv),
            tied: !tensors.iter().any(|t| category(t) == Category::Output),
            n_attn_v: tensors.iter().filter(|t| category(t).is_attn_v()).count(),
        })
    }
}

/// Whether llama.cpp classes the model as a 70B, which depends on its depth. Source: llama.cpp `src/models/`,
/// `load_arch_hparams` of each architecture that can be `LLM_TYPE_70B`, October 2026.
fn is_class_70b(arch: &str, depth: usize, grouped: bool) -> bool {
    match arch {
        "llama" | "llama-embed" => depth == 80 && grouped,
        "qwen2" | "deci" | "olmo" => depth == 80,
        "jais2" => depth == 68,
        _ => false,
    }
}

/// The count under `key`; of an array, which has one for each layer, the first.
fn first_count(metadata: &Metadata, key: &str) -> Option<usize> {
    match metadata.get(key)? {
        Value::Array(Array::U32(counts)) => counts.first().map(|&n| n as usize),
        Value::Array(Array::I32(counts)) => counts.first().and_then(|&n| n.try_into().ok()),
        value => value.as_u64().and_then(|n| n.try_into().ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::dtype::DType;

    fn facts(arch: &str, keys: &[(&str, Value)], names: &[&str]) -> Result<ModelFacts> {
        let mut metadata = Metadata::new();
        metadata.set("general.architecture", arch);
        for (key, value) in keys {
            metadata.set(format!("{arch}.{key}"), value.clone());
        }
        let tensors: Vec<_> =
            names.iter().map(|n| TensorInfo::new(*n, vec![64, 64], DType::F16)).collect();
        ModelFacts::new("test", &metadata, &tensors)
    }

    #[test]
    fn facts_come_from_metadata_and_names() {
        let heads = [("attention.head_count", 32.into()), ("attention.head_count_kv", 8.into())];
        let layers = |n: u32| [("block_count", n.into())].into_iter().chain(heads.clone());
        let names = ["token_embd.weight", "blk.0.attn_v.weight", "blk.1.attn_qkv.weight"];
        let llama = facts("llama", &layers(80).collect::<Vec<_>>(), &names).unwrap();
        assert_eq!((llama.n_layer, llama.n_gqa, llama.n_expert), (80, 4, 0));
        assert!(llama.class_70b && llama.tied);
        assert_eq!(llama.n_attn_v, 2);
        let untied = facts("llama", &layers(79).collect::<Vec<_>>(), &["output.weight"]).unwrap();
        assert!(!untied.class_70b && !untied.tied);
        assert!(facts("llama", &heads, &names).is_err());
        assert_eq!(facts("clip", &[], &names).unwrap().n_layer, 0);
    }

    #[test]
    fn the_first_layer_of_an_array_counts() {
        let per_layer = Value::Array(Array::I32(vec![8, 0, 32]));
        let keys = [
            ("block_count", 3.into()),
            ("attention.head_count", 32.into()),
            ("attention.head_count_kv", per_layer),
        ];
        assert_eq!(facts("deci", &keys, &[]).unwrap().n_gqa, 4);
    }

    #[test]
    fn the_class_goes_by_depth_and_architecture() {
        assert!(is_class_70b("llama", 80, true) && !is_class_70b("llama", 80, false));
        assert!(is_class_70b("olmo", 80, false) && is_class_70b("jais2", 68, false));
        assert!(!is_class_70b("qwen3", 80, true));
        // 81 layers of which one predicts further tokens are 80.
        let keys = [("block_count", 81.into()), ("nextn_predict_layers", 1.into())];
        assert!(facts("qwen2", &keys, &[]).unwrap().class_70b);
    }
}
