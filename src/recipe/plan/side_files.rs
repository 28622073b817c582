//! The files beside the weights of the result: tokenizer files come from one member, all others from
//! the member that gives the configuration. Planning makes them, so that every plan has them.

use super::merge_plan::MergeStage;
use super::models::Models;
use crate::base::error::Result;
use crate::formats::checkpoint::{Checkpoint, Config, SideFile};
use crate::model::tokenizer::{Change, ChatTemplates, edited_files, is_tokenizer_file};
use crate::recipe::syntax::diagnostics::Diagnostics;
use crate::recipe::syntax::yaml::Pos;

/// Ids of special tokens in config.json, which are wrong under another tokenizer.
const TOKEN_IDS: &[&str] = &[
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "unk_token_id",
    "sep_token_id",
    "cls_token_id",
    "mask_token_id",
];
const GENERATION: &str = "generation_config.json";

/// Makes the files of the last stage; files that cannot be read are reported.
pub(super) fn of_output(models: &Models<'_>, problems: &mut Diagnostics) -> Vec<SideFile> {
    let Some(stage) = models.stages.last() else { return Vec::new() };
    let donor = &models.members[stage.tokenizer_donor.member];
    let (pos, donor) = (donor.pos, donor.reference.to_string());
    let made = chat_templates(models, stage).and_then(|(templates, warnings)| {
        Ok((files(models, stage, templates.as_ref())?, warnings))
    });
    match made {
        Ok((files, warnings)) => {
            for warning in warnings {
                problems.warn(pos, format!("model '{donor}': {warning}"), "");
            }
            files
        }
        Err(e) => {
            let pos = Pos { line: 1, column: 1 };
            let message = format!("the tokenizer files of the result cannot be made: {e}");
            problems.error(pos, message, "correct or replace the file");
            Vec::new()
        }
    }
}

/// The chat templates of the result, where the member's tokenizer files do not have them in one
/// place, and warnings.
fn chat_templates(
    models: &Models<'_>,
    stage: &MergeStage,
) -> Result<(Option<ChatTemplates>, Vec<String>)> {
    let own =
        ChatTemplates::of_checkpoint(&models.members[stage.tokenizer_donor.member].checkpoint)?;
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
        "its chat templates {} are dropped: the recipe's 'chat_template' replaces all of them",
        names.join(", ")
    );
    Ok((Some(templates), if names.is_empty() { Vec::new() } else { vec![warning] }))
}

fn files(
    models: &Models<'_>,
    stage: &MergeStage,
    chat_templates: Option<&ChatTemplates>,
) -> Result<Vec<SideFile>> {
    let tokenizer = &models.members[stage.tokenizer_donor.member].checkpoint;
    let config = &models.members[stage.config_donor.member].checkpoint;
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

/// generation_config.json with the ids of special tokens of the tokenizer's model.
fn renumber(file: &SideFile, tokenizer: &Checkpoint) -> Result<SideFile> {
    let mut generation = Config::from_side_file(file)?;
    let theirs = tokenizer.side_file(GENERATION).map(Config::from_side_file).transpose()?;
    take_token_ids(&mut generation, theirs.as_ref().unwrap_or(&tokenizer.config));
    Ok(SideFile::generated(GENERATION, generation.to_json()))
}

/// Replaces the ids of special tokens in `config` with those of `other`.
pub(super) fn take_token_ids(config: &mut Config, other: &Config) {
    for key in TOKEN_IDS {
        match other.map().get(*key) {
            Some(id) => config.set(key, id.clone()),
            None => config.remove(key),
        }
    }
}
