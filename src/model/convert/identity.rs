//! Who a model is: name, author, license, base models, datasets and tags, from its card, its
//! configuration and its folder's name, in this order of trust. Deliberately absent: asking the hub.
//!
//! Source of keys, their order and the heuristics: llama.cpp `gguf-py/gguf/metadata.py`
//! (`apply_metadata_heuristic`, `set_gguf_meta_model`), October 2026.

use super::naming::{self, NameParts};
use crate::formats::checkpoint::Checkpoint;
use crate::formats::gguf::{Array, Metadata, Value};
use crate::model::arch::Parameters;
use serde_json::{Map, Value as Json};

/// The keys of front matter for a value: llama.cpp's own convention, the same with `model_`, and
/// what publishers write.
fn aliases(key: &str) -> [String; 3] {
    let publishers = match key {
        "author" => "model_creator",
        "basename" => "model_type",
        _ => key,
    };
    [key.to_string(), format!("model_{key}"), publishers.to_string()]
}

/// A scalar as text. YAML makes numbers of versions such as `0.2`, and of names such as `2024`.
fn text(value: &Json) -> Option<String> {
    match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        Json::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

/// One value or a list of them.
fn list(value: &Json) -> Vec<&Json> {
    match value {
        Json::Array(values) => values.iter().collect(),
        Json::Null => Vec::new(),
        value => vec![value],
    }
}

/// Writes `general.name` to `general.languages`; `card` is the front matter of the model's card.
pub(super) fn write(
    checkpoint: &Checkpoint,
    card: &Map<String, Json>,
    name: Option<&str>,
    parameters: Parameters,
    metadata: &mut Metadata,
) {
    let given = |key: &str| aliases(key).iter().find_map(|key| text(card.get(key)?));
    let mut ids = vec![checkpoint.name.as_str()];
    // What the configuration calls itself goes first, if it is a model's name and not a path.
    let recorded = checkpoint.config.str("_name_or_path");
    if let Some(recorded) = recorded.filter(|r| r.matches('/').count() <= 1 && !r.is_empty()) {
        ids.insert(0, recorded);
    }
    let parts: Vec<NameParts> =
        ids.iter().map(|id| NameParts::parse(id, parameters.total)).collect();
    let first = |part: fn(&NameParts) -> Option<&String>| parts.iter().find_map(part).cloned();
    let mut set = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            metadata.set(format!("general.{key}"), value);
        }
    };
    let title = || naming::title(&parts[0].full_name);
    let organization = || first(|p| p.organization.as_ref()).map(|o| naming::title(&o));
    let size = || first(|p| p.size_label.as_ref());
    set("name", Some(name.map(str::to_string).or_else(|| given("name")).unwrap_or_else(title)));
    set("author", given("author"));
    set("version", given("version").or_else(|| first(|p| p.version.as_ref())));
    set("organization", given("organization").or_else(organization));
    set("finetune", given("finetune").or_else(|| first(|p| p.finetune.as_ref())));
    set("basename", given("basename").or_else(|| first(|p| p.basename.as_ref())));
    set("description", given("description"));
    let size = given("size_label").or_else(size);
    set("size_label", Some(size.unwrap_or_else(|| naming::size_label(parameters))));
    let licenses = list(card.get("license").unwrap_or(&Json::Null));
    let licenses: Vec<String> = licenses.into_iter().filter_map(text).collect();
    set("license", (!licenses.is_empty()).then(|| licenses.join(",")));
    set("license.name", card.get("license_name").and_then(text));
    set("license.link", card.get("license_link").and_then(text));
    for key in ["url", "doi", "uuid", "repo_url"] {
        let plain = card.get(key).or_else(|| card.get(&format!("model_{key}")));
        set(&format!("source.{key}"), plain.and_then(text));
    }
    let bases = ["base_model", "base_models", "base_model_sources"];
    origins("base_model", first_of(card, &bases), parameters.total, metadata);
    let datasets = ["datasets", "dataset", "dataset_sources"];
    origins("dataset", first_of(card, &datasets), parameters.total, metadata);
    words("tags", card, ["tags", "pipeline_tag"], metadata);
    words("languages", card, ["languages", "language"], metadata);
}

fn first_of<'a>(card: &'a Map<String, Json>, keys: &[&str]) -> Option<&'a Json> {
    keys.iter().find_map(|key| card.get(*key))
}

/// Models or datasets that a model was made from: `general.KIND.count`, and of each what is known.
fn origins(kind: &str, listed: Option<&Json>, parameters: u64, metadata: &mut Metadata) {
    const KEYS: &[&str] = &[
        "name",
        "author",
        "version",
        "organization",
        "description",
        "url",
        "doi",
        "uuid",
        "repo_url",
    ];
    let Some(listed) = listed.map(list) else { return };
    metadata.set(format!("general.{kind}.count"), listed.len() as u32);
    for (index, entry) in listed.into_iter().enumerate() {
        let known = match entry {
            Json::Object(map) => map.clone(),
            Json::String(id) => origin(id, parameters),
            _ => continue,
        };
        for key in KEYS {
            if let Some(value) = known.get(*key).and_then(text) {
                metadata.set(format!("general.{kind}.{index}.{key}"), value);
            }
        }
    }
}

/// Writes the models that a model was made from, by their names on the hub, in place of those that are there.
pub fn write_base_models(ids: &[String], metadata: &mut Metadata) {
    metadata.remove_if(|key| key.starts_with("general.base_model."));
    origins("base_model", Some(&ids.into()), 0, metadata);
}

/// The parts of an address or of a name on the Hugging Face hub.
fn origin(id: &str, parameters: u64) -> Map<String, Json> {
    const HUB: [&str; 2] = ["https://huggingface.co/", "http://huggingface.co/"];
    let mut known = Map::new();
    let is_address = ["http://", "https://", "ssh://"].iter().any(|scheme| id.starts_with(scheme));
    let on_hub = HUB.iter().find_map(|hub| id.strip_prefix(hub)).filter(|id| {
        let parts: Vec<&str> = id.split('/').collect();
        parts.len() == 2 && parts.iter().all(|part| !part.is_empty())
    });
    let name = if is_address { on_hub } else { Some(id) };
    let mut set = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            known.insert(key.to_string(), value.into());
        }
    };
    let mut address = is_address.then(|| id.to_string());
    if let Some(name) = name {
        let parts = NameParts::parse(name, parameters);
        set("name", Some(naming::title(&parts.full_name)));
        set("version", parts.version);
        set("organization", parts.organization.as_deref().map(naming::title));
        let hub = parts.organization.map(|o| format!("{}{o}/{}", HUB[0], parts.full_name));
        address = address.or(hub);
    }
    set("repo_url", address);
    known
}

/// A list of words from two keys, left out where it would be empty.
fn words(name: &str, card: &Map<String, Json>, keys: [&str; 2], metadata: &mut Metadata) {
    let words: Vec<String> =
        keys.iter().filter_map(|key| card.get(*key)).flat_map(list).filter_map(text).collect();
    if !words.is_empty() {
        metadata.set(format!("general.{name}"), Value::Array(Array::String(words)));
    }
}

/// The front matter that describes a merge in its card, so that converting the written folder gives
/// what converting the recipe gives, whatever the folder is called. `members` are the recipe's references.
///
/// Members are folders on disk: `models/mistral` looks like a name on the hub and is none. So the list is
/// under `base_models`, which the hub does not take for its own, only the folder's name counts, and no
/// address is made up.
pub fn merge_front_matter(
    name: &str,
    parameters: Parameters,
    members: impl IntoIterator<Item = String>,
) -> Map<String, Json> {
    let mut front = Map::new();
    let mut set = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            front.insert(format!("model_{key}"), value.into());
        }
    };
    let parts = NameParts::parse(name, parameters.total);
    set("name", Some(naming::title(&parts.full_name)));
    set("version", parts.version);
    set("organization", parts.organization.as_deref().map(naming::title));
    set("finetune", parts.finetune);
    set("basename", parts.basename);
    set("size_label", Some(parts.size_label.unwrap_or_else(|| naming::size_label(parameters))));
    let members = members.into_iter().map(|reference| {
        let folder = reference.trim_end_matches('/').rsplit('/').next().unwrap_or(&reference);
        Json::Object(origin(folder.strip_suffix(".gguf").unwrap_or(folder), 0))
    });
    front.insert("base_models".to_string(), members.collect());
    front.insert("library_name".to_string(), "transformers".into());
    front.insert("tags".to_string(), vec!["mergekit", "merge"].into());
    front
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_names_of_the_hub_or_addresses() {
        let given = |id: &str| serde_json::to_string(&origin(id, 0)).unwrap();
        assert_eq!(
            given("mistralai/Mistral-7B-v0.1"),
            r#"{"name":"Mistral 7B v0.1","version":"v0.1","organization":"Mistralai","repo_url":"https://huggingface.co/mistralai/Mistral-7B-v0.1"}"#
        );
        assert_eq!(
            given("https://huggingface.co/acme/anvil"),
            r#"{"name":"Anvil","organization":"Acme","repo_url":"https://huggingface.co/acme/anvil"}"#
        );
        for address in ["https://huggingface.co/acme", "ssh://git.example/anvil"] {
            assert_eq!(given(address), format!(r#"{{"repo_url":"{address}"}}"#));
        }
    }

    #[test]
    fn members_are_folders_whatever_their_reference_looks_like() {
        let members = ["models/mistral", "/models/solar-10.7b/"].map(str::to_string);
        let front = merge_front_matter("Stack-v2", Parameters::total(18_000_000_000), members);
        assert_eq!(
            Json::from(front),
            serde_json::json!({
                "model_name": "Stack v2",
                "model_version": "v2",
                "model_basename": "Stack",
                "model_size_label": "18B",
                "base_models": [{"name": "Mistral"}, {"name": "Solar 10.7b"}],
                "library_name": "transformers",
                "tags": ["mergekit", "merge"],
            })
        );
    }
}
