//! The files beside the weights of the result: the tokenizer's from one member, all others from the member
//! that gives the configuration. They are made while planning, so that a plan that exists has them.

use super::merge_plan::Stage;
use super::planner::Planner;
use crate::base::error::Result;
use crate::formats::checkpoint::{Checkpoint, Config, SideFile};
use crate::model::tokenizer::{Change, ChatTemplates, edited_files, is_tokenizer_file};
use crate::recipe::syntax::yaml::Pos;

/// Ids of special tokens in config.json, which mean nothing under another tokenizer.
pub(crate) const TOKEN_IDS: &[&str] = &[
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "unk_token_id",
    "sep_token_id",
    "cls_token_id",
    "mask_token_id",
];
const GENERATION: &str = "generation_config.json";

/// The files of the last stage; what cannot be read is reported.
pub(crate) fn of_output(planner: &mut Planner<'_>) -> Vec<SideFile> {
    let Some(stage) = planner.stages.last() else { return Vec::new() };
    let donor = &planner.members[stage.tokenizer_donor.member];
    let (pos, donor) = (donor.pos, donor.reference.to_string());
    let made = chat_templates(planner, stage).and_then(|(templates, warnings)| {
        Ok((files(planner, stage, templates.as_ref())?, warnings))
    });
    match made {
        Ok((files, warnings)) => {
            for warning in warnings {
                planner.problems.warn(pos, format!("model '{donor}': {warning}"), "");
            }
            files
        }
        Err(e) => {
            let pos = Pos { line: 1, column: 1 };
            let message = format!("the files of the tokenizer cannot be made: {e}");
            planner.problems.error(pos, message, "mend or replace the file");
            Vec::new()
        }
    }
}

/// The chat templates of the result, where the files of the tokenizer's member do not give them as one, and warnings.
fn chat_templates(
    planner: &Planner<'_>,
    stage: &Stage,
) -> Result<(Option<ChatTemplates>, Vec<String>)> {
    let own =
        ChatTemplates::of_checkpoint(&planner.members[stage.tokenizer_donor.member].checkpoint)?;
    let Some(text) = &stage.chat_template else {
        let warnings = own.warnings.clone();
        return Ok(((!warnings.is_empty()).then_some(own), warnings));
    };
    let mut templates = ChatTemplates::of_text(text.as_str());
    if own.default.is_some_and(|default| default.trim() == text.trim()) {
        templates.named = own.named;
        return Ok((Some(templates), Vec::new()));
    }
    let names: Vec<_> = own.named.iter().map(|(name, _)| name.as_str()).collect();
    let warning = format!(
        "its chat templates {} are left out, because the recipe's 'chat_template' replaces all of them",
        names.join(", ")
    );
    Ok((Some(templates), if names.is_empty() { Vec::new() } else { vec![warning] }))
}

fn files(
    planner: &Planner<'_>,
    stage: &Stage,
    chat_templates: Option<&ChatTemplates>,
) -> Result<Vec<SideFile>> {
    let tokenizer = &planner.members[stage.tokenizer_donor.member].checkpoint;
    let config = &planner.members[stage.config_donor.member].checkpoint;
    let tokens = stage.vocabulary.as_ref().and_then(|vocabulary| vocabulary.tokens.as_deref());
    let change = Change { tokens, chat_templates };
    let mut files = edited_files(tokenizer, change)?;
    let foreign = tokens.is_some() && stage.tokenizer_donor.member != stage.config_donor.member;
    for file in &config.side_files {
        if is_tokenizer_file(&file.name()) {
            continue;
        }
        let renumbered = foreign && file.name() == GENERATION;
        files.push(if renumbered { renumber(file, tokenizer)? } else { file.clone() });
    }
    Ok(files)
}

/// generation_config.json with the special tokens' ids of the tokenizer's model.
fn renumber(file: &SideFile, tokenizer: &Checkpoint) -> Result<SideFile> {
    let mut generation = Config::from_side_file(file)?;
    let theirs = tokenizer.side_file(GENERATION).map(Config::from_side_file).transpose()?;
    take_token_ids(&mut generation, theirs.as_ref().unwrap_or(&tokenizer.config));
    Ok(SideFile::generated(GENERATION, generation.to_json()))
}

/// Gives `config` the ids of special tokens that `other` has, and no others.
pub(crate) fn take_token_ids(config: &mut Config, other: &Config) {
    for key in TOKEN_IDS {
        match other.map().get(*key) {
            Some(id) => config.set(key, id.clone()),
            None => config.remove(key),
        }
    }
}
