//! Names of models on the hub: `OWNER/NAME` with a revision.

use std::path::Path;

/// The revision of a name without one.
pub(super) const MAIN: &str = "main";

/// The name of a model on the hub, and a revision of it: a branch, a tag or a commit.
///
/// All parts consist of characters that are safe in paths, and none is `..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    pub(super) owner: String,
    pub(super) name: String,
    revision: Option<String>,
}

impl HubName {
    /// Parses `OWNER/NAME`; `None` if it is no valid name or `revision` is no valid revision.
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

    /// The revision; `main` if none was given.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }

    /// `OWNER/NAME`.
    pub fn path(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    /// The command that downloads the model into the cache.
    pub fn download_command(&self) -> String {
        format!("hf download {}{}", self.path(), self.revision_argument())
    }

    /// The command that downloads one file of the model.
    pub fn download_command_of(&self, file: &str) -> String {
        format!("hf download {} {file}{}", self.path(), self.revision_argument())
    }

    fn revision_argument(&self) -> String {
        let revision = self.revision.as_ref().map(|revision| format!(" --revision {revision}"));
        revision.unwrap_or_default()
    }

    /// The model whose snapshot in the cache contains `path`.
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

/// Whether `text` is a valid part of a name: the characters and the length that the hub allows.
pub(super) fn is_part(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !text.is_empty()
        && text.len() <= 96
        && text.bytes().all(allowed)
        && !text.starts_with(['.', '-'])
        && !text.ends_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_a_folder() {
        let command = |text: &str| {
            let (path, revision) = match text.split_once('@') {
                Some((path, revision)) => (path, Some(revision)),
                None => (text, None),
            };
            HubName::parse(path, revision).map(|name| name.download_command())
        };
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
