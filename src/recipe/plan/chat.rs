//! The chat template of a stage's result.
//!
//! `auto` takes the template that most models have, ignoring white space at its ends. Among equally
//! frequent templates the first in the recipe wins, the base model before the sources; mergekit takes
//! one in no fixed order. Without the key, the donor of the tokenizer gives its template.

use super::donors::Donors;
use super::merge_plan::PlanInput;
use super::models::Models;
use super::slices::ResolvedSlice;
use crate::model::tokenizer::ChatTemplates;
use crate::recipe::syntax::diagnostics::Diagnostics;
use crate::recipe::syntax::schema::RecipeDocument;
use crate::recipe::syntax::tokenizer::ChatTemplateChoice;

/// The template of the result, where it differs from that of the tokenizer's member.
///
/// # Errors
/// A template cannot be read, which has been reported.
pub(super) fn resolve(
    models: &Models<'_>,
    document: &RecipeDocument,
    slices: &[&ResolvedSlice<'_>],
    donors: &Donors,
    problems: &mut Diagnostics,
) -> Result<Option<String>, ()> {
    let Some(choice) = &document.chat_template else {
        return Ok(match donors.tokenizer.0 {
            PlanInput::Stage(index) => models.stages[index].chat_template.clone(),
            PlanInput::Member(_) => None,
        });
    };
    if models.shapes_only() {
        return Ok(None); // There are no tokenizer files to write it into.
    }
    let donor = &models.members[donors.tokenizer.1.member];
    let has = |name| donor.checkpoint.side_file(name).is_some();
    if !has("tokenizer.json") && !has("tokenizer.model") {
        let message = format!(
            "model '{}' has no tokenizer, so the result cannot have a chat template",
            donor.reference
        );
        let remedy =
            "put its tokenizer.json beside its weights, or name another 'tokenizer_source'";
        problems.error(choice.pos, message, remedy);
        return Err(());
    }
    if let ChatTemplateChoice::Text(text) = &choice.value {
        return Ok(Some(text.clone()));
    }
    let template = most_frequent(models, document, slices, problems)?;
    if template.is_none() {
        let remedy = "name one: alpaca, chatml, exaone, llama3 or mistral";
        problems.warn(choice.pos, "none of the models has a chat template", remedy);
    }
    Ok(template)
}

/// The first of the most frequent templates of a stage's models.
fn most_frequent(
    models: &Models<'_>,
    document: &RecipeDocument,
    slices: &[&ResolvedSlice<'_>],
    problems: &mut Diagnostics,
) -> Result<Option<String>, ()> {
    let mut inputs: Vec<PlanInput> = Vec::new();
    let base = document.base_model.as_ref().and_then(|base| models.find(&base.value));
    let sources = slices.iter().flat_map(|slice| &slice.sources).map(|source| source.input);
    for input in base.into_iter().chain(sources) {
        if !inputs.contains(&input) {
            inputs.push(input);
        }
    }
    let mut counts: Vec<(String, usize)> = Vec::new();
    for input in inputs {
        let Some(template) = template_of(models, input, problems)? else { continue };
        let template = template.trim();
        match counts.iter_mut().find(|(text, _)| text == template) {
            Some((_, count)) => *count += 1,
            None => counts.push((template.to_string(), 1)),
        }
    }
    let most = counts.iter().map(|(_, count)| *count).max();
    let chosen = counts.into_iter().find(|(_, count)| Some(*count) == most);
    Ok(chosen.map(|(template, _)| template))
}

fn template_of(
    models: &Models<'_>,
    input: PlanInput,
    problems: &mut Diagnostics,
) -> Result<Option<String>, ()> {
    let member = match input {
        PlanInput::Member(member) => member,
        PlanInput::Stage(index) => match &models.stages[index] {
            stage if stage.chat_template.is_some() => return Ok(stage.chat_template.clone()),
            stage => stage.tokenizer_donor.member,
        },
    };
    let member = &models.members[member];
    let templates = ChatTemplates::of_checkpoint(&member.checkpoint);
    templates.map(|templates| templates.default).map_err(|e| {
        let message = format!("the tokenizer of model '{}' cannot be used: {e}", member.reference);
        problems.error(member.pos, message, "correct or replace the file");
    })
}
