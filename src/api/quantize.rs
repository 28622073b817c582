//! Quantizing a model to GGUF files.

use super::{Imatrix, Model, setters};
use crate::base::error::Result;
use crate::base::output;
use crate::base::progress::Progress;
use crate::formats::gguf;
use crate::quantize::{
    self, Ftype, Importance, Output, PlanOptions, QuantPlan, RunOptions, Sharding, Written,
};
use std::path::{Path, PathBuf};

/// How to quantize.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct QuantizeOptions {
    /// Accept a source that is quantized already, though quality suffers twice.
    pub allow_requantize: bool,
    /// Give every tensor the file type's main type, without a mix.
    pub pure: bool,
    /// Divide each file into shards with at most this many bytes of tensor data.
    pub max_shard_bytes: Option<u64>,
    /// Replace files that exist.
    pub force: bool,
    /// Bytes of computed tensors to hold; a quarter of the machine's memory if `None`.
    pub memory: Option<u64>,
}

impl QuantizeOptions {
    setters! {
        /// Sets [`QuantizeOptions::allow_requantize`].
        allow_requantize: bool,
        /// Sets [`QuantizeOptions::pure`].
        pure: bool,
        /// Sets [`QuantizeOptions::max_shard_bytes`].
        max_shard_bytes: Option<u64>,
        /// Sets [`QuantizeOptions::force`].
        force: bool,
        /// Sets [`QuantizeOptions::memory`].
        memory: Option<u64>,
    }
}

/// A GGUF file that [`quantize`] wrote.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QuantizedFile {
    /// The file, or the first of its shards.
    pub path: PathBuf,
    /// The number of shards, 1 for a single file.
    pub shards: usize,
    /// The file type, `Q4_K_M` for example.
    pub ftype: String,
    /// Bytes of all shards.
    pub bytes: u64,
    /// The mean number of bits per weight.
    pub bits_per_weight: f64,
}

impl From<Written> for QuantizedFile {
    fn from(file: Written) -> QuantizedFile {
        let Written { path, shards, ftype, bytes, bits_per_weight, .. } = file;
        QuantizedFile { path, shards, ftype, bytes, bits_per_weight }
    }
}

/// Quantizes `model` to one GGUF file for each of `types` in the folder `dir`, named `NAME-TYPE.gguf`.
/// Each tensor is read and decoded once for all types. The bytes are those of llama-quantize.
///
/// # Errors
/// Before any weight is read: an unknown architecture, a type that needs an importance matrix, a file
/// that exists, too little space. Later: damaged data, a full disk, interruption.
///
/// # Examples
/// ```
/// use aqueduct::{Ftype, Model, QuantizeOptions, Silent, quantize};
///
/// let model = Model::open("recipes/demo.yml")?;
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path();
/// let types = [Ftype::Q8_0, "Q4_K_M".parse()?];
/// let files = quantize(&model, &types, None, folder, &QuantizeOptions::default(), &Silent)?;
/// assert!(files[1].bytes < files[0].bytes);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn quantize(
    model: &Model,
    types: &[Ftype],
    imatrix: Option<&Imatrix>,
    dir: impl AsRef<Path>,
    options: &QuantizeOptions,
    progress: &dyn Progress,
) -> Result<Vec<QuantizedFile>> {
    let dir = dir.as_ref();
    let plan_options = PlanOptions {
        allow_requantize: options.allow_requantize,
        pure: options.pure,
        sharding: options.max_shard_bytes.map_or(Sharding::OneFile, Sharding::MaxBytes),
        ..PlanOptions::default()
    };
    let gguf = model.to_gguf(types.iter().any(|ftype| ftype.keeps_blocks()), progress)?;
    let importance = imatrix.map(|imatrix| Importance::new(&imatrix.matrix, &imatrix.name));
    let importance = importance.transpose()?;
    let inputs = model.files();
    let mut outputs = Vec::with_capacity(types.len());
    let mut needed = 0;
    for &ftype in types {
        let plan = QuantPlan::new(&gguf, ftype, importance.as_ref(), &plan_options)?;
        plan.warnings.iter().for_each(|warning| progress.warn(warning));
        let path = dir.join(format!("{}-{ftype}.gguf", model.name()));
        for shard in gguf::shard_paths(&path, &plan.shards) {
            output::check_not_input(&shard, &inputs)?;
        }
        needed += plan.file_bytes()?;
        outputs.push(Output { plan, path });
    }
    output::check_space(dir, needed)?;
    let memory = options.memory.unwrap_or(RunOptions::default().memory);
    let run = RunOptions { force: options.force, memory };
    let written = quantize::run(&gguf, outputs, importance.as_ref(), run, None, progress)?;
    Ok(written.into_iter().map(QuantizedFile::from).collect())
}
