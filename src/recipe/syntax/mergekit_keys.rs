//! Keys that mergekit takes for its command line, or took in an earlier version, and that people have in recipes.
//!
//! mergekit ignores every key that it does not know. Here those that ask for what happens anyway are accepted, and
//! others are a warning with the reason; `random_seed` is read ([`super::schema`]). A key of neither program stays an
//! error. Source: mergekit 0.0.2 to 0.1.5, `options.py` (`MergeOptions`) and `config.py` (`MergeConfiguration`).

use super::diagnostics::Diagnostics;
use super::yaml::{At, Kind, Node};

/// A key, the value that asks for what happens anyway, and why others have no effect.
struct Foreign {
    key: &'static str,
    usual: Option<bool>,
    reason: &'static str,
    remedy: &'static str,
}

const fn foreign(
    key: &'static str,
    usual: Option<bool>,
    reason: &'static str,
    remedy: &'static str,
) -> Foreign {
    Foreign { key, usual, reason, remedy }
}

const DEVICE: &str = "merges run on the processor, tensor by tensor";
const THREADS: &str = "the result does not depend on threads";
const WRITTEN: &str = "it is written whatever the recipe says";
const REMOVE: &str = "remove it";

#[rustfmt::skip]
const FOREIGN: &[Foreign] = &[
    foreign("allow_crimes", Some(false), "models of different architectures cannot be merged", REMOVE),
    foreign("async_write", None, "tensors are always written while others are computed", REMOVE),
    foreign("clone_tensors", None, "a layer may always be used several times", REMOVE),
    foreign("copy_tokenizer", Some(true), WRITTEN, "delete the tokenizer's files from the result if need be"),
    foreign("cuda", Some(false), DEVICE, REMOVE),
    foreign("device", None, DEVICE, REMOVE),
    foreign("gpu_rich", Some(false), DEVICE, REMOVE),
    foreign("input_model_parameters", None, "mergekit has ignored it since 0.0.3", "move the values to 'parameters' below each model"),
    foreign("int8_mask", None, "masks take one bit an element whatever it says", REMOVE),
    foreign("lazy_unpickle", None, "weights are always read when they are needed", REMOVE),
    foreign("lora_merge_cache", None, "adapters are merged when a tensor is read, without a cache", REMOVE),
    foreign("lora_merge_dtype", None, "adapters are merged in float32 and rounded to the model's type", REMOVE),
    foreign("low_cpu_memory", Some(false), DEVICE, REMOVE),
    foreign("multi_gpu", Some(false), DEVICE, REMOVE),
    foreign("num_threads", None, THREADS, "give --threads"),
    foreign("out_shard_size", None, "the size of shards is an option", "give --max-shard-size"),
    foreign("quiet", Some(false), "what is printed is an option", "give --quiet"),
    foreign("read_to_gpu", Some(false), DEVICE, REMOVE),
    foreign("safe_serialization", Some(true), "weights are always written as safetensors", REMOVE),
    foreign("transformers_cache", None, "the cache of the hub is found by the variables HF_HOME and HF_HUB_CACHE", REMOVE),
    foreign("trust_remote_code", Some(false), "no code of a model is ever run", REMOVE),
    foreign("unsafe_truncate_embeddings", Some(false), "embeddings are never cut off", "choose the tokens of the result with 'tokenizer: {source: ...}'"),
    foreign("verbosity", None, "what is printed is an option", "give --quiet or --log"),
    foreign("write_model_card", Some(true), WRITTEN, "delete README.md from the result if need be"),
    foreign("write_threads", None, THREADS, "give --threads"),
];

/// The keys, for suggestions.
pub(crate) fn keys() -> impl Iterator<Item = &'static str> {
    FOREIGN.iter().map(|foreign| foreign.key)
}

/// Takes the keys of mergekit's that have no effect here out of `node`, with a warning where that matters.
pub(crate) fn without(node: &Node, problems: &mut Diagnostics) -> Node {
    let Kind::Map(entries) = &node.value else { return node.clone() };
    let mut is_own = |(key, value): &&(At<String>, Node)| {
        let Some(foreign) = FOREIGN.iter().find(|foreign| foreign.key == key.value) else {
            return true;
        };
        let usual = foreign.usual.is_some_and(|usual| value.value == Kind::Bool(usual));
        if !usual && value.value != Kind::Null {
            let message = format!("'{}' has no effect: {}", foreign.key, foreign.reason);
            problems.warn(key.pos, message, foreign.remedy);
        }
        false
    };
    let kept = entries.iter().filter(&mut is_own).cloned().collect();
    Node::new(Kind::Map(kept), node.pos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_and_unique() {
        let keys: Vec<_> = keys().collect();
        assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
    }
}
