//! The order in which stages are planned: names, cycles, and which stage is the output.

use crate::recipe::syntax::diagnostics::Diagnostics;
use crate::recipe::syntax::model_ref::ModelRef;
use crate::recipe::syntax::schema::RecipeDocument;
use crate::recipe::syntax::yaml::{Located, Pos};
use std::collections::{BTreeMap, BTreeSet};

/// Indices of documents, each after the documents it uses.
pub(super) struct StageOrder {
    /// The documents that the output needs, the output last.
    pub needed: Vec<usize>,
    /// All other documents.
    pub unused: Vec<usize>,
    pub output: usize,
}

/// For each document, the documents it uses and where it names them.
type Edges = Vec<Vec<(usize, Pos)>>;

impl StageOrder {
    /// Orders `documents`; `None` if no document or more than one could be the output.
    pub(super) fn of(
        documents: &[RecipeDocument],
        problems: &mut Diagnostics,
    ) -> Option<StageOrder> {
        check_names(documents, problems);
        let edges = edges(documents);
        let output = output(documents, &edges, problems)?;
        let state = vec![VisitState::New; documents.len()];
        let mut walk = StageWalk { edges: &edges, documents, state };
        let (mut needed, mut unused) = (Vec::new(), Vec::new());
        walk.visit(output, &mut needed, problems);
        for index in 0..documents.len() {
            walk.visit(index, &mut unused, problems);
        }
        Some(StageOrder { needed, unused, output })
    }
}

fn edges(documents: &[RecipeDocument]) -> Edges {
    let named = documents.iter().enumerate().rev();
    let by_name: BTreeMap<&str, usize> =
        named.filter_map(|(i, d)| Some((d.name.as_ref()?.value.as_str(), i))).collect();
    let edges = documents.iter().map(|document| {
        let uses = references(document).into_iter().filter(|r| r.value.may_be_stage());
        uses.filter_map(|r| Some((*by_name.get(r.value.path.as_str())?, r.pos))).collect()
    });
    edges.collect()
}

/// Every model that `document` names.
fn references(document: &RecipeDocument) -> Vec<&Located<ModelRef>> {
    let mut all: Vec<&Located<ModelRef>> = document.base_model.iter().collect();
    for slice in document.inputs.slices() {
        all.extend(&slice.base_model);
        all.extend(slice.sources.iter().map(|source| &source.model));
    }
    all.extend(document.tokenizer.iter().flat_map(|tokenizer| tokenizer.references()));
    all.extend(document.ends.iter().flat_map(|end| references(&end.document)));
    all
}

/// Reports names that two stages share, and stages without a name beside the output.
fn check_names(documents: &[RecipeDocument], problems: &mut Diagnostics) {
    let mut seen: BTreeMap<&str, Pos> = BTreeMap::new();
    for name in documents.iter().filter_map(|d| d.name.as_ref()) {
        if let Some(first) = seen.get(name.value.as_str()) {
            let message =
                format!("two stages have the name '{}'; the other is at {first}", name.value);
            problems.error(name.pos, message, "give each stage a different name");
        } else {
            seen.insert(&name.value, name.pos);
        }
    }
    for extra in documents.iter().filter(|d| d.name.is_none()).skip(1) {
        let message = "a second stage without a name; only the output may omit it";
        problems.error(extra.pos, message, "add 'name: NAME' to the stages before the output");
    }
}

/// The document without a name, else the one that no other document uses.
fn output(
    documents: &[RecipeDocument],
    edges: &Edges,
    problems: &mut Diagnostics,
) -> Option<usize> {
    if let Some(unnamed) = documents.iter().position(|d| d.name.is_none()) {
        return Some(unnamed);
    }
    let used: BTreeSet<usize> = edges.iter().flatten().map(|&(to, _)| to).collect();
    let candidates: Vec<usize> = (0..documents.len()).filter(|i| !used.contains(i)).collect();
    if let &[one] = candidates.as_slice() {
        return Some(one);
    }
    if candidates.is_empty() {
        // Every stage is used by another: a cycle, which the walk from any of them reports.
        return documents.len().checked_sub(1);
    }
    for &candidate in candidates.iter().skip(1) {
        let document = &documents[candidate];
        let pos = document.name.as_ref().map_or(document.pos, |n| n.pos);
        let message = "more than one stage could be the output: all stages have names, and no other \
                       stage uses this one";
        problems.error(pos, message, "remove the name of the stage that is the output");
    }
    None
}

#[derive(Clone, Copy, PartialEq)]
enum VisitState {
    New,
    InProgress,
    Done,
}

/// A depth-first walk of the stages.
struct StageWalk<'a> {
    edges: &'a Edges,
    documents: &'a [RecipeDocument],
    state: Vec<VisitState>,
}

impl StageWalk<'_> {
    /// Appends document `index` to `out` after the documents it uses, unless it was visited before.
    fn visit(&mut self, index: usize, out: &mut Vec<usize>, problems: &mut Diagnostics) {
        if self.state[index] != VisitState::New {
            return;
        }
        self.state[index] = VisitState::InProgress;
        for &(to, pos) in &self.edges[index] {
            if self.state[to] == VisitState::InProgress {
                let name = |i: usize| {
                    self.documents[i].name.as_ref().map_or("output", |name| name.value.as_str())
                };
                let message = format!(
                    "stages form a cycle: '{}' uses '{}', which is made from it",
                    name(index),
                    name(to)
                );
                let remedy = "use another model here; for a folder, write its path with './'";
                problems.error(pos, message, remedy);
            } else {
                self.visit(to, out, problems);
            }
        }
        self.state[index] = VisitState::Done;
        out.push(index);
    }
}
