//! Architectures, each declared once: tensor names, shapes, hyperparameters.
//!
//! Merge reads which tensors a layer has, convert how they are named and permuted in GGUF, the
//! forward pass and the quantizer the hyperparameters and categories. Adding an architecture is a
//! file here and a line in [`ALL`].

mod category;
mod hyper;
mod llama;

pub use category::Category;
pub use hyper::{HyperParams, RopeScaling};

use crate::error::{Error, Result};

/// Every architecture this program knows.
pub static ALL: &[&Architecture] = &[&llama::LLAMA];

/// A dimension of a tensor, in terms of the hyperparameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Vocabulary size.
    Vocab,
    /// Embedding length, `hidden_size`.
    Hidden,
    /// Feed-forward length, `intermediate_size`.
    FeedForward,
    /// All query heads: `n_head * head_dim`.
    Query,
    /// All key (or value) heads: `n_head_kv * head_dim`.
    KeyValue,
}

/// Where in the stack a tensor belongs; recipes treat the ends apart from the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Embedding,
    Layer,
    FinalNorm,
    Head,
}

/// How rows are reordered on the way to GGUF, whose rotary embedding pairs adjacent elements where
/// Hugging Face pairs the halves of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permute {
    None,
    /// Within each of `n_head` heads.
    QueryHeads,
    /// Within each of `n_head_kv` heads.
    KeyHeads,
}

/// One tensor of an architecture. Names of layer tensors hold `{}` where the layer's number goes.
#[derive(Debug)]
pub struct TensorDecl {
    pub hf: &'static str,
    pub gguf: &'static str,
    /// Outermost first.
    pub shape: &'static [Dim],
    pub role: Role,
    pub permute: Permute,
    /// Models may lack it (biases; a head that is tied to the embedding).
    pub optional: bool,
}

impl TensorDecl {
    /// The Hugging Face name; `layer` is ignored for tensors outside the layers.
    pub fn hf_name(&self, layer: usize) -> String {
        self.hf.replace("{}", &layer.to_string())
    }

    /// The GGUF name; `layer` is ignored for tensors outside the layers.
    pub fn gguf_name(&self, layer: usize) -> String {
        self.gguf.replace("{}", &layer.to_string())
    }

    /// The shape under `hyper`, outermost first.
    pub fn shape(&self, hyper: &HyperParams) -> Vec<usize> {
        self.shape.iter().map(|&dim| hyper.dim(dim)).collect()
    }
}

/// A model architecture.
#[derive(Debug)]
pub struct Architecture {
    /// `general.architecture` in GGUF, and the prefix of its hyperparameter keys.
    pub gguf_name: &'static str,
    /// Class names in `architectures` of config.json. Members of different classes of one
    /// architecture can be merged.
    pub hf_classes: &'static [&'static str],
    pub tensors: &'static [TensorDecl],
    /// Ends of names of tensors that old checkpoints carry and that hold no weights.
    pub ignored_suffixes: &'static [&'static str],
}

/// The layer's number in `name` if `name` is `pattern` with a number for `{}`; `Some(None)` for an
/// equal name without a number.
fn match_pattern(pattern: &str, name: &str) -> Option<Option<usize>> {
    match pattern.split_once("{}") {
        None => (pattern == name).then_some(None),
        Some((head, tail)) => {
            let digits = name.strip_prefix(head)?.strip_suffix(tail)?;
            let canonical = digits.bytes().all(|b| b.is_ascii_digit())
                && (digits.len() == 1 || !digits.starts_with('0'));
            if canonical { digits.parse().ok().map(Some) } else { None }
        }
    }
}

impl Architecture {
    /// The architecture for a class name of config.json.
    pub fn for_hf_class(origin: &str, class: &str) -> Result<&'static Architecture> {
        ALL.iter().find(|a| a.hf_classes.contains(&class)).copied().ok_or_else(|| {
            let known: Vec<_> = ALL.iter().flat_map(|a| a.hf_classes).copied().collect();
            let detail = format!("unknown architecture '{class}'; known are {}", known.join(", "));
            Error::model(origin, detail)
        })
    }

    /// The architecture for `general.architecture` of a GGUF file.
    pub fn for_gguf_name(origin: &str, name: &str) -> Result<&'static Architecture> {
        ALL.iter().find(|a| a.gguf_name == name).copied().ok_or_else(|| {
            let known: Vec<_> = ALL.iter().map(|a| a.gguf_name).collect();
            let detail = format!("unknown architecture '{name}'; known are {}", known.join(", "));
            Error::model(origin, detail)
        })
    }

    /// The declaration and layer number of a Hugging Face tensor name.
    pub fn match_hf(&self, name: &str) -> Option<(&'static TensorDecl, Option<usize>)>
    where
        Self: 'static,
    {
        self.tensors.iter().find_map(|decl| Some((decl, match_pattern(decl.hf, name)?)))
    }

    /// The declaration and layer number of a GGUF tensor name.
    pub fn match_gguf(&self, name: &str) -> Option<(&'static TensorDecl, Option<usize>)> {
        self.tensors.iter().find_map(|decl| Some((decl, match_pattern(decl.gguf, name)?)))
    }

    /// Whether the Hugging Face tensor `name` is to be passed over in silence.
    pub fn ignores(&self, name: &str) -> bool {
        self.ignored_suffixes.iter().any(|suffix| name.ends_with(suffix))
    }

    /// The declarations with `role`, in declaration order.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = &'static TensorDecl> {
        self.tensors.iter().filter(move |decl| decl.role == role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_their_patterns_only() {
        let arch = Architecture::for_hf_class("test", "MistralForCausalLM").unwrap();
        let (decl, layer) = arch.match_hf("model.layers.31.self_attn.q_proj.weight").unwrap();
        assert_eq!((decl.gguf_name(7).as_str(), layer), ("blk.7.attn_q.weight", Some(31)));
        assert!(arch.match_hf("model.layers.031.self_attn.q_proj.weight").is_none());
        assert!(arch.match_hf("model.layers..self_attn.q_proj.weight").is_none());
        assert_eq!(arch.match_gguf("token_embd.weight").unwrap().1, None);
        assert!(arch.ignores("model.layers.0.self_attn.rotary_emb.inv_freq"));
    }

    #[test]
    fn unknown_classes_are_named_with_the_known_ones() {
        let error = Architecture::for_hf_class("x/config.json", "FooForCausalLM").unwrap_err();
        let text = error.to_string();
        assert!(text.contains("FooForCausalLM") && text.contains("LlamaForCausalLM"), "{text}");
    }
}
