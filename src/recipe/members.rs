//! Finding the members of a merge: model folders on disk, or only their shapes.

use super::families;
use super::reference::ModelRef;
use crate::arch::{Architecture, HyperParams, Role, TensorDecl};
use crate::checkpoint::{Checkpoint, Config};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::source::{TensorData, TensorInfo, TensorSource, TensorTable};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a member could not be had, and what to do.
#[derive(Clone, Debug)]
pub struct Missing {
    pub message: String,
    pub remedy: String,
}

/// Gives the members that recipes name.
pub trait MemberLookup {
    fn open(&self, reference: &ModelRef) -> std::result::Result<Checkpoint, Missing>;

    /// Whether members have shapes alone, so that nothing beside the weights, tokenizers above all, can
    /// be read either.
    fn shapes_only(&self) -> bool {
        false
    }
}

/// Folders to look in, in order. The first is the recipe's own.
#[derive(Clone, Debug)]
struct Roots(Vec<PathBuf>);

impl Roots {
    fn beside(recipe: &Path, more: &[PathBuf]) -> Roots {
        let own = match recipe.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let mut roots = vec![own];
        roots.extend_from_slice(more);
        Roots(roots)
    }

    /// The folder that `reference` means, if there is one. An absolute path is taken as it is.
    fn find(&self, reference: &ModelRef) -> Option<PathBuf> {
        self.0.iter().map(|root| root.join(&reference.path)).find(|path| path.is_dir())
    }

    fn missing(&self, reference: &ModelRef) -> Missing {
        let first = self.0[0].join(&reference.path);
        Missing {
            message: format!("model '{reference}' is not on disk"),
            remedy: format!(
                "put its folder (config.json and safetensors) at {}, or write the path of the folder",
                first.display()
            ),
        }
    }
}

/// Members are Hugging Face folders with weights.
#[derive(Clone, Debug)]
pub struct Folders(Roots);

impl Folders {
    /// Paths are relative to the folder of `recipe`, then to each of `more`.
    pub fn beside(recipe: &Path, more: &[PathBuf]) -> Folders {
        Folders(Roots::beside(recipe, more))
    }
}

impl MemberLookup for Folders {
    fn open(&self, reference: &ModelRef) -> std::result::Result<Checkpoint, Missing> {
        let folder = self.0.find(reference).ok_or_else(|| self.0.missing(reference))?;
        Checkpoint::open(&folder).map_err(|e| Missing {
            message: format!("model '{reference}' cannot be used: {e}"),
            remedy: "mend or replace the folder".to_string(),
        })
    }
}

/// Members are known by shape alone: from a folder's config.json, else from a table of model families
/// keyed by name. Enough to plan a merge, not to run it: reading a tensor is an error.
#[derive(Clone, Debug)]
pub struct ShapesOnly(Roots);

impl ShapesOnly {
    /// As [`Folders::beside`].
    pub fn beside(recipe: &Path, more: &[PathBuf]) -> ShapesOnly {
        ShapesOnly(Roots::beside(recipe, more))
    }
}

impl MemberLookup for ShapesOnly {
    fn shapes_only(&self) -> bool {
        true
    }

    fn open(&self, reference: &ModelRef) -> std::result::Result<Checkpoint, Missing> {
        let named = |e: Error| Missing {
            message: format!("model '{reference}' cannot be used: {e}"),
            remedy: "mend its config.json".to_string(),
        };
        let folder = self.0.find(reference).map(|folder| folder.join("config.json"));
        if let Some(path) = folder.filter(|path| path.is_file()) {
            let config = Config::read(&path).map_err(named)?;
            return shape_checkpoint(&reference.path, config).map_err(named);
        }
        let Some(config) = families::config_for(&reference.path) else {
            let mut missing = self.0.missing(reference);
            missing.message = format!("the shapes of model '{reference}' are not known");
            missing.remedy = format!(
                "put its config.json at {}; names of known families are {}",
                self.0.0[0].join(&reference.path).join("config.json").display(),
                families::names().join(", ")
            );
            return Err(missing);
        };
        shape_checkpoint(&reference.path, config).map_err(named)
    }
}

/// A checkpoint that has shapes but no weights.
pub fn shape_checkpoint(name: &str, config: Config) -> Result<Checkpoint> {
    let origin = config.origin().to_string();
    let arch = Architecture::for_hf_class(&origin, config.architecture()?)?;
    let hyper = HyperParams::from_config(&config)?;
    let dtype = match config.str("torch_dtype").or(config.str("dtype")) {
        Some("float32") => DType::F32,
        Some("bfloat16") => DType::BF16,
        _ => DType::F16,
    };
    let has = |decl: &TensorDecl| match decl.role {
        _ if !decl.optional => true,
        Role::Head => !hyper.tied,
        _ if decl.hf.contains("self_attn") => config.bool("attention_bias").unwrap_or(false),
        _ => config.bool("mlp_bias").unwrap_or(false),
    };
    let mut infos = Vec::new();
    for role in [Role::Embedding, Role::Layer, Role::FinalNorm, Role::Head] {
        let count = if role == Role::Layer { hyper.n_layer } else { 1 };
        for layer in 0..count {
            for decl in arch.with_role(role).filter(|decl| has(decl)) {
                infos.push(TensorInfo::new(decl.hf_name(layer), decl.shape(&hyper), dtype));
            }
        }
    }
    let table = TensorTable::new(&origin, infos)?;
    let tensors = Arc::new(ShapeSource { origin, table });
    let name = Path::new(name).file_name().map_or(name.to_string(), |n| n.to_string_lossy().into());
    Ok(Checkpoint { name, config, tensors, side_files: Vec::new(), card: None })
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
