//! Documents -> stages in the order of their dependencies: names, cycles, members, the final output.
//!
//! One stage's inside is planned in [`super::stage`].

use super::merge_plan::{Input, Member, MergePlan, Stage};
use super::side_files;
use super::stage;
use super::vocabulary::Tokens;
use crate::base::spelling::nearest;
use crate::formats::checkpoint::Config;
use crate::formats::source::TensorTable;
use crate::model::arch::{Architecture, Description, HyperParams};
use crate::recipe::members::MemberLookup;
use crate::recipe::method::MethodSpec;
use crate::recipe::syntax::build_settings::{self, BuildSettings};
use crate::recipe::syntax::diagnostics::{Diagnostic, Diagnostics};
use crate::recipe::syntax::model_ref::ModelRef;
use crate::recipe::syntax::schema::{self, Document, Seed};
use crate::recipe::syntax::seed_text;
use crate::recipe::syntax::yaml::{self, At, Node, Pos};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Plans the recipe `text` of the file `path`. Without an error among the problems there is a plan;
/// with one there is none, and the problems are all that were found, in the order of the text.
pub fn plan_text(
    path: &Path,
    text: &str,
    methods: &[&'static MethodSpec],
    lookup: &dyn MemberLookup,
) -> std::result::Result<MergePlan, Vec<Diagnostic>> {
    plan_seeded(path, text, methods, lookup, None)
}

/// [`plan_text`] with `seed`, if one is given, in place of the recipe's own.
pub(crate) fn plan_seeded(
    path: &Path,
    text: &str,
    methods: &[&'static MethodSpec],
    lookup: &dyn MemberLookup,
    seed: Option<u64>,
) -> std::result::Result<MergePlan, Vec<Diagnostic>> {
    // Editors of some systems write a byte order mark.
    let text = text.trim_start_matches('\u{feff}');
    let mut problems = Diagnostics::default();
    let nodes = match yaml::parse(text) {
        Ok(nodes) => nodes,
        Err(problem) => {
            problems.push(problem);
            return Err(problems.into_sorted(text));
        }
    };
    let (nodes, settings) = without_settings(nodes, &mut problems);
    let mut documents: Vec<Document> =
        nodes.iter().filter_map(|node| schema::document(node, text, &mut problems)).collect();
    if nodes.is_empty() {
        let remedy = "write 'merge_method', and 'models' or 'slices'";
        problems.error(Pos { line: 1, column: 1 }, "the recipe is empty", remedy);
    }
    if let Some(seed) = seed {
        documents.iter_mut().for_each(|document| document.seed = Some(Seed::Option(seed)));
    }
    let mut planner = Planner {
        methods,
        lookup,
        problems,
        members: Vec::new(),
        opened: BTreeMap::new(),
        stages: Vec::new(),
        stage_of_name: BTreeMap::new(),
        used_clauses: BTreeSet::new(),
        token_lists: BTreeMap::new(),
    };
    planner.plan_documents(&documents);
    let side_files = match planner.problems.has_errors() {
        true => Vec::new(),
        false => side_files::of_output(&mut planner),
    };
    let Planner { mut problems, members, stages, .. } = planner;
    if stages.is_empty() && !problems.has_errors() {
        let message = "the recipe yields no output";
        problems.error(Pos { line: 1, column: 1 }, message, "compare it with recipes/demo.yml");
    }
    let start = Pos { line: 1, column: 1 };
    if seed.is_some() && !stages.is_empty() && !stages.iter().any(Stage::is_random) {
        let message = "--seed has no effect: nothing of this recipe is drawn at random";
        problems.warn(start, message, "leave it out");
    }
    let seeded = seed.map(|seed| seed_text::with_seed(text, &nodes, seed));
    if matches!(seeded, Some(None)) {
        problems.error(start, "--seed cannot be recorded in this recipe", "write 'seed: N' in it");
    }
    let failed = problems.has_errors();
    let problems = problems.into_sorted(text);
    if failed {
        return Err(problems);
    }
    let seeded = seeded.flatten();
    let (path, meaning) = (
        path.to_path_buf(),
        match seeded.as_deref().map(yaml::parse) {
            Some(Ok(nodes)) => {
                yaml::meaning(&without_settings(nodes, &mut Diagnostics::default()).0)
            }
            _ => yaml::meaning(&nodes),
        },
    );
    let text = seeded.unwrap_or_else(|| text.to_string());
    Ok(MergePlan { path, text, meaning, members, stages, side_files, settings, warnings: problems })
}

/// The documents that are stages, and what the one that is none tells of a build.
fn without_settings(nodes: Vec<Node>, problems: &mut Diagnostics) -> (Vec<Node>, BuildSettings) {
    let (settings, stages): (Vec<_>, Vec<_>) =
        nodes.into_iter().partition(|node| build_settings::of_document(node).is_some());
    for again in settings.iter().skip(1) {
        problems.error(again.pos, "'build' is there twice", "write its settings in one document");
    }
    let value = settings.first().and_then(build_settings::of_document);
    let read = value.map(|value| build_settings::read(value, problems));
    (stages, read.unwrap_or_default())
}

/// What planning knows so far.
pub(crate) struct Planner<'a> {
    pub methods: &'a [&'static MethodSpec],
    lookup: &'a dyn MemberLookup,
    pub problems: Diagnostics,
    pub members: Vec<Member>,
    /// Members looked up before; `None` for those that could not be had.
    opened: BTreeMap<ModelRef, Option<usize>>,
    pub stages: Vec<Stage>,
    /// Names of stages; `None` until the stage is planned, and for ever if it has errors.
    stage_of_name: BTreeMap<String, Option<usize>>,
    /// Clauses of conditional settings that gave some tensor its value.
    pub used_clauses: BTreeSet<Pos>,
    /// The tokens of inputs that were asked for.
    pub token_lists: BTreeMap<Input, Tokens>,
}

/// What planning must know of an input, be it a member or a stage.
#[derive(Clone, Copy)]
pub(crate) struct View<'p> {
    pub arch: &'static Architecture,
    pub hyper: &'p HyperParams,
    pub config: &'p Config,
    pub table: &'p TensorTable,
}

impl Planner<'_> {
    fn plan_documents(&mut self, documents: &[Document]) {
        self.check_names(documents);
        let by_name: BTreeMap<&str, usize> = documents
            .iter()
            .enumerate()
            .rev()
            .filter_map(|(i, d)| Some((d.name.as_ref()?.value.as_str(), i)))
            .collect();
        let edges: Vec<Vec<(usize, Pos)>> = documents
            .iter()
            .map(|document| {
                let uses = references(document).into_iter();
                uses.filter(|r| r.value.may_be_stage())
                    .filter_map(|r| Some((*by_name.get(r.value.path.as_str())?, r.pos)))
                    .collect()
            })
            .collect();
        let Some(last) = self.final_document(documents, &edges) else { return };
        let mut order = Order { edges: &edges, documents, state: vec![Mark::New; documents.len()] };
        let mut needed = Vec::new();
        order.visit(last, &mut needed, &mut self.problems);
        let mut unused = Vec::new();
        for index in 0..documents.len() {
            order.visit(index, &mut unused, &mut self.problems);
        }
        self.stage_of_name = by_name.keys().map(|name| (name.to_string(), None)).collect();
        for &index in &needed {
            self.plan_document(&documents[index], index == last);
        }
        // Stages that nothing uses are checked like the others, but are no part of the plan.
        let kept = (self.stages.len(), self.members.len());
        for &index in &unused {
            let document = &documents[index];
            self.plan_document(document, false);
            let label = document.name.as_ref().map_or("without a name", |n| n.value.as_str());
            let pos = document.name.as_ref().map_or(document.pos, |n| n.pos);
            let message = format!("the stage '{label}' is not used");
            self.problems.warn(pos, message, "name it as a model in another stage, or remove it");
        }
        self.stages.truncate(kept.0);
        self.members.truncate(kept.1);
    }

    fn plan_document(&mut self, document: &Document, is_final: bool) {
        let stage = stage::stage(self, document, is_final);
        let Some(stage) = stage else { return };
        let index = self.stages.len();
        if let Some(name) = &document.name {
            self.stage_of_name.insert(name.value.clone(), Some(index));
        }
        self.stages.push(stage);
    }

    fn check_names(&mut self, documents: &[Document]) {
        let mut seen: BTreeMap<&str, Pos> = BTreeMap::new();
        for name in documents.iter().filter_map(|d| d.name.as_ref()) {
            if let Some(first) = seen.get(name.value.as_str()) {
                let message =
                    format!("two stages are called '{}'; the other is at {first}", name.value);
                self.problems.error(name.pos, message, "give each stage a name of its own");
            } else {
                seen.insert(&name.value, name.pos);
            }
        }
        for extra in documents.iter().filter(|d| d.name.is_none()).skip(1) {
            let message = "a second stage without a name; only the output may have none";
            self.problems.error(
                extra.pos,
                message,
                "add 'name: NAME' to the stages before the output",
            );
        }
    }

    /// The document without a name, else the one that no other uses.
    fn final_document(
        &mut self,
        documents: &[Document],
        edges: &[Vec<(usize, Pos)>],
    ) -> Option<usize> {
        if let Some(unnamed) = documents.iter().position(|d| d.name.is_none()) {
            return Some(unnamed);
        }
        let used: BTreeSet<usize> = edges.iter().flatten().map(|&(to, _)| to).collect();
        let sinks: Vec<usize> = (0..documents.len()).filter(|i| !used.contains(i)).collect();
        if let &[one] = sinks.as_slice() {
            return Some(one);
        }
        if sinks.is_empty() && !documents.is_empty() {
            // Every stage is used by another: a cycle, which the walk from any of them reports.
            return Some(documents.len() - 1);
        }
        for &sink in sinks.iter().skip(1) {
            let document = &documents[sink];
            let pos = document.name.as_ref().map_or(document.pos, |n| n.pos);
            let message = "more than one stage could be the output: all have names and none of \
                           these is used by another";
            self.problems.error(pos, message, "remove the name of the stage that is the output");
        }
        None
    }

    /// The member or stage that `reference` means, opened at its first use. `None` if it could not be
    /// had, which is reported once.
    pub(crate) fn input(&mut self, reference: &At<ModelRef>) -> Option<Input> {
        let name = &reference.value.path;
        if reference.value.may_be_stage()
            && let Some(stage) = self.stage_of_name.get(name)
        {
            return stage.map(Input::Stage);
        }
        if let Some(lora) = &reference.value.lora
            && self.stage_of_name.contains_key(name)
        {
            let message = format!("the adapter '{lora}' cannot be merged into '{name}', a stage");
            let remedy = "merge it into the model that the stage is made of";
            self.problems.error(reference.pos, message, remedy);
            return None;
        }
        if let Some(known) = self.opened.get(&reference.value) {
            return known.map(Input::Member);
        }
        let member = self.open(reference);
        let index = member.map(|member| {
            self.members.push(member);
            self.members.len() - 1
        });
        self.opened.insert(reference.value.clone(), index);
        index.map(Input::Member)
    }

    /// Whether only shapes of members are known, so that their tokenizers are not read.
    pub(crate) fn shapes_only(&self) -> bool {
        self.lookup.shapes_only()
    }

    fn open(&mut self, reference: &At<ModelRef>) -> Option<Member> {
        let checkpoint = match self.lookup.open(&reference.value) {
            Ok(checkpoint) => checkpoint,
            Err(mut missing) => {
                let stages = self.stage_of_name.keys().map(String::as_str);
                if let Some(stage) = nearest(&reference.value.path, stages) {
                    missing.remedy =
                        format!("did you mean the stage '{stage}'? Or {}", missing.remedy);
                }
                self.problems.error(reference.pos, missing.message, missing.remedy);
                return None;
            }
        };
        let table = checkpoint.tensors.table();
        let Description { arch, hyper, warnings } = match Description::of_checkpoint(&checkpoint) {
            Ok(description) => description,
            Err(e) => {
                let message = format!("model '{}' cannot be used: {e}", reference.value);
                self.problems.error(
                    reference.pos,
                    message,
                    "choose a model of a known architecture",
                );
                return None;
            }
        };
        self.check_names_of(reference, table, arch, &hyper);
        let pos = reference.pos;
        for warning in checkpoint.warnings.iter().chain(&warnings) {
            let message = format!("model '{}': {warning}", reference.value);
            self.problems.warn(pos, message, "");
        }
        Some(Member { reference: reference.value.clone(), pos, checkpoint, arch, hyper })
    }

    /// Warns of tensors that the architecture does not know.
    fn check_names_of(
        &mut self,
        reference: &At<ModelRef>,
        table: &TensorTable,
        arch: &'static Architecture,
        hyper: &HyperParams,
    ) {
        let model = &reference.value;
        let strange = |name: &str| match arch.match_hf(name) {
            Some((decl, layer)) => {
                let beyond =
                    decl.expert_in(name).is_some_and(|expert| expert >= decl.copies(hyper));
                beyond || layer.is_some_and(|layer| layer >= hyper.n_layer)
            }
            None => !arch.ignores(name),
        };
        let strangers: Vec<&str> =
            table.infos().iter().map(|info| info.name.as_str()).filter(|n| strange(n)).collect();
        if let Some(first) = strangers.first() {
            let message = format!(
                "model '{model}' has {} tensors that architecture {} does not know, '{first}' for \
                 one; they are left out",
                strangers.len(),
                arch.gguf_name
            );
            let remedy = "check that the model is what its config.json says";
            self.problems.warn(reference.pos, message, remedy);
        }
    }

    pub(crate) fn view(&self, input: Input) -> View<'_> {
        match input {
            Input::Member(m) => {
                let member = &self.members[m];
                let (config, table) =
                    (&member.checkpoint.config, member.checkpoint.tensors.table());
                View { arch: member.arch, hyper: &member.hyper, config, table }
            }
            Input::Stage(s) => {
                let Stage { arch, hyper, config, table, .. } = &self.stages[s];
                View { arch, hyper, config, table }
            }
        }
    }

    pub(crate) fn label(&self, input: Input) -> String {
        match input {
            Input::Member(m) => self.members[m].reference.to_string(),
            Input::Stage(s) => self.stages[s].label(),
        }
    }
}

/// Every model that a document names, in the order of the text's meaning.
fn references(document: &Document) -> Vec<&At<ModelRef>> {
    let mut all: Vec<&At<ModelRef>> = document.base_model.iter().collect();
    for slice in document.inputs.slices() {
        all.extend(&slice.base_model);
        all.extend(slice.sources.iter().map(|source| &source.model));
    }
    all.extend(document.tokenizer.iter().flat_map(|tokenizer| tokenizer.references()));
    all.extend(document.ends.iter().flat_map(|end| references(&end.document)));
    all
}

#[derive(Clone, Copy, PartialEq)]
enum Mark {
    New,
    Open,
    Done,
}

/// A walk of the stages, used before users.
struct Order<'a> {
    edges: &'a [Vec<(usize, Pos)>],
    documents: &'a [Document],
    state: Vec<Mark>,
}

impl Order<'_> {
    fn visit(&mut self, index: usize, out: &mut Vec<usize>, problems: &mut Diagnostics) {
        if self.state[index] != Mark::New {
            return;
        }
        self.state[index] = Mark::Open;
        for &(to, pos) in &self.edges[index] {
            if self.state[to] == Mark::Open {
                let name = |i: usize| {
                    self.documents[i].name.as_ref().map_or("output", |name| name.value.as_str())
                };
                let message = format!(
                    "stages go in a circle: '{}' uses '{}', which is made from it",
                    name(index),
                    name(to)
                );
                let remedy =
                    "use another model here, or write its path with './' if a folder is meant";
                problems.error(pos, message, remedy);
            } else {
                self.visit(to, out, problems);
            }
        }
        self.state[index] = Mark::Done;
        out.push(index);
    }
}
