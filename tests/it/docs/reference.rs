//! Tables of the reference that must list everything the program has.

use crate::support::program::{Place, shipped};
use aqueduct::merge;
use aqueduct::quantize::Ftype;
use aqueduct::recipe::{BaseRule, ParamDefault};
use std::fs;

fn page(name: &str) -> String {
    fs::read_to_string(shipped("docs/reference").join(name)).unwrap()
}

/// The cells of the first row of `text` whose first cell is `` `name` ``.
fn row(text: &str, name: &str) -> Vec<String> {
    let start = format!("| `{name}`");
    let row = text.lines().find(|line| line.starts_with(&start));
    let row = row.unwrap_or_else(|| panic!("there is no row for {name}"));
    row.split('|').skip(1).map(|cell| cell.trim().to_string()).collect()
}

#[test]
fn merge_methods_are_listed_with_their_parameters() {
    let text = page("merge-methods.md");
    let (methods, parameters) = text.split_once("## Parameters").unwrap();
    let specs = merge::methods::specs();
    for spec in &specs {
        let cells = row(methods, spec.name);
        let base = match spec.base {
            BaseRule::Required => "required",
            BaseRule::Optional => "optional",
            BaseRule::DonorOnly => "",
        };
        assert_eq!(cells[3], base, "base model of {}", spec.name);
        let named = spec.params.iter().filter(|param| !param.ignored);
        let names: Vec<String> = named.clone().map(|param| format!("`{}`", param.name)).collect();
        assert_eq!(cells[4], names.join(", "), "parameters of {}", spec.name);
        for param in named {
            let name = format!("`{}`", param.name);
            let row = parameters.lines().find(|line| {
                line.split(" | ").next().is_some_and(|first| first.contains(name.as_str()))
            });
            let row = row.unwrap_or_else(|| panic!("there is no row for {name}"));
            let required = param.default == ParamDefault::Required;
            assert_eq!(row.ends_with("| required |"), required, "{name} of {}", spec.name);
        }
    }
    assert_eq!(methods.lines().filter(|line| line.starts_with("| `")).count(), specs.len());
}

#[test]
fn file_types_are_listed() {
    let text = page("types.md");
    let words: Vec<&str> = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).collect();
    for ftype in Ftype::all() {
        assert!(words.contains(&ftype.name()), "types.md does not list {}", ftype.name());
    }
}

/// The keys that the program lists when it rejects the key `zzzzzz` of `recipe`.
fn known_keys(recipe: &str) -> Vec<String> {
    let place = Place::new();
    fs::write(place.path("r.yml"), recipe).unwrap();
    let error = place.fails(1, "plan r.yml --no-members", &["zzzzzz"]);
    let list = error.lines().find_map(|line| line.split_once("known keys are "));
    let (_, keys) = list.unwrap_or_else(|| panic!("no list of keys in {error}"));
    keys.split(", ").map(str::to_string).collect()
}

#[test]
fn keys_of_recipes_are_listed() {
    let recipe = "merge_method: linear\nmodels: [{model: example/7B, parameters: {weight: 1}}]\n";
    for (page_name, text) in [
        ("recipe.md", format!("zzzzzz: 1\n{recipe}")),
        ("build-settings.md", format!("{recipe}---\nbuild:\n  zzzzzz: 1\n")),
    ] {
        let shown = page(page_name);
        let rows: Vec<&str> = shown.lines().filter(|line| line.starts_with("| `")).collect();
        for key in known_keys(&text) {
            let name = format!("`{key}`");
            let listed = |row: &&str| row.split(" | ").next().is_some_and(|c| c.contains(&name));
            assert!(rows.iter().any(listed), "{page_name} does not list {key}");
        }
    }
}
