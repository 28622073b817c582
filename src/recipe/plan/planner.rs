//! Recipe text -> a [`MergePlan`] or all problems of the recipe.
//!
//! The order of the stages comes from [`super::stage_order`]; one stage is planned in
//! [`super::stage`].

use super::merge_plan::{MergePlan, MergeStage};
use super::models::Models;
use super::side_files;
use super::stage::{self, StagePlanner};
use super::stage_order::StageOrder;
use crate::recipe::members::MemberLookup;
use crate::recipe::method::MethodSpec;
use crate::recipe::syntax::build_settings::{self, BuildSettings};
use crate::recipe::syntax::diagnostics::{Diagnostic, Diagnostics};
use crate::recipe::syntax::schema::{self, RecipeDocument, Seed};
use crate::recipe::syntax::seed_text;
use crate::recipe::syntax::yaml::{self, Node, Pos};
use std::path::Path;

/// Where problems of the recipe as a whole are reported.
const START: Pos = Pos { line: 1, column: 1 };

/// Plans the recipe `text` of the file `path`.
///
/// # Errors
/// All problems of the recipe, in the order of the text, if at least one of them is an error.
pub fn plan_text(
    path: &Path,
    text: &str,
    methods: &[&'static MethodSpec],
    lookup: &dyn MemberLookup,
) -> Result<MergePlan, Vec<Diagnostic>> {
    plan_with_seed(path, text, methods, lookup, None)
}

/// Like [`plan_text`]; `seed` replaces the seeds in the recipe.
pub(crate) fn plan_with_seed(
    path: &Path,
    text: &str,
    methods: &[&'static MethodSpec],
    lookup: &dyn MemberLookup,
    seed: Option<u64>,
) -> Result<MergePlan, Vec<Diagnostic>> {
    // Some editors write a byte order mark.
    let text = text.trim_start_matches('\u{feff}');
    let mut problems = Diagnostics::default();
    let plan = plan(path, text, methods, lookup, seed, &mut problems);
    let failed = problems.has_errors();
    let problems = problems.into_sorted(text);
    match plan {
        Some(plan) if !failed => Ok(MergePlan { warnings: problems, ..plan }),
        _ => Err(problems),
    }
}

/// The plan without its warnings; `None` if there is an error. Other errors may be in `problems`.
fn plan(
    path: &Path,
    text: &str,
    methods: &[&'static MethodSpec],
    lookup: &dyn MemberLookup,
    seed: Option<u64>,
    problems: &mut Diagnostics,
) -> Option<MergePlan> {
    let nodes = yaml::parse(text).map_err(|problem| problems.push(problem)).ok()?;
    let (nodes, settings) = split_settings(nodes, problems);
    let documents = read_documents(&nodes, text, seed, problems);
    let models = plan_documents(&documents, methods, lookup, problems);
    let side_files = match problems.has_errors() {
        true => Vec::new(),
        false => side_files::of_output(&models, problems),
    };
    let Models { members, stages, .. } = models;
    check_stages(&stages, seed, problems);
    let (text, meaning) = match seed {
        Some(seed) => with_seed(text, &nodes, seed, problems)?,
        None => (text.to_string(), yaml::meaning(&nodes)),
    };
    let (path, warnings) = (path.to_path_buf(), Vec::new());
    Some(MergePlan { path, text, meaning, members, stages, side_files, settings, warnings })
}

/// Separates the documents that are stages from the one that configures a build.
fn split_settings(nodes: Vec<Node>, problems: &mut Diagnostics) -> (Vec<Node>, BuildSettings) {
    let (settings, stages): (Vec<_>, Vec<_>) =
        nodes.into_iter().partition(|node| build_settings::of_document(node).is_some());
    for again in settings.iter().skip(1) {
        problems.error(again.pos, "'build' is given twice", "put all settings into one document");
    }
    let value = settings.first().and_then(build_settings::of_document);
    let read = value.map(|value| build_settings::read(value, problems));
    (stages, read.unwrap_or_default())
}

/// Reads the documents `nodes`; `seed` replaces their seeds.
fn read_documents(
    nodes: &[Node],
    text: &str,
    seed: Option<u64>,
    problems: &mut Diagnostics,
) -> Vec<RecipeDocument> {
    if nodes.is_empty() {
        let remedy = "write 'merge_method', and 'models' or 'slices'";
        problems.error(START, "the recipe is empty", remedy);
    }
    let documents = nodes.iter().filter_map(|node| schema::document(node, text, problems));
    let mut documents: Vec<RecipeDocument> = documents.collect();
    if let Some(seed) = seed {
        documents.iter_mut().for_each(|document| document.seed = Some(Seed::Option(seed)));
    }
    documents
}

/// Plans all stages, each after the stages it uses. Only members and stages that the output needs
/// are kept; the others are planned for their errors.
fn plan_documents<'a>(
    documents: &[RecipeDocument],
    methods: &[&'static MethodSpec],
    lookup: &'a dyn MemberLookup,
    problems: &mut Diagnostics,
) -> Models<'a> {
    let names = documents.iter().filter_map(|document| document.name.as_ref());
    let mut models = Models::new(lookup, names.map(|name| name.value.clone()));
    let Some(order) = StageOrder::of(documents, problems) else { return models };
    let mut planner = StagePlanner::new(methods);
    for &index in &order.needed {
        let document = &documents[index];
        stage::open_models(&mut models, document, problems);
        let is_output = index == order.output;
        if let Some(stage) = planner.plan(&models, document, is_output, problems) {
            models.add_stage(stage);
        }
    }
    let needed = (models.stages.len(), models.members.len());
    for &index in &order.unused {
        let document = &documents[index];
        stage::open_models(&mut models, document, problems);
        if let Some(stage) = planner.plan(&models, document, false, problems) {
            models.add_stage(stage);
        }
        let (pos, message) = match &document.name {
            Some(name) => (name.pos, format!("the stage '{}' is not used", name.value)),
            None => (document.pos, "the stage without a name is not used".to_string()),
        };
        problems.warn(pos, message, "use it as a model in another stage, or remove it");
    }
    models.stages.truncate(needed.0);
    models.members.truncate(needed.1);
    models
}

/// Reports a recipe without output, and a seed that no method uses.
fn check_stages(stages: &[MergeStage], seed: Option<u64>, problems: &mut Diagnostics) {
    if stages.is_empty() && !problems.has_errors() {
        let message = "the recipe has no output stage";
        problems.error(START, message, "compare it with recipes/demo.yml");
    }
    if seed.is_some() && !stages.is_empty() && !stages.iter().any(MergeStage::is_random) {
        let message = "--seed has no effect: no merge method of this recipe is random";
        problems.warn(START, message, "remove the option");
    }
}

/// The recipe's text and meaning with `seed` in every stage.
fn with_seed(
    text: &str,
    nodes: &[Node],
    seed: u64,
    problems: &mut Diagnostics,
) -> Option<(String, String)> {
    let Some(text) = seed_text::with_seed(text, nodes, seed) else {
        let message = "--seed cannot be written into this recipe";
        problems.error(START, message, "write 'seed: N' into the recipe");
        return None;
    };
    // The settings of the build have been checked before.
    let nodes = yaml::parse(&text).ok()?;
    let (nodes, _) = split_settings(nodes, &mut Diagnostics::default());
    Some((text, yaml::meaning(&nodes)))
}
