//! Compares the files of a folder with its SHA256SUMS.

use super::{Problem, Report};
use crate::base::error::{Error, Result};
use crate::base::hash::sha256_of_file;
use crate::base::progress::{Progress, Unit};
use crate::build::checksums::{self, Line, SUMS_FILE};
use rayon::prelude::*;
use serde::Serialize;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What was compared.
#[derive(Clone, Debug, Serialize)]
pub struct Sums {
    /// The SHA256SUMS file.
    pub path: PathBuf,
    /// The number of files whose hashes were compared.
    pub files: usize,
}

/// Compares all files that the SHA256SUMS of `folder` lists, or those of `only`, with their hashes.
/// Does nothing if there is no such file.
pub(super) fn check(
    folder: &Path,
    only: Option<&Vec<PathBuf>>,
    report: &mut Report,
    progress: &dyn Progress,
) -> Result<()> {
    let path = folder.join(SUMS_FILE);
    let Some(text) = checksums::read(&path)? else { return Ok(()) };
    let mut listed = Vec::new();
    for (number, line) in text.lines().enumerate() {
        match checksums::parse(line) {
            Line::Empty => {}
            Line::File { sum, name } => listed.push((sum, checksums::within(folder, name))),
            Line::Malformed => {
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
