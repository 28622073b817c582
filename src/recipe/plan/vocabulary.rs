//! The tokens of a stage's result, where the recipe says something of its tokenizer.
//!
//! `base` and a named model give their tokens as they are. `union` begins with those of the base model
//! (else of the first model), keeps their ids, and appends the tokens of the others: first the ordinary
//! ones, model by model in the order of their ids, then those declared as added, then those that only
//! `tokens` names. So does mergekit (`tokenizer/build.py`, version 0.1.5), which takes the ordinary ones
//! of a model in no fixed order. Appended ordinary tokens become added tokens there and here: text goes on
//! to be cut by the donor's rules, and many of them are never met.
//!
//! Tokens without a row in their model's embedding do not count. Rows for the tokens are found in
//! [`super::rows`]; without any of the keys vocabularies must be equal, see [`super::compat`].

use super::donors::Donors;
use super::merge_plan::{Input, Place};
use super::planner::Planner;
use super::rows::{row_len, vocabulary_tensor};
use super::slices::Parts;
use crate::base::spelling::nearest;
use crate::model::tokenizer::TokenList;
use crate::recipe::syntax::schema::Document;
use crate::recipe::syntax::tokenizer::{
    RowSource, TokenSpec, TokenizerSource, TokenizerSpec, WhichToken,
};
use crate::recipe::syntax::yaml::At;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The tokens of a stage's result and the rows of its embedding.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    /// `None` in a plan from shapes alone, which reads no tokenizers.
    pub tokens: Option<Arc<TokenList>>,
    /// The id after the last token's.
    pub used: usize,
    /// Rows of embedding and head, padding included.
    pub rows: usize,
}

/// What the recipe says of a token's row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Override {
    /// `None` for zeros.
    pub row: Option<(Input, u32)>,
    pub force: bool,
}

/// A vocabulary with what is needed to find rows for it.
pub(crate) struct Resolved {
    pub vocabulary: Vocabulary,
    /// The tokens of every model of the stage; the tokenizer's donor comes first.
    pub lists: Vec<(Input, Arc<TokenList>)>,
    pub overrides: BTreeMap<u32, Override>,
    /// Tokens that the donor does not have.
    pub appended: usize,
}

/// What is known of the tokens of a model.
#[derive(Clone)]
pub(crate) enum Tokens {
    Known(Arc<TokenList>),
    /// There is no tokenizer, or it is not to be read.
    Absent,
    /// It cannot be read, which has been reported.
    Broken,
}

/// The vocabulary that `document` asks for; `Ok(None)` if it does not, `Err` if it cannot be had, which
/// is reported.
pub(crate) fn resolve(
    planner: &mut Planner<'_>,
    document: &Document,
    slices: &[&Parts<'_>],
    donors: &Donors,
) -> Result<Option<Resolved>, ()> {
    let Some(spec) = &document.tokenizer else { return Ok(None) };
    let base = document.base_model.as_ref();
    let base = base.map(|base| planner.input(base).ok_or(())).transpose()?;
    let parts = slices.iter().flat_map(|slice| &slice.list).map(|part| part.input);
    let mut all: Vec<Input> = [donors.tokenizer.0].into_iter().chain(base).chain(parts).collect();
    for reference in spec.references() {
        all.push(planner.input(reference).ok_or(())?);
    }
    let mut inputs: Vec<Input> = Vec::new();
    for input in all {
        if !inputs.contains(&input) {
            inputs.push(input);
        }
    }
    if planner.shapes_only() {
        return Ok(Some(from_shapes(planner, spec, &inputs)));
    }
    let lists = lists(planner, spec, &inputs)?;
    // Models that only give rows to `tokens` add none to the union.
    let merged = |input: &Input| {
        Some(*input) == base || slices.iter().flat_map(|s| &s.list).any(|p| p.input == *input)
    };
    let mut tokens = (*lists[0].1).clone();
    if spec.source == TokenizerSource::Union {
        for (input, list) in lists.iter().skip(1).filter(|(input, _)| merged(input)) {
            append_ordinary(planner, spec, *input, list, &mut tokens);
        }
        for (input, list) in lists.iter().skip(1).filter(|(input, _)| merged(input)) {
            append_added(planner, spec, *input, list, &mut tokens);
        }
    }
    let overrides = overrides(planner, spec, &lists, &mut tokens)?;
    let used = tokens.end() as usize;
    let appended = tokens.len() - lists[0].1.len();
    let rows = used.next_multiple_of(spec.multiple);
    warn_of_padding(planner, spec, &inputs, rows);
    let vocabulary = Vocabulary { tokens: Some(Arc::new(tokens)), used, rows };
    Ok(Some(Resolved { vocabulary, lists, overrides, appended }))
}

/// Warns if the result has fewer rows than its models, whose embeddings are padded: the rows are cut off, and with them
/// sizes that hardware likes.
fn warn_of_padding(planner: &mut Planner<'_>, spec: &TokenizerSpec, inputs: &[Input], rows: usize) {
    let padded = inputs.iter().map(|&input| (planner.view(input).hyper.n_vocab, input));
    let Some((most, input)) = padded.min_by_key(|(own, _)| std::cmp::Reverse(*own)) else { return };
    if most <= rows {
        return;
    }
    let message = format!(
        "the embedding of '{}' has {most} rows, that of the result {rows}: rows without a token are left out",
        planner.label(input)
    );
    let remedy = "write 'tokenizer: {source: ..., pad_to_multiple_of: 64}' to have padding again";
    planner.problems.warn(spec.pos, message, remedy);
}

/// A guess for plans that read no tokenizers: all tokens of the largest model, or the donor's.
fn from_shapes(planner: &mut Planner<'_>, spec: &TokenizerSpec, inputs: &[Input]) -> Resolved {
    let rows = |input: &Input| planner.view(*input).hyper.n_vocab;
    let used = match spec.source {
        TokenizerSource::Union => inputs.iter().map(rows).max().unwrap_or(0),
        TokenizerSource::Base(_) | TokenizerSource::Model(_) => rows(&inputs[0]),
    };
    let message = format!(
        "tokenizers are not read in a plan from shapes: the result is taken to have {used} tokens"
    );
    planner.problems.warn(spec.pos, message, "plan with the members at hand to be told");
    let rows = used.next_multiple_of(spec.multiple);
    let vocabulary = Vocabulary { tokens: None, used, rows };
    Resolved { vocabulary, lists: Vec::new(), overrides: BTreeMap::new(), appended: 0 }
}

/// The tokens of `inputs`, the first of which is the tokenizer's donor and must have some. Another model
/// without a tokenizer is taken to have the donor's if it has as many rows.
fn lists(
    planner: &mut Planner<'_>,
    spec: &TokenizerSpec,
    inputs: &[Input],
) -> Result<Vec<(Input, Arc<TokenList>)>, ()> {
    let mut lists: Vec<(Input, Arc<TokenList>)> = Vec::with_capacity(inputs.len());
    let mut ok = true;
    for &input in inputs {
        let label = planner.label(input);
        match tokens_of(planner, input) {
            Tokens::Known(list) => lists.push((input, list)),
            Tokens::Broken => ok = false,
            Tokens::Absent => {
                let Some((donor, tokens)) = lists.first().cloned() else {
                    let message = format!("model '{label}' has no tokenizer to take over");
                    let remedy = "put its tokenizer.json or tokenizer.model beside its weights, or \
                                  name a model that has one";
                    planner.problems.error(spec.pos, message, remedy);
                    return Err(());
                };
                let rows = |input| planner.view(input).hyper.n_vocab;
                let (own, theirs, donor) = (rows(input), rows(donor), planner.label(donor));
                if own == theirs {
                    let message = format!(
                        "model '{label}' has no tokenizer; its {own} rows are taken to be those of '{donor}'"
                    );
                    let remedy = "put its tokenizer.json beside its weights if it has another";
                    planner.problems.warn(spec.pos, message, remedy);
                    lists.push((input, tokens));
                } else {
                    let message = format!(
                        "model '{label}' has no tokenizer, and {own} rows where '{donor}' has {theirs}: \
                         which tokens they belong to cannot be told"
                    );
                    let remedy = "put its tokenizer.json or tokenizer.model beside its weights";
                    planner.problems.error(spec.pos, message, remedy);
                    ok = false;
                }
            }
        }
    }
    if ok { Ok(lists) } else { Err(()) }
}

/// The tokens of `input` that have a row. A stage has those of its own vocabulary, else its donor's.
pub(crate) fn tokens_of(planner: &mut Planner<'_>, input: Input) -> Tokens {
    if let Some(known) = planner.token_lists.get(&input) {
        return known.clone();
    }
    let rows = planner.view(input).hyper.n_vocab;
    let tokens = match input {
        Input::Stage(s) => match &planner.stages[s].vocabulary {
            Some(vocabulary) => vocabulary.tokens.clone().map_or(Tokens::Absent, Tokens::Known),
            None => {
                let donor = Input::Member(planner.stages[s].tokenizer_donor.member);
                match tokens_of(planner, donor) {
                    Tokens::Known(list) => within(planner, input, &list, rows),
                    other => other,
                }
            }
        },
        Input::Member(m) => match TokenList::read(&planner.members[m].checkpoint) {
            Ok(Some(list)) => within(planner, input, &list, rows),
            Ok(None) => Tokens::Absent,
            Err(e) => {
                let (pos, label) = (planner.members[m].pos, planner.label(input));
                let message = format!("the tokenizer of model '{label}' cannot be used: {e}");
                planner.problems.error(pos, message, "mend or replace the file");
                Tokens::Broken
            }
        },
    };
    planner.token_lists.insert(input, tokens.clone());
    tokens
}

fn within(planner: &mut Planner<'_>, input: Input, list: &TokenList, rows: usize) -> Tokens {
    let (list, beyond) = list.clone().within(rows);
    if beyond > 0
        && let Input::Member(m) = input
    {
        let message = format!(
            "{beyond} tokens of model '{}' have no row: its embedding has {rows}; they are left out",
            planner.label(input)
        );
        planner.problems.warn(planner.members[m].pos, message, "nothing, if they are unused");
    }
    Tokens::Known(Arc::new(list))
}

fn append_ordinary(
    planner: &mut Planner<'_>,
    spec: &TokenizerSpec,
    input: Input,
    list: &TokenList,
    tokens: &mut TokenList,
) {
    let ordinary = list.iter().filter(|(id, _)| !list.is_added(*id));
    let new = ordinary.filter(|(_, text)| tokens.append(text)).count();
    if new > 0 {
        let message = format!(
            "{new} ordinary tokens of '{}' are appended as added tokens: text is cut by the rules of \
             the tokenizer they are added to, so that they may hardly ever be met",
            planner.label(input)
        );
        let remedy = "name one model as the tokenizer's source if its vocabulary is to be used";
        planner.problems.warn(spec.pos, message, remedy);
    }
}

fn append_added(
    planner: &mut Planner<'_>,
    spec: &TokenizerSpec,
    input: Input,
    list: &TokenList,
    tokens: &mut TokenList,
) {
    for (id, text) in list.iter().filter(|(id, _)| list.is_added(*id)) {
        if tokens.declares_otherwise(list, id) {
            let message = format!(
                "'{}' declares the token '{text}' otherwise than a model before it; the first counts",
                planner.label(input)
            );
            planner.problems.warn(spec.pos, message, "nothing, if that is meant");
        }
        tokens.append_added(list, id);
    }
}

/// Resolves what the recipe says of single tokens; tokens that no model has are appended.
fn overrides(
    planner: &mut Planner<'_>,
    spec: &TokenizerSpec,
    lists: &[(Input, Arc<TokenList>)],
    tokens: &mut TokenList,
) -> Result<BTreeMap<u32, Override>, ()> {
    let mut overrides = BTreeMap::new();
    let mut ok = true;
    for (name, told) in &spec.tokens {
        let row = match requested_row(planner, name, told, lists, tokens) {
            None => {
                ok = false;
                continue;
            }
            Some(Told::Usual) => None,
            Some(Told::Zero) => Some(None),
            Some(Told::Row(input, row)) => Some(Some((input, row))),
        };
        if tokens.append(&name.value) && !lists.iter().any(|(_, l)| l.id(&name.value).is_some()) {
            let message = format!("no model has the token '{}': it is a new one", name.value);
            planner.problems.warn(name.pos, message, "nothing, if that is meant");
        }
        let Some(id) = tokens.id(&name.value) else {
            let message = format!("there is no id left for the token '{}'", name.value);
            planner.problems.error(name.pos, message, "choose models with smaller vocabularies");
            ok = false;
            continue;
        };
        if let Some(row) = row {
            overrides.insert(id, Override { row, force: told.force });
        }
    }
    if ok { Ok(overrides) } else { Err(()) }
}

/// What the recipe says of a token's row.
enum Told {
    Usual,
    Zero,
    Row(Input, u32),
}

/// The row that the recipe gives the token `name`; `None` if it cannot be had, which is reported.
fn requested_row(
    planner: &mut Planner<'_>,
    name: &At<String>,
    told: &TokenSpec,
    lists: &[(Input, Arc<TokenList>)],
    tokens: &TokenList,
) -> Option<Told> {
    let text = &name.value;
    let (model, wanted) = match &told.source {
        None => {
            if tokens.id(text).is_some() || lists.iter().any(|(_, list)| list.id(text).is_some()) {
                return Some(Told::Usual);
            }
            let message = format!("no model has the token '{text}', and it has no 'source'");
            let texts = lists.iter().flat_map(|(_, list)| list.iter()).map(|(_, text)| text);
            let remedy = match nearest(text, texts) {
                Some(near) => format!("did you mean '{near}'? a new token needs a source"),
                None => "give it a source, '{kind: zero}' for example".to_string(),
            };
            planner.problems.error(name.pos, message, remedy);
            return None;
        }
        Some(RowSource::Zero) => return Some(Told::Zero),
        Some(RowSource::Model(model)) => (model, WhichToken::Text(name.clone())),
        Some(RowSource::Token { model, token }) => (model, token.clone()),
    };
    let input = planner.input(model)?;
    let list = &lists.iter().find(|(known, _)| *known == input)?.1;
    let rows = planner.view(input).hyper.n_vocab;
    let row = match wanted {
        WhichToken::Text(wanted) => match list.id(&wanted.value) {
            Some(id) => id,
            None => {
                let message = format!("model '{}' has no token '{}'", model.value, wanted.value);
                let remedy = match nearest(&wanted.value, list.iter().map(|(_, text)| text)) {
                    Some(near) => format!("did you mean '{near}'?"),
                    None => {
                        format!("it has {} tokens, spelled as in its tokenizer.json", list.len())
                    }
                };
                planner.problems.error(wanted.pos, message, remedy);
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
            planner.problems.error(id.pos, message, remedy);
            return None;
        }
    };
    check_row_len(planner, model.pos, input, lists[0].0)?;
    Some(Told::Row(input, row))
}

/// Rows of a model that is not part of the merge must be as long as those of the others.
fn check_row_len(
    planner: &mut Planner<'_>,
    pos: crate::recipe::syntax::yaml::Pos,
    input: Input,
    other: Input,
) -> Option<()> {
    let len = |input| {
        let index = vocabulary_tensor(planner, input, Place::Embedding);
        index.map_or(0, |index| row_len(planner, input, index))
    };
    let (own, theirs) = (len(input), len(other));
    if own == theirs && own > 0 {
        return Some(());
    }
    let message = format!(
        "rows of '{}' have {own} numbers, those of '{}' {theirs}",
        planner.label(input),
        planner.label(other)
    );
    planner.problems.error(pos, message, "take rows from a model of the same hidden_size");
    None
}
