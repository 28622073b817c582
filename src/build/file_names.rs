//! File names: from names of models, from metadata, and of paths.
//!
//! Convention: ggml `docs/gguf.md`, "GGUF Naming Convention",
//! `BaseName-SizeLabel-FineTune-Version-Encoding-Type-Shard.gguf`. The code that writes a file adds
//! encoding and shard. Not here: a default version (llama.cpp's converter adds none either), and the
//! type, which only adapters and vocabularies have.

use crate::formats::gguf::Metadata;
use std::path::Path;

/// Turns `name` into a part of a file name: no separators, no spaces, no leading dots.
pub fn file_stem(name: &str) -> String {
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    let stem: String = name.trim().chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    let stem = stem.trim_matches(['.', '-']);
    if stem.is_empty() { "model".to_string() } else { stem.to_string() }
}

/// `BaseName-SizeLabel-FineTune-Version`, if the metadata contain base name and size; fine-tune and
/// version are left out where they are missing.
pub(super) fn conventional_stem(metadata: &Metadata) -> Option<String> {
    let value = |key: &str| metadata.str(&format!("general.{key}")).filter(|text| !text.is_empty());
    let mut parts = vec![value("basename")?, value("size_label")?];
    parts.extend(["finetune", "version"].into_iter().filter_map(value));
    let parts: Vec<_> = parts.into_iter().map(file_stem).collect();
    Some(parts.join("-"))
}

/// The last component of `path`.
pub(super) fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
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
    fn names_follow_the_convention_if_metadata_have_base_name_and_size() {
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
