//! Finding the members of a merge: models on disk, with adapters merged in, or only their shapes.
//!
//! A name is looked for beside the recipe and in the folders given, then in the hub's cache
//! ([`crate::hub`]), which holds what other programs downloaded. With the feature `hub`, what is nowhere
//! is downloaded into it. A SOURCE on the command line is found in the same way ([`locate_source`]).

mod families;

use crate::base::dtype::DType;
use crate::base::error::{Error, Result};
use crate::base::progress::{Progress, Silent};
use crate::formats::checkpoint::{self, Checkpoint, Config};
use crate::formats::file_kind::refuse_foreign;
use crate::formats::gguf;
use crate::formats::source::{TensorData, TensorInfo, TensorSource, TensorTable};
use crate::hub::{HubCache, HubReference};
use crate::model::arch::{HyperParams, Role, Settings, TensorDecl, declared_config};
use crate::model::restore::restore;
use crate::recipe::syntax::model_ref::ModelRef;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a member could not be had, and what to do.
#[derive(Clone, Debug)]
pub struct MemberError {
    pub message: String,
    pub remedy: String,
}

impl MemberError {
    /// A model that is there but not right.
    fn unusable(reference: &ModelRef, error: &Error, remedy: impl Into<String>) -> MemberError {
        let message = format!("model '{reference}' cannot be used: {error}");
        MemberError { message, remedy: remedy.into() }
    }
}

/// Gives the members that recipes name.
pub trait MemberLookup {
    fn open(&self, reference: &ModelRef) -> std::result::Result<Checkpoint, MemberError>;

    /// Whether members have shapes alone, so that nothing beside the weights, tokenizers above all, can
    /// be read either.
    fn shapes_only(&self) -> bool {
        false
    }
}

/// What `reference`, without its adapter, could mean on the hub.
fn hub_reference(reference: &ModelRef) -> Option<HubReference> {
    HubReference::parse(&reference.path, reference.revision.as_deref())
}

/// Finds the folder or file that a SOURCE on the command line means: a path that exists, else a model or file
/// on the hub, from its cache or, with the feature `hub`, downloaded into it. A folder that holds nothing but
/// one GGUF model is that model.
///
/// # Errors
/// There is no such path; for what can be a name on the hub, with the command that gets it. A folder of several
/// GGUF models, which are listed.
pub fn locate_source(source: &Path, progress: &dyn Progress) -> Result<PathBuf> {
    use std::io::ErrorKind::{InvalidFilename, InvalidInput, NotADirectory, NotFound};
    let error = match std::fs::metadata(source) {
        Ok(_) => return model_at(source),
        Err(e) => e,
    };
    let absent = [NotFound, NotADirectory, InvalidFilename, InvalidInput].contains(&error.kind());
    let reference = source.to_str().filter(|_| absent);
    let Some(reference) = reference.and_then(|text| HubReference::parse(text, None)) else {
        return Err(Error::io(source, "open")(error));
    };
    let cache = HubCache::from_env();
    if let Some(path) = cache.as_ref().and_then(|cache| cache.find_reference(&reference)) {
        return model_at(&path);
    }
    if let Some(downloaded) = download(cache.as_ref(), &reference, progress) {
        return model_at(&downloaded?);
    }
    let detail = format!(
        "there is no such file or folder, and the hub's cache does not hold it; get it with: {}",
        reference.download_command()
    );
    Err(Error::format(source, detail))
}

/// Downloads `reference`; `None` where that cannot be: without the feature `hub`, or forbidden.
#[cfg(feature = "hub")]
fn download(
    cache: Option<&HubCache>,
    reference: &HubReference,
    progress: &dyn Progress,
) -> Option<Result<PathBuf>> {
    let cache = cache.filter(|_| !crate::hub::is_offline())?;
    Some(crate::hub::download(cache, reference, progress))
}

#[cfg(not(feature = "hub"))]
fn download(
    _cache: Option<&HubCache>,
    _reference: &HubReference,
    _progress: &dyn Progress,
) -> Option<Result<PathBuf>> {
    None
}

/// The only GGUF model of a folder that holds no other weights, else `path` itself.
fn model_at(path: &Path) -> Result<PathBuf> {
    let inside = if path.is_dir() { gguf::only_model_in(path)? } else { None };
    Ok(inside.unwrap_or_else(|| path.to_path_buf()))
}

/// Where to look: folders in order, of which the first is the recipe's own, then the hub's cache.
#[derive(Clone, Debug)]
struct SearchPath {
    folders: Vec<PathBuf>,
    cache: Option<HubCache>,
}

impl SearchPath {
    fn beside(recipe: &Path, more: &[PathBuf]) -> SearchPath {
        let own = match recipe.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let mut folders = vec![own];
        folders.extend_from_slice(more);
        SearchPath { folders, cache: HubCache::from_env() }
    }

    /// The folder or file that `reference` means, without its adapter, if it is on disk. An absolute path
    /// is taken as it is.
    fn find(&self, reference: &ModelRef) -> Option<PathBuf> {
        let mut paths = self.folders.iter().map(|root| root.join(&reference.path));
        paths
            .find(|path| path.exists())
            .or_else(|| self.cache.as_ref()?.find_reference(&hub_reference(reference)?))
    }

    fn missing(&self, reference: &ModelRef) -> MemberError {
        let first = self.folders[0].join(&reference.path);
        let path = first.display();
        let remedy = match hub_reference(reference).map(|found| found.download_command()) {
            Some(command) => format!(
                "put its folder (config.json and weights) at {path}, write the path of the folder, or get \
                 it with: {command}"
            ),
            None => format!(
                "put its folder (config.json and weights) or GGUF file at {path}, or write another path"
            ),
        };
        MemberError { message: format!("model '{reference}' is not on disk"), remedy }
    }
}

/// Members are models with weights: Hugging Face folders, GGUF files, adapters over either.
#[derive(Clone)]
pub struct Folders<'a> {
    roots: SearchPath,
    /// Hears of downloads.
    progress: &'a dyn Progress,
}

impl<'a> Folders<'a> {
    /// Paths are relative to the folder of `recipe`, then to each of `more`. Names of the hub are looked
    /// up in its standard cache.
    pub fn beside(recipe: &Path, more: &[PathBuf]) -> Folders<'a> {
        Folders { roots: SearchPath::beside(recipe, more), progress: &Silent }
    }

    /// The same, reporting downloads to `progress`.
    pub fn with_progress<'b>(self, progress: &'b dyn Progress) -> Folders<'b> {
        Folders { roots: self.roots, progress }
    }

    /// Gets `reference` from the hub, if it can be a name there and downloads are possible.
    fn download(&self, reference: &ModelRef) -> Option<std::result::Result<PathBuf, MemberError>> {
        let named = hub_reference(reference)?;
        let downloaded = download(self.roots.cache.as_ref(), &named, self.progress)?;
        Some(downloaded.map_err(|e| MemberError {
            message: format!("model '{reference}' is not on disk and cannot be downloaded: {e}"),
            remedy: "try again, which goes on where this ended; if a folder is meant, check its path"
                .to_string(),
        }))
    }

    /// The place of `reference`, whose adapter is left out of account.
    fn locate(&self, reference: &ModelRef) -> std::result::Result<PathBuf, MemberError> {
        if let Some(path) = self.roots.find(reference) {
            return Ok(path);
        }
        if let Some(downloaded) = self.download(reference) {
            return downloaded;
        }
        Err(self.roots.missing(reference))
    }
}

impl MemberLookup for Folders<'_> {
    fn open(&self, reference: &ModelRef) -> std::result::Result<Checkpoint, MemberError> {
        let base = reference.base();
        let path = self.locate(&base)?;
        let model = open_path(&path).map_err(|e| {
            MemberError::unusable(&base, &e, remedy(&base, &path, "mend or replace it"))
        })?;
        let Some(lora) = reference.lora.as_deref() else { return Ok(model) };
        let dir = self.locate(lora).map_err(|missing| MemberError {
            message: missing.message.replacen("model", "adapter", 1),
            remedy: missing.remedy.replacen("config.json", "adapter_config.json", 1),
        })?;
        checkpoint::with_adapter(&model, &dir).map_err(|e| {
            MemberError::unusable(reference, &e, "choose an adapter that was trained on this model")
        })
    }
}

/// What to do about a model that cannot be opened: one in the cache may only be incomplete.
fn remedy(reference: &ModelRef, path: &Path, otherwise: &str) -> String {
    let cached = path.parent().is_some_and(|p| p.file_name().is_some_and(|n| n == "snapshots"));
    match hub_reference(reference).filter(|_| cached).map(|found| found.download_command()) {
        Some(command) => format!("if files are missing from the cache, get them with: {command}"),
        None => otherwise.to_string(),
    }
}

/// The model at `path`, whatever its kind.
fn open_path(path: &Path) -> Result<Checkpoint> {
    let path = &model_at(path)?;
    if path.is_dir() {
        return Checkpoint::open_declared(path);
    }
    if !gguf::is_gguf(path)? {
        refuse_foreign(path)?;
        return Err(Error::format(path, "neither a folder nor a GGUF file, so no model"));
    }
    let name = path.file_stem().map_or("model".into(), |stem| stem.to_string_lossy());
    restore(&gguf::open(path)?, &name)
}

/// Members are known by shape alone: from a folder's config.json, else from a table of model families
/// keyed by name. Enough to plan a merge, not to run it: reading a tensor is an error.
#[derive(Clone, Debug)]
pub struct ShapesOnly(SearchPath);

impl ShapesOnly {
    /// As [`Folders::beside`].
    pub fn beside(recipe: &Path, more: &[PathBuf]) -> ShapesOnly {
        ShapesOnly(SearchPath::beside(recipe, more))
    }
}

impl MemberLookup for ShapesOnly {
    fn shapes_only(&self) -> bool {
        true
    }

    fn open(&self, reference: &ModelRef) -> std::result::Result<Checkpoint, MemberError> {
        let named = |e: Error| MemberError::unusable(reference, &e, "mend its config.json");
        let found = self.0.find(reference);
        if let Some(file) = found.as_ref().filter(|path| path.is_file()) {
            return open_path(file)
                .map_err(|e| MemberError::unusable(reference, &e, "replace the file"));
        }
        let folder = found.map(|folder| folder.join("config.json"));
        if let Some(path) = folder.filter(|path| path.is_file()) {
            let config = Config::read(&path).map_err(named)?;
            return shape_checkpoint(&reference.path, config).map_err(named);
        }
        let Some(config) = families::config_for(&reference.path) else {
            let mut missing = self.0.missing(reference);
            missing.message = format!("the shapes of model '{reference}' are not known");
            missing.remedy = format!(
                "put its config.json at {}; names of known families are {}",
                self.0.folders[0].join(&reference.path).join("config.json").display(),
                families::names().join(", ")
            );
            return Err(missing);
        };
        shape_checkpoint(&reference.path, config).map_err(named)
    }
}

/// A checkpoint that has shapes but no weights.
pub fn shape_checkpoint(name: &str, config: Config) -> Result<Checkpoint> {
    let config = declared_config(config)?;
    let origin = config.origin().to_string();
    let settings = Settings::of(&config)?;
    let arch = settings.arch();
    let hyper = HyperParams::from_settings(&settings)?;
    let bias = [settings.flag("attention_bias")?, settings.flag("mlp_bias")?];
    let [attention_bias, mlp_bias] = bias.map(|bias| bias.unwrap_or(false));
    let dtype = match settings.str("dtype") {
        Some("float32") => DType::F32,
        Some("bfloat16") => DType::BF16,
        _ => DType::F16,
    };
    let has = |decl: &TensorDecl| match decl.role {
        _ if !decl.optional => true,
        Role::Head => !hyper.tied,
        _ if decl.hf.contains("self_attn") => attention_bias,
        _ => mlp_bias,
    };
    let mut infos = Vec::new();
    for role in [Role::Embedding, Role::Layer, Role::FinalNorm, Role::Head] {
        let count = if role == Role::Layer { hyper.n_layer } else { 1 };
        for layer in 0..count {
            for decl in arch.with_role(role).filter(|decl| has(decl)) {
                for expert in 0..decl.copies(&hyper) {
                    let name = decl.hf_name_of(layer, expert);
                    infos.push(TensorInfo::new(name, decl.shape(&hyper), dtype));
                }
            }
        }
    }
    let table = TensorTable::new(&origin, infos)?;
    let tensors = Arc::new(ShapeSource { origin, table });
    let name = Path::new(name).file_name().map_or(name.to_string(), |n| n.to_string_lossy().into());
    Ok(Checkpoint {
        name,
        config,
        tensors,
        side_files: Vec::new(),
        card: None,
        warnings: Vec::new(),
    })
}

/// The tensors of a model whose weights are not at hand.
struct ShapeSource {
    origin: String,
    table: TensorTable,
}

impl TensorSource for ShapeSource {
    fn origin(&self) -> &str {
        &self.origin
    }

    fn table(&self) -> &TensorTable {
        &self.table
    }

    fn read(&self, index: usize) -> Result<TensorData<'_>> {
        let name = &self.table.infos()[index].name;
        let detail = "only the shapes of this model are known, so it can be planned but not read";
        Err(Error::tensor(&self.origin, name, detail))
    }
}
