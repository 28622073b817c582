//! Parses references to models on the hub: a name, the address of a page or a file, or `hf://`.

use super::HubName;
use super::name::{MAIN, is_part};

/// A model on the hub, or one file of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubReference {
    /// The model.
    pub name: HubName,
    /// The path of the file within the repository.
    pub file: Option<String>,
}

/// The beginnings of addresses on the hub.
const ADDRESSES: &[&str] = &[
    "https://huggingface.co/",
    "http://huggingface.co/",
    "https://www.huggingface.co/",
    "https://hf.co/",
    "http://hf.co/",
    "huggingface.co/",
    "hf.co/",
];

/// The endings that distinguish a file from a repository.
const FILES: &[&str] =
    &[".gguf", ".yml", ".yaml", ".json", ".safetensors", ".bin", ".txt", ".part"];

impl HubReference {
    /// Parses `text`, with `revision` as the default revision.
    ///
    /// Accepts `OWNER/NAME[@REVISION]`, `OWNER/NAME/FILE.gguf`, addresses of pages
    /// (`/tree/REVISION`) and of files (`/blob/...`, `/resolve/...`), and
    /// `hf://OWNER/NAME[@REVISION][/FILE]`.
    pub fn parse(text: &str, revision: Option<&str>) -> Option<HubReference> {
        if let Some(rest) = text.strip_prefix("hf://") {
            return HubReference::parse_path(
                rest.strip_prefix("models/").unwrap_or(rest),
                revision,
            );
        }
        if let Some(rest) = ADDRESSES.iter().find_map(|start| text.strip_prefix(start)) {
            return HubReference::parse_address(rest, revision);
        }
        HubReference::parse_path(text, revision)
    }

    /// Parses `OWNER/NAME[@REVISION][/FILE]`.
    fn parse_path(text: &str, revision: Option<&str>) -> Option<HubReference> {
        let (text, given) = match text.split_once('@') {
            Some((path, given)) => (path.to_string(), Some(given)),
            None => (text.to_string(), None),
        };
        // A revision may contain slashes; a file after it is recognized by its ending.
        let (revision, after) = match given.or(revision).map(|text| (text, text.rsplit_once('/'))) {
            Some((_, Some((revision, file)))) if is_file(file) => (Some(revision), Some(file)),
            Some((revision, _)) => (Some(revision), None),
            None => (None, None),
        };
        let mut parts = text.trim_end_matches('/').splitn(3, '/');
        let (owner, name, inner) = (parts.next()?, parts.next()?, parts.next());
        let file = match (inner, after) {
            (Some(inner), None) if is_file(inner) => Some(inner),
            (None, after) => after,
            _ => return None,
        };
        if is_file(name) {
            return None;
        }
        HubReference::new(&format!("{owner}/{name}"), revision, file)
    }

    /// Parses the part of an address after the server.
    fn parse_address(text: &str, revision: Option<&str>) -> Option<HubReference> {
        let text = text.split(['?', '#']).next().unwrap_or(text).trim_end_matches('/');
        let mut parts = text.splitn(4, '/');
        let (owner, name) = (parts.next()?, parts.next()?);
        let path = format!("{owner}/{name}");
        match (parts.next(), parts.next()) {
            (None, _) => HubReference::parse_path(&path, revision),
            (Some("tree" | "blob" | "resolve" | "raw"), Some(rest)) => {
                let decoded = rest.replace("%2F", "/").replace("%2f", "/");
                // Pull requests are named refs/pr/N; other revisions have no slash in addresses.
                let pieces = if decoded.starts_with("refs/") { 3 } else { 1 };
                let at = decoded.match_indices('/').nth(pieces - 1).map(|(at, _)| at);
                let (revision, file) = match at {
                    Some(at) => (&decoded[..at], Some(&decoded[at + 1..])),
                    None => (decoded.as_str(), None),
                };
                HubReference::new(&path, Some(revision), file.filter(|file| is_file(file)))
            }
            (Some(_), _) => None,
        }
    }

    fn new(path: &str, revision: Option<&str>, file: Option<&str>) -> Option<HubReference> {
        let plain = |file: &str| file.split('/').all(is_part);
        if file.is_some_and(|file| !plain(file)) {
            return None;
        }
        let name = HubName::parse(path, revision.filter(|revision| *revision != MAIN))?;
        Some(HubReference { name, file: file.map(str::to_string) })
    }

    /// The command that downloads the model or file into the cache.
    pub fn download_command(&self) -> String {
        match &self.file {
            Some(file) => self.name.download_command_of(file),
            None => self.name.download_command(),
        }
    }
}

/// Whether `name` has the ending of a file.
fn is_file(name: &str) -> bool {
    FILES.iter().any(|end| name.to_ascii_lowercase().ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_addresses_and_files_are_parsed() {
        for (text, command) in [
            ("org/name", "hf download org/name"),
            ("org/name@v1", "hf download org/name --revision v1"),
            ("https://huggingface.co/org/name", "hf download org/name"),
            ("https://huggingface.co/org/name/", "hf download org/name"),
            ("https://huggingface.co/org/name/tree/main", "hf download org/name"),
            ("hf.co/org/name/tree/v1", "hf download org/name --revision v1"),
            (
                "https://huggingface.co/org/name/tree/refs%2Fpr%2F7",
                "hf download org/name --revision refs/pr/7",
            ),
            (
                "https://huggingface.co/org/name/resolve/main/m-Q4_K_M.gguf?download=true",
                "hf download org/name m-Q4_K_M.gguf",
            ),
            (
                "https://huggingface.co/org/name/blob/abc/q/m.gguf",
                "hf download org/name q/m.gguf --revision abc",
            ),
            ("hf://org/name", "hf download org/name"),
            ("hf://org/name@v1/m.gguf", "hf download org/name m.gguf --revision v1"),
            ("org/name/m.gguf", "hf download org/name m.gguf"),
        ] {
            let found = HubReference::parse(text, None).map(|found| found.download_command());
            assert_eq!(found.as_deref(), Some(command), "{text}");
        }
        let with = HubReference::parse("https://hf.co/org/name", Some("v2")).unwrap();
        assert_eq!(with.download_command(), "hf download org/name --revision v2");
    }

    #[test]
    fn paths_and_other_addresses_are_rejected() {
        for text in [
            "model",
            "./a/b",
            "../a/b",
            "/a/b",
            "out/model.gguf",
            "recipes/demo.yml",
            "a/b/c",
            "https://example.org/org/name",
            "https://huggingface.co/datasets/org/name",
            "https://huggingface.co/org/name/resolve/main/../../x.gguf",
            "hf://org",
        ] {
            assert_eq!(HubReference::parse(text, None), None, "{text}");
        }
    }
}
