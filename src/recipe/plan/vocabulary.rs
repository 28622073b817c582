//! The tokens of a stage's result, where the recipe sets its tokenizer.
//!
//! `base` and a named model give their tokens unchanged. `union` starts with those of the base model
//! or first model and appends the others', ordinary ones first, as mergekit does (`tokenizer/build.py`,
//! 0.1.5). Appended ordinary tokens become added tokens. Tokens without a row in their model's
//! embedding do not count. Not here: rows ([`super::rows`]), unchanged tokenizers ([`super::compat`]).

use super::donors::Donors;
use super::merge_plan::PlanInput;
use super::models::Models;
use super::rows::{row_len, vocabulary_tensor};
use super::slices::ResolvedSlice;
use crate::base::spelling::nearest;
use crate::model::tokenizer::TokenList;
use crate::recipe::place::StackPlace;
use crate::recipe::syntax::diagnostics::Diagnostics;
use crate::recipe::syntax::schema::RecipeDocument;
use crate::recipe::syntax::tokenizer::{
    TokenRowSource, TokenSpec, TokenizerSource, TokenizerSpec, WhichToken,
};
use crate::recipe::syntax::yaml::{Located, Pos};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The tokens of a stage's result and the rows of its embedding.
#[derive(Clone, Debug)]
pub struct MergedVocabulary {
    /// `None` in a plan from shapes alone, which reads no tokenizers.
    pub tokens: Option<Arc<TokenList>>,
    /// The id after the last token's.
    pub used: usize,
    /// Rows of embedding and head, padding included.
    pub rows: usize,
}

/// The row that the recipe sets for a token.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowOverride {
    /// A model and a row of its embedding; `None` for zeros.
    pub row: Option<(PlanInput, u32)>,
    /// Whether models that have the token use this row too.
    pub force: bool,
}

/// A vocabulary with the data needed to find rows for it.
pub(super) struct ResolvedVocabulary {
    pub vocabulary: MergedVocabulary,
    /// The tokens of every model of the stage, the tokenizer's donor first.
    pub lists: Vec<(PlanInput, Arc<TokenList>)>,
    pub overrides: BTreeMap<u32, RowOverride>,
    /// ModelTokens that the donor does not have.
    pub appended: usize,
}

/// The tokens of a model.
#[derive(Clone)]
enum ModelTokens {
    Known(Arc<TokenList>),
    /// There is no tokenizer, or the plan reads none.
    Absent,
    /// The tokenizer cannot be read, which has been reported.
    Broken,
}

/// The tokens of models that have been read, so that each tokenizer is read once.
#[derive(Default)]
pub(super) struct TokenLists(BTreeMap<PlanInput, ModelTokens>);

/// The vocabulary that `document` sets; `Ok(None)` if it sets none.
///
/// # Errors
/// The vocabulary cannot be made, which has been reported.
pub(super) fn resolve(
    models: &Models<'_>,
    document: &RecipeDocument,
    slices: &[&ResolvedSlice<'_>],
    donors: &Donors,
    known: &mut TokenLists,
    problems: &mut Diagnostics,
) -> Result<Option<ResolvedVocabulary>, ()> {
    let Some(spec) = &document.tokenizer else { return Ok(None) };
    let base = document.base_model.as_ref();
    let base = base.map(|base| models.find(&base.value).ok_or(())).transpose()?;
    let sources = slices.iter().flat_map(|slice| &slice.sources).map(|source| source.input);
    let mut all: Vec<PlanInput> =
        [donors.tokenizer.0].into_iter().chain(base).chain(sources).collect();
    for reference in spec.references() {
        all.push(models.find(&reference.value).ok_or(())?);
    }
    let mut inputs: Vec<PlanInput> = Vec::new();
    for input in all {
        if !inputs.contains(&input) {
            inputs.push(input);
        }
    }
    if models.shapes_only() {
        return Ok(Some(from_shapes(models, spec, &inputs, problems)));
    }
    let lists = lists(models, spec, &inputs, known, problems)?;
    // Models that only provide rows add no tokens to the union.
    let merged = |input: &PlanInput| {
        Some(*input) == base || slices.iter().flat_map(|s| &s.sources).any(|p| p.input == *input)
    };
    let mut tokens = (*lists[0].1).clone();
    if spec.source == TokenizerSource::Union {
        for (input, list) in lists.iter().skip(1).filter(|(input, _)| merged(input)) {
            append_ordinary(models, spec, *input, list, &mut tokens, problems);
        }
        for (input, list) in lists.iter().skip(1).filter(|(input, _)| merged(input)) {
            append_added(models, spec, *input, list, &mut tokens, problems);
        }
    }
    let overrides = overrides(models, spec, &lists, &mut tokens, problems)?;
    let used = tokens.end() as usize;
    let appended = tokens.len() - lists[0].1.len();
    let rows = used.next_multiple_of(spec.multiple);
    warn_of_padding(models, spec, &inputs, rows, problems);
    let vocabulary = MergedVocabulary { tokens: Some(Arc::new(tokens)), used, rows };
    Ok(Some(ResolvedVocabulary { vocabulary, lists, overrides, appended }))
}

/// Warns if the result has fewer rows than a model, whose embedding is padded. The padding, which
/// hardware can need, is lost.
fn warn_of_padding(
    models: &Models<'_>,
    spec: &TokenizerSpec,
    inputs: &[PlanInput],
    rows: usize,
    problems: &mut Diagnostics,
) {
    let padded = inputs.iter().map(|&input| (models.view(input).hyper.n_vocab, input));
    let Some((most, input)) = padded.min_by_key(|(own, _)| std::cmp::Reverse(*own)) else { return };
    if most <= rows {
        return;
    }
    let message = format!(
        "the embedding of '{}' has {most} rows, that of the result {rows}: rows without a token are \
         dropped",
        models.label(input)
    );
    let remedy = "to pad the result, write 'tokenizer: {source: ..., pad_to_multiple_of: 64}'";
    problems.warn(spec.pos, message, remedy);
}

/// An estimate for plans that read no tokenizers: the tokens of the largest model for a union, else
/// the donor's.
fn from_shapes(
    models: &Models<'_>,
    spec: &TokenizerSpec,
    inputs: &[PlanInput],
    problems: &mut Diagnostics,
) -> ResolvedVocabulary {
    let rows = |input: &PlanInput| models.view(*input).hyper.n_vocab;
    let used = match spec.source {
        TokenizerSource::Union => inputs.iter().map(rows).max().unwrap_or(0),
        TokenizerSource::Base(_) | TokenizerSource::Model(_) => rows(&inputs[0]),
    };
    let message = format!(
        "a plan from shapes reads no tokenizers: the result is assumed to have {used} tokens"
    );
    problems.warn(spec.pos, message, "for the exact number, plan with the members on disk");
    let rows = used.next_multiple_of(spec.multiple);
    let vocabulary = MergedVocabulary { tokens: None, used, rows };
    ResolvedVocabulary { vocabulary, lists: Vec::new(), overrides: BTreeMap::new(), appended: 0 }
}

/// The tokens of `inputs`, the tokenizer's donor first. Another model without a tokenizer is assumed
/// to have the donor's if it has as many rows.
fn lists(
    models: &Models<'_>,
    spec: &TokenizerSpec,
    inputs: &[PlanInput],
    known: &mut TokenLists,
    problems: &mut Diagnostics,
) -> Result<Vec<(PlanInput, Arc<TokenList>)>, ()> {
    let mut lists: Vec<(PlanInput, Arc<TokenList>)> = Vec::with_capacity(inputs.len());
    let mut ok = true;
    for &input in inputs {
        let label = models.label(input);
        match known.tokens_of(models, input, problems) {
            ModelTokens::Known(list) => lists.push((input, list)),
            ModelTokens::Broken => ok = false,
            ModelTokens::Absent => {
                let Some((donor, tokens)) = lists.first().cloned() else {
                    let message =
                        format!("model '{label}' has no tokenizer, which the result needs");
                    let remedy = "put its tokenizer.json or tokenizer.model beside its weights, or \
                                  name a model that has one";
                    problems.error(spec.pos, message, remedy);
                    return Err(());
                };
                let rows = |input| models.view(input).hyper.n_vocab;
                let (own, theirs, donor) = (rows(input), rows(donor), models.label(donor));
                if own == theirs {
                    let message = format!(
                        "model '{label}' has no tokenizer: its {own} rows are assumed to be for the tokens of '{donor}'"
                    );
                    let remedy =
                        "if it has a different one, put its tokenizer.json beside its weights";
                    problems.warn(spec.pos, message, remedy);
                    lists.push((input, tokens));
                } else {
                    let message = format!(
                        "model '{label}' has no tokenizer, and its {own} rows do not match the {theirs} of '{donor}'"
                    );
                    let remedy = "put its tokenizer.json or tokenizer.model beside its weights";
                    problems.error(spec.pos, message, remedy);
                    ok = false;
                }
            }
        }
    }
    if ok { Ok(lists) } else { Err(()) }
}

impl TokenLists {
    /// The tokens of `input` that have a row. A stage has those of its vocabulary, else its donor's.
    fn tokens_of(
        &mut self,
        models: &Models<'_>,
        input: PlanInput,
        problems: &mut Diagnostics,
    ) -> ModelTokens {
        if let Some(known) = self.0.get(&input) {
            return known.clone();
        }
        let tokens = match input {
            PlanInput::Stage(index) => match &models.stages[index].vocabulary {
                Some(vocabulary) => {
                    vocabulary.tokens.clone().map_or(ModelTokens::Absent, ModelTokens::Known)
                }
                None => {
                    let donor = PlanInput::Member(models.stages[index].tokenizer_donor.member);
                    match self.tokens_of(models, donor, problems) {
                        ModelTokens::Known(list) => within(models, input, &list, problems),
                        other => other,
                    }
                }
            },
            PlanInput::Member(index) => match TokenList::read(&models.members[index].checkpoint) {
                Ok(Some(list)) => within(models, input, &list, problems),
                Ok(None) => ModelTokens::Absent,
                Err(e) => {
                    let (pos, label) = (models.members[index].pos, models.label(input));
                    let message = format!("the tokenizer of model '{label}' cannot be used: {e}");
                    problems.error(pos, message, "correct or replace the file");
                    ModelTokens::Broken
                }
            },
        };
        self.0.insert(input, tokens.clone());
        tokens
    }
}

/// The tokens of `list` that have a row in the embedding of `input`.
fn within(
    models: &Models<'_>,
    input: PlanInput,
    list: &TokenList,
    problems: &mut Diagnostics,
) -> ModelTokens {
    let rows = models.view(input).hyper.n_vocab;
    let (list, beyond) = list.clone().within(rows);
    if beyond > 0
        && let PlanInput::Member(m) = input
    {
        let message = format!(
            "{beyond} tokens of model '{}' are skipped: its embedding has only {rows} rows",
            models.label(input)
        );
        problems.warn(models.members[m].pos, message, "no action is needed if they are unused");
    }
    ModelTokens::Known(Arc::new(list))
}

/// Appends the ordinary tokens of `list` to `tokens`.
fn append_ordinary(
    models: &Models<'_>,
    spec: &TokenizerSpec,
    input: PlanInput,
    list: &TokenList,
    tokens: &mut TokenList,
    problems: &mut Diagnostics,
) {
    let ordinary = list.iter().filter(|(id, _)| !list.is_added(*id));
    let new = ordinary.filter(|(_, text)| tokens.append(text)).count();
    if new > 0 {
        let message = format!(
            "{new} ordinary tokens of '{}' are appended as added tokens: the tokenizer splits text by \
             its existing rules, so they may rarely occur",
            models.label(input)
        );
        let remedy = "to use one model's vocabulary, name it as the tokenizer's source";
        problems.warn(spec.pos, message, remedy);
    }
}

/// Appends the added tokens of `list` to `tokens`.
fn append_added(
    models: &Models<'_>,
    spec: &TokenizerSpec,
    input: PlanInput,
    list: &TokenList,
    tokens: &mut TokenList,
    problems: &mut Diagnostics,
) {
    for (id, text) in list.iter().filter(|(id, _)| list.is_added(*id)) {
        if tokens.declares_otherwise(list, id) {
            let message = format!(
                "'{}' declares the token '{text}' differently from an earlier model, whose declaration is \
                 used",
                models.label(input)
            );
            problems.warn(spec.pos, message, "no action is needed if this is intended");
        }
        tokens.append_added(list, id);
    }
}

/// Resolves the rows that the recipe sets for single tokens; tokens that no model has are appended.
fn overrides(
    models: &Models<'_>,
    spec: &TokenizerSpec,
    lists: &[(PlanInput, Arc<TokenList>)],
    tokens: &mut TokenList,
    problems: &mut Diagnostics,
) -> Result<BTreeMap<u32, RowOverride>, ()> {
    let mut overrides = BTreeMap::new();
    let mut ok = true;
    for (name, token) in &spec.tokens {
        let row = match requested_row(models, name, token, lists, tokens, problems) {
            None => {
                ok = false;
                continue;
            }
            Some(RequestedRow::Default) => None,
            Some(RequestedRow::Zero) => Some(None),
            Some(RequestedRow::Row(input, row)) => Some(Some((input, row))),
        };
        if tokens.append(&name.value) && !lists.iter().any(|(_, l)| l.id(&name.value).is_some()) {
            let message = format!("no model has the token '{}': it is added", name.value);
            problems.warn(name.pos, message, "no action is needed if this is intended");
        }
        let Some(id) = tokens.id(&name.value) else {
            let message = format!("no id is left for the token '{}'", name.value);
            problems.error(name.pos, message, "choose models with smaller vocabularies");
            ok = false;
            continue;
        };
        if let Some(row) = row {
            overrides.insert(id, RowOverride { row, force: token.force });
        }
    }
    if ok { Ok(overrides) } else { Err(()) }
}

/// The row that the recipe sets for a token.
enum RequestedRow {
    /// None: the usual rule applies.
    Default,
    Zero,
    Row(PlanInput, u32),
}

/// The row that the recipe sets for the token `name`; `None` if there is no such row, which is
/// reported.
fn requested_row(
    models: &Models<'_>,
    name: &Located<String>,
    spec: &TokenSpec,
    lists: &[(PlanInput, Arc<TokenList>)],
    tokens: &TokenList,
    problems: &mut Diagnostics,
) -> Option<RequestedRow> {
    let text = &name.value;
    let (model, token) = match &spec.source {
        None => {
            if tokens.id(text).is_some() || lists.iter().any(|(_, list)| list.id(text).is_some()) {
                return Some(RequestedRow::Default);
            }
            let message = format!("no model has the token '{text}', and it has no 'source'");
            let texts = lists.iter().flat_map(|(_, list)| list.iter()).map(|(_, text)| text);
            let remedy = match nearest(text, texts) {
                Some(near) => format!("did you mean '{near}'? A new token needs a 'source'"),
                None => "give it a source, for example '{kind: zero}'".to_string(),
            };
            problems.error(name.pos, message, remedy);
            return None;
        }
        Some(TokenRowSource::Zero) => return Some(RequestedRow::Zero),
        Some(TokenRowSource::Model(model)) => (model, WhichToken::Text(name.clone())),
        Some(TokenRowSource::Token { model, token }) => (model, token.clone()),
    };
    let input = models.find(&model.value)?;
    let list = &lists.iter().find(|(known, _)| *known == input)?.1;
    let rows = models.view(input).hyper.n_vocab;
    let row = match token {
        WhichToken::Text(text) => match list.id(&text.value) {
            Some(id) => id,
            None => {
                let message = format!("model '{}' has no token '{}'", model.value, text.value);
                let remedy = match nearest(&text.value, list.iter().map(|(_, text)| text)) {
                    Some(near) => format!("did you mean '{near}'?"),
                    None => {
                        format!("write one of its {} tokens as in its tokenizer.json", list.len())
                    }
                };
                problems.error(text.pos, message, remedy);
                return None;
            }
        },
        WhichToken::Id(id) if id.value < rows => id.value as u32,
        WhichToken::Id(id) => {
            let message = format!(
                "token_id {} is out of range: the embedding of '{}' has {rows} rows",
                id.value, model.value
            );
            let remedy = format!("give a number from 0 to {}", rows.saturating_sub(1));
            problems.error(id.pos, message, remedy);
            return None;
        }
    };
    check_row_len(models, model.pos, input, lists[0].0, problems)?;
    Some(RequestedRow::Row(input, row))
}

/// Checks that rows of `input`, which may not be part of the merge, are as long as those of `other`.
fn check_row_len(
    models: &Models<'_>,
    pos: Pos,
    input: PlanInput,
    other: PlanInput,
    problems: &mut Diagnostics,
) -> Option<()> {
    let len = |input| {
        let index = vocabulary_tensor(models, input, StackPlace::Embedding);
        index.map_or(0, |index| row_len(models, input, index))
    };
    let (own, theirs) = (len(input), len(other));
    if own == theirs && own > 0 {
        return Some(());
    }
    let message = format!(
        "rows of '{}' have {own} values, those of '{}' have {theirs}",
        models.label(input),
        models.label(other)
    );
    problems.error(pos, message, "take rows from a model of the same hidden_size");
    None
}
