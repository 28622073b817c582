//! Mixtures of experts: how many there are, and how their matrices are named and counted.
//!
//! A checkpoint has a tensor for each matrix of each expert, a GGUF file one for all experts of a layer,
//! in which they follow each other. A declaration stands for both: its Hugging Face name holds `{e}` where
//! the expert's number goes, its GGUF name does not, its shape is that of one matrix.
//!
//! Deliberately absent: experts that all tokens share, and GGUF files from early 2024 with a tensor for each
//! expert.

use super::spellings::Settings;
use super::{Architecture, HyperParams, TensorDecl, canonical_number};
use crate::base::error::{Error, Result};
use crate::formats::gguf::Metadata;
use crate::formats::source::TensorTable;

/// Where the expert's number goes in a Hugging Face name.
const EXPERT: &str = "{e}";

/// The mixture that takes the place of the feed-forward part of every layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Experts {
    pub count: usize,
    /// Experts that compute each token.
    pub used: usize,
    /// Feed-forward length of one expert.
    pub n_ff: usize,
    /// The weights of a token's experts are brought to a sum of 1, as GGUF always means it.
    pub normalized: bool,
}

/// Keys of config.json that describe a mixture of experts.
#[derive(Debug)]
pub struct ExpertKeys {
    pub count: &'static str,
    pub used: &'static str,
    /// Feed-forward length of one expert.
    pub n_ff: &'static str,
    /// Whether weights are brought to a sum of 1; `None` where they always are.
    pub normalized: Option<&'static str>,
}

impl Experts {
    /// Reads config.json; `None` for architectures without experts.
    pub(super) fn from_settings(settings: &Settings<'_>) -> Result<Option<Experts>> {
        let Some(keys) = &settings.arch().experts else { return Ok(None) };
        let [count, used, n_ff] =
            [keys.count, keys.used, keys.n_ff].map(|key| settings.require(key));
        let dense = settings.get("mlp_only_layers").and_then(|v| v.as_array());
        let step = settings.count("decoder_sparse_step")?.unwrap_or(1);
        if dense.is_some_and(|layers| !layers.is_empty()) || step != 1 {
            let detail = "layers without experts among those with experts are not supported \
                          ('mlp_only_layers', 'decoder_sparse_step')";
            return Err(Error::model(settings.origin(), detail));
        }
        // Absence is false in transformers.
        let normalized = match keys.normalized {
            Some(key) => settings.flag(key)?.unwrap_or(false),
            None => true,
        };
        let experts = Experts { count: count?, used: used?, n_ff: n_ff?, normalized };
        experts.checked(settings.origin()).map(Some)
    }

    /// Reads GGUF metadata; `None` if they describe no experts. Source of the length where the key is
    /// missing: llama.cpp `src/models/{llama,qwen3moe}.cpp`, October 2026.
    pub(super) fn from_metadata(
        origin: &str,
        arch: &Architecture,
        metadata: &Metadata,
    ) -> Result<Option<Experts>> {
        let Some(keys) = &arch.experts else { return Ok(None) };
        let key = |suffix: &str| format!("{}.{suffix}", arch.gguf_name);
        let need = |suffix: &str| metadata.require_usize(origin, &key(suffix));
        let (whole, used) = (need("feed_forward_length")?, need("expert_used_count")?);
        let own = metadata.u64(&key("expert_feed_forward_length")).filter(|&n| n > 0);
        let n_ff = match own {
            _ if keys.n_ff == "intermediate_size" => whole,
            Some(n) => n.try_into().unwrap_or(usize::MAX),
            None => whole / used,
        };
        let experts = Experts { count: need("expert_count")?, used, n_ff, normalized: true };
        experts.checked(origin).map(Some)
    }

    fn checked(self, origin: &str) -> Result<Experts> {
        // The most that llama.cpp takes is 512; a layer's names are made for each.
        const LIMIT: usize = 4096;
        let Experts { count, used, n_ff, .. } = self;
        if !(2..=LIMIT).contains(&count)
            || !(1..=count).contains(&used)
            || !(1..=1 << 30).contains(&n_ff)
        {
            let detail = format!("{used} of {count} experts of length {n_ff} are no mixture");
            return Err(Error::model(origin, detail));
        }
        Ok(self)
    }
}

impl TensorDecl {
    /// Whether it stands for a matrix of each expert.
    pub fn is_stacked(&self) -> bool {
        self.hf.contains(EXPERT)
    }

    /// Tensors of a checkpoint that make one of GGUF: as many as there are experts, or 1.
    pub fn copies(&self, hyper: &HyperParams) -> usize {
        match hyper.experts {
            Some(experts) if self.is_stacked() => experts.count,
            _ => 1,
        }
    }

    /// The Hugging Face name of expert `expert`'s matrix, which is ignored where there are no experts.
    pub fn hf_name_of(&self, layer: usize, expert: usize) -> String {
        self.hf.replace("{}", &layer.to_string()).replace(EXPERT, &expert.to_string())
    }

    /// The shape in GGUF, where the experts' matrices are one tensor; outermost first.
    pub fn gguf_shape(&self, hyper: &HyperParams) -> Vec<usize> {
        let mut shape = self.shape(hyper);
        if self.is_stacked() {
            shape.insert(0, self.copies(hyper));
        }
        shape
    }

    /// The expert's number in the Hugging Face name `name`, which is one of this declaration's.
    pub fn expert_in(&self, name: &str) -> Option<usize> {
        let (head, tail) = self.hf.split_once(EXPERT)?;
        let name = name.strip_suffix(tail)?;
        // Of what comes before, only the end has no layer's number in it.
        let head = head.rsplit("{}").next()?;
        canonical_number(&name[name.rfind(head)? + head.len()..])
    }
}

/// How many parameters a model has, and how many of them an expert has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    pub total: u64,
    /// Of one expert, in all layers.
    pub of_expert: u64,
    /// 0 if it is no mixture.
    pub experts: u64,
}

impl Parameters {
    /// Counts those of `table`, be it a checkpoint's or a GGUF model's.
    pub fn of(table: &TensorTable, hyper: &HyperParams) -> Parameters {
        let elements = |infos: &mut dyn Iterator<Item = &crate::formats::source::TensorInfo>| {
            infos.map(|info| info.elements() as u64).sum::<u64>()
        };
        let total = elements(&mut table.infos().iter());
        let Some(experts) = hyper.experts else {
            return Parameters { total, ..Default::default() };
        };
        let is_expert = |name: &str| name.contains("_exps.") || name.contains(".experts.");
        let all = elements(&mut table.infos().iter().filter(|info| is_expert(&info.name)));
        let experts = experts.count as u64;
        Parameters { total, of_expert: all / experts, experts }
    }

    /// Those of a model of which `total` is all that is known.
    pub fn total(total: u64) -> Parameters {
        Parameters { total, ..Parameters::default() }
    }

    /// Those of what is not an expert and one expert together, which `8x7B` names.
    pub fn with_one_expert(&self) -> u64 {
        self.total - self.of_expert * self.experts.saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_layer_and_expert() {
        let arch = Architecture::for_hf_class("test", "MixtralForCausalLM").unwrap();
        let name = "model.layers.13.block_sparse_moe.experts.7.w2.weight";
        let (decl, layer) = arch.match_hf(name).unwrap();
        assert_eq!((layer, decl.expert_in(name)), (Some(13), Some(7)));
        assert_eq!(decl.gguf_name(13), "blk.13.ffn_down_exps.weight");
        assert_eq!(decl.hf_name_of(13, 7), name);
        for wrong in ["experts.07.w2", "experts..w2", "experts.x.w2", "experts.7.w4"] {
            assert!(
                arch.match_hf(&format!("model.layers.13.block_sparse_moe.{wrong}.weight"))
                    .is_none()
            );
        }
        let router = arch.match_hf("model.layers.0.block_sparse_moe.gate.weight").unwrap().0;
        assert!(!router.is_stacked() && router.expert_in(router.hf).is_none());
    }

    #[test]
    fn a_mixture_is_told_from_a_dense_model_of_the_same_name() {
        let mut metadata = Metadata::new();
        metadata.set("general.architecture", "llama");
        let class = |metadata: &Metadata| {
            Architecture::for_metadata("test", metadata).unwrap().hf_classes[0]
        };
        assert_eq!(class(&metadata), "LlamaForCausalLM");
        metadata.set("llama.expert_count", 0u32);
        assert_eq!(class(&metadata), "LlamaForCausalLM");
        metadata.set("llama.expert_count", 8u32);
        assert_eq!(class(&metadata), "MixtralForCausalLM");
    }

    #[test]
    fn numbers_that_make_no_mixture_are_refused() {
        let check = |count, used, n_ff| {
            Experts { count, used, n_ff, normalized: true }.checked("m").is_ok()
        };
        assert!(check(8, 2, 64) && check(8, 8, 64));
        for (count, used, n_ff) in [(1, 1, 64), (8, 0, 64), (8, 9, 64), (8, 2, 0), (1 << 20, 2, 64)]
        {
            assert!(!check(count, used, n_ff), "{used} of {count}");
        }
    }

    #[test]
    fn experts_are_counted_apart() {
        let parameters = Parameters { total: 46_702_792_704, of_expert: 5_637_144_576, experts: 8 };
        assert_eq!(parameters.with_one_expert(), 7_242_780_672);
        assert_eq!(Parameters::total(7).with_one_expert(), 7);
    }
}
