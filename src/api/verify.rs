//! Checking finished files.

use super::Model;
use crate::base::error::Result;
use crate::base::progress::Progress;
use crate::build::verify::{self, Derive, Problem};
use std::path::{Path, PathBuf};

/// What [`verify`] found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Verification {
    /// The GGUF files that were examined.
    pub files: Vec<PathBuf>,
    /// Everything that is wrong; empty if the files are sound.
    pub problems: Vec<Problem>,
    /// Remarks that are not problems.
    pub notes: Vec<String>,
}

/// The number of tensors that are made again where a source is given.
const SAMPLE: usize = 16;

/// Verifies a GGUF file, with its shards, or all GGUF files in a folder: structure, padding, block
/// scales, and checksums where a SHA256SUMS file lies beside them. With `source`, a sample of tensors
/// is quantized again and compared bit for bit.
///
/// # Errors
/// If the path or the source cannot be used. Problems of the files are in the result.
///
/// # Examples
/// ```
/// use aqueduct::{Ftype, Model, QuantizeOptions, Silent, quantize, verify};
///
/// let model = Model::open("recipes/demo.yml")?;
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path();
/// quantize(&model, &[Ftype::Q8_0], None, folder, &QuantizeOptions::default(), &Silent)?;
/// let found = verify(folder, Some(&model), &Silent)?;
/// assert!(found.problems.is_empty());
/// # Ok::<(), aqueduct::Error>(())
/// ```
pub fn verify(
    path: impl AsRef<Path>,
    source: Option<&Model>,
    progress: &dyn Progress,
) -> Result<Verification> {
    let path = path.as_ref();
    let keep_blocks = source.is_some() && verify::has_kept_blocks(path)?;
    let gguf = source.map(|model| model.to_gguf(keep_blocks, progress)).transpose()?;
    let derive = gguf.as_ref().map(|source| Derive {
        source,
        pruning: None,
        imatrix: None,
        sample: Some(SAMPLE),
        seed: 0,
    });
    let report = verify::verify(path, derive.as_ref(), progress)?;
    Ok(Verification {
        files: report.files.into_iter().map(|file| file.path).collect(),
        problems: report.problems,
        notes: report.notes,
    })
}
