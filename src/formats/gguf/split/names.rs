//! Names of the shards of a split model, and the metadata keys that number them.
//!
//! Source: llama.cpp `tools/gguf-split`, October 2026.

/// Number of a shard, from 0.
pub(crate) const SPLIT_NO: &str = "split.no";
/// Number of shards.
pub(crate) const SPLIT_COUNT: &str = "split.count";
/// Number of tensors in all shards together.
pub(crate) const SPLIT_TENSORS: &str = "split.tensors.count";
/// The largest number of shards that names can hold: shard numbers have five digits.
pub(crate) const MAX_SHARDS: u64 = 99_999;

/// The name of shard `no` (from 0) of `count`, as gguf-split writes it.
pub fn shard_name(stem: &str, no: u64, count: u64) -> String {
    format!("{stem}-{:05}-of-{count:05}.gguf", no + 1)
}

/// Returns `stem` without the number of a shard, such as `-00001-of-00003`.
pub fn without_shard(stem: &str) -> &str {
    let digits = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
    match stem.rsplit_once("-of-").map(|(head, count)| (head.rsplit_once('-'), count)) {
        Some((Some((name, number)), count)) if digits(number) && digits(count) => name,
        _ => stem,
    }
}
