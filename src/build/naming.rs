//! What files of a build are called.
//!
//! Convention: ggml `docs/gguf.md`, "GGUF Naming Convention",
//! `BaseName-SizeLabel-FineTune-Version-Encoding-Type-Shard.gguf`. Encoding and shard are added by who writes the
//! file. Deliberately absent: a made-up version `v1.0` where none is known, as llama.cpp's converter
//! leaves it out too, and the type, which only adapters and vocabularies have.

use crate::formats::gguf::Metadata;

/// A name as it may stand in a file name: no separators, no spaces, no leading dots.
pub fn file_stem(name: &str) -> String {
    let kept = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    let stem: String = name.trim().chars().map(|c| if kept(c) { c } else { '-' }).collect();
    let stem = stem.trim_matches(['.', '-']);
    if stem.is_empty() { "model".to_string() } else { stem.to_string() }
}

/// `BaseName-SizeLabel-FineTune-Version`, if the metadata tell base name and size; of the rest what they
/// tell.
pub(super) fn conventional_stem(metadata: &Metadata) -> Option<String> {
    let told = |key: &str| metadata.str(&format!("general.{key}")).filter(|text| !text.is_empty());
    let mut parts = vec![told("basename")?, told("size_label")?];
    parts.extend(["finetune", "version"].into_iter().filter_map(told));
    let parts: Vec<_> = parts.into_iter().map(file_stem).collect();
    Some(parts.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_file_names() {
        assert_eq!(file_stem("Aqueducts 18B"), "Aqueducts-18B");
        assert_eq!(file_stem("../../etc/passwd"), "etc-passwd");
        assert_eq!(file_stem("..."), "model");
    }

    #[test]
    fn names_follow_the_convention_where_metadata_tell() {
        let mut metadata = Metadata::new();
        metadata.set("general.size_label", "7B");
        assert_eq!(conventional_stem(&metadata), None);
        metadata.set("general.version", "v0.3");
        metadata.set("general.basename", "../Mistral");
        assert_eq!(conventional_stem(&metadata).unwrap(), "Mistral-7B-v0.3");
        metadata.set("general.finetune", "Instruct x");
        assert_eq!(conventional_stem(&metadata).unwrap(), "Mistral-7B-Instruct-x-v0.3");
    }
}
