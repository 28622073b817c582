//! Whether GGUF files are what they should be: whole, well-formed, unchanged, and made from their source.
//!
//! Without a source: structure and offsets, padding, the scales of all blocks, and checksums where a SHA256SUMS
//! lies beside the files. With one: metadata, and that tensors derive from it bit for bit, by making them again.
//! Everything that is wrong is reported; only what keeps the work from being done is an error. Deliberately
//! absent: repairs, and folders of safetensors, of which SHA256SUMS alone tells.

mod checksums;
mod derive;
mod structure;

pub use crate::build::checksums::SUMS_FILE;
pub use checksums::Sums;
pub use derive::{Derivation, Derive};

use crate::base::dtype::DType;
use crate::base::error::{Error, Result};
use crate::base::progress::Progress;
use crate::formats::gguf::{self, GgufFile, GgufModel};
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};

/// Something that is wrong.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// The file with the problem.
    pub file: PathBuf,
    /// The tensor with the problem, if it concerns one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensor: Option<String>,
    /// Bytes from the start of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What is wrong.
    pub detail: String,
}

impl Problem {
    fn new(file: &Path, detail: impl Into<String>) -> Problem {
        let (file, detail) = (file.to_path_buf(), detail.into());
        Problem { file, tensor: None, offset: None, detail }
    }

    fn tensor(file: &Path, tensor: &str, offset: u64, detail: impl Into<String>) -> Problem {
        let (tensor, offset) = (Some(tensor.to_string()), Some(offset));
        Problem { tensor, offset, ..Problem::new(file, detail) }
    }

    /// What an error says of `file`, which it names itself.
    fn of_error(file: &Path, error: &Error) -> Problem {
        let (tensor, offset, detail) = match error {
            Error::Tensor { tensor, detail, .. } => (Some(tensor.clone()), None, detail.clone()),
            Error::Format { path, offset, detail } if path == file => {
                (None, *offset, detail.clone())
            }
            Error::Io { action, source, .. } => (None, None, format!("cannot {action}: {source}")),
            error => (None, None, error.to_string()),
        };
        Problem { tensor, offset, ..Problem::new(file, detail) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file.display())?;
        if let Some(tensor) = &self.tensor {
            write!(f, "tensor '{tensor}': ")?;
        }
        write!(f, "{}", self.detail)?;
        match self.offset {
            Some(offset) => write!(f, " (at offset {offset})"),
            None => Ok(()),
        }
    }
}

/// A GGUF file that was examined.
#[derive(Clone, Debug, Serialize)]
pub struct CheckedFile {
    pub path: PathBuf,
    pub bytes: u64,
    pub tensors: usize,
}

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Those that could be opened.
    pub files: Vec<CheckedFile>,
    /// What SHA256SUMS came to, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksums: Option<Sums>,
    /// What was compared with the source, if one was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub derivation: Option<Derivation>,
    pub problems: Vec<Problem>,
    /// What is worth knowing and not wrong.
    pub notes: Vec<String>,
}

/// Verifies the GGUF file `path`, with the other shards of a split model, or all GGUF files in the folder
/// `path`; with `derive`, against the source that it names.
///
/// # Errors
/// A path that cannot be read, a folder without GGUF files, a source or an importance matrix that cannot be
/// used, and interruption. What is wrong with the files themselves is in the report.
pub fn verify(path: &Path, derive: Option<&Derive<'_>>, progress: &dyn Progress) -> Result<Report> {
    let meta = std::fs::metadata(path).map_err(Error::io(path, "open"))?;
    let mut report = Report::default();
    let paths = if meta.is_dir() { folder(path)? } else { file_and_shards(path) };
    let mut opened = Vec::new();
    for path in &paths {
        match GgufFile::open(path) {
            Ok(file) => opened.push(file),
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => report.problems.push(Problem::of_error(path, &error)),
        }
    }
    structure::check(&opened, &mut report, progress)?;
    let folder = if meta.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
    checksums::check(folder, (!meta.is_dir()).then_some(&paths), &mut report, progress)?;
    if meta.is_dir() && paths.is_empty() && report.checksums.is_none() {
        let detail = format!("holds no GGUF file and no {SUMS_FILE}: nothing to verify");
        return Err(Error::format(path, detail));
    }
    let models = models(&opened, &mut report);
    if let Some(derive) = derive {
        report.derivation = Some(derive.check(&models, &mut report, progress)?);
    }
    Ok(report)
}

/// Whether the GGUF file `path`, or one in the folder `path`, has matrices of types whose blocks conversion
/// can keep (MXFP4, NVFP4). A source must then be converted with
/// [`ConvertOptions::keep_blocks`](crate::model::convert::ConvertOptions::keep_blocks) to give the same
/// tensors. Files that cannot be opened do not count; [`verify`] reports them.
///
/// # Errors
/// If the folder cannot be read.
pub fn has_kept_blocks(path: &Path) -> Result<bool> {
    let paths = if path.is_dir() { folder(path)? } else { vec![path.to_path_buf()] };
    let kept = |path: &PathBuf| {
        gguf::open(path).is_ok_and(|model| {
            let mut types = model.tensors.table().infos().iter().map(|info| info.dtype);
            types.any(|dtype| matches!(dtype, DType::MXFP4 | DType::NVFP4))
        })
    };
    Ok(paths.iter().any(kept))
}

/// The GGUF files in `folder`, by name. A name or a beginning like GGUF's makes one, so that one that lost its
/// beginning is found, too.
fn folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder, "read"))? {
        let path = entry.map_err(Error::io(folder, "read"))?.path();
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if hidden || !path.is_file() {
            continue;
        }
        let named = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
        if named || gguf::is_gguf(&path)? {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// `path`, or all shards of the model that it is one of, where they can be found.
fn file_and_shards(path: &Path) -> Vec<PathBuf> {
    let model = gguf::open(path).ok();
    model.and_then(|model| model.tensors.files()).unwrap_or_else(|| vec![path.to_path_buf()])
}

/// A model in one file or several, all of which were opened.
struct Model {
    /// The first file.
    path: PathBuf,
    model: GgufModel,
    /// File and offset of each tensor of its table.
    places: Vec<(PathBuf, u64)>,
}

/// The models in `files`. Shards without their siblings are problems, importance matrices are no models.
fn models(files: &[GgufFile], report: &mut Report) -> Vec<Model> {
    let mut models: Vec<Model> = Vec::new();
    let is_matrix =
        |file: &&GgufFile| file.header().metadata.str("general.type") == Some("imatrix");
    for file in files.iter().filter(|file| !is_matrix(file)) {
        let shards = file.split().map_or(1, |(_, count)| count);
        if models.iter().any(|model| model.places.iter().any(|(path, _)| path == file.path())) {
            continue;
        }
        if shards > 1 && file.split().is_some_and(|(no, _)| no > 0) && has_first(file, files) {
            continue;
        }
        let opened = gguf::open(file.path()).and_then(|model| {
            model.architecture()?;
            Ok(model)
        });
        match opened {
            Ok(model) => {
                let paths = model.tensors.files().unwrap_or_default();
                let shards =
                    paths.iter().filter_map(|path| files.iter().find(|f| f.path() == path));
                let places = shards.flat_map(|file| {
                    let offsets = file.header().offsets.iter();
                    offsets.map(|offset| (file.path().to_path_buf(), *offset))
                });
                let places: Vec<_> = places.collect();
                if places.len() == model.tensors.table().infos().len() {
                    models.push(Model { path: file.path().to_path_buf(), model, places });
                }
            }
            Err(error) => report.problems.push(Problem::of_error(file.path(), &error)),
        }
    }
    models
}

/// Whether the first shard of the model that `file` is a part of was opened, too.
fn has_first(file: &GgufFile, files: &[GgufFile]) -> bool {
    let Some((no, count)) = file.split() else { return false };
    let name = file.path().file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix(&gguf::shard_name("", no, count));
    stem.is_some_and(|stem| {
        let first = file.path().with_file_name(gguf::shard_name(stem, 0, count));
        files.iter().any(|file| file.path() == first)
    })
}
