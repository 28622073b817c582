//! SOURCE: a recipe, a Hugging Face folder or a GGUF file, distinguished by content.

use super::file_names::file_stem;
use crate::base::error::{Error, Result};
use crate::base::progress::{Progress, Silent};
use crate::base::resume::{Fingerprint, describe_file};
use crate::formats::checkpoint::{
    Checkpoint, ModelCard, looks_like_pytorch, looks_like_safetensors,
};
use crate::formats::file_kind::refuse_foreign;
use crate::formats::gguf::{self, GgufModel};
use crate::merge;
use crate::model::arch::Parameters;
use crate::model::convert::{ConvertOptions, convert, merge_front_matter};
use crate::recipe::{Diagnostic, Folders, MergePlan, locate_source};
use crate::report;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a SOURCE turned out to be. Nothing but headers and texts has been read so far.
pub enum Source {
    /// A merge recipe; the checkpoint's tensors are computed when they are read.
    Recipe { plan: Arc<MergePlan>, checkpoint: Checkpoint },
    /// A Hugging Face model folder.
    Folder(Checkpoint),
    /// A GGUF file, or any of several shards.
    Gguf { path: PathBuf, model: GgufModel },
}

impl Source {
    /// Opens `path`, or the model on the hub that it names ([`locate_source`]). A folder must hold a model; a
    /// file is a GGUF file if it begins like one, and a recipe otherwise.
    ///
    /// # Errors
    /// Whatever the reader of that kind finds wrong; for a file of weights alone, or an imatrix, what
    /// to give instead.
    pub fn open(path: &Path) -> Result<Source> {
        Source::open_with_progress(path, &Silent)
    }

    /// As [`Source::open`]; downloads of a recipe's members are reported to `progress` (feature `hub`).
    pub fn open_with_progress(path: &Path, progress: &dyn Progress) -> Result<Source> {
        Source::open_seeded(path, None, progress)
    }

    /// As [`Source::open_with_progress`]; a recipe gets `seed`, if one is given, in place of its own.
    pub fn open_seeded(path: &Path, seed: Option<u64>, progress: &dyn Progress) -> Result<Source> {
        let path = &locate_source(path, progress)?;
        match Kind::of(path)? {
            Kind::Folder => Ok(Source::Folder(Checkpoint::open_declared(path)?)),
            Kind::Gguf => {
                let model = gguf::open(path)?;
                if model.metadata.str("general.type") == Some("imatrix") {
                    let detail = "an importance matrix, not a model; give it with --imatrix";
                    return Err(Error::format(path, detail));
                }
                Ok(Source::Gguf { path: path.to_path_buf(), model })
            }
            Kind::Recipe => {
                let members = Folders::beside(path, &[]).with_progress(progress);
                let plan = Arc::new(merge::plan_seeded(path, &members, seed)?);
                let mut checkpoint = merge::open(plan.clone());
                checkpoint.card = Some(merge_card(&plan, &checkpoint.name));
                Ok(Source::Recipe { plan, checkpoint })
            }
        }
    }

    /// The model in GGUF terms; a folder or merge is converted on the fly. Options that concern
    /// conversion do nothing for a GGUF file. Warnings of the conversion go to `progress`.
    pub fn to_gguf(&self, options: &ConvertOptions, progress: &dyn Progress) -> Result<GgufModel> {
        match self {
            Source::Gguf { model, .. } => Ok(model.clone()),
            Source::Folder(checkpoint) | Source::Recipe { checkpoint, .. } => {
                let model = convert(checkpoint, options)?;
                model.warnings.iter().for_each(|warning| progress.warn(warning));
                Ok(model)
            }
        }
    }

    /// The model in Hugging Face terms, unless it is a GGUF file.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        match self {
            Source::Recipe { checkpoint, .. } | Source::Folder(checkpoint) => Some(checkpoint),
            Source::Gguf { .. } => None,
        }
    }

    /// Warnings found while opening: of a recipe and its members with line and column, or of a folder.
    pub fn warnings(&self) -> Vec<String> {
        match self {
            Source::Gguf { .. } => Vec::new(),
            Source::Folder(checkpoint) => checkpoint.warnings.clone(),
            Source::Recipe { plan, .. } => {
                let path = plan.path.display();
                let line =
                    |w: &Diagnostic| format!("{path}:{}: {}{}", w.pos, w.message, w.marked());
                plan.warnings.iter().map(line).collect()
            }
        }
    }

    /// Every file that the source is read from: recipe, weights, and what lies beside them.
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Source::Gguf { path, model } => {
                let mut files = model.tensors.files().unwrap_or_default();
                files.push(path.clone());
                files
            }
            Source::Folder(checkpoint) => checkpoint.files(),
            Source::Recipe { plan, .. } => {
                let members = plan.members.iter().flat_map(|member| member.checkpoint.files());
                std::iter::once(plan.path.clone()).chain(members).collect()
            }
        }
    }

    /// Returns fingerprints of what the source is read from, without reading weights; `None` if the files
    /// of some model are unknown, so that nothing shows whether they have changed.
    pub fn fingerprints(&self) -> Option<Vec<Fingerprint>> {
        let described = match self {
            Source::Recipe { plan, .. } => return merge::fingerprints(plan),
            Source::Folder(checkpoint) => merge::describe(checkpoint)?,
            Source::Gguf { model, .. } => {
                let files = model.tensors.files()?;
                files.iter().map(|path| describe_file(path)).collect::<Option<String>>()?
            }
        };
        Some(vec![Fingerprint::of_program(), Fingerprint::new("the source", described)])
    }

    /// What to call files that are made from this source: the recipe's or folder's name, or the GGUF
    /// file's without its float type and shard number.
    pub fn name(&self) -> String {
        match self {
            Source::Recipe { checkpoint, .. } | Source::Folder(checkpoint) => {
                file_stem(&checkpoint.name)
            }
            Source::Gguf { path, .. } => {
                let stem = path.file_stem().map_or("model".into(), |s| s.to_string_lossy());
                file_stem(strip_type(gguf::without_shard(&stem)))
            }
        }
    }
}

/// The card of a merge, as it would be written.
fn merge_card(plan: &MergePlan, name: &str) -> ModelCard {
    let summary = plan.summary();
    let references = plan.members.iter().map(|member| &member.reference);
    let members = references.flat_map(|reference| {
        std::iter::once(&reference.path)
            .chain(reference.lora.iter().map(|lora| &lora.path))
            .cloned()
    });
    let output = plan.output();
    let parameters = Parameters::of(&output.table, &output.hyper);
    let front = merge_front_matter(name, parameters, members);
    ModelCard::Text(report::merge_readme(name, &summary, &plan.text, &front))
}

/// The three kinds of SOURCE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A merge recipe in YAML.
    Recipe,
    /// A Hugging Face model folder.
    Folder,
    /// A GGUF file.
    Gguf,
}

impl Kind {
    /// Looks at `path` and the first bytes of a file.
    pub fn of(path: &Path) -> Result<Kind> {
        let meta = std::fs::metadata(path).map_err(Error::io(path, "open"))?;
        if meta.is_dir() {
            return Ok(Kind::Folder);
        }
        if gguf::is_gguf(path)? {
            return Ok(Kind::Gguf);
        }
        if meta.len() > 0 {
            refuse_foreign(path)?;
        }
        let mut head = Vec::new();
        let file = std::fs::File::open(path).map_err(Error::io(path, "open"))?;
        file.take(16).read_to_end(&mut head).map_err(Error::io(path, "read"))?;
        if looks_like_safetensors(&head, meta.len()) || looks_like_pytorch(&head) {
            let detail = "a file of weights alone; name the folder that it and its config.json \
                          are in";
            return Err(Error::format(path, detail));
        }
        let is_json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
        if is_json && path.with_file_name("config.json").exists() {
            let detail = "a file of a model folder; name the folder";
            return Err(Error::format(path, detail));
        }
        Ok(Kind::Recipe)
    }
}

/// `stem` without a float type at its end, which would be wrong of a quantized file.
fn strip_type(stem: &str) -> &str {
    let types = ["f32", "f16", "bf16"];
    match stem.rsplit_once(['-', '.']) {
        Some((name, end)) if types.contains(&end.to_ascii_lowercase().as_str()) => name,
        _ => stem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_shard_numbers_and_float_types() {
        assert_eq!(gguf::without_shard("Model-F16-00001-of-00003"), "Model-F16");
        assert_eq!(gguf::without_shard("best-of-5"), "best-of-5");
        assert_eq!(strip_type("Model-F16"), "Model");
        assert_eq!(strip_type("model.bf16"), "model");
        assert_eq!(strip_type("Model-7B"), "Model-7B");
    }
}
