//! The text of a plan: what people read before they start hours of work.

use aqueduct::build::{self, BuildOptions, Source};
use aqueduct::merge;
use aqueduct::quantize::Ftype;
use aqueduct::recipe::{ShapesOnly, plan_text, render};
use aqueduct::report::render_merge;
use std::path::{Path, PathBuf};

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes").join(name)
}

/// The table line whose first cell is `first`, its columns apart.
fn row<'a>(text: &'a str, first: &str) -> Vec<&'a str> {
    let cells = |line: &'a str| -> Vec<&'a str> {
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
    };
    let mut rows = text.lines().map(cells).filter(|cells| cells.first() == Some(&first));
    rows.next().unwrap_or_else(|| panic!("no row {first:?} in\n{text}"))
}

fn shapes_only(text: &str) -> String {
    let path = Path::new("nowhere/recipe.yml");
    let lookup = ShapesOnly::beside(path, &[]);
    match plan_text(path, text, &merge::methods::specs(), &lookup) {
        Ok(plan) => render_merge(&plan.summary()),
        Err(problems) => panic!("{}", render("recipe.yml", &problems)),
    }
}

#[test]
fn the_demo_plan_shows_members_weights_and_sizes() {
    let source = Source::open(&shipped("demo.yml")).unwrap();
    let Source::Recipe { plan, .. } = &source else { panic!("a recipe") };
    let text = render_merge(&plan.summary());
    assert_eq!(row(&text, "A")[1..3], ["demo/storyteller", "LlamaForCausalLM"]);
    assert_eq!(row(&text, "B")[1..3], ["demo/clerk", "MistralForCausalLM"]);
    assert_eq!(row(&text, "upper")[1..], ["slerp", "3", "float32", "1.4M"]);
    assert_eq!(row(&text, "embedding")[1..], ["ends", "linear: 1 A + 1 B"]);
    assert_eq!(row(&text, "1")[1..], ["lower:1", "linear: 0.65 A:1 + 0.35 B:1"]);
    let slerp = "slerp: A:1* + B:1, t 0.5 (self_attn 0.4, mlp 0.6)";
    assert_eq!(row(&text, "3")[1..], ["upper:1", slerp]);
    assert!(text.contains("tokenizer from demo/storyteller (first source"), "{text}");

    let options = BuildOptions {
        types: vec![Ftype::Q4_K_M, Ftype::Q8_0],
        forward_memory: 8_000_000_000,
        ..BuildOptions::default()
    };
    let forecast = build::forecast(&source, &options).unwrap();
    let text = forecast.render();
    assert!(text.starts_with("demo: 5 layers, "), "{text}");
    assert!(text.contains("\nstages: merge -> convert -> imatrix -> quantize\n"), "{text}");
    assert_eq!(row(&text, "demo-Q8_0.gguf")[1], "8.53");
    assert_eq!(row(&text, "demo-F16.gguf").last(), Some(&"on request: convert --type f16"));
    let stack = row(&text, "demo-stack/");
    assert_eq!(stack[1], aqueduct::base::size::display(plan.bytes()));
    let built = forecast.files.iter().chain([&forecast.imatrix]).map(|file| file.bytes);
    assert_eq!(forecast.disk, built.sum::<u64>());
}

#[test]
fn eighty_layers_take_a_short_line_each() {
    let text = shapes_only(&std::fs::read_to_string(shipped("aqueducts-18b.yml")).unwrap());
    for layer in 0..80 {
        assert!(row(&text, &layer.to_string()).len() >= 2);
    }
    assert_eq!(row(&text, "8"), ["8", "C:8"]);
    let ends = "linear: 0.3 C + 0.2 D + 0.2 E + 0.1 A + 0.1 B + 0.1 F";
    for end in ["embedding", "norm", "head"] {
        assert_eq!(row(&text, end), [end, ends]);
    }
    assert_eq!(row(&text, "Aqueducts-18B")[1], "passthrough; embedding, norm and head: linear");
    assert!(text.lines().all(|line| line.len() <= 110), "{text}");
}

#[test]
fn only_unusual_parameters_are_shown_and_each_end_has_its_own_row() {
    let seven = "mistralai/Mistral-7B-v0.1";
    let mixed = format!(
        "name: sum\nmerge_method: linear\nmodels:\n- {{model: {seven}, parameters: {{weight: 2}}}}\n\
         - {{model: HuggingFaceH4/zephyr-7b-beta, parameters: {{weight: -1}}}}\n\
         parameters: {{normalize: false}}\n---\nmerge_method: passthrough\nslices:\n\
         - sources: [{{model: sum, layer_range: [0, 2]}}]\n\
         - sources: [{{model: {seven}, layer_range: [2, 4], parameters: {{scale: 0.5}}}}]\n"
    );
    let text = shapes_only(&mixed);
    assert_eq!(row(&text, "0")[1..], ["sum:0", "linear: 2 A:0 + -1 B:0, normalize 0"]);
    assert_eq!(row(&text, "2"), ["2", "passthrough: A:2 [scale 0.5]"]);
    assert_eq!(row(&text, "embedding")[1], "sum");
    assert!(!row(&text, "head").contains(&"sum"), "{text}");
}
