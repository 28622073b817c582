//! What a build's source is made from, for model cards: names on the hub, and licences.
//!
//! A member that is not on disk under the recipe's own folder is a name on the hub; of a folder its
//! configuration may tell (`_name_or_path`), and a model that is no merge has a card, which names its base
//! model. Deliberately absent: guessing names from folders, and asking the hub.

use crate::build::source::Source;
use crate::formats::checkpoint::{Checkpoint, FrontMatter, ModelCard};
use crate::hub::HubReference;
use crate::recipe::Member;
use serde_json::{Map, Value as Json};
use std::path::Path;

/// Where a model comes from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins {
    /// Names on the hub, each once.
    pub base_models: Vec<String>,
    /// Members whose name on the hub is not known.
    pub unnamed: Vec<String>,
    /// The licence of all members, if those that state one agree.
    pub license: Option<String>,
    /// The members and their licences.
    pub licenses: Vec<(String, String)>,
    /// Which models have quantized weights, and what these are.
    pub quantized: Vec<(String, String)>,
    /// Tags and languages of the model's own card.
    pub tags: Vec<String>,
    pub languages: Vec<String>,
    pub pipeline_tag: Option<String>,
    /// Cards of members that could not be read; converting reports that of a folder.
    pub warnings: Vec<String>,
}

impl Origins {
    /// Reads `source` and the cards of its members.
    pub(crate) fn of(source: &Source) -> Origins {
        let mut origins = Origins::default();
        match source {
            Source::Recipe { plan, .. } => {
                for member in &plan.members {
                    origins.member(&plan.path, member);
                }
            }
            Source::Folder(checkpoint) => origins.model(checkpoint),
            Source::Gguf { model, .. } => {
                let stated = |key: &str| model.metadata.str(key).map(str::to_string);
                origins.license = stated("general.license");
                let count = model.metadata.u64("general.base_model.count").unwrap_or(0).min(64);
                let own = stated("general.source.repo_url").into_iter();
                let bases =
                    (0..count).filter_map(|i| stated(&format!("general.base_model.{i}.repo_url")));
                let urls: Vec<_> = own.chain(bases).collect();
                urls.iter().filter_map(|url| of_address(url)).for_each(|id| origins.add_base(id));
                let strings = |key: &str| model.metadata.strings(key).unwrap_or_default().to_vec();
                (origins.tags, origins.languages) =
                    (strings("general.tags"), strings("general.languages"));
            }
        }
        let mut different: Vec<_> = origins.licenses.iter().map(|(_, license)| license).collect();
        different.sort();
        different.dedup();
        if let [license] = different[..] {
            origins.license = Some(license.clone());
        }
        origins
    }

    fn member(&mut self, recipe: &Path, member: &Member) {
        let path = &member.reference.path;
        let beside = recipe.parent().unwrap_or(Path::new("")).join(path).exists();
        let id = if beside { recorded(&member.checkpoint) } else { of_reference(path) };
        match id {
            Some(id) => self.add_base(id),
            None => self.unnamed.push(member.reference.to_string()),
        }
        self.add_quantized(&member.reference.to_string(), &member.checkpoint);
        let card = front_matter(&member.checkpoint);
        self.warnings.extend(card.warning);
        self.add_license(&member.reference.to_string(), &card.keys);
    }

    fn model(&mut self, checkpoint: &Checkpoint) {
        let card = front_matter(checkpoint).keys;
        match recorded(checkpoint) {
            Some(id) => self.add_base(id),
            None => texts(card.get("base_model"))
                .iter()
                .filter_map(|id| of_reference(id))
                .for_each(|id| self.add_base(id)),
        }
        self.add_quantized(&checkpoint.name, checkpoint);
        self.add_license(&checkpoint.name, &card);
        self.tags = texts(card.get("tags"));
        self.languages = texts(card.get("language"));
        self.pipeline_tag = texts(card.get("pipeline_tag")).into_iter().next();
    }

    fn add_base(&mut self, id: String) {
        if !self.base_models.contains(&id) {
            self.base_models.push(id);
        }
    }

    fn add_quantized(&mut self, who: &str, checkpoint: &Checkpoint) {
        if let Some(quantization) = checkpoint.tensors.quantization() {
            self.quantized.push((who.to_string(), quantization.to_string()));
        }
    }

    fn add_license(&mut self, who: &str, card: &Map<String, Json>) {
        // `other` says nothing without its name.
        let license = texts(card.get("license")).join(", ");
        let license = match license.as_str() {
            "other" => texts(card.get("license_name")).into_iter().next().unwrap_or(license),
            _ => license,
        };
        if !license.is_empty() {
            self.licenses.push((who.to_string(), license));
        }
    }

    /// Whether the names of all base models are known, and there are any.
    pub(crate) fn all_named(&self) -> bool {
        self.unnamed.is_empty() && !self.base_models.is_empty()
    }

    /// The warning where the members' licences differ.
    pub(crate) fn conflict(&self) -> Option<String> {
        let first = &self.licenses.first()?.1;
        if self.licenses.iter().all(|(_, license)| license == first) {
            return None;
        }
        let stated: Vec<_> =
            self.licenses.iter().map(|(who, license)| format!("{who}: {license}")).collect();
        Some(format!(
            "the members have different licences ({}); find out which one the result may have, and give it \
             with --license",
            stated.join("; ")
        ))
    }
}

fn front_matter(checkpoint: &Checkpoint) -> FrontMatter {
    checkpoint.card.as_ref().map(ModelCard::front_matter).unwrap_or_default()
}

/// A text or a list of texts.
fn texts(value: Option<&Json>) -> Vec<String> {
    match value {
        Some(Json::Array(values)) => values.iter().flat_map(|value| texts(Some(value))).collect(),
        Some(Json::String(text)) if !text.trim().is_empty() => vec![text.trim().to_string()],
        _ => Vec::new(),
    }
}

/// The name on the hub that a configuration records.
fn recorded(checkpoint: &Checkpoint) -> Option<String> {
    of_reference(checkpoint.config.str("_name_or_path")?)
}

fn of_reference(text: &str) -> Option<String> {
    HubReference::parse(text, None).map(|found| found.name.path())
}

fn of_address(url: &str) -> Option<String> {
    of_reference(url).filter(|_| url.starts_with("https://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_that_differ_are_a_conflict() {
        let card = |license: &str| {
            ModelCard::Text(format!("---\nlicense: {license}\nlicense_name: own\n---\n"))
                .front_matter()
                .keys
        };
        let mut origins = Origins::default();
        origins.add_license("a", &card("mit"));
        origins.add_license("b", &card("mit"));
        assert_eq!(origins.conflict(), None);
        origins.add_license("c", &card("other"));
        let stated = origins.conflict().unwrap();
        assert!(
            stated.contains("a: mit; b: mit; c: own") && stated.contains("--license"),
            "{stated}"
        );
    }

    #[test]
    fn only_names_of_the_hub_are_base_models() {
        assert_eq!(of_address("https://huggingface.co/acme/anvil").as_deref(), Some("acme/anvil"));
        for none in ["../models/a", "/models/a", "anvil", "a/b/c", "https://x.example/a/b"] {
            assert_eq!((of_reference(none), of_address(none)), (None, None), "{none}");
        }
    }
}
