//! Architectures, each declared once: tensor names, shapes, hyperparameters, the structure of a block.
//!
//! Merge reads which tensors a layer has, convert how they are named and changed in GGUF and which keys
//! describe them, the forward pass how a block computes, the quantizer the categories. Adding an
//! architecture is a file here and a line in [`ALL`].
//!
//! What the list of tensors shows is not declared again: a block has norms of queries and keys, norms
//! after its parts, biases, or fused projections if the declaration lists those tensors.

mod category;
mod classes;
mod description;
mod experts;
mod from_config;
mod from_metadata;
mod gemma2;
mod gemma3;
mod granite;
mod hyper;
mod keys;
mod llama;
mod mixtral;
mod phi3;
mod plain;
mod qwen2;
mod qwen3;
mod qwen3moe;
mod rope;
mod rope_settings;
mod spellings;
mod tensor;
mod wrapper;

pub use category::Category;
pub use description::Description;
pub use experts::{ExpertKeys, Experts, Parameters};
pub use hyper::HyperParams;
pub use keys::Key;
pub use plain::{Stored, declared_config, declared_form};
pub use rope::{RopeScaling, Yarn};
pub use spellings::{Settings, reconcile, set_spellings};
pub use tensor::{Dim, Permute, Role, TensorDecl};

use crate::base::error::{Error, Result};
use crate::formats::gguf::Metadata;

/// Every architecture this program knows.
pub static ALL: &[&Architecture] = &[
    &llama::LLAMA,
    &mixtral::MIXTRAL,
    &qwen2::QWEN2,
    &qwen3::QWEN3,
    &qwen3moe::QWEN3MOE,
    &gemma2::GEMMA2,
    &gemma3::GEMMA3,
    &phi3::PHI3,
    &granite::GRANITE,
];

/// A model architecture.
#[derive(Debug)]
pub struct Architecture {
    /// `general.architecture` in GGUF, and the prefix of its hyperparameter keys.
    pub gguf_name: &'static str,
    /// Class names in `architectures` of config.json. Members of different classes of one
    /// architecture can be merged.
    pub hf_classes: &'static [&'static str],
    /// `model_type` in config.json, of the first class.
    pub model_type: &'static str,
    /// The keys of config.json that describe a mixture of experts.
    pub experts: Option<ExpertKeys>,
    pub tensors: &'static [TensorDecl],
    /// Tensors that newer checkpoints store under other names, several of `tensors` in one.
    pub stored: &'static [Stored],
    /// Names of tensors that conversion leaves out, beside the buffers of any architecture.
    pub ignored: &'static [&'static str],
    /// What config.json may leave out.
    pub defaults: Defaults,
    /// How a block computes.
    pub block: Block,
    /// Hyperparameters in GGUF, in the order in which llama.cpp's converter writes them.
    pub keys: &'static [Key],
    /// What llama.cpp's converter does to the vocabulary.
    pub vocabulary: VocabularyRules,
}

/// Values of keys that config.json may leave out: those of the configuration's class in transformers.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// `max_position_embeddings`.
    pub context: usize,
    /// `original_max_position_embeddings`; `None` where it is `max_position_embeddings`.
    pub original_context: Option<usize>,
    /// `head_dim`; `None` where it is `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    pub rms_eps: f64,
    pub rope_theta: f64,
    /// `tie_word_embeddings`.
    pub tied: bool,
}

/// What [`Architecture`]s of the llama kind share: root-mean-square norms, grouped-query attention with
/// rotary positions, a gated feed-forward part; and in what they differ.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    pub pairing: Pairing,
    pub activation: Activation,
    pub scores: Scores,
    pub embedding: EmbeddingScale,
    /// Which layers attend to a window only; `None` where all attend to everything.
    pub windows: Option<Windows>,
    /// Attention and logits are capped: `cap * tanh(x / cap)`. The values where config.json has none,
    /// of attention and of logits.
    pub soft_caps: [Option<f64>; 2],
    /// `rope_local_base_freq`, the base of rotary frequencies in layers with a window, where config.json
    /// leaves it out; `None` where it is that of the other layers.
    pub local_rope_theta: Option<f64>,
}

/// Layers that attend to a window of the last tokens. A configuration or a file may list it for each layer.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// Every how many layers one attends to everything.
    pub every: usize,
    /// Tokens in a window where that is left out; `None` where there is no window then.
    pub length: Option<usize>,
}

/// Which elements of a head the rotary embedding turns together, in GGUF's order of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Neighbours. Query and key weights are permuted on the way to GGUF.
    Adjacent,
    /// Element `i` and element `i + n / 2` of the `n` that turn.
    Halves,
}

/// The function of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    Silu,
    /// GELU by its approximation with tanh.
    GeluTanh,
}

/// What queries times keys are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    /// `1 / sqrt(head_dim)`.
    HeadLength,
    /// `1 / sqrt(query_pre_attn_scalar)` of config.json, which GGUF lacks: there it is `1 / sqrt(head_dim)`,
    /// or `1 / sqrt(n_embd / n_head)` in the 27B model, known by its number of layers.
    QueryScalar { layers_of_27b: usize },
    /// `attention_multiplier` of config.json, `attention.scale` in GGUF.
    Multiplier,
}

/// What embeddings are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbeddingScale {
    One,
    /// The square root of the embedding length.
    SqrtLength,
    /// `embedding_multiplier` of config.json.
    Multiplier,
}

/// Where llama.cpp's converter treats vocabularies apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VocabularyRules {
    /// `add_prefix_space` of tokenizer_config.json counts, CodeLlama's and Granite's vocabularies are known
    /// by their size.
    Llama,
    /// None of that.
    Plain,
    /// No space is put before a text, whatever the files say; the last key decides.
    NoSpacePrefix,
}

impl Defaults {
    /// Those of `LlamaConfig`.
    const LLAMA: Defaults = Defaults {
        context: 2048,
        original_context: None,
        head_dim: None,
        rms_eps: 1e-6,
        rope_theta: 1e4,
        tied: false,
    };
}

impl Block {
    /// That of the llama family.
    const LLAMA: Block = Block {
        pairing: Pairing::Adjacent,
        activation: Activation::Silu,
        scores: Scores::HeadLength,
        embedding: EmbeddingScale::One,
        windows: None,
        soft_caps: [None, None],
        local_rope_theta: None,
    };
}

/// Buffers that old checkpoints carry, at any level of names: rotary tables and causal masks. The first three
/// are those of llama.cpp `conversion/base.py` (`prepare_tensors`), October 2026.
const BUFFERS: &[&str] = &[
    "rotary_emb.inv_freq",
    "attention.masked_bias",
    "attention.bias",
    "rotary_emb.cos_cached",
    "rotary_emb.sin_cached",
    "rotary_emb.original_inv_freq",
    "embeddings.position_ids",
    "position_ids",
];

/// The layer's number in `name` if `name` is `pattern` with a number for `{}`; `Some(None)` for an
/// equal name without a number.
fn match_pattern(pattern: &str, name: &str) -> Option<Option<usize>> {
    match pattern.split_once("{}") {
        None => (pattern == name).then_some(None),
        Some((head, tail)) => {
            let rest = name.strip_prefix(head)?;
            let (digits, rest) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
            let fits = match tail.split_once("{e}") {
                None => rest == tail,
                Some((head, tail)) => {
                    let expert = rest.strip_prefix(head)?.strip_suffix(tail)?;
                    canonical_number(expert).is_some()
                }
            };
            canonical_number(digits).filter(|_| fits).map(Some)
        }
    }
}

/// The number that `digits` are, written as numbers are.
fn canonical_number(digits: &str) -> Option<usize> {
    let canonical = digits.bytes().all(|b| b.is_ascii_digit())
        && (digits.len() == 1 || !digits.starts_with('0'));
    if canonical { digits.parse().ok() } else { None }
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

    /// The architecture of a GGUF file. Mixtures of experts may share a name with dense models: then the
    /// number of experts tells.
    pub fn for_metadata(origin: &str, metadata: &Metadata) -> Result<&'static Architecture> {
        let name = metadata.str("general.architecture").ok_or_else(|| {
            Error::model(origin, "metadata key 'general.architecture' is missing")
        })?;
        let mixture = metadata.u64(&format!("{name}.expert_count")).is_some_and(|n| n > 0);
        let of_name = || ALL.iter().filter(|a| a.gguf_name == name).copied();
        let fits = |a: &&'static Architecture| a.experts.is_some() == mixture;
        of_name().find(fits).ok_or_else(|| {
            if of_name().next().is_some() {
                let has = if mixture { "experts" } else { "no experts" };
                let detail = format!("architecture '{name}' with {has} is not known");
                return Error::model(origin, detail);
            }
            let mut known: Vec<_> = ALL.iter().map(|a| a.gguf_name).collect();
            known.dedup();
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
        let is_called =
            |end: &str| name.strip_suffix(end).is_some_and(|r| r.is_empty() || r.ends_with('.'));
        BUFFERS.iter().any(|end| is_called(end)) || self.ignored.contains(&name)
    }

    /// The declarations with `role`, in declaration order.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = &'static TensorDecl> {
        self.tensors.iter().filter(move |decl| decl.role == role)
    }

    /// Whether a part of each head may stay as it is, where the others turn whole heads.
    pub fn turns_partly(&self) -> bool {
        self.keys.contains(&Key::OriginalContext)
    }

    /// Whether layer `layer` attends to a window only, where nothing says otherwise.
    pub fn windowed_by_default(&self, layer: usize) -> bool {
        self.block.windows.is_some_and(|windows| !(layer + 1).is_multiple_of(windows.every))
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
        for name in ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"] {
            assert!(arch.ignores(name));
        }
        assert!(arch.ignores("rotary_emb.inv_freq") && !arch.ignores("model.xrotary_emb.inv_freq"));
        assert!(!arch.ignores("lm_head.weight") && gemma2::GEMMA2.ignores("lm_head.weight"));
    }

    #[test]
    fn unknown_classes_are_named_with_the_known_ones() {
        let error = Architecture::for_hf_class("x/config.json", "FooForCausalLM").unwrap_err();
        let text = error.to_string();
        assert!(text.contains("FooForCausalLM") && text.contains("LlamaForCausalLM"), "{text}");
    }

    #[test]
    fn names_belong_to_one_tensor_each() {
        for arch in ALL {
            for (index, decl) in arch.tensors.iter().enumerate() {
                let same = |other: &TensorDecl| other.hf == decl.hf || other.gguf == decl.gguf;
                assert!(!arch.tensors[..index].iter().any(same), "{} {}", arch.gguf_name, decl.hf);
                assert_eq!(decl.hf.contains("{}"), decl.role == Role::Layer);
            }
        }
    }
}
