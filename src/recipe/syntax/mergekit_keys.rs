//! Keys that mergekit takes for its command line, or took in an earlier version, and that people have in recipes.
//!
//! mergekit ignores every key that it does not know. Here those that ask for what happens anyway are accepted, and
//! others are a warning with the reason; `random_seed` is read ([`super::schema`]). A key of neither program stays an
//! error. SourceEntry: mergekit 0.0.2 to 0.1.5, `options.py` (`MergeOptions`) and `config.py` (`MergeConfiguration`).

use super::diagnostics::Diagnostics;
use super::yaml::{Located, Node, YamlValue};

/// A key, the value that asks for what happens anyway, and why others have no effect.
struct MergekitKey {
    key: &'static str,
    usual: Option<bool>,
    reason: &'static str,
    remedy: &'static str,
}

const fn mergekit_key(
    key: &'static str,
    usual: Option<bool>,
    reason: &'static str,
    remedy: &'static str,
) -> MergekitKey {
    MergekitKey { key, usual, reason, remedy }
}

const DEVICE: &str = "merges run on the processor, tensor by tensor";
const THREADS: &str = "the result does not depend on threads";
const WRITTEN: &str = "it is written whatever the recipe says";
const REMOVE: &str = "remove it";

#[rustfmt::skip]
const MERGEKIT_KEYS: &[MergekitKey] = &[
    mergekit_key("allow_crimes", Some(false), "models of different architectures cannot be merged", REMOVE),
    mergekit_key("async_write", None, "tensors are always written while others are computed", REMOVE),
    mergekit_key("clone_tensors", None, "a layer may always be used several times", REMOVE),
    mergekit_key("copy_tokenizer", Some(true), WRITTEN, "leave out the tokenizer's files when you use the result"),
    mergekit_key("cuda", Some(false), DEVICE, REMOVE),
    mergekit_key("device", None, DEVICE, REMOVE),
    mergekit_key("gpu_rich", Some(false), DEVICE, REMOVE),
    mergekit_key("input_model_parameters", None, "mergekit has ignored it since 0.0.3", "move the values to 'parameters' below each model"),
    mergekit_key("int8_mask", None, "masks take one bit an element whatever it says", REMOVE),
    mergekit_key("lazy_unpickle", None, "weights are always read when they are needed", REMOVE),
    mergekit_key("lora_merge_cache", None, "adapters are merged when a tensor is read, without a cache", REMOVE),
    mergekit_key("lora_merge_dtype", None, "adapters are merged in float32 and rounded to the model's type", REMOVE),
    mergekit_key("low_cpu_memory", Some(false), DEVICE, REMOVE),
    mergekit_key("multi_gpu", Some(false), DEVICE, REMOVE),
    mergekit_key("num_threads", None, THREADS, "give --threads"),
    mergekit_key("out_shard_size", None, "the size of shards is an option", "give --max-shard-size"),
    mergekit_key("quiet", Some(false), "what is printed is an option", "give --quiet"),
    mergekit_key("read_to_gpu", Some(false), DEVICE, REMOVE),
    mergekit_key("safe_serialization", Some(true), "weights are always written as safetensors", REMOVE),
    mergekit_key("transformers_cache", None, "the cache of the hub is found by the variables HF_HOME and HF_HUB_CACHE", REMOVE),
    mergekit_key("trust_remote_code", Some(false), "no code of a model is ever run", REMOVE),
    mergekit_key("unsafe_truncate_embeddings", Some(false), "embeddings are never cut off", "choose the tokens of the result with 'tokenizer: {source: ...}'"),
    mergekit_key("verbosity", None, "what is printed is an option", "give --quiet or --log"),
    mergekit_key("write_model_card", Some(true), WRITTEN, "edit README.md in the result"),
    mergekit_key("write_threads", None, THREADS, "give --threads"),
];

/// The keys, for suggestions.
pub(crate) fn keys() -> impl Iterator<Item = &'static str> {
    MERGEKIT_KEYS.iter().map(|foreign| foreign.key)
}

/// Takes the keys of mergekit's that have no effect here out of `node`, with a warning where that matters.
pub(crate) fn without(node: &Node, problems: &mut Diagnostics) -> Node {
    let YamlValue::Map(entries) = &node.value else { return node.clone() };
    let mut is_own = |(key, value): &&(Located<String>, Node)| {
        let Some(foreign) = MERGEKIT_KEYS.iter().find(|foreign| foreign.key == key.value) else {
            return true;
        };
        let usual = foreign.usual.is_some_and(|usual| value.value == YamlValue::Bool(usual));
        if !usual && value.value != YamlValue::Null {
            let message = format!("'{}' has no effect: {}", foreign.key, foreign.reason);
            problems.warn(key.pos, message, foreign.remedy);
        }
        false
    };
    let kept = entries.iter().filter(&mut is_own).cloned().collect();
    Node::new(YamlValue::Map(kept), node.pos)
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
