//! Models by their names on the Hugging Face hub: found in the cache that its programs share and, if the
//! program is built with the feature `hub`, downloaded into it; and folders uploaded.
//!
//! Layout of the cache and the variables that place it: `huggingface_hub`, `constants.py` and
//! `file_download.py` (1.x): `models--OWNER--NAME/refs/REVISION` holds a commit,
//! `models--OWNER--NAME/snapshots/COMMIT` the files, as links into `blobs`. Deliberately absent: removing
//! anything from it, and asking the hub about what is there already.

#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod digest;
#[cfg(feature = "hub")]
mod download;
#[cfg(feature = "hub")]
mod lfs;
mod reference;
#[cfg(feature = "hub")]
mod token;
#[cfg(feature = "hub")]
mod upload;

#[cfg(feature = "hub")]
pub use download::download;
#[cfg(feature = "hub")]
pub use upload::{Fate, LocalFile, SentFile, Upload, Uploaded, upload};

pub use reference::HubReference;

use std::path::{Path, PathBuf};

/// The revision that a name without one means.
const MAIN: &str = "main";

/// A model's name on the hub, and a revision of it: a branch, a tag or a commit. Made of characters that
/// lead out of no folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    owner: String,
    name: String,
    revision: Option<String>,
}

impl HubName {
    /// The name that `OWNER/NAME` is, if it can be one.
    pub fn parse(path: &str, revision: Option<&str>) -> Option<HubName> {
        let (owner, name) = path.split_once('/')?;
        let usable = is_part(owner) && is_part(name) && !path.contains("--");
        // Branches may have slashes: refs/pr/1.
        let revision_usable = revision.is_none_or(|text| text.split('/').all(is_part));
        (usable && revision_usable).then(|| HubName {
            owner: owner.to_string(),
            name: name.to_string(),
            revision: revision.map(str::to_string),
        })
    }

    /// The revision, `main` where none was given.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }

    /// `OWNER/NAME`.
    pub fn path(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    /// The command that gets the model into the cache.
    pub fn download_command(&self) -> String {
        format!("hf download {}{}", self.path(), self.revision_argument())
    }

    /// The command that gets one file of it.
    pub fn download_command_of(&self, file: &str) -> String {
        format!("hf download {} {file}{}", self.path(), self.revision_argument())
    }

    fn revision_argument(&self) -> String {
        let revision = self.revision.as_ref().map(|revision| format!(" --revision {revision}"));
        revision.unwrap_or_default()
    }

    /// The model whose snapshot in the cache `path` is, or lies in.
    pub fn of_snapshot(path: &Path) -> Option<HubName> {
        let mut ancestors = path.ancestors();
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let snapshots = ancestors.find(|path| name(path).as_deref() == Some("snapshots"))?;
        let repository = name(snapshots.parent()?)?;
        let (owner, model) = repository.strip_prefix("models--")?.split_once("--")?;
        HubName::parse(&format!("{owner}/{model}"), None)
    }

    /// The name without the owner.
    pub fn model(&self) -> &str {
        &self.name
    }
}

/// The characters that the hub allows in a name.
fn is_part(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !text.is_empty()
        && text.len() <= 96
        && text.bytes().all(allowed)
        && !text.starts_with(['.', '-'])
        && !text.ends_with(['.', '-'])
}

/// Whether the environment forbids to ask the hub: `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE` is set to a word for yes.
pub fn is_offline() -> bool {
    let yes = |text: &str| ["1", "on", "yes", "true"].contains(&text.to_lowercase().as_str());
    let set = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    set("HF_HUB_OFFLINE").or_else(|| set("TRANSFORMERS_OFFLINE")).is_some_and(|text| yes(&text))
}

/// The folder named by an environment variable.
fn folder_from_env(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The folder of everything that the hub's programs keep, `~/.cache/huggingface` by default.
fn hub_home() -> Option<PathBuf> {
    folder_from_env("HF_HOME")
        .or_else(|| Some(folder_from_env("XDG_CACHE_HOME")?.join("huggingface")))
        .or_else(|| Some(std::env::home_dir()?.join(".cache/huggingface")))
}

/// The shared cache's folder, `~/.cache/huggingface/hub` by default.
#[derive(Clone, Debug)]
pub struct HubCache(PathBuf);

impl HubCache {
    pub fn new(folder: impl Into<PathBuf>) -> HubCache {
        HubCache(folder.into())
    }

    /// The place that the environment tells; `None` where there is not even a home.
    pub fn from_env() -> Option<HubCache> {
        let own = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"].into_iter().find_map(folder_from_env);
        own.or_else(|| Some(hub_home()?.join("hub"))).map(HubCache)
    }

    fn repository(&self, name: &HubName) -> PathBuf {
        self.0.join(format!("models--{}--{}", name.owner, name.name))
    }

    /// The snapshot of a model, or the file in it, that `reference` means, if it is in the cache.
    pub fn find_reference(&self, reference: &HubReference) -> Option<PathBuf> {
        match &reference.file {
            None => self.find(&reference.name),
            Some(file) => {
                let path = self.snapshot(&reference.name)?.join(file);
                path.is_file().then_some(path)
            }
        }
    }

    /// The snapshot of `name`, if it is in the cache: a folder with a configuration, which downloads put
    /// there last, or with a GGUF file.
    pub fn find(&self, name: &HubName) -> Option<PathBuf> {
        self.snapshot(name).filter(|snapshot| is_whole(snapshot))
    }

    /// The folder that a snapshot of `name` has, whether it is there or not.
    fn snapshot(&self, name: &HubName) -> Option<PathBuf> {
        let repository = self.repository(name);
        let commit = match std::fs::read_to_string(repository.join("refs").join(name.revision())) {
            Ok(text) => text.trim().to_string(),
            Err(_) => name.revision().to_string(),
        };
        is_part(&commit).then(|| repository.join("snapshots").join(&commit))
    }
}

/// Whether a snapshot has what a model cannot be without.
fn is_whole(snapshot: &Path) -> bool {
    let is_gguf = |entry: std::fs::DirEntry| {
        entry.path().extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
    };
    CONFIGS.iter().any(|file| snapshot.join(file).is_file())
        || std::fs::read_dir(snapshot).is_ok_and(|list| list.flatten().any(is_gguf))
}

/// What a model or an adapter cannot be without.
const CONFIGS: &[&str] = &["config.json", "adapter_config.json"];

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
        assert_eq!(find("org/name"), None, "not whole yet");
        fs::write(snapshot.join("config.json"), "{}").unwrap();
        for text in ["org/name", "org/name@main", "org/name@0a1b", "org/name@refs/pr/1"] {
            assert_eq!(find(text), Some(snapshot.clone()), "{text}");
        }
        for text in ["org/other", "org/name@gone", "org/name@evil"] {
            assert_eq!(find(text), None, "{text}");
        }
    }

    #[test]
    fn names_lead_out_of_no_folder() {
        let command = |text: &str| name(text).map(|name| name.download_command());
        assert_eq!(command("org/name").unwrap(), "hf download org/name");
        assert_eq!(command("org/name@v1").unwrap(), "hf download org/name --revision v1");
        for bad in [
            "name",
            "a/b/c",
            "./org/name",
            "../name",
            "/org/name",
            "org/name; ls",
            "a--b/c",
            "org/name@$(x)",
            "org/name@../refs",
            "org/name@a//b",
        ] {
            assert_eq!(command(bad), None, "{bad}");
        }
    }
}
