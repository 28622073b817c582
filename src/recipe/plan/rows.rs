//! The rows of an embedding or head under a changed vocabulary: which rows of which models they are.
//!
//! Only indices, computed without reading a weight; [`crate::merge`] gathers the rows. A model that
//! lacks a token gets, in this order: the row set by the recipe; the row of the only model of the
//! tensor that has it, of the base model, or the mean of all that have it (so far mergekit's
//! `tokenizer/embed.py`, 0.1.5); the row of the tokenizer's donor or of another model; zeros.

use super::merge_plan::{PlanInput, TensorPlan};
use super::models::Models;
use super::vocabulary::{ResolvedVocabulary, RowOverride};
use crate::model::arch::Role;
use crate::model::tokenizer::TokenList;
use crate::recipe::place::StackPlace;
use std::sync::Arc;

/// Where the rows of the inputs of a tensor come from under the result's vocabulary.
#[derive(Clone, Debug, Default)]
pub struct RowArrangement {
    /// The tensors that rows are taken from: an input and the index in its table.
    pub sources: Vec<(PlanInput, usize)>,
    /// For each row that is a mean, the rows it is the mean of.
    pub means: Vec<Vec<RowRef>>,
    /// The rows of every input of the tensor; `None` where they stay unchanged.
    pub inputs: Vec<Option<Vec<ArrangedRow>>>,
}

/// A row of one of [`RowArrangement::sources`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowRef {
    /// An index into [`RowArrangement::sources`].
    pub source: u32,
    /// Index of the row in the source.
    pub row: u32,
}

/// How a row is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArrangedRow {
    /// All zeros.
    Zero,
    /// A copy of a row.
    Copy(RowRef),
    /// An index into [`RowArrangement::means`].
    Mean(u32),
    /// The mean of all rows of this input before the padding. Zeros would give logits above most
    /// others.
    Padding,
}

impl RowArrangement {
    /// Returns the bytes that gathering needs at most beside the sources: every arranged input as f32.
    pub fn bytes(&self, row_len: usize) -> u64 {
        let rows: usize = self.inputs.iter().flatten().map(Vec::len).sum();
        rows as u64 * row_len as u64 * 4
    }
}

/// A model that rows can be taken from.
struct RowCandidate {
    input: PlanInput,
    /// Index in its table.
    index: usize,
    /// The number of rows.
    rows: usize,
    tokens: Arc<TokenList>,
    /// StackPlace in [`RowArrangement::sources`], once a row was taken.
    source: Option<u32>,
}

impl RowCandidate {
    fn row_of(&self, text: &str) -> Option<u32> {
        self.tokens.id(text).filter(|&id| (id as usize) < self.rows)
    }
}

/// Arranges the inputs of the tensor that `plan` makes; `None` if all stay unchanged. Also returns the
/// number of tokens that no model has, whose rows are 0.
pub(super) fn arrange(
    models: &Models<'_>,
    resolved: &ResolvedVocabulary,
    plan: &TensorPlan,
) -> Option<(RowArrangement, usize)> {
    let tokens = resolved.vocabulary.tokens.as_deref()?;
    let mut arranger = RowArranger::new(models, resolved, plan);
    let mut rows: Vec<Vec<ArrangedRow>> = plan.inputs.iter().map(|_| Vec::new()).collect();
    let mut missing = 0;
    for id in 0..resolved.vocabulary.used as u32 {
        arranger.token(id, tokens.text(id), &mut rows, &mut missing);
    }
    let padding = resolved.vocabulary.rows - resolved.vocabulary.used;
    for rows in &mut rows {
        rows.extend(std::iter::repeat_n(ArrangedRow::Padding, padding));
    }
    let RowArranger { candidates, of_input, mut arranged, .. } = arranger;
    let inputs = rows.into_iter().zip(&of_input).map(|(rows, &at)| {
        let own = &candidates[at];
        let same = |(id, row): (usize, &ArrangedRow)| {
            matches!(row, ArrangedRow::Copy(at) if Some(at.source) == own.source && at.row as usize == id)
        };
        let unchanged = rows.len() == own.rows && rows.iter().enumerate().all(same);
        (!unchanged).then_some(rows)
    });
    arranged.inputs = inputs.collect();
    let any = arranged.inputs.iter().any(Option::is_some);
    any.then_some((arranged, missing))
}

struct RowArranger<'r> {
    resolved: &'r ResolvedVocabulary,
    /// The models that the tensor is made of, then the others, beginning with the tokenizer's donor.
    candidates: Vec<RowCandidate>,
    /// The number of candidates that the tensor is made of.
    own: usize,
    /// For each input, its index in `candidates`.
    of_input: Vec<usize>,
    /// Index of the base model in `candidates`.
    base: Option<usize>,
    arranged: RowArrangement,
}

impl<'r> RowArranger<'r> {
    fn new(
        models: &Models<'_>,
        resolved: &'r ResolvedVocabulary,
        plan: &TensorPlan,
    ) -> RowArranger<'r> {
        let mut candidates: Vec<RowCandidate> = Vec::new();
        let mut of_input = Vec::with_capacity(plan.inputs.len());
        for input in &plan.inputs {
            let known = candidates.iter().position(|c| c.input == input.from);
            of_input.push(known.unwrap_or(candidates.len()));
            if known.is_none() {
                candidates.extend(candidate(models, resolved, input.from, input.index));
            }
        }
        let own = candidates.len();
        let row_len = candidates.first().map_or(0, |c| row_len(models, c.input, c.index));
        for (input, _) in &resolved.lists {
            let index = vocabulary_tensor(models, *input, plan.place);
            let Some(index) =
                index.filter(|&index| row_len == self::row_len(models, *input, index))
            else {
                continue;
            };
            if !candidates.iter().any(|c| c.input == *input) {
                candidates.extend(candidate(models, resolved, *input, index));
            }
        }
        let base = plan.base.map(|at| of_input[at]);
        RowArranger {
            resolved,
            candidates,
            own,
            of_input,
            base,
            arranged: RowArrangement::default(),
        }
    }

    /// Adds the row of token `id` to the rows of every input.
    fn token(
        &mut self,
        id: u32,
        text: Option<&str>,
        rows: &mut [Vec<ArrangedRow>],
        missing: &mut usize,
    ) {
        let Some(text) = text else {
            // An id without a token: a model that has the same gap keeps its row.
            for (input, rows) in rows.iter_mut().enumerate() {
                let at = self.of_input[input];
                let own = &self.candidates[at];
                let has_gap = (id as usize) < own.rows && own.tokens.text(id).is_none();
                rows.push(if has_gap { self.copy(at, id) } else { ArrangedRow::Zero });
            }
            return;
        };
        let found: Vec<Option<u32>> = self.candidates.iter().map(|c| c.row_of(text)).collect();
        let set = self.resolved.overrides.get(&id);
        let force = set.is_some_and(|set| set.force);
        let lacking = self.of_input.iter().any(|&at| found[at].is_none());
        let default = (lacking || force).then(|| match set {
            Some(RowOverride { row: Some((input, row)), .. }) => {
                let at = self.candidates.iter().position(|c| c.input == *input);
                at.map_or(ArrangedRow::Zero, |at| self.copy(at, *row))
            }
            Some(RowOverride { row: None, .. }) => ArrangedRow::Zero,
            None => {
                let row = self.default_row(&found);
                *missing += usize::from(row == ArrangedRow::Zero);
                row
            }
        });
        for (input, rows) in rows.iter_mut().enumerate() {
            let at = self.of_input[input];
            rows.push(match (found[at].filter(|_| !force), default) {
                (Some(row), _) => self.copy(at, row),
                (None, Some(default)) => default,
                (None, None) => unreachable!("a default is made where a model lacks the token"),
            });
        }
    }

    /// The row for models that lack a token, by the rule in the module's documentation. `found` are
    /// the candidates' rows.
    fn default_row(&mut self, found: &[Option<u32>]) -> ArrangedRow {
        let having = |range: std::ops::Range<usize>| -> Vec<(usize, u32)> {
            range.filter_map(|at| Some((at, found[at]?))).collect()
        };
        let own = having(0..self.own);
        let (list, first) = if own.is_empty() {
            // The donor of the tokenizer comes first.
            let others = having(self.own..found.len());
            let donor = self.resolved.lists.first().map(|(input, _)| *input);
            let first = others.iter().find(|(at, _)| Some(self.candidates[*at].input) == donor);
            (others.clone(), first.copied())
        } else {
            let base = own.iter().find(|(at, _)| Some(*at) == self.base).copied();
            (own, base)
        };
        match (list.as_slice(), first) {
            ([], _) => ArrangedRow::Zero,
            (&[(at, row)], _) | (_, Some((at, row))) => self.copy(at, row),
            (several, None) => {
                let mean = several.iter().map(|&(at, row)| self.row_at(at, row)).collect();
                self.arranged.means.push(mean);
                ArrangedRow::Mean(self.arranged.means.len() as u32 - 1)
            }
        }
    }

    fn copy(&mut self, candidate: usize, row: u32) -> ArrangedRow {
        ArrangedRow::Copy(self.row_at(candidate, row))
    }

    fn row_at(&mut self, candidate: usize, row: u32) -> RowRef {
        let sources = &mut self.arranged.sources;
        let RowCandidate { input, index, source, .. } = &mut self.candidates[candidate];
        let source = *source.get_or_insert_with(|| {
            sources.push((*input, *index));
            sources.len() as u32 - 1
        });
        RowRef { source, row }
    }
}

fn candidate(
    models: &Models<'_>,
    resolved: &ResolvedVocabulary,
    input: PlanInput,
    index: usize,
) -> Option<RowCandidate> {
    let tokens = resolved.lists.iter().find(|(known, _)| *known == input)?.1.clone();
    let rows = *models.view(input).table.infos()[index].shape.first()?;
    Some(RowCandidate { input, index, rows, tokens, source: None })
}

/// The length of the rows of a tensor of `input`; 0 if it is no matrix of floats.
pub(super) fn row_len(models: &Models<'_>, input: PlanInput, index: usize) -> usize {
    let info = &models.view(input).table.infos()[index];
    if info.shape.len() == 2 && info.dtype.is_float() { info.shape[1] } else { 0 }
}

/// The tensor of `input` that has a row for each token at `place`. The embedding is used in place of a
/// head that is tied to it.
pub(super) fn vocabulary_tensor(
    models: &Models<'_>,
    input: PlanInput,
    place: StackPlace,
) -> Option<usize> {
    let view = models.view(input);
    let role =
        if place == StackPlace::Head && !view.hyper.tied { Role::Head } else { Role::Embedding };
    view.arch.with_role(role).find_map(|decl| view.table.find(decl.hf))
}
