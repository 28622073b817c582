//! Opening a Hugging Face folder: configuration, weights and the files beside them.

use super::weights::{StoredKind, StoredTensors, WeightFiles, is_plain_name};
use super::{Checkpoint, Config, ModelCard, SideFile, quantized};
use crate::base::error::{Error, Result};
use crate::base::output;
use crate::hub::HubName;
use std::path::Path;

/// Files that are copied unchanged with the weights. config.json is not among them, because merging
/// edits it.
const SIDE_FILES: &[&str] = &[
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
];

impl Checkpoint {
    /// Opens the Hugging Face folder `dir`: config.json and weights, in one file or in shards.
    /// Weights are safetensors or, if there are none, PyTorch's files. Headers are checked at once,
    /// data are read on demand.
    ///
    /// # Errors
    /// A folder without config.json or weights; damaged files; weights in a format that is not
    /// supported.
    pub fn open(dir: impl AsRef<Path>) -> Result<Checkpoint> {
        let dir = dir.as_ref();
        let meta = std::fs::metadata(dir).map_err(Error::io(dir, "open"))?;
        if !meta.is_dir() {
            return Err(Error::format(dir, "not a folder, so not a Hugging Face model"));
        }
        let config_path = dir.join("config.json");
        if !config_path.is_file() {
            return Err(Error::format(dir, no_config(dir)));
        }
        let mut config = Config::read(&config_path)?;
        let (mut stored, mut warnings) = stored(dir)?;
        if config.bool("tie_word_embeddings") != Some(false) {
            warnings.extend(use_head_as_embedding(&mut stored));
        }
        let quantized::Opened { tensors, warning } = quantized::open(stored, &mut config, dir)?;
        warnings.extend(warning);
        let side_files = side_files(dir)?;
        let card = ModelCard::in_folder(dir);
        Ok(Checkpoint { name: folder_name(dir), config, tensors, side_files, card, warnings })
    }
}

/// The side files in `dir`.
///
/// # Errors
/// A folder of named chat templates that cannot be listed.
pub(super) fn side_files(dir: &Path) -> Result<Vec<SideFile>> {
    let paths = SIDE_FILES.iter().map(|name| dir.join(name)).filter(|path| path.is_file());
    Ok(paths.map(SideFile::File).chain(additional_templates(dir)?).collect())
}

/// The folder within a model in which transformers 5 stores named chat templates.
pub const ADDITIONAL_TEMPLATES: &str = output::INNER_FOLDER;

/// The named chat templates of the model in `dir`, sorted by name.
fn additional_templates(dir: &Path) -> Result<Vec<SideFile>> {
    let folder = dir.join(ADDITIONAL_TEMPLATES);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(Error::io(&folder, "list"))? {
        let path = entry.map_err(Error::io(&folder, "list"))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".jinja") && is_plain_name(&name) && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    let file = |path| SideFile::InFolder { folder: ADDITIONAL_TEMPLATES, path };
    Ok(paths.into_iter().map(file).collect())
}

/// Whether `name` is allowed for a file of a model's folder: a plain file name, or a named chat
/// template.
pub(super) fn is_file_name(name: &str) -> bool {
    let inner = name.strip_prefix(ADDITIONAL_TEMPLATES).and_then(|name| name.strip_prefix('/'));
    inner.map_or(is_plain_name(name), |inner| is_plain_name(inner) && inner.ends_with(".jinja"))
}

fn no_config(dir: &Path) -> &'static str {
    if dir.join("adapter_config.json").is_file() {
        "holds a LoRA adapter, not a model; in a recipe, write BASE+ADAPTER as the model"
    } else {
        "no config.json in this folder, so it is not a Hugging Face model"
    }
}

/// The name of the model in `dir`: the name of the folder, or that of the repository for a snapshot
/// in the hub's cache (`models--OWNER--NAME/snapshots/HASH`).
fn folder_name(dir: &Path) -> String {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
    // Symbolic links stay unresolved if they have a name, because people choose it on purpose.
    let named =
        if dir.file_name().is_some() { absolute } else { dir.canonicalize().unwrap_or(absolute) };
    let text = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned());
    let is_snapshot = |path: &Path| {
        path.parent().is_some_and(|p| p.file_name().is_some_and(|n| n == "snapshots"))
    };
    let in_cache = || {
        is_snapshot(&named)
            .then(|| HubName::of_snapshot(&named))?
            .map(|name| name.model().to_string())
    };
    in_cache().or_else(|| text(&named)).unwrap_or_else(|| "model".to_string())
}

/// Opens the weights in `dir` and returns their tensors, with warnings about the choice of files.
fn stored(dir: &Path) -> Result<(StoredTensors, Vec<String>)> {
    let mut weights = WeightFiles::open(dir)?;
    let warnings = std::mem::take(&mut weights.warnings);
    Ok((StoredTensors::new(dir.display().to_string(), weights), warnings))
}

/// Uses an output head as the embedding if the embedding is not stored, as transformers 5 does for
/// tied embeddings (`modeling_utils.py`, `tie_weights`). Programs that store shared tensors once
/// choose either name.
fn use_head_as_embedding(stored: &mut StoredTensors) -> Option<String> {
    const EMBEDDING: &str = "model.embed_tokens.weight";
    const HEAD: &str = "lm_head.weight";
    let head = stored.find(HEAD).filter(|_| stored.find(EMBEDDING).is_none())?;
    if stored.tensors()[head].kind() != StoredKind::Float {
        return None;
    }
    stored.rename(head, EMBEDDING);
    Some(format!(
        "{} stores '{HEAD}' without '{EMBEDDING}', which is tied to it; '{HEAD}' is used as both",
        stored.origin()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_plain_or_those_of_named_templates() {
        assert!(is_file_name("config.json") && is_file_name("additional_chat_templates/rag.jinja"));
        for name in [
            "additional_chat_templates/",
            "additional_chat_templates/../a.jinja",
            "additional_chat_templates/a/b.jinja",
            "additional_chat_templates/a.py",
            "additional_chat_templates//a.jinja",
            "other/a.jinja",
        ] {
            assert!(!is_file_name(name), "{name}");
        }
    }

    #[test]
    fn cached_snapshots_are_named_after_their_repository() {
        let name = |path: &str| folder_name(Path::new(path));
        assert_eq!(name("/models/Fimbulvetr-11B-v2/"), "Fimbulvetr-11B-v2");
        assert_eq!(
            name("/hub/models--Sao10K--Fimbulvetr-11B-v2/snapshots/0a1b2c"),
            "Fimbulvetr-11B-v2"
        );
    }
}
