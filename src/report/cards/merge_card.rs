//! The README.md beside a merged model: what it is made of and how, with front matter for the
//! Hugging Face hub. Deliberately absent: links to the members, whose folders do not record where they came
//! from.

use crate::base::size;
use crate::recipe::{MemberSummary, PlanSummary};
use crate::report::tables::methods;
use serde_json::{Map, Value};
use std::fmt::Write;

/// The README of the merge `summary`, called `name`, made by the recipe `recipe`.
/// `front` goes between the lines `---`.
pub fn merge_readme(
    name: &str,
    summary: &PlanSummary,
    recipe: &str,
    front: &Map<String, Value>,
) -> String {
    let front = serde_yaml::to_string(front).expect("names and texts");
    let mut text = format!("---\n{}\n---\n", front.trim_end());
    let layers = summary.stages.last().map_or(0, |stage| stage.layers.len());
    let parameters = size::count(summary.parameters);
    let bytes = size::display(summary.bytes);
    write!(
        text,
        "# {name}\n\nA merge of {layers} layers, {parameters} parameters ({bytes}), made with \
         Aqueduct {}.\n\n## Members\n\n| model | class | layers |\n|---|---|---|\n",
        env!("CARGO_PKG_VERSION")
    )
    .expect("to a string");
    for member in &summary.members {
        let MemberSummary { reference, class, layers, .. } = member;
        writeln!(text, "| {reference} | {class} | {layers} |").expect("to a string");
    }
    text.push_str("\n## Stages\n\n");
    for stage in &summary.stages {
        let (name, methods, layers) = (&stage.name, methods(stage), stage.layers.len());
        writeln!(text, "- `{name}`: {layers} layers, {methods}").expect("to a string");
    }
    if let Some(output) = summary.stages.last() {
        let (config, tokenizer) = (&output.config_donor, &output.tokenizer_donor);
        write!(
            text,
            "\nConfiguration from {} ({}), tokenizer from {} ({}).\n",
            config.member, config.reason, tokenizer.member, tokenizer.reason
        )
        .expect("to a string");
    }
    let end = if recipe.ends_with('\n') { "" } else { "\n" };
    write!(text, "\n## Recipe\n\n```yaml\n{recipe}{end}```\n").expect("to a string");
    text
}
