//! Which rows of which models make the rows of an embedding or a head under another vocabulary.
//!
//! Only indices here, worked out without reading a weight; [`crate::merge`] gathers the rows.
//!
//! The rule for a model that lacks a token is mergekit's (`tokenizer/embed.py`, version 0.1.5): what the
//! recipe says of the token; else, among the models that the tensor is made of, the only one that has
//! it, or the base model, or the mean of those that have it. Where none of them has it mergekit writes
//! zeros; here the tokenizer's donor is asked, then the other models of the stage, and zeros come last.
//! Padding rows are the mean of all rows before them, as there: zeros would be logits above most others.

use super::merge_plan::{Input, Place, TensorPlan};
use super::planner::Planner;
use super::vocabulary::{Override, Resolved};
use crate::model::arch::Role;
use crate::model::tokenizer::TokenList;
use std::sync::Arc;

/// How the inputs of a tensor are brought to the rows of the result's vocabulary.
#[derive(Clone, Debug, Default)]
pub struct Arranged {
    /// The tensors that rows are taken from: an input and the index in its table.
    pub sources: Vec<(Input, usize)>,
    /// Rows that are means, each with the rows that it is the mean of.
    pub means: Vec<Vec<RowAt>>,
    /// The rows of every input of the tensor; `None` where they are what they should be.
    pub inputs: Vec<Option<Vec<Row>>>,
}

/// A row of one of [`Arranged::sources`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowAt {
    pub source: u32,
    pub row: u32,
}

/// What a row is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    Zero,
    Copy(RowAt),
    /// An index into [`Arranged::means`].
    Mean(u32),
    /// The mean of all rows of this input that are no padding.
    Padding,
}

impl Arranged {
    /// Bytes that gathering holds at most, beside the sources: every arranged input as f32.
    pub fn bytes(&self, row_len: usize) -> u64 {
        let rows: usize = self.inputs.iter().flatten().map(Vec::len).sum();
        rows as u64 * row_len as u64 * 4
    }
}

/// A model that rows can be taken from.
struct Candidate {
    input: Input,
    /// Index in its table, and the rows it has there.
    index: usize,
    rows: usize,
    tokens: Arc<TokenList>,
    /// Place in [`Arranged::sources`], once a row was taken.
    source: Option<u32>,
}

impl Candidate {
    fn row_of(&self, text: &str) -> Option<u32> {
        self.tokens.id(text).filter(|&id| (id as usize) < self.rows)
    }
}

/// Arranges the inputs of the tensor that `plan` makes; `None` if all are as they should be. The
/// number of tokens that no model has comes with it: their rows are 0.
pub(crate) fn arrange(
    planner: &Planner<'_>,
    resolved: &Resolved,
    plan: &TensorPlan,
) -> Option<(Arranged, usize)> {
    let tokens = resolved.vocabulary.tokens.as_deref()?;
    let mut arranger = Arranger::new(planner, resolved, plan);
    let mut rows: Vec<Vec<Row>> = plan.inputs.iter().map(|_| Vec::new()).collect();
    let mut nowhere = 0;
    for id in 0..resolved.vocabulary.used as u32 {
        arranger.token(id, tokens.text(id), &mut rows, &mut nowhere);
    }
    let padding = resolved.vocabulary.rows - resolved.vocabulary.used;
    for rows in &mut rows {
        rows.extend(std::iter::repeat_n(Row::Padding, padding));
    }
    let Arranger { candidates, of_input, mut arranged, .. } = arranger;
    let inputs = rows.into_iter().zip(&of_input).map(|(rows, &at)| {
        let own = &candidates[at];
        let same = |(id, row): (usize, &Row)| {
            matches!(row, Row::Copy(at) if Some(at.source) == own.source && at.row as usize == id)
        };
        let unchanged = rows.len() == own.rows && rows.iter().enumerate().all(same);
        (!unchanged).then_some(rows)
    });
    arranged.inputs = inputs.collect();
    let any = arranged.inputs.iter().any(Option::is_some);
    any.then_some((arranged, nowhere))
}

struct Arranger<'r> {
    resolved: &'r Resolved,
    /// First the models that the tensor is made of, then the others, the tokenizer's donor before all.
    candidates: Vec<Candidate>,
    /// How many of them the tensor is made of, and which each input is.
    own: usize,
    of_input: Vec<usize>,
    base: Option<usize>,
    arranged: Arranged,
}

impl<'r> Arranger<'r> {
    fn new(planner: &Planner<'_>, resolved: &'r Resolved, plan: &TensorPlan) -> Arranger<'r> {
        let mut candidates: Vec<Candidate> = Vec::new();
        let mut of_input = Vec::with_capacity(plan.inputs.len());
        for input in &plan.inputs {
            let known = candidates.iter().position(|c| c.input == input.from);
            of_input.push(known.unwrap_or(candidates.len()));
            if known.is_none() {
                candidates.extend(candidate(planner, resolved, input.from, input.index));
            }
        }
        let own = candidates.len();
        let row_len = candidates.first().map_or(0, |c| row_len(planner, c.input, c.index));
        for (input, _) in &resolved.lists {
            let index = vocabulary_tensor(planner, *input, plan.place);
            let Some(index) =
                index.filter(|&index| row_len == self::row_len(planner, *input, index))
            else {
                continue;
            };
            if !candidates.iter().any(|c| c.input == *input) {
                candidates.extend(candidate(planner, resolved, *input, index));
            }
        }
        let base = plan.base.map(|at| of_input[at]);
        Arranger { resolved, candidates, own, of_input, base, arranged: Arranged::default() }
    }

    /// Adds the row of token `id` to the rows of every input.
    fn token(&mut self, id: u32, text: Option<&str>, rows: &mut [Vec<Row>], nowhere: &mut usize) {
        let Some(text) = text else {
            // An id that no token has: where the model's own list has that gap too, its row stays.
            for (input, rows) in rows.iter_mut().enumerate() {
                let at = self.of_input[input];
                let own = &self.candidates[at];
                let keeps = (id as usize) < own.rows && own.tokens.text(id).is_none();
                rows.push(if keeps { self.copy(at, id) } else { Row::Zero });
            }
            return;
        };
        let found: Vec<Option<u32>> = self.candidates.iter().map(|c| c.row_of(text)).collect();
        let told = self.resolved.overrides.get(&id);
        let force = told.is_some_and(|told| told.force);
        let lacking = self.of_input.iter().any(|&at| found[at].is_none());
        let default = (lacking || force).then(|| match told {
            Some(Override { row: Some((input, row)), .. }) => {
                let at = self.candidates.iter().position(|c| c.input == *input);
                at.map_or(Row::Zero, |at| self.copy(at, *row))
            }
            Some(Override { row: None, .. }) => Row::Zero,
            None => {
                let row = self.usual(&found);
                *nowhere += usize::from(row == Row::Zero);
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

    /// The row for models that lack a token, by the rule above.
    fn usual(&mut self, found: &[Option<u32>]) -> Row {
        let having = |range: std::ops::Range<usize>| -> Vec<(usize, u32)> {
            range.filter_map(|at| Some((at, found[at]?))).collect()
        };
        let own = having(0..self.own);
        let (list, first) = if own.is_empty() {
            // The donor of the tokenizer is the first of the others, if it is not among the own.
            let others = having(self.own..found.len());
            let donor = self.resolved.lists.first().map(|(input, _)| *input);
            let first = others.iter().find(|(at, _)| Some(self.candidates[*at].input) == donor);
            (others.clone(), first.copied())
        } else {
            let base = own.iter().find(|(at, _)| Some(*at) == self.base).copied();
            (own, base)
        };
        match (list.as_slice(), first) {
            ([], _) => Row::Zero,
            (&[(at, row)], _) | (_, Some((at, row))) => self.copy(at, row),
            (several, None) => {
                let mean = several.iter().map(|&(at, row)| self.row_at(at, row)).collect();
                self.arranged.means.push(mean);
                Row::Mean(self.arranged.means.len() as u32 - 1)
            }
        }
    }

    fn copy(&mut self, candidate: usize, row: u32) -> Row {
        Row::Copy(self.row_at(candidate, row))
    }

    fn row_at(&mut self, candidate: usize, row: u32) -> RowAt {
        let sources = &mut self.arranged.sources;
        let Candidate { input, index, source, .. } = &mut self.candidates[candidate];
        let source = *source.get_or_insert_with(|| {
            sources.push((*input, *index));
            sources.len() as u32 - 1
        });
        RowAt { source, row }
    }
}

fn candidate(
    planner: &Planner<'_>,
    resolved: &Resolved,
    input: Input,
    index: usize,
) -> Option<Candidate> {
    let tokens = resolved.lists.iter().find(|(known, _)| *known == input)?.1.clone();
    let rows = *planner.view(input).table.infos()[index].shape.first()?;
    Some(Candidate { input, index, rows, tokens, source: None })
}

/// Length of the rows of a tensor of `input`; 0 if it holds no floats.
pub(crate) fn row_len(planner: &Planner<'_>, input: Input, index: usize) -> usize {
    let info = &planner.view(input).table.infos()[index];
    if info.shape.len() == 2 && info.dtype.is_float() { info.shape[1] } else { 0 }
}

/// The tensor of `input` that has a row for each token at `place`: the embedding, which also stands in
/// for a head that is tied to it.
pub(crate) fn vocabulary_tensor(
    planner: &Planner<'_>,
    input: Input,
    place: Place,
) -> Option<usize> {
    let view = planner.view(input);
    let role = if place == Place::Head && !view.hyper.tied { Role::Head } else { Role::Embedding };
    view.arch.with_role(role).find_map(|decl| view.table.find(decl.hf))
}
