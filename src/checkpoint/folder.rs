//! Reading a Hugging Face folder: which files belong to it.

use super::stored::Stored;
use super::weights::{Naming, PYTORCH, SAFETENSORS, WeightsFile};
use super::{Checkpoint, Config, ModelCard, SideFile, quantized};
use crate::error::{Error, Result};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Component, Path};

/// Files that travel with the weights unchanged. Not config.json, which merging edits.
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
    /// Opens the Hugging Face folder `dir`: config.json and weights, in one file or in shards;
    /// safetensors, or PyTorch's files where there are none. Headers are checked now, data are read when asked for.
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
        let quantized::Opened { tensors, warning } =
            quantized::open(stored(dir)?, &mut config, dir)?;
        let side_files = SIDE_FILES.iter().map(|name| dir.join(name)).filter(|path| path.is_file());
        let side_files = side_files.map(SideFile::File).collect();
        let card = ModelCard::beside(dir);
        Ok(Checkpoint {
            name: folder_name(dir),
            config,
            tensors,
            side_files,
            card,
            warnings: warning.into_iter().collect(),
        })
    }
}

fn no_config(dir: &Path) -> &'static str {
    if dir.join("adapter_config.json").is_file() {
        "holds an adapter (LoRA), not a model: in a recipe, write BASE+ADAPTER as the model"
    } else {
        "no config.json in this folder, so it is no Hugging Face model"
    }
}

/// What people call the model in `dir`: the folder's name, or the repository's for a snapshot in the
/// hub's cache (`models--OWNER--NAME/snapshots/HASH`).
fn folder_name(dir: &Path) -> String {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
    // `canonicalize` only where the path does not end in a name: links are often named on purpose.
    let named =
        if dir.file_name().is_some() { absolute } else { dir.canonicalize().unwrap_or(absolute) };
    let text = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned());
    let in_cache = || {
        let snapshots =
            named.parent().filter(|p| p.file_name().is_some_and(|n| n == "snapshots"))?;
        let repository = text(snapshots.parent()?)?;
        Some(repository.strip_prefix("models--")?.rsplit("--").next()?.to_string())
    };
    in_cache().or_else(|| text(&named)).unwrap_or_else(|| "model".to_string())
}

/// The tensors of a folder's files, checked against the index if there is one.
fn stored(dir: &Path) -> Result<Stored> {
    let origin = dir.display().to_string();
    let (naming, names) = find_weights(dir)?;
    let index = dir.join(naming.index);
    let weight_map = if index.is_file() { read_index(&index)? } else { BTreeMap::new() };
    let names = match names {
        Some(names) => names,
        None => weight_map.values().cloned().collect::<BTreeSet<_>>().into_iter().collect(),
    };
    check_present(dir, &names)?;
    let shards =
        (names.iter()).map(|name| WeightsFile::open(dir.join(name))).collect::<Result<Vec<_>>>()?;
    let stored = Stored::new(origin, shards)?;
    check_index(&index, &weight_map, &names, stored.files())?;
    Ok(stored)
}

/// The weights of a folder: their naming, and the names unless there is an index to tell them.
fn find_weights(dir: &Path) -> Result<(&'static Naming, Option<Vec<String>>)> {
    for naming in [&SAFETENSORS, &PYTORCH] {
        if dir.join(naming.index).is_file() {
            return Ok((naming, None));
        }
        if dir.join(naming.single).is_file() {
            return Ok((naming, Some(vec![naming.single.to_string()])));
        }
        let mut found = BTreeSet::new();
        for entry in std::fs::read_dir(dir).map_err(Error::io(dir, "list"))? {
            let name = entry.map_err(Error::io(dir, "list"))?.file_name();
            let name = name.to_string_lossy();
            if naming.matches(&name) {
                found.insert(name.into_owned());
            }
        }
        let numbered = found.iter().find_map(|name| naming.shard_count(name));
        match (found.len(), numbered) {
            (0, _) => {}
            (_, Some((stem, count))) => return Ok((naming, Some(naming.shards(&stem, count)))),
            (1, None) => return Ok((naming, Some(found.into_iter().collect()))),
            (n, None) => {
                let detail = format!(
                    "{n} {} files and no {} to say which of them make the model",
                    naming.suffix.trim_start_matches('.'),
                    naming.index
                );
                return Err(Error::format(dir, detail));
            }
        }
    }
    let detail = "no weights in this folder: neither safetensors nor pytorch_model.bin";
    Err(Error::format(dir, detail))
}

/// Reads the index: tensor name to file name, every file name checked.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: UniqueMap,
    }
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    let index: Index = serde_json::from_slice(&bytes)
        .map_err(|e| Error::format(path, format!("no usable index: {e}")))?;
    let map = index.weight_map.0;
    if map.is_empty() {
        return Err(Error::format(path, "its weight_map is empty"));
    }
    match map.iter().find(|(_, file)| !is_plain_name(file)) {
        Some((tensor, file)) => {
            let detail =
                format!("puts tensor '{tensor}' into '{file}', which is no plain file name");
            Err(Error::format(path, detail))
        }
        None => Ok(map),
    }
}

/// Whether `name` names a file in a folder and nothing outside it, on any system.
pub(super) fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(n)), None) if n == name)
        && !name.contains(['/', '\\', ':', '\0'])
}

/// A JSON object of strings in which no key occurs twice.
struct UniqueMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for UniqueMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<UniqueMap, D::Error> {
        struct MapVisitor;

        impl<'de> Visitor<'de> for MapVisitor {
            type Value = UniqueMap;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensor names and file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueMap, A::Error> {
                let mut out = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if let Some(first) = out.insert(key.clone(), value) {
                        let text = format!("tensor '{key}' occurs twice, first in '{first}'");
                        return Err(A::Error::custom(text));
                    }
                }
                Ok(UniqueMap(out))
            }
        }

        deserializer.deserialize_map(MapVisitor)
    }
}

fn check_present(dir: &Path, names: &[String]) -> Result<()> {
    let missing: Vec<_> = names.iter().filter(|n| !dir.join(n).is_file()).collect();
    match missing.first() {
        None => Ok(()),
        Some(first) => {
            let of = names.len();
            let detail = match missing.len() {
                1 => format!("shard '{first}' is missing"),
                n => format!("{n} of {of} shards are missing, '{first}' first"),
            };
            Err(Error::format(dir, detail))
        }
    }
}

/// Checks that every tensor of the index is in the shard that the index names.
fn check_index(
    index: &Path,
    weight_map: &BTreeMap<String, String>,
    names: &[String],
    shards: &[WeightsFile],
) -> Result<()> {
    let mut found = BTreeSet::new();
    for (name, shard) in names.iter().zip(shards) {
        found.extend(shard.entries().iter().map(|e| (e.name, name.as_str())));
    }
    match weight_map.iter().find(|(t, f)| !found.contains(&(t.as_str(), f.as_str()))) {
        None => Ok(()),
        Some((tensor, file)) => {
            let origin = index.display().to_string();
            Err(Error::tensor(origin, tensor, format!("is said to be in '{file}', which lacks it")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_plain() {
        assert!(is_plain_name("model-00001-of-00002.safetensors"));
        assert!(is_plain_name("..model"));
        for bad in ["", ".", "..", "a/b", "../a", "/etc/passwd", "a\\b", "C:a", "a/", "a\0"] {
            assert!(!is_plain_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn names_of_cached_snapshots_are_the_repositories() {
        let name = |path: &str| folder_name(Path::new(path));
        assert_eq!(name("/models/Fimbulvetr-11B-v2/"), "Fimbulvetr-11B-v2");
        assert_eq!(
            name("/hub/models--Sao10K--Fimbulvetr-11B-v2/snapshots/0a1b2c"),
            "Fimbulvetr-11B-v2"
        );
    }
}
