//! SHA256SUMS, as sha256sum of the GNU coreutils writes it: on each line a hash in hexadecimal, a space, a
//! space or an asterisk, and a file's name.

use super::{Problem, Report};
use crate::base::error::{Error, Result};
use crate::base::hash::sha256_of_file;
use crate::base::progress::{Progress, Unit};
use crate::build::checksums::SUMS_FILE;
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Component, Path, PathBuf};

/// No list of files is longer.
const MAX_BYTES: u64 = 16 << 20;

/// What was checked.
#[derive(Clone, Debug, Serialize)]
pub struct Sums {
    pub path: PathBuf,
    /// Files whose sums were compared.
    pub files: usize,
}

/// Checks the sums in `folder` of all files they list or, of `only` those files.
pub(super) fn check(
    folder: &Path,
    only: Option<&Vec<PathBuf>>,
    report: &mut Report,
    progress: &dyn Progress,
) -> Result<()> {
    let path = folder.join(SUMS_FILE);
    let Some(text) = read(&path)? else { return Ok(()) };
    let mut listed = Vec::new();
    for (number, line) in text.lines().enumerate() {
        match parse(line) {
            Some(None) => {}
            Some(Some((sum, name))) => listed.push((sum, plain(folder, name))),
            None => {
                let detail =
                    format!("line {}: no SHA-256 and name of a file in the folder", number + 1);
                report.problems.push(Problem::new(&path, detail));
            }
        }
    }
    for file in &report.files {
        if !listed.iter().any(|(_, path)| *path == file.path) {
            report.notes.push(format!("{}: not in {SUMS_FILE}", file.path.display()));
        }
    }
    listed.retain(|(_, path)| only.is_none_or(|only| only.contains(path)));
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
    progress.begin("checksums", listed.iter().map(|(_, path)| size(path)).sum(), Unit::Bytes);
    let found = listed.par_iter().map(|(sum, path)| {
        let detail = match sha256_of_file(path, |bytes| progress.advance(bytes)) {
            Ok(found) if found == *sum => return Ok(None),
            Ok(found) => format!("its SHA-256 is {found}, in {SUMS_FILE} {sum}"),
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                format!("listed in {SUMS_FILE}, and not there")
            }
            Err(error) => return Ok(Some(Problem::of_error(path, &error))),
        };
        Ok(Some(Problem::new(path, detail)))
    });
    let found: Vec<Result<Option<Problem>>> = found.collect();
    progress.end();
    for problem in found {
        report.problems.extend(problem?);
    }
    report.checksums = Some(Sums { path, files: listed.len() });
    Ok(())
}

/// The sums in `folder`, by path; `None` if it has no SHA256SUMS. Lines that are none are left out.
///
/// # Errors
/// If SHA256SUMS cannot be read.
pub fn listed(folder: &Path) -> Result<Option<BTreeMap<PathBuf, String>>> {
    let Some(text) = read(&folder.join(SUMS_FILE))? else { return Ok(None) };
    let entries = text.lines().filter_map(|line| parse(line).flatten());
    Ok(Some(entries.map(|(sum, name)| (plain(folder, name), sum)).collect()))
}

/// `name` in `folder`, without any `./` in it: `./a` and `a` are one file.
fn plain(folder: &Path, name: &Path) -> PathBuf {
    let names = name.components().filter(|part| *part != Component::CurDir);
    folder.join(names.collect::<PathBuf>())
}

fn read(path: &Path) -> Result<Option<String>> {
    let file = match File::open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(Error::io(path, "open"))?,
    };
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text).map_err(Error::io(path, "read"))?;
    Ok(Some(text))
}

/// Hash and name on `line`, `Some(None)` of an empty one. A name that leads out of the folder is none.
fn parse(line: &str) -> Option<Option<(String, &Path)>> {
    if line.trim().is_empty() {
        return Some(None);
    }
    let (sum, name) = line.split_at_checked(64)?;
    let name = name.strip_prefix("  ").or(name.strip_prefix(" *"))?;
    let hexadecimal = sum.bytes().all(|byte| byte.is_ascii_hexdigit());
    let name = Path::new(name.trim_end_matches('\r'));
    let mut parts = name.components().peekable();
    let within = parts.peek().is_some()
        && parts.all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    (hexadecimal && within).then(|| Some((sum.to_ascii_lowercase(), name)))
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
            assert_eq!(parse(&line), Some(Some((lower.clone(), Path::new(expected)))));
        }
        assert_eq!(parse("  "), Some(None));
        for bad in ["  ../a", "  /etc/passwd", " a", "  ", "", "  a/../../b"] {
            assert_eq!(parse(&format!("{sum}{bad}")), None, "{bad}");
        }
        assert_eq!(parse(&format!("{}g  a", &sum[1..])), None);
        assert_eq!(parse("äää  a"), None);
    }
}
