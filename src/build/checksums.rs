//! SHA256SUMS: one line for each file of a folder, as `sha256sum` of the GNU coreutils writes and
//! checks it: a hash in hexadecimal, a space, a space or an asterisk, and the file's name.
//!
//! Not here: computing hashes, which the state of a build does when an output is complete, and
//! comparing them (`verify`).

use crate::base::error::{Error, Result};
use crate::base::output;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Component, Path, PathBuf};

/// The name of the file.
pub const SUMS_FILE: &str = "SHA256SUMS";
/// The bytes that are read of the file at most; no real list is longer.
const MAX_BYTES: u64 = 16 << 20;

/// The text of SHA256SUMS for files and their hashes.
pub(super) fn text(sums: &[(PathBuf, String)]) -> String {
    // Two spaces mean a text file; on Unix, text and binary files are the same.
    sums.iter().map(|(path, sum)| format!("{sum}  {}\n", path.display())).collect()
}

/// The files in the model folder `dir` and in its folder of named chat templates, sorted.
pub(super) fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let inner = dir.join(output::INNER_FOLDER);
    let mut files = files_in(dir)?;
    if inner.is_dir() {
        files.extend(files_in(&inner)?);
    }
    files.sort();
    Ok(files)
}

fn files_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let list = std::fs::read_dir(dir).map_err(Error::io(dir, "read"))?;
    let path = |entry: std::io::Result<std::fs::DirEntry>| {
        Ok(entry.map_err(Error::io(dir, "read"))?.path())
    };
    let paths = list.map(path).collect::<Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| path.is_file()).collect())
}

/// The hashes in the SHA256SUMS of `folder`, by path, without malformed lines; `None` if there is no
/// such file.
///
/// # Errors
/// If SHA256SUMS cannot be read.
#[cfg(feature = "hub")]
pub(super) fn listed(folder: &Path) -> Result<Option<std::collections::BTreeMap<PathBuf, String>>> {
    let Some(text) = read(&folder.join(SUMS_FILE))? else { return Ok(None) };
    let entries = text.lines().filter_map(|line| match parse(line) {
        Line::File { sum, name } => Some((within(folder, name), sum)),
        Line::Empty | Line::Malformed => None,
    });
    Ok(Some(entries.collect()))
}

/// The path of the file `name` in `folder`, without any `./`, so that `./a` and `a` are the same file.
pub(super) fn within(folder: &Path, name: &Path) -> PathBuf {
    let names = name.components().filter(|part| *part != Component::CurDir);
    folder.join(names.collect::<PathBuf>())
}

/// The text of the file `path`; `None` if it does not exist.
pub(super) fn read(path: &Path) -> Result<Option<String>> {
    let file = match File::open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(Error::io(path, "open"))?,
    };
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text).map_err(Error::io(path, "read"))?;
    Ok(Some(text))
}

/// A line of SHA256SUMS.
#[derive(Debug, PartialEq)]
pub(super) enum Line<'a> {
    Empty,
    /// The hash in lower case, and a name that stays within the folder.
    File {
        sum: String,
        name: &'a Path,
    },
    /// Anything else, a name that leads out of the folder included.
    Malformed,
}

/// Parses one line of SHA256SUMS.
pub(super) fn parse(line: &str) -> Line<'_> {
    if line.trim().is_empty() {
        return Line::Empty;
    }
    let Some((sum, name)) = line.split_at_checked(64) else { return Line::Malformed };
    let Some(name) = name.strip_prefix("  ").or(name.strip_prefix(" *")) else {
        return Line::Malformed;
    };
    let hexadecimal = sum.bytes().all(|byte| byte.is_ascii_hexdigit());
    let name = Path::new(name.trim_end_matches('\r'));
    let mut parts = name.components().peekable();
    let stays_within = parts.peek().is_some()
        && parts.all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    match hexadecimal && stays_within {
        true => Line::File { sum: sum.to_ascii_lowercase(), name },
        false => Line::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_sha256sum_and_names_stay_in_the_folder() {
        let sum = "0".repeat(63) + "A";
        let lower = sum.to_lowercase();
        for (line, expected) in [("  a b.gguf", "a b.gguf"), (" *x/y", "x/y"), ("  ./z\r", "./z")] {
            let line = format!("{sum}{line}");
            let expected = Line::File { sum: lower.clone(), name: Path::new(expected) };
            assert_eq!(parse(&line), expected);
        }
        assert_eq!(parse("  "), Line::Empty);
        for bad in ["  ../a", "  /etc/passwd", " a", "  ", "", "  a/../../b"] {
            assert_eq!(parse(&format!("{sum}{bad}")), Line::Malformed, "{bad}");
        }
        assert_eq!(parse(&format!("{}g  a", &sum[1..])), Line::Malformed);
        assert_eq!(parse("äää  a"), Line::Malformed);
    }
}
