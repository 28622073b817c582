//! The chat template of a stage's result.
//!
//! `auto` takes the template that most of the models have, white space at its ends aside; of equally
//! frequent ones that which the recipe meets first, the base model before the sources (mergekit takes one
//! in no fixed order). Without the key the tokenizer's donor gives its own.

use super::donors::Donors;
use super::merge_plan::Input;
use super::planner::Planner;
use super::slices::Parts;
use crate::model::tokenizer::ChatTemplates;
use crate::recipe::syntax::schema::Document;
use crate::recipe::syntax::tokenizer::ChatTemplate;

/// The template of the result, where it is not that of the tokenizer's member. `Err` if one cannot be
/// read, which is reported.
pub(crate) fn resolve(
    planner: &mut Planner<'_>,
    document: &Document,
    slices: &[&Parts<'_>],
    donors: &Donors,
) -> Result<Option<String>, ()> {
    let Some(wanted) = &document.chat_template else {
        return Ok(match donors.tokenizer.0 {
            Input::Stage(s) => planner.stages[s].chat_template.clone(),
            Input::Member(_) => None,
        });
    };
    if planner.shapes_only() {
        return Ok(None); // There are no files that it could stand in.
    }
    let donor = &planner.members[donors.tokenizer.1.member];
    let has = |name| donor.checkpoint.side_file(name).is_some();
    if !has("tokenizer.json") && !has("tokenizer.model") {
        let message = format!(
            "model '{}' has no tokenizer, so there is nothing that a chat template could belong to",
            donor.reference
        );
        let remedy =
            "put its tokenizer.json beside its weights, or name another 'tokenizer_source'";
        planner.problems.error(wanted.pos, message, remedy);
        return Err(());
    }
    if let ChatTemplate::Text(text) = &wanted.value {
        return Ok(Some(text.clone()));
    }
    let mut inputs: Vec<Input> = Vec::new();
    let base = document.base_model.as_ref().and_then(|base| planner.input(base));
    for input in base.into_iter().chain(slices.iter().flat_map(|s| &s.list).map(|p| p.input)) {
        if !inputs.contains(&input) {
            inputs.push(input);
        }
    }
    let mut counted: Vec<(String, usize)> = Vec::new();
    for input in inputs {
        let Some(template) = template_of(planner, input)? else { continue };
        let template = template.trim();
        match counted.iter_mut().find(|(known, _)| known == template) {
            Some((_, count)) => *count += 1,
            None => counted.push((template.to_string(), 1)),
        }
    }
    // The first of the most frequent.
    let most = counted.iter().map(|(_, count)| *count).max();
    let chosen = counted.into_iter().find(|(_, count)| Some(*count) == most);
    if chosen.is_none() {
        let remedy = "name one: alpaca, chatml, exaone, llama3 or mistral";
        planner.problems.warn(wanted.pos, "none of the models has a chat template", remedy);
    }
    Ok(chosen.map(|(template, _)| template))
}

fn template_of(planner: &mut Planner<'_>, input: Input) -> Result<Option<String>, ()> {
    let member = match input {
        Input::Member(member) => member,
        Input::Stage(s) => match &planner.stages[s] {
            stage if stage.chat_template.is_some() => return Ok(stage.chat_template.clone()),
            stage => stage.tokenizer_donor.member,
        },
    };
    let member = &planner.members[member];
    let templates = ChatTemplates::of_checkpoint(&member.checkpoint);
    templates.map(|templates| templates.default).map_err(|e| {
        let message = format!("the tokenizer of model '{}' cannot be used: {e}", member.reference);
        planner.problems.error(member.pos, message, "mend or replace the file");
    })
}
