//! What a build is made from, by content: hashes of all files of weights that the source reads.
//!
//! They tell a later build whether what is there may be used again, and are recorded in the files' metadata. Times and
//! places of files do not matter for that; times only raise the alarm when a file changes under a build. Deliberately absent: what is beside the weights (configuration, tokenizer), which the
//! metadata in GGUF terms hold.

use crate::base::error::{Error, Result};
use crate::base::hash;
use crate::base::progress::{Progress, Unit};
use crate::base::resume::Fingerprint;
use crate::build::file_names::name_of;
use crate::build::source::Source;
use crate::formats::source::TensorSource;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Hashes of a source, SHA-256 in hexadecimal.
pub(crate) struct Inputs {
    /// Of what the recipe says of the merge, see [`crate::recipe::MergePlan::meaning`].
    pub recipe: Option<String>,
    /// Name and hash of each member of a merge; of any other source one, without a name. The hash is that of the lines
    /// that `sha256sum` prints for the files of weights, in the order of their names.
    pub models: Vec<(Option<String>, String)>,
    /// Of each of the models: what its weights are dequantized from, see [`TensorSource::quantization`].
    pub quantizations: Vec<Option<String>>,
    /// Every file that was hashed, as it was before.
    files: Vec<(PathBuf, Seen)>,
}

/// Size and time of change of a file.
type Seen = (u64, Option<SystemTime>);

fn look(path: &Path) -> Result<Seen> {
    let meta = std::fs::metadata(path).map_err(Error::io(path, "examine"))?;
    Ok((meta.len(), meta.modified().ok()))
}

impl Inputs {
    /// Reads every file of weights of `source` once.
    ///
    /// # Errors
    /// If a file cannot be read, or the user interrupts.
    pub(crate) fn read(source: &Source, progress: &dyn Progress) -> Result<Inputs> {
        let models: Vec<(Option<String>, Option<Vec<PathBuf>>)> = match source {
            Source::Recipe { plan, .. } => {
                let name = |m: &crate::recipe::Member| Some(m.reference.to_string());
                let members = plan.members.iter();
                members.map(|m| (name(m), m.checkpoint.tensors.files())).collect()
            }
            Source::Folder(checkpoint) => vec![(None, checkpoint.tensors.files())],
            Source::Gguf { model, .. } => vec![(None, model.tensors.files())],
        };
        let quantization = |tensors: &dyn TensorSource| tensors.quantization().map(str::to_string);
        let quantizations = match source {
            Source::Recipe { plan, .. } => {
                plan.members.iter().map(|m| quantization(&*m.checkpoint.tensors)).collect()
            }
            Source::Folder(checkpoint) => vec![quantization(&*checkpoint.tensors)],
            Source::Gguf { .. } => vec![None],
        };
        // Members may share files.
        let mut files: Vec<PathBuf> =
            models.iter().flat_map(|(_, files)| files.iter().flatten().cloned()).collect();
        files.sort();
        files.dedup();
        let see = |path: PathBuf| look(&path).map(|seen| (path, seen));
        let files = files.into_iter().map(see).collect::<Result<Vec<_>>>()?;
        let total = files.iter().map(|(_, (bytes, _))| bytes).sum();
        progress.begin("hash inputs", total, Unit::Bytes);
        let hashes = files.par_iter().map(|(path, _)| {
            let hash = hash::sha256_of_file(path, |bytes| progress.advance(bytes))?;
            Ok((path.clone(), hash))
        });
        let hashes = hashes.collect::<Result<BTreeMap<PathBuf, String>>>()?;
        progress.end();
        let models = models.into_iter().map(|(name, files)| (name, of_model(files, &hashes)));
        let recipe = match source {
            Source::Recipe { plan, .. } => Some(hash::sha256(&plan.meaning)),
            Source::Folder(_) | Source::Gguf { .. } => None,
        };
        Ok(Inputs { recipe, models: models.collect(), quantizations, files })
    }

    /// Fails if a file has changed since it was hashed: the origin of the outputs is unknown then. Called before
    /// anything is recorded as made.
    ///
    /// # Errors
    /// That, or a file is gone.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        for (path, seen) in &self.files {
            if look(path)? != *seen {
                let detail = "was changed while the build was at work; run the same command again";
                return Err(Error::format(path, detail));
            }
        }
        Ok(())
    }

    /// What any output depends on.
    pub(crate) fn fingerprints(&self) -> Vec<Fingerprint> {
        let mut fingerprints = vec![Fingerprint::of_program()];
        fingerprints.extend(self.recipe.iter().map(|hash| Fingerprint::new("the recipe", hash)));
        fingerprints.extend(self.models.iter().map(|(name, hash)| {
            let what = match name {
                Some(name) => format!("member '{name}'"),
                None => "the source".to_string(),
            };
            Fingerprint::new(what, hash)
        }));
        fingerprints
    }
}

/// The hash of a model that reads `files`.
fn of_model(files: Option<Vec<PathBuf>>, hashes: &BTreeMap<PathBuf, String>) -> String {
    let Some(files) = files else {
        // Not known, and so never the same.
        return hash::sha256(format!("{:?} {}", SystemTime::now(), std::process::id()));
    };
    let name = |path: &PathBuf| name_of(path);
    let mut lines: Vec<_> = files
        .iter()
        .map(|path| (name(path), format!("{}  {}\n", hashes[path], name(path))))
        .collect();
    lines.sort();
    hash::sha256(lines.into_iter().map(|(_, line)| line).collect::<String>())
}
