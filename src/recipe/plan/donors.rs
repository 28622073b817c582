//! The models that a stage takes its configuration and its tokenizer from, with the reasons.

use super::merge_plan::{Donor, MergeStage, PlanInput};
use super::models::Models;
use super::slices::ResolvedSlice;
use crate::recipe::syntax::diagnostics::Diagnostics;
use crate::recipe::syntax::schema::RecipeDocument;
use crate::recipe::syntax::tokenizer::TokenizerSource;
use crate::recipe::syntax::yaml::Pos;

/// The inputs that give configuration and tokenizer, each with the member it comes from.
pub(super) struct Donors {
    pub config: (PlanInput, Donor),
    /// Where the recipe names the donor of the configuration.
    pub config_pos: Pos,
    pub tokenizer: (PlanInput, Donor),
}

/// The donors of `document`: the base model, else the first source. A model that the recipe names as
/// the source of the tokenizer comes first.
pub(super) fn find(
    models: &Models<'_>,
    document: &RecipeDocument,
    first: &ResolvedSlice<'_>,
    problems: &mut Diagnostics,
) -> Option<Donors> {
    let (input, why, config_pos) = match &document.base_model {
        Some(base) => (models.find(&base.value)?, "base_model", base.pos),
        None => first.sources.first().map(|source| (source.input, "first source", source.pos))?,
    };
    let label = document.name.as_ref().map_or("the output", |name| &name.value);
    let config = donor(models, input, &format!("{why} of {label}"), |stage| &stage.config_donor);
    let source = document.tokenizer.as_ref().map(|spec| &spec.source);
    let (from, why) = match source {
        None => (input, format!("{why} of {label}")),
        Some(TokenizerSource::Union) => {
            (input, format!("union, starting with the {why} of {label}"))
        }
        Some(TokenizerSource::Model(model)) => {
            (models.find(&model.value)?, "tokenizer_source".to_string())
        }
        Some(TokenizerSource::Base(_)) if document.base_model.is_some() => {
            (input, "tokenizer_source: base".to_string())
        }
        Some(TokenizerSource::Base(pos)) => {
            let message = "the tokenizer is that of the base model, but there is none";
            problems.error(*pos, message, "add 'base_model: NAME', or name a model here");
            return None;
        }
    };
    let tokenizer = donor(models, from, &why, |stage| &stage.tokenizer_donor);
    Some(Donors { config: (input, config), config_pos, tokenizer: (from, tokenizer) })
}

/// The member behind `input`; `of` gives the donor of a stage.
fn donor(models: &Models<'_>, input: PlanInput, why: &str, of: fn(&MergeStage) -> &Donor) -> Donor {
    match input {
        PlanInput::Member(member) => Donor { member, reason: why.to_string() },
        PlanInput::Stage(stage) => {
            let behind = of(&models.stages[stage]);
            Donor { member: behind.member, reason: format!("{why}, there {}", behind.reason) }
        }
    }
}
