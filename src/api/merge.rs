//! Planning and writing a merge.

use super::{Model, setters};
use crate::base::error::{Error, Result};
use crate::base::output;
use crate::base::progress::Progress;
use crate::base::resume::Checkpointing;
use crate::build::{Source, recipe_files};
use crate::formats::checkpoint::{self, WriteOptions};
use crate::formats::source::TensorInfo;
use crate::merge;
use crate::recipe::MergePlan;
use std::path::Path;

/// A merge that has been planned: every shape agrees and every parameter is evaluated, so it can be
/// carried out. No weight has been read.
///
/// # Examples
/// ```
/// use aqueduct::{Merge, MergeOptions, Silent};
///
/// let merge = Merge::plan("recipes/demo.yml")?;
/// println!("{} tensors, {} parameters", merge.tensors().len(), merge.parameters());
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path().join("merged");
/// let report = merge.write(&folder, &MergeOptions::default(), &Silent)?;
/// assert!(folder.join("config.json").exists());
/// assert_eq!(report.tensors, merge.tensors().len());
/// # Ok::<(), aqueduct::Error>(())
/// ```
pub struct Merge {
    model: Model,
}

impl Merge {
    /// Plans the merge that the recipe at `path` describes.
    ///
    /// # Errors
    /// [`Error::Recipe`] with every problem of the recipe; [`Error::Usage`] if `path` is a model.
    pub fn plan(path: impl AsRef<Path>) -> Result<Merge> {
        let path = path.as_ref();
        let model = Model::open(path)?;
        match &model.source {
            Source::Recipe { .. } => Ok(Merge { model }),
            _ => {
                let text = format!("{}: a model, not a recipe", path.display());
                Err(Error::Usage(text))
            }
        }
    }

    fn merge_plan(&self) -> &MergePlan {
        match &self.model.source {
            Source::Recipe { plan, .. } => plan,
            _ => unreachable!("Merge::plan takes recipes only"),
        }
    }

    /// The paths or names of the recipe's models, as messages show them.
    pub fn members(&self) -> Vec<String> {
        self.merge_plan().members.iter().map(|member| member.reference.to_string()).collect()
    }

    /// Names, shapes and types of the merged tensors.
    pub fn tensors(&self) -> &[TensorInfo] {
        self.model.tensors()
    }

    /// The number of elements of all merged tensors.
    pub fn parameters(&self) -> u64 {
        self.merge_plan().parameters()
    }

    /// The size of all merged tensors in bytes.
    pub fn bytes(&self) -> u64 {
        self.merge_plan().bytes()
    }

    /// Warnings of the recipe and its members, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        self.model.warnings()
    }

    /// The merge as a model: quantize, evaluate or build it without writing it first.
    pub fn into_model(self) -> Model {
        self.model
    }

    /// Writes the merged model as the Hugging Face folder `dir`: safetensors shards, configuration,
    /// tokenizer and recipe. The folder appears when all of it is on the disk. Where an earlier call
    /// was interrupted, its complete shards are verified and kept.
    ///
    /// # Errors
    /// If `dir` exists and [`MergeOptions::force`] is not set, if there is too little space, or a member
    /// cannot be read.
    pub fn write(
        &self,
        dir: impl AsRef<Path>,
        options: &MergeOptions,
        progress: &dyn Progress,
    ) -> Result<MergeReport> {
        let Source::Recipe { plan, checkpoint } = &self.model.source else {
            unreachable!("Merge::plan takes recipes only")
        };
        let dir = dir.as_ref();
        output::check_not_input(dir, self.model.files())?;
        let defaults = WriteOptions::default();
        let write = WriteOptions {
            max_shard_bytes: options.max_shard_bytes.unwrap_or(defaults.max_shard_bytes),
            extra: recipe_files(&self.model.source),
            force: options.force,
            memory: options.memory.unwrap_or(defaults.memory),
            checkpointing: merge::fingerprints(plan).map(|fingerprints| Checkpointing {
                restart: options.restart,
                ..Checkpointing::new(fingerprints)
            }),
        };
        let written = checkpoint::write(checkpoint, dir, &write, progress)?;
        Ok(MergeReport {
            shards: written.shards,
            resumed_shards: written.kept_shards,
            tensors: written.tensors,
            parameters: written.parameters,
            bytes: written.bytes,
        })
    }
}

/// How to write a merge.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct MergeOptions {
    /// The largest shard in bytes; 5 GB if `None`.
    pub max_shard_bytes: Option<u64>,
    /// Bytes of computed tensors to hold; a quarter of the machine's memory if `None`.
    pub memory: Option<u64>,
    /// Replace the folder if it exists.
    pub force: bool,
    /// Do not use what an interrupted call has left.
    pub restart: bool,
}

impl MergeOptions {
    setters! {
        /// Sets [`MergeOptions::max_shard_bytes`].
        max_shard_bytes: Option<u64>,
        /// Sets [`MergeOptions::memory`].
        memory: Option<u64>,
        /// Sets [`MergeOptions::force`].
        force: bool,
        /// Sets [`MergeOptions::restart`].
        restart: bool,
    }
}

/// What [`Merge::write`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MergeReport {
    /// Safetensors files.
    pub shards: usize,
    /// How many of them an interrupted call had written.
    pub resumed_shards: usize,
    /// Tensors in all shards.
    pub tensors: usize,
    /// Elements of all tensors.
    pub parameters: u64,
    /// Bytes of all shards.
    pub bytes: u64,
}
