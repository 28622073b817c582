//! Which models a stage takes its configuration and its tokenizer from.
//!
//! Always said with the reason: a stack without `base_model` takes the first source's, not a random one's.

use super::merge_plan::{Donor, Input, Stage};
use super::planner::Planner;
use super::slices::Parts;
use crate::recipe::syntax::schema::Document;
use crate::recipe::syntax::tokenizer::TokenizerSource;
use crate::recipe::syntax::yaml::Pos;

/// The inputs that give configuration and tokenizer, each with the member it goes back to.
pub(crate) struct Donors {
    pub config: (Input, Donor),
    /// Where the recipe names it.
    pub config_pos: Pos,
    pub tokenizer: (Input, Donor),
}

/// `base_model`, else the first source; for the tokenizer a model named as its source goes before.
pub(crate) fn find(
    planner: &mut Planner<'_>,
    document: &Document,
    first: &Parts<'_>,
) -> Option<Donors> {
    let (input, why, config_pos) = match &document.base_model {
        Some(base) => (planner.input(base)?, "base_model", base.pos),
        None => first.list.first().map(|part| (part.input, "first source", part.pos))?,
    };
    let label = document.name.as_ref().map_or("the output", |name| &name.value);
    let config = donor(planner, input, &format!("{why} of {label}"), |stage| &stage.config_donor);
    let source = document.tokenizer.as_ref().map(|spec| &spec.source);
    let (from, why) = match source {
        None => (input, format!("{why} of {label}")),
        Some(TokenizerSource::Union) => (input, format!("union, begun with the {why} of {label}")),
        Some(TokenizerSource::Model(model)) => {
            (planner.input(model)?, "tokenizer_source".to_string())
        }
        Some(TokenizerSource::Base(_)) if document.base_model.is_some() => {
            (input, "tokenizer_source: base".to_string())
        }
        Some(TokenizerSource::Base(pos)) => {
            let message = "the tokenizer shall be that of the base model, but there is none";
            planner.problems.error(*pos, message, "add 'base_model: NAME', or name a model here");
            return None;
        }
    };
    let tokenizer = donor(planner, from, &why, |stage| &stage.tokenizer_donor);
    Some(Donors { config: (input, config), config_pos, tokenizer: (from, tokenizer) })
}

/// The member behind `input`.
fn donor(planner: &Planner<'_>, input: Input, why: &str, of: fn(&Stage) -> &Donor) -> Donor {
    match input {
        Input::Member(member) => Donor { member, reason: why.to_string() },
        Input::Stage(stage) => {
            let behind = of(&planner.stages[stage]);
            Donor { member: behind.member, reason: format!("{why}, there {}", behind.reason) }
        }
    }
}
