//! Recipes: YAML text -> a validated [`MergePlan`].
//!
//! `syntax` reads the YAML, `members` finds the models it names, `plan` resolves every tensor of the
//! result, and `view` summarizes the plan for people. Planning reports each problem with line, column
//! and remedy and continues, so that one run shows all of them before any weight is read.
//!
//! Not here: arithmetic on weights, which is in [`crate::merge`].

mod members;
mod method;
mod place;
mod plan;
mod syntax;
mod view;

pub use members::{
    Folders, MemberError, MemberLookup, ShapesOnly, locate_source, shape_checkpoint,
};
pub use method::{
    BaseRule, MethodSpec, ParamConflict, ParamDefault, ParamScope, ParamSpec, ParamValue,
    ParamValues,
};
pub use place::StackPlace;
pub use plan::merge_plan::{
    Donor, Member, MergePlan, MergeStage, PlanInput, TensorInput, TensorPlan,
};
pub use plan::output_config::torch_name;
pub use plan::planner::plan_text;
pub use plan::rows::{ArrangedRow, RowArrangement, RowRef};
pub use plan::vocabulary::MergedVocabulary;
pub use syntax::build_settings::BuildSettings;
pub use syntax::diagnostics::{Diagnostic, Severity, recipe_error, render};
pub use syntax::model_ref::ModelRef;
pub use syntax::yaml::Pos;
pub use view::*;

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
    check(path, methods, lookup, seed)?.map_err(|problems| recipe_error(path, &problems))
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
    Ok(plan::planner::plan_with_seed(path, &text, methods, lookup, seed))
}
