//! Pictures of plans: their structure as trees of XML, what hostile names do to them, and the same on
//! terminals.

use crate::support::program::{Place, shipped};
use aqueduct::merge;
use aqueduct::recipe::{MemberShare, PlanSummary, ShapesOnly, plan_text, render};
use aqueduct::report::{render_stack, stack_html, stack_svg};
use roxmltree::{Document, Node, ParsingOptions};
use std::fs;
use std::path::Path;

const SOLAR: &str = "upstage/SOLAR-10.7B-v1.0";
const MISTRAL: &str = "mistralai/Mistral-7B-v0.1";
const ZEPHYR: &str = "HuggingFaceH4/zephyr-7b-beta";
const LLAMA: &str = "meta/Llama-2-70b";

fn summary(text: &str) -> PlanSummary {
    let path = Path::new("nowhere/recipe.yml");
    match plan_text(path, text, &merge::methods::specs(), &ShapesOnly::beside(path, &[])) {
        Ok(plan) => plan.summary(),
        Err(problems) => panic!("{}", render("recipe.yml", &problems)),
    }
}

/// Ends first, gradients at both ends and between three models, stacked to 80 layers.
const STAGED: &str = "
name: ends
merge_method: linear
slices:
- sources:
  - {model: upstage/SOLAR-10.7B-Instruct-v1.0, layer_range: [0, 0], parameters: {weight: 0.3}}
  - {model: Sao10K/Fimbulvetr-11B-v2, layer_range: [0, 0], parameters: {weight: 0.2}}
  - {model: upstage/SOLAR-10.7B-v1.0, layer_range: [0, 0], parameters: {weight: 0.2}}
  - {model: mistralai/Mistral-7B-Instruct-v0.2, layer_range: [0, 0], parameters: {weight: 0.1}}
  - {model: HuggingFaceH4/zephyr-7b-beta, layer_range: [0, 0], parameters: {weight: 0.1}}
  - {model: KoboldAI/Mistral-7B-Holodeck-1, layer_range: [0, 0], parameters: {weight: 0.1}}
---
name: intake
merge_method: linear
slices:
- sources:
  - {model: mistralai/Mistral-7B-Instruct-v0.2, layer_range: [0, 8], parameters: {weight: [0.5, 0.3, 0]}}
  - {model: HuggingFaceH4/zephyr-7b-beta, layer_range: [0, 8], parameters: {weight: [0.5, 0.3, 0]}}
  - {model: upstage/SOLAR-10.7B-Instruct-v1.0, layer_range: [0, 8], parameters: {weight: [0, 0.4, 1]}}
---
name: first-crossing
merge_method: slerp
base_model: upstage/SOLAR-10.7B-Instruct-v1.0
slices:
- sources:
  - {model: upstage/SOLAR-10.7B-Instruct-v1.0, layer_range: [24, 40]}
  - {model: Sao10K/Fimbulvetr-11B-v2, layer_range: [8, 24]}
parameters: {t: [{filter: mlp, value: [0, 0.1, 0.5, 0.9, 1]}, {value: [0, 1]}]}
---
name: second-crossing
merge_method: slerp
base_model: Sao10K/Fimbulvetr-11B-v2
slices:
- sources:
  - {model: Sao10K/Fimbulvetr-11B-v2, layer_range: [24, 40]}
  - {model: upstage/SOLAR-10.7B-v1.0, layer_range: [8, 24]}
parameters: {t: [0, 1]}
---
name: outlet
merge_method: linear
slices:
- sources:
  - {model: upstage/SOLAR-10.7B-v1.0, layer_range: [40, 48], parameters: {weight: [1, 0.6, 0.5]}}
  - {model: KoboldAI/Mistral-7B-Holodeck-1, layer_range: [24, 32], parameters: {weight: [0, 0.4, 0.5]}}
---
name: Aqueducts-18B
merge_method: passthrough
slices:
- sources: [{model: ends, layer_range: [0, 0]}]
- sources: [{model: intake, layer_range: [0, 8]}]
- sources: [{model: upstage/SOLAR-10.7B-Instruct-v1.0, layer_range: [8, 24]}]
- sources: [{model: first-crossing, layer_range: [0, 16]}]
- sources: [{model: second-crossing, layer_range: [0, 16]}]
- sources: [{model: upstage/SOLAR-10.7B-v1.0, layer_range: [24, 40]}]
- sources: [{model: outlet, layer_range: [0, 8]}]
- sources: [{model: ends, layer_range: [0, 0]}]
";

fn staged() -> PlanSummary {
    summary(STAGED)
}

fn stack(slices: &[(&str, usize, usize)]) -> PlanSummary {
    let slice = |(model, start, end): &(&str, usize, usize)| {
        format!("- sources: [{{model: {model}, layer_range: [{start}, {end}]}}]\n")
    };
    let slices: String = slices.iter().map(slice).collect();
    summary(&format!("merge_method: passthrough\nslices:\n{slices}"))
}

/// Two interleaved models of 80 layers, 137 rows.
fn interleaved() -> PlanSummary {
    let (a, b) = ("one/llama-2-70b", "two/llama-2-70b");
    stack(&[
        (a, 0, 16),
        (b, 8, 24),
        (a, 17, 32),
        (b, 25, 40),
        (a, 33, 48),
        (b, 41, 56),
        (a, 49, 64),
        (b, 57, 72),
        (a, 65, 80),
    ])
}

fn task(weights: &[f64], more: &str) -> PlanSummary {
    let tuned = weights.iter().enumerate().map(|(at, weight)| {
        format!("- {{model: tuned-{at}/mistral-7b, parameters: {{weight: {weight}}}}}\n")
    });
    let tuned: String = tuned.collect();
    summary(&format!(
        "merge_method: task_arithmetic\nbase_model: {MISTRAL}\nmodels:\n{tuned}{more}"
    ))
}

/// The tree of an SVG or HTML text, which must be well-formed.
fn tree(text: &str) -> Document<'_> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn with_class<'a>(node: Node<'a, 'a>, class: &'a str) -> impl Iterator<Item = Node<'a, 'a>> {
    node.descendants().filter(move |node| {
        node.attribute("class").is_some_and(|all| all.split(' ').any(|one| one == class))
    })
}

fn number(node: Node<'_, '_>, name: &str) -> f64 {
    node.attribute(name).unwrap_or_else(|| panic!("no {name}: {node:?}")).parse().unwrap()
}

fn title<'a>(node: Node<'a, 'a>) -> &'a str {
    let title = node.children().find(|child| child.has_tag_name("title"));
    title
        .or_else(|| node.children().find(|child| child.tag_name().name() == "title"))
        .and_then(|title| title.text())
        .unwrap_or_default()
}

/// Checks what holds of every picture, and gives the titles of the result's rows.
fn check(summary: &PlanSummary) -> Vec<String> {
    let text = stack_svg(summary, "Name");
    assert_eq!(text, stack_svg(summary, "Name"), "the same plan gives the same picture");
    let document = tree(&text);
    let root = document.root_element();
    let (width, height) = (number(root, "width"), number(root, "height"));
    for row in with_class(root, "row") {
        let parts: Vec<_> = with_class(row, "part").collect();
        assert!(!title(row).is_empty());
        if parts.is_empty() {
            assert!(title(row).contains("tied to the embedding"), "{}", title(row));
            continue;
        }
        // One after the other over the column's whole width.
        let column =
            if row.parent().unwrap().attribute("class") == Some("stage") { 76.0 } else { 220.0 };
        let mut edge = number(parts[0], "x");
        let sum: f64 = parts.iter().map(|part| number(*part, "width")).sum();
        assert!((sum - column).abs() < 0.02 * parts.len() as f64, "{sum}: {}", title(row));
        for part in parts {
            assert!((number(part, "x") - edge).abs() < 0.02, "{}", title(row));
            edge += number(part, "width");
            assert!(number(part, "height") >= 2.0);
        }
    }
    for node in root.descendants().filter(|node| node.is_element()) {
        for (name, limit) in [("x", width), ("y", height)] {
            let inside =
                node.attribute(name).is_none_or(|at| (0.0..=limit).contains(&at.parse().unwrap()));
            assert!(inside, "{name} of {node:?} is outside of {width} x {height}");
        }
    }
    texts_are_apart(root);
    let stack = with_class(root, "stack").next().unwrap();
    with_class(stack, "row").map(|row| title(row).to_string()).collect()
}

/// Texts that begin or end at the same place stand clear of each other.
fn texts_are_apart(root: Node<'_, '_>) {
    let place = |node: Node<'_, '_>| {
        let anchor = node.attribute("text-anchor").unwrap_or("start").to_string();
        (node.attribute("x").unwrap().to_string(), anchor)
    };
    let mut texts: Vec<_> = root
        .descendants()
        .filter(|node| node.tag_name().name() == "text")
        .map(|node| (place(node), number(node, "y"), node.text().unwrap_or_default()))
        .collect();
    assert!(texts.len() > 10);
    texts.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
    for pair in texts.windows(2) {
        let apart = pair[0].0 != pair[1].0 || pair[1].1 - pair[0].1 >= 10.9;
        assert!(apart, "{:?} and {:?} overlap", pair[0], pair[1]);
    }
}

fn count(summary: &PlanSummary, class: &str) -> usize {
    with_class(tree(&stack_svg(summary, "Name")).root_element(), class).count()
}

#[test]
fn every_layer_and_end_has_a_row_that_its_members_fill() {
    let rows = check(&staged());
    assert_eq!(rows.len(), 83);
    assert!(rows[0].starts_with("embedding of Aqueducts-18B from ends\nlinear: "), "{}", rows[0]);
    for layer in 0..80 {
        assert!(rows[layer + 1].starts_with(&format!("layer {layer} of Aqueducts-18B")));
        assert!(rows[layer + 1].contains("218M parameters"), "{}", rows[layer + 1]);
    }
    let crossing = &rows[33];
    assert!(crossing.contains("from first-crossing:8\n"), "{crossing}");
    assert!(crossing.contains("%  A = upstage/SOLAR-10.7B-Instruct-v1.0, layer 32"), "{crossing}");
    assert!(crossing.contains("%  B = Sao10K/Fimbulvetr-11B-v2, layer 16"), "{crossing}");
    assert_eq!(check(&interleaved()).len(), 140);
    assert_eq!(check(&task(&[0.5, 0.3], "")).len(), 35);
}

#[test]
fn stages_stand_beside_the_rows_that_use_them_and_are_linked() {
    let summary = staged();
    let text = stack_svg(&summary, "Name");
    let document = tree(&text);
    let root = document.root_element();
    // Two pieces of the ends, and four stages of layers.
    assert_eq!(with_class(root, "stage").count(), 6);
    assert_eq!(with_class(root, "link").count(), 6);
    assert_eq!(with_class(root, "arc").count(), 0, "no layer of a member is used twice");
    let names: Vec<_> = with_class(root, "stage")
        .map(|stage| {
            stage.children().find(|node| node.tag_name().name() == "text").unwrap().text().unwrap()
        })
        .collect();
    for name in ["ends", "intake", "first-crossing", "second-crossing", "outlet"] {
        assert!(names.contains(&name), "{names:?}");
    }
    // Each is as high up as the first row that uses it, but for a few pixels.
    let top = |rows: Node<'_, '_>, at: usize| {
        let row = with_class(rows, "row").nth(at).unwrap();
        number(with_class(row, "part").next().unwrap(), "y")
    };
    let stack = with_class(root, "stack").next().unwrap();
    for stage in with_class(root, "stage") {
        let name = stage.children().find(|node| node.tag_name().name() == "text").unwrap();
        let row = match name.text().unwrap() {
            "intake" => 1,
            "first-crossing" => 25,
            "second-crossing" => 41,
            "outlet" => 73,
            _ => continue,
        };
        assert!((top(stage, 0) - top(stack, row)).abs() < 5.0, "{name:?}");
    }
}

#[test]
fn stages_of_stages_have_lanes_and_what_is_not_used_is_faint() {
    let mistral = format!("{{model: {MISTRAL}, layer_range: [0, 8]}}");
    let text = format!(
        "name: low\nmerge_method: passthrough\nslices:\n- sources: [{mistral}]\n---\n\
         name: mid\nmerge_method: linear\nslices:\n- sources:\n  - {{model: low, layer_range: [0, 6], parameters: {{weight: 3}}}}\n  \
         - {{model: {ZEPHYR}, layer_range: [2, 8], parameters: {{weight: 1}}}}\n---\n\
         merge_method: passthrough\nslices:\n- sources: [{{model: mid, layer_range: [1, 5]}}]\n\
         - sources: [{{model: mid, layer_range: [3, 6]}}]\n"
    );
    let summary = summary(&text);
    let rows = check(&summary);
    assert_eq!(rows.len(), 10);
    assert!(rows[1].contains("75.0 %  A = ") && rows[1].contains("25.0 %  B = "), "{}", rows[1]);
    // Eight and six layers of the stages with their ends; layers 6 and 7 of one, 0 of the other are idle.
    assert_eq!(count(&summary, "row"), 10 + 8 + 3 + 6 + 3);
    assert_eq!(count(&summary, "unused"), 3);
    // To the result: embedding, two runs of layers, norm with head. To the middle: one run and the ends.
    assert_eq!(count(&summary, "link"), 4 + 3);
    // Layers 3 and 4 of the middle stage are there twice, each from two members.
    assert_eq!(count(&summary, "arc"), 4);
}

#[test]
fn layers_that_are_used_again_are_joined() {
    let slices: Vec<_> = (0..=6).map(|at| (LLAMA, at * 10, at * 10 + 20)).collect();
    let summary = stack(&slices);
    assert_eq!(check(&summary).len(), 143);
    assert_eq!(count(&summary, "arc"), 60);
    let upscaled = stack(&[(SOLAR, 0, 32), (SOLAR, 8, 48)]);
    assert_eq!(count(&upscaled, "arc"), 24);
    assert_eq!(count(&interleaved(), "arc"), 0);
}

#[test]
fn a_tied_head_and_any_number_of_members_can_be_drawn() {
    let tied = stack(&[("x/SmolLM2-135M", 0, 30)]);
    assert!(check(&tied).last().unwrap().contains("tied to the embedding"));
    assert!(render_stack(&tied, false).contains("head"));
    let models: String = (0..40)
        .map(|at| {
            format!("- {{model: m{at}/mistral-7b, parameters: {{weight: {}}}}}\n", 1 + at % 3)
        })
        .collect();
    let many = summary(&format!("merge_method: linear\nmodels:\n{models}"));
    let rows = check(&many);
    assert!(rows[1].contains("and 29 more"), "{}", rows[1]);
    let text = stack_svg(&many, "Name");
    // Beyond twelve members a pattern lies over the colour.
    assert_eq!(with_class(tree(&text).root_element(), "member").count(), 40);
    assert!(["1", "2", "3"].iter().all(|n| text.contains(&format!("url(#pattern-{n})"))));
    assert!(render_stack(&many, true).contains("35 more"));
    // A layer for each slice: more labels than there is room for.
    let single: Vec<_> = (0..300).map(|at| (LLAMA, at * 7 % 80, at * 7 % 80 + 1)).collect();
    assert_eq!(check(&stack(&single)).len(), 303);
}

#[test]
fn shares_follow_the_recipe() {
    let of = |summary: &PlanSummary, layer: usize| -> Vec<(usize, f64, bool)> {
        let row = &summary.stages.last().unwrap().layers[layer];
        row.made_of.iter().map(|given| (given.member, given.share, given.delta)).collect()
    };
    let close = |found: Vec<(usize, f64, bool)>, wanted: &[(usize, f64, bool)]| {
        assert_eq!(found.len(), wanted.len(), "{found:?}");
        for (a, b) in found.iter().zip(wanted) {
            assert!(a.0 == b.0 && (a.1 - b.1).abs() < 1e-9 && a.2 == b.2, "{found:?} {wanted:?}");
        }
    };
    // Weights over their sum; only the size of a negative weight counts.
    let linear = summary(&format!(
        "merge_method: linear\nmodels:\n- {{model: {MISTRAL}, parameters: {{weight: 3}}}}\n\
         - {{model: {ZEPHYR}, parameters: {{weight: -1}}}}\nparameters: {{normalize: false}}\n"
    ));
    close(of(&linear, 5), &[(0, 0.75, false), (1, 0.25, false)]);
    // The base counts as one, each difference by its weight.
    close(
        of(&task(&[0.5, 0.5], ""), 0),
        &[(0, 0.25, true), (1, 0.25, true), (2, 0.5, false)]
            .map(|(m, s, d)| (if m == 2 { 0 } else { m + 1 }, s, d)),
    );
    let normalized = "parameters: {normalize: true, lambda: 3}\n";
    close(
        of(&task(&[2.0, 6.0], normalized), 0),
        &[(1, 0.1875, true), (2, 0.5625, true), (0, 0.25, false)],
    );
    // The mean of t by the size of the tensors: of 218112000 weights of a layer, 41943040 are attention's
    // and 8192 the norms'.
    let slerp = summary(&format!(
        "merge_method: slerp\nbase_model: {MISTRAL}\nmodels:\n- {{model: {ZEPHYR}}}\n- {{model: {MISTRAL}}}\n\
         parameters:\n  t:\n  - {{filter: self_attn, value: 0.25}}\n  - {{filter: mlp, value: 0.75}}\n  - {{value: 0}}\n"
    ));
    let other = (0.25 * 41_943_040.0 + 0.75 * 176_160_768.0) / 218_112_000.0;
    let member = |name: &str| slerp.members.iter().position(|m| m.reference == name).unwrap();
    close(of(&slerp, 3), &[(member(ZEPHYR), other, false), (member(MISTRAL), 1.0 - other, false)]);
}

#[test]
fn shares_of_every_row_add_up_to_one() {
    for summary in [staged(), interleaved(), task(&[0.2, 0.9, 3.0], "")] {
        for stage in &summary.stages {
            let mut rows: Vec<&[MemberShare]> =
                stage.layers.iter().map(|row| row.made_of.as_slice()).collect();
            rows.extend(
                [&stage.embedding, &stage.final_norm, &stage.head].map(|end| &*end.made_of),
            );
            for row in rows {
                let sum: f64 = row.iter().map(|given| given.share).sum();
                assert!((sum - 1.0).abs() < 1e-9, "{sum} in {}", stage.name);
            }
            let sources = stage.layers.iter().map(|row| row.sources.iter().map(|s| s.share).sum());
            assert!(sources.into_iter().all(|sum: f64| (sum - 1.0).abs() < 1e-9));
        }
        let of_result: f64 = summary.members.iter().map(|member| member.share).sum();
        assert!((of_result - 1.0).abs() < 1e-9, "{of_result}");
    }
}

#[test]
fn names_cannot_break_out() {
    let hostile = "</title></text><script>alert(1)</script>\\e[2J\\a'&amp;\\u202E\\\"";
    let text = format!(
        "name: \"low{hostile}\"\nmerge_method: linear\nmodels:\n- {{model: \"x/mistral-7b{hostile}\", parameters: {{weight: 1}}}}\n\
         - {{model: {ZEPHYR}, parameters: {{weight: 1}}}}\n---\nmerge_method: passthrough\nslices:\n\
         - sources: [{{model: \"low{hostile}\", layer_range: [0, 9]}}]\n"
    );
    let summary = summary(&text);
    let name = "</title><script>alert(2)</script>\u{1b}[2J";
    for picture in [stack_svg(&summary, name), stack_html(&summary, name)] {
        let document = tree(&picture);
        let elements = document.descendants().map(|node| node.tag_name().name());
        assert!(!elements.into_iter().any(|name| name == "script"));
        assert!(!picture.contains(['\u{1b}', '\u{7}', '\u{202e}']));
        assert!(picture.contains("alert(1)"), "it is shown all the same");
    }
    let plain = render_stack(&summary, false);
    assert!(!plain.contains(['\u{1b}', '\u{7}']), "{plain:?}");
    assert!(!render_stack(&summary, true).contains("\u{1b}[2J"));
    assert!(!aqueduct::report::render_merge(&summary).contains('\u{1b}'));
}

#[test]
fn the_page_needs_nothing_else_and_follows_light_and_dark() {
    let page = stack_html(&staged(), "Aqueducts & more");
    let document = tree(&page);
    assert!(page.contains("<title>Aqueducts &amp; more</title>"));
    assert!(page.contains("default-src 'none'"));
    assert!(page.contains("@media (prefers-color-scheme: dark)"));
    for word in ["<script", "@import", "src=", "href="] {
        assert!(!page.contains(word), "{word}");
    }
    let addresses: Vec<_> = page.match_indices("http").map(|(at, _)| &page[at..at + 26]).collect();
    assert_eq!(
        addresses,
        ["http-equiv=\"Content-Securit", "http://www.w3.org/2000/svg"].map(|a| &a[..26])
    );
    assert_eq!(with_class(document.root_element(), "row").count(), 83 + 3 + 8 + 16 + 16 + 8);
    // The text below has all rows too.
    assert!(page.contains("second-crossing:15"));
}

/// `text` without its colours.
fn uncoloured(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |sum, part| sum + part.split_once('m').unwrap().1)
}

#[test]
fn the_terminal_shows_runs_with_bars() {
    let summary = staged();
    let plain = render_stack(&summary, false);
    assert!(!plain.contains('\u{1b}'));
    assert!(plain.lines().count() < 50, "{plain}");
    assert!(plain.lines().all(|line| line.chars().count() <= 120), "{plain}");
    let mut next = 0;
    for line in plain.lines() {
        let Some((layers, rest)) = line.trim_start().split_once("  ") else { continue };
        let Ok(first) = layers.split('-').next().unwrap().parse::<usize>() else { continue };
        assert_eq!(first, next, "{line}");
        next = 1 + layers.split('-').next_back().unwrap().parse::<usize>().unwrap();
        let bar = rest.split("  ").next().unwrap();
        assert_eq!(bar.len(), 24, "{line}");
    }
    assert_eq!(next, 80);
    let crossing =
        "28-31  AAAAAAAAAAAAAAAAABBBBBBB  first-crossing[4,8)     A[28,32) 70 % + B[12,16) 30 %";
    assert!(plain.contains(crossing), "{plain}");

    let coloured = render_stack(&summary, true);
    let bar = "\u{1b}[38;5;231;48;5;25mA                \u{1b}[0m\u{1b}[38;5;16;48;5;214mB      \u{1b}[0m";
    assert!(coloured.contains(bar), "{coloured:?}");
    // The same but for the letters within the bars.
    let lengths = |text: &str| text.lines().map(|line| line.chars().count()).collect::<Vec<_>>();
    assert_eq!(lengths(&uncoloured(&coloured)), lengths(&plain));
    let task = render_stack(&task(&[0.5, 0.5], ""), false);
    assert!(
        task.contains("AAAAAAAAAAAAbbbbbbcccccc  A[0,32) 50 % + ΔB[0,32) 25 % + ΔC[0,32) 25 %"),
        "{task}"
    );
}

#[test]
fn plan_writes_pictures_whole_or_not_at_all() {
    let place = Place::new();
    let recipe = "@recipes/demo.yml";
    let ran = place.ok(&format!("plan {recipe} --svg a.svg --html sub/a.html"));
    assert!(ran.stdout.contains("picture a.svg (") && ran.stdout.contains("picture sub/a.html ("));
    assert!(ran.stdout.contains("lower[0,1)"), "{}", ran.stdout);
    let svg = String::from_utf8(place.read("a.svg")).unwrap();
    let rows = with_class(tree(&svg).root_element(), "row").count();
    // The result's, those of two stages, and the ends' three.
    assert_eq!(rows, 8 + 3 + 3 + 3);

    // To standard output, alone.
    let ran = place.ok(&format!("plan {recipe} --svg -"));
    assert_eq!(ran.stdout.trim_end(), svg.trim_end());
    assert_eq!(place.ok(&format!("plan {recipe} --svg - --quiet")).stdout, ran.stdout);

    place.fails(2, &format!("plan {recipe} --svg a.svg"), &["a.svg", "--force"]);
    fs::write(place.path("a.svg"), "old").unwrap();
    place.fails(2, &format!("plan {recipe} --svg b.svg --html a.svg"), &["a.svg", "--force"]);
    assert_eq!(place.read("a.svg"), b"old");
    let json = place.ok(&format!("plan {recipe} --svg a.svg --force --json")).json();
    assert_eq!(json["pictures"][0]["bytes"], svg.len());
    assert_eq!(place.read("a.svg"), svg.as_bytes());
    let share = json["merge"]["stages"][3]["layers"][0]["made_of"][0]["share"].as_f64().unwrap();
    assert!((share - 0.8).abs() < 1e-9);

    place.fails(2, &format!("plan {recipe} --svg b --html b"), &["same file"]);
    place.fails(2, &format!("plan {recipe} --svg - --json"), &["stdout"]);
    place.fails(2, "plan @recipes/demo/clerk --svg b.svg", &["not a recipe"]);
    fs::write(place.path("bad.yml"), "merge_method: lineal\n").unwrap();
    place.fails(1, "plan bad.yml --svg b.svg", &["lineal"]);
    assert_eq!(place.entries(), ["a.svg", "bad.yml", "sub"]);
}

#[test]
fn colours_are_for_terminals_and_for_those_who_ask() {
    let place = Place::new();
    let run = |set: &[(&str, &str)]| {
        let mut command = place.command("plan @recipes/demo.yml");
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
            command.env_remove(name);
        }
        let output = command.envs(set.iter().copied()).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap().contains('\u{1b}')
    };
    assert!(!run(&[]), "a pipe is no terminal");
    assert!(run(&[("CLICOLOR_FORCE", "1")]));
    assert!(!run(&[("CLICOLOR_FORCE", "0")]));
    assert!(!run(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]));
}

#[test]
fn the_picture_in_the_documentation_is_of_the_shipped_recipe() {
    let shown = fs::read_to_string(shipped("docs/images/aqueducts-18b.svg")).unwrap();
    let shipped = summary(&fs::read_to_string(shipped("recipes/aqueducts-18b.yml")).unwrap());
    let command =
        "plan --no-members recipes/aqueducts-18b.yml --svg docs/images/aqueducts-18b.svg --force";
    assert!(shown == stack_svg(&shipped, "Aqueducts-18B"), "out of date: run aqueduct {command}");
    assert!(shown.len() < 200_000);
}
