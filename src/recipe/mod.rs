//! Recipes: YAML text -> a validated [`MergePlan`].
//!
//! `yaml` (a tree with positions) -> `schema`, `inputs` (keys and types) -> `planner` (stages in order, members)
//! -> `slices`, `ends`, `values`, `compat`, `build` (one stage's tensors) -> `plan`. Every part reports what
//! it finds wrong and carries on, so that one run shows all problems of a recipe, each with line,
//! column and remedy, before any weight is read.
//!
//! `tokenizer_spec` reads what a recipe says of the tokenizer, `vocabulary` and `rows` find the tokens of
//! the result and the rows for them, `chat` its chat template, `side_files` the files beside the weights;
//! `settings` what it says of the files to build.
//!
//! Deliberately absent: arithmetic, which is [`crate::merge`]'s.

mod build;
mod chat;
mod compat;
mod diagnostics;
mod donors;
mod ends;
mod families;
mod foreign;
mod inputs;
mod members;
mod method;
mod output_config;
mod params;
mod plan;
mod planner;
mod reference;
mod rows;
mod schema;
mod seeded;
mod settings;
mod shares;
mod side_files;
mod slices;
mod summary;
mod tokenizer_spec;
mod values;
mod vocabulary;
mod yaml;

pub use diagnostics::{Diagnostic, Severity, render};
pub use members::{Folders, MemberLookup, Missing, ShapesOnly, locate_source, shape_checkpoint};
pub use method::{BaseRule, Default as ParamDefault, MethodSpec, Misfit, ParamSpec, Scope};
pub use output_config::torch_name;
pub use plan::{
    Donor, Input, Member, MergePlan, Place, Stage, TensorInput, TensorPlan, Value, Values,
};
pub use planner::plan_text;
pub use reference::ModelRef;
pub use rows::{Arranged, Row, RowAt};
pub use settings::BuildSettings;
pub use shares::MemberShare;
pub use summary::*;
pub use vocabulary::Vocabulary;
pub use yaml::Pos;

use crate::base::error::{Error, Result};
use crate::formats::file_kind::refuse_foreign_bytes;
use std::path::Path;

/// Reads and plans the recipe at `path`, with `seed` in place of its own if one is given. All problems come in one
/// [`Error::Recipe`].
pub fn load(
    path: &Path,
    methods: &[&'static MethodSpec],
    lookup: &dyn MemberLookup,
    seed: Option<u64>,
) -> Result<MergePlan> {
    check(path, methods, lookup, seed)?
        .map_err(|problems| Error::Recipe(render(&path.display().to_string(), &problems)))
}

/// As [`load`], with the problems as data. Fails only if the file cannot be read.
pub fn check(
    path: &Path,
    methods: &[&'static MethodSpec],
    lookup: &dyn MemberLookup,
    seed: Option<u64>,
) -> Result<std::result::Result<MergePlan, Vec<Diagnostic>>> {
    /// A recipe is a page of text; more is some other file.
    const LIMIT: u64 = 16 << 20;
    let size = std::fs::metadata(path).map_err(Error::io(path, "read"))?.len();
    if size > LIMIT {
        return Err(Error::format(path, format!("{size} bytes are too many for a recipe")));
    }
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    if !bytes.is_empty() {
        refuse_foreign_bytes(path, &bytes, size)?;
    }
    let Ok(text) = String::from_utf8(bytes) else {
        let detail = "neither UTF-8 text nor a GGUF file, so neither a recipe nor a model";
        return Err(Error::format(path, detail));
    };
    Ok(planner::plan_seeded(path, &text, methods, lookup, seed))
}
