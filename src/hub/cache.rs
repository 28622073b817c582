//! The shared cache of the hub's programs, and the environment variables that place it.
//!
//! Layout: `models--OWNER--NAME/refs/REVISION` holds a commit,
//! `models--OWNER--NAME/snapshots/COMMIT` the files, as links into `blobs`. Source:
//! `huggingface_hub`, `constants.py` and `file_download.py` (1.x).

use super::name::is_part;
use super::{HubName, HubReference};
use std::path::{Path, PathBuf};

/// Whether the environment forbids requests to the hub: `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`
/// is set to 1, on, yes or true.
pub fn is_offline() -> bool {
    let yes = |text: &str| ["1", "on", "yes", "true"].contains(&text.to_lowercase().as_str());
    let set = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    set("HF_HUB_OFFLINE").or_else(|| set("TRANSFORMERS_OFFLINE")).is_some_and(|text| yes(&text))
}

/// The folder named by an environment variable.
pub(super) fn folder_from_env(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The folder in which the hub's programs store tokens and caches, `~/.cache/huggingface` by
/// default.
pub(super) fn hub_home() -> Option<PathBuf> {
    folder_from_env("HF_HOME")
        .or_else(|| Some(folder_from_env("XDG_CACHE_HOME")?.join("huggingface")))
        .or_else(|| Some(std::env::home_dir()?.join(".cache/huggingface")))
}

/// The folder of the shared cache, `~/.cache/huggingface/hub` by default.
#[derive(Clone, Debug)]
pub struct HubCache(PathBuf);

impl HubCache {
    /// The cache in `folder`, which need not exist.
    pub fn new(folder: impl Into<PathBuf>) -> HubCache {
        HubCache(folder.into())
    }

    /// The cache that the environment variables name, else the default; `None` without a home
    /// folder.
    pub fn from_env() -> Option<HubCache> {
        let named = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"].into_iter().find_map(folder_from_env);
        named.or_else(|| Some(hub_home()?.join("hub"))).map(HubCache)
    }

    /// The folder of the model `name`.
    pub(super) fn repository(&self, name: &HubName) -> PathBuf {
        self.0.join(format!("models--{}--{}", name.owner, name.name))
    }

    /// The snapshot or file that `reference` names, if it is in the cache.
    pub fn find_reference(&self, reference: &HubReference) -> Option<PathBuf> {
        match &reference.file {
            None => self.find(&reference.name),
            Some(file) => {
                let path = self.snapshot(&reference.name)?.join(file);
                path.is_file().then_some(path)
            }
        }
    }

    /// The snapshot of `name`, if it is in the cache and complete: a folder with a configuration,
    /// which downloads write last, or with a GGUF file.
    pub fn find(&self, name: &HubName) -> Option<PathBuf> {
        self.snapshot(name).filter(|snapshot| is_complete(snapshot))
    }

    /// The folder of the snapshot of `name`, which need not exist.
    fn snapshot(&self, name: &HubName) -> Option<PathBuf> {
        let repository = self.repository(name);
        let commit = match std::fs::read_to_string(repository.join("refs").join(name.revision())) {
            Ok(text) => text.trim().to_string(),
            Err(_) => name.revision().to_string(),
        };
        is_part(&commit).then(|| repository.join("snapshots").join(&commit))
    }
}

/// Whether a snapshot has a configuration or a GGUF file.
fn is_complete(snapshot: &Path) -> bool {
    let is_gguf = |entry: std::fs::DirEntry| {
        entry.path().extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
    };
    CONFIGS.iter().any(|file| snapshot.join(file).is_file())
        || std::fs::read_dir(snapshot).is_ok_and(|list| list.flatten().any(is_gguf))
}

/// The configurations of models and adapters.
pub(super) const CONFIGS: &[&str] = &["config.json", "adapter_config.json"];

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn name(text: &str) -> Option<HubName> {
        match text.split_once('@') {
            Some((path, revision)) => HubName::parse(path, Some(revision)),
            None => HubName::parse(text, None),
        }
    }

    #[test]
    fn snapshots_are_found_by_branch_and_by_commit() {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("models--org--name");
        let snapshot = repository.join("snapshots/0a1b");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(repository.join("refs/refs/pr")).unwrap();
        fs::write(repository.join("refs/main"), "0a1b\n").unwrap();
        fs::write(repository.join("refs/refs/pr/1"), "0a1b").unwrap();
        fs::write(repository.join("refs/gone"), "ffff").unwrap();
        fs::write(repository.join("refs/evil"), "../../../x").unwrap();
        let cache = HubCache::new(dir.path());
        let find = |text: &str| cache.find(&name(text).unwrap());
        assert_eq!(find("org/name"), None, "not complete yet");
        fs::write(snapshot.join("config.json"), "{}").unwrap();
        for text in ["org/name", "org/name@main", "org/name@0a1b", "org/name@refs/pr/1"] {
            assert_eq!(find(text), Some(snapshot.clone()), "{text}");
        }
        for text in ["org/other", "org/name@gone", "org/name@evil"] {
            assert_eq!(find(text), None, "{text}");
        }
    }
}
