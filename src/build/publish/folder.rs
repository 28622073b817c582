//! What a folder has to publish, and whether it may be.

use super::Options;
use super::pattern::Pattern;
use crate::base::error::{Error, Result};
use crate::base::progress::Progress;
use crate::build::STATE_FILE;
use crate::build::checksums::SUMS_FILE;
use crate::build::verify;
use crate::report::escape_control_chars;
use serde::Serialize;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The model card.
const CARD: &str = "README.md";
/// No card and no state of a build is longer.
const MAX_TEXT: u64 = 256 << 20;
/// Folders in folders; `build` makes one level.
const MAX_DEPTH: usize = 8;

/// A file that is to go.
#[derive(Clone, Debug, Serialize)]
pub struct File {
    /// Its path in the repository, with `/`.
    pub name: String,
    pub bytes: u64,
    /// Where it is.
    #[serde(skip)]
    pub path: PathBuf,
    /// When it was changed last.
    #[serde(skip)]
    pub modified: Option<SystemTime>,
}

/// A folder's files.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    /// Those that are to go, by name.
    pub files: Vec<File>,
}

impl Folder {
    /// Lists what `options` choose.
    ///
    /// # Errors
    /// If the folder cannot be read, was left by a build that did not finish, has no GGUF file, or has names that the
    /// hub does not take; if nothing is chosen.
    pub fn open(options: &Options) -> Result<Folder> {
        let path = options.folder.clone();
        if !path.is_dir() {
            return Err(Error::Usage(format!("{}: no folder", path.display())));
        }
        let mut folder = Folder { path: path.clone(), files: Vec::new() };
        folder.add(&path, "", 0)?;
        folder.files.sort_by(|a, b| a.name.cmp(&b.name));
        if !folder.files.iter().any(|file| is_gguf(&file.name)) {
            return Err(Error::format(&path, "holds no GGUF file, so there is nothing to publish"));
        }
        let (include, exclude) = (Pattern::all(&options.include)?, Pattern::all(&options.exclude)?);
        let any = |patterns: &[Pattern], name: &str| patterns.iter().any(|p| p.matches(name));
        folder.files.retain(|file| {
            (include.is_empty() || any(&include, &file.name)) && !any(&exclude, &file.name)
        });
        if folder.files.is_empty() {
            let text = format!("{}: no file is chosen by --include and --exclude", path.display());
            return Err(Error::Usage(text));
        }
        Ok(folder)
    }

    /// How many bytes are to go.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Adds the files in `dir`, whose path in the repository is `name`.
    fn add(&mut self, dir: &Path, name: &str, depth: usize) -> Result<()> {
        for entry in std::fs::read_dir(dir).map_err(Error::io(dir, "read"))? {
            let entry = entry.map_err(Error::io(dir, "read"))?;
            let path = entry.path();
            let Ok(last) = entry.file_name().into_string() else {
                return Err(Error::format(
                    path,
                    "its name is no text, which the hub wants; rename it",
                ));
            };
            if last.starts_with('.') {
                unfinished(&path, &last)?;
                continue;
            }
            if last.contains('\\') || last.chars().any(char::is_control) {
                return Err(Error::format(path, "the hub does not take its name; rename it"));
            }
            let name = if name.is_empty() { last } else { format!("{name}/{last}") };
            // What a link leads to goes, but not whole folders from elsewhere.
            if entry.file_type().map_err(Error::io(&path, "examine"))?.is_dir() {
                if depth == MAX_DEPTH {
                    return Err(Error::format(path, "folders are too deep here to be published"));
                }
                self.add(&path, &name, depth + 1)?;
                continue;
            }
            let meta = std::fs::metadata(&path).map_err(Error::io(&path, "examine"))?;
            if !meta.is_file() {
                return Err(Error::format(
                    path,
                    "neither file nor folder; move it out of the folder",
                ));
            }
            let modified = meta.modified().ok();
            self.files.push(File { name, bytes: meta.len(), path, modified });
        }
        Ok(())
    }

    /// Checks the whole folder as `verify` does, and the card. Gives notes about what is not wrong.
    ///
    /// # Errors
    /// One that lists everything that is wrong; those of [`verify::verify`].
    pub fn check(&self, progress: &dyn Progress) -> Result<Vec<String>> {
        let report = verify::verify(&self.path, None, progress)?;
        let mut problems: Vec<String> = report.problems.iter().map(|p| p.to_string()).collect();
        let card = self.path.join(CARD);
        if report.checksums.is_none() {
            let sums = self.path.join(SUMS_FILE);
            problems
                .push(format!("{}: not there, though people verify files by it", sums.display()));
        }
        if let Err(wrong) = front_matter(&card) {
            problems.push(format!("{}: {wrong}", card.display()));
        }
        if problems.is_empty() {
            return Ok(report.notes);
        }
        let edited = report.problems.iter().any(|problem| problem.file == card);
        let remedy = if edited { "; after you edited the card, renew its line there" } else { "" };
        let list: String = problems
            .iter()
            .map(|problem| format!("\n  {}", escape_control_chars(problem)))
            .collect();
        let detail = format!(
            "is not ready to be published, or with --no-verify all the same{remedy}:{list}"
        );
        Err(Error::format(&self.path, detail))
    }

    /// The files with their sums: those in SHA256SUMS where they are `checked`, else new ones.
    #[cfg(feature = "hub")]
    pub(super) fn with_sums(
        &self,
        checked: bool,
        progress: &dyn Progress,
    ) -> Result<Vec<crate::hub::LocalFile>> {
        use crate::base::hash::sha256_of_file;
        use crate::build::checksums;
        use rayon::prelude::*;
        let known = if checked { checksums::listed(&self.path)? } else { None }.unwrap_or_default();
        let new = self.files.iter().filter(|file| !known.contains_key(&file.path));
        let bytes = new.map(|file| file.bytes).sum();
        progress.begin("checksums", bytes, crate::base::progress::Unit::Bytes);
        let files = self.files.par_iter().map(|File { name, bytes, path, modified }| {
            let sha256 = match known.get(path) {
                Some(sum) => sum.clone(),
                None => sha256_of_file(path, |bytes| progress.advance(bytes))?,
            };
            let (path, name, bytes, modified) = (path.clone(), name.clone(), *bytes, *modified);
            Ok(crate::hub::LocalFile { path, name, bytes, modified, sha256 })
        });
        let files: Result<Vec<_>> = files.collect();
        progress.end();
        files
    }
}

fn is_gguf(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".gguf")
}

/// Fails if the hidden file or folder `path` shows that a build is running or was interrupted.
fn unfinished(path: &Path, name: &str) -> Result<()> {
    let remedy = "run it again to finish it";
    if name.ends_with(".part") {
        let detail = format!("left by a command that has not finished; {remedy}, or remove this");
        return Err(Error::format(path, detail));
    }
    if name != STATE_FILE {
        return Ok(());
    }
    let state = text(path)?;
    let state: Option<serde_json::Value> = serde_json::from_str(&state).ok();
    let finished = state.and_then(|state| state.get("finished")?.as_bool());
    match finished {
        Some(true) => Ok(()),
        _ => Err(Error::format(path, format!("the build has not finished; {remedy}"))),
    }
}

fn text(path: &Path) -> Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(Error::io(path, "open"))?;
    file.take(MAX_TEXT).read_to_string(&mut text).map_err(Error::io(path, "read"))?;
    Ok(text)
}

/// What is wrong with the front matter of the card `path`: a YAML mapping between two lines `---` at its beginning, from
/// which the hub takes base model, licence and tags.
fn front_matter(path: &Path) -> std::result::Result<(), String> {
    if !path.exists() {
        return Err("not there: a repository needs a model card".to_string());
    }
    let text = text(path).map_err(|_| "cannot be read as text".to_string())?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut lines = text.lines();
    if lines.next().is_none_or(|line| line.trim_end() != "---") {
        return Err("has no front matter for the hub: its first line is to be ---".to_string());
    }
    let lines: Vec<&str> = lines.collect();
    let Some(end) = lines.iter().position(|line| line.trim_end() == "---") else {
        return Err("its front matter has no end: a line ---".to_string());
    };
    let parsed: std::result::Result<serde_json::Map<String, serde_json::Value>, _> =
        serde_yaml::from_str(&lines[..end].join("\n"));
    match parsed {
        Ok(map) if map.is_empty() => Err("its front matter is empty".to_string()),
        Ok(_) => Ok(()),
        Err(e) => {
            Err(format!("its front matter is no YAML mapping: {}", first_line(&e.to_string())))
        }
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_have_front_matter() {
        let dir = tempfile::tempdir().unwrap();
        let card = dir.path().join(CARD);
        let check = |text: &str| {
            std::fs::write(&card, text).unwrap();
            front_matter(&card)
        };
        assert_eq!(check("---\nlicense: mit\ntags: [a, b]\n---\n# x\n"), Ok(()));
        assert_eq!(check("\u{feff}---\r\nlicense: mit\r\n---\r\n"), Ok(()));
        for (text, part) in [
            ("# x\n", "first line"),
            ("", "first line"),
            ("---\nlicense: mit\n", "no end"),
            ("---\n---\n", "front matter"),
            ("---\n- a\n---\n", "no YAML mapping"),
            ("---\na: [\n---\n", "no YAML mapping"),
        ] {
            assert!(check(text).unwrap_err().contains(part), "{text:?}");
        }
        std::fs::write(&card, [0xff, 0xfe]).unwrap();
        assert!(front_matter(&card).unwrap_err().contains("cannot be read"));
        std::fs::remove_file(&card).unwrap();
        assert!(front_matter(&card).unwrap_err().contains("not there"));
    }
}
