//! `imatrix show` and `imatrix diff`: figures against the peer's, and pictures as trees of XML.

use crate::support::program::{Place, shipped};
use aqueduct::measure::imatrix::{Entry, Format, ImportanceMatrix};
use aqueduct::report::{imatrix_html, imatrix_statistics, imatrix_svg};
use roxmltree::{Document, Node, ParsingOptions};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::fs;

const PEERS: &str = "@tests/data/smollm2/imatrix-gpl3.gguf";

/// The peer's figures: tensor, then sum, min, max, mean, stddev, active, elements, entropy, zd, cossim.
fn golden() -> BTreeMap<String, Vec<f64>> {
    let text = fs::read_to_string(shipped("tests/data/smollm2/statistics-gpl3.tsv")).unwrap();
    let line = |line: &str| {
        let (name, figures) = line.split_once('\t').unwrap();
        (name.to_string(), figures.split('\t').map(|f| f.parse().unwrap()).collect())
    };
    text.lines().skip(1).map(line).collect()
}

fn near(ours: f64, peers: f64, what: &str) {
    assert!((ours - peers).abs() <= 2e-6 * peers.abs().max(1e-3), "{what}: {ours} for {peers}");
}

#[test]
fn statistics_are_the_peers() {
    let place = Place::new();
    let json = place.ok(&format!("imatrix show {PEERS} --json")).json();
    let golden = golden();
    let tensors = json["tensors"].as_array().unwrap();
    assert_eq!((tensors.len(), golden.len()), (210, 210));
    const KEYS: [&str; 10] = [
        "sum_of_squares",
        "min",
        "max",
        "mean",
        "standard_deviation",
        "active",
        "columns",
        "entropy",
        "zd_score",
        "cosine_similarity",
    ];
    let mut layers: BTreeMap<u64, [f64; 4]> = BTreeMap::new();
    for row in tensors {
        let name = row["tensor"].as_str().unwrap();
        let peers = &golden[name];
        for (key, &peers) in KEYS.iter().zip(peers) {
            // The first layer has none before it; the peer prints 0.
            let ours = row[*key].as_f64().unwrap_or(0.0);
            near(ours, peers, &format!("{name} {key}"));
        }
        let normalized = peers[7] / peers[6].log2();
        near(row["normalized_entropy"].as_f64().unwrap(), normalized, name);
        let sums = layers.entry(row["layer"].as_u64().unwrap()).or_default();
        let weighted = [1.0, peers[0], peers[8], peers[9]].map(|figure| figure * peers[6]);
        sums.iter_mut().zip(weighted).for_each(|(sum, figure)| *sum += figure);
    }
    assert_eq!(json["layers"].as_array().unwrap().len(), layers.len());
    for (row, (layer, [columns, sum, zd, cosine])) in
        json["layers"].as_array().unwrap().iter().zip(layers)
    {
        assert_eq!(row["layer"], layer);
        let figures = [("sum_of_squares", sum), ("zd_score", zd), ("cosine_similarity", cosine)];
        for (key, peers) in figures {
            near(
                row[key].as_f64().unwrap_or(0.0),
                peers / columns,
                &format!("layer {layer} {key}"),
            );
        }
    }
    assert_eq!(json["ranking"]["most_important"], json!([11, 29, 28, 27, 26]));
    assert_eq!(json["ranking"]["least_important"], json!([0, 1, 4, 3, 6]));
    assert_eq!(json["never_met"], json!([]));
    assert_eq!(json["run"], Json::Null, "another program made it");
}

#[test]
fn text_has_tensors_layers_and_rankings() {
    let place = Place::new();
    let text = place.ok(&format!("imatrix show {PEERS}")).stdout;
    let line = text.lines().find(|line| line.starts_with("ffn_down  ")).unwrap();
    let figures: Vec<_> = line.split_whitespace().collect();
    assert_eq!(figures[1], "11", "the largest sum of its kind comes first: {line}");
    assert_eq!(figures.len(), 13, "{line}");
    for part in
        ["most important, by Σ(act²)", "11, 29, 28, 27, 26", "least like it", "14 chunks of 512"]
    {
        assert!(text.contains(part), "{part}");
    }
    let short = place.ok(&format!("imatrix show {PEERS} --layers")).stdout;
    assert!(!short.contains("ffn_down") && short.contains("most important"), "{short}");
    // 210 tensors and their heading.
    assert_eq!(text.lines().count() - short.lines().count(), 212);
}

#[test]
fn what_this_program_computed_tells_its_run() {
    let place = Place::new();
    let run =
        "imatrix @recipes/demo/clerk -f @tests/data/demo/held-out.txt --ctx 64 --precision f32";
    let ran = place.ok(&format!("{run} -o m.gguf --json")).json();
    let json = place.ok("imatrix show m.gguf --json").json();
    assert_eq!(json["run"]["perplexity"], ran["perplexity"]);
    assert_eq!(
        json["run"]["settings"],
        json!(["ctx = 64", "process_output = false", "precision = f32"])
    );
    assert_eq!(json["run"]["text_chunks"], 9);
    assert_eq!(json["run"]["covered"], json!([{ "start": 0, "end": 9 }]));
    assert!(place.ok("imatrix show m.gguf").stdout.contains("perplexity"));
}

fn matrix(entries: Vec<(String, Entry)>) -> ImportanceMatrix {
    ImportanceMatrix {
        entries: entries.into_iter().collect(),
        datasets: vec!["<text> & \u{1b}[2J".to_string()],
        chunk_count: 1,
        chunk_size: 16,
        record: None,
    }
}

fn entry(sums: &[f32], counts: &[i64]) -> Entry {
    Entry { sums: sums.to_vec(), counts: counts.to_vec() }
}

/// Layers 3, 5 and 6; experts of which one is never met; an output; a name that is an attack.
fn odd() -> ImportanceMatrix {
    let mut entries = Vec::new();
    for layer in [3, 5, 6] {
        let size = layer as f32;
        for kind in ["attn_q", "attn_k"] {
            entries.push((format!("blk.{layer}.{kind}.weight"), entry(&[size, 1.0], &[16])));
        }
        let experts = entry(&[size, 2.0, 0.0, 0.0], &[16, 0]);
        entries.push((format!("blk.{layer}.ffn_up_exps.weight"), experts));
    }
    entries.push(("blk.6.</title><script>.weight".into(), entry(&[1.0, 5.0], &[16])));
    entries.push(("blk.6.attn_v.weight".into(), entry(&[0.0, 0.0], &[0])));
    entries.push(("output.weight".into(), entry(&[1.0, 5.0], &[16])));
    matrix(entries)
}

fn drawn(place: &Place, matrix: &ImportanceMatrix) -> [String; 2] {
    let path = place.path("odd \u{1b}&.gguf");
    matrix.write(&path, Format::Gguf, true).unwrap();
    let report = imatrix_statistics(&path).unwrap();
    [imatrix_svg(&report), imatrix_html(&report)]
}

fn parse(text: &str) -> Document<'_> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).unwrap()
}

fn of_class<'a>(root: Node<'a, 'a>, class: &str) -> Vec<Node<'a, 'a>> {
    root.descendants().filter(|node| node.attribute("class") == Some(class)).collect()
}

#[test]
fn the_heat_map_has_a_cell_for_each_layer_and_input() {
    let place = Place::new();
    let [svg, html] = drawn(&place, &odd());
    for text in [&svg, &html] {
        let document = parse(text);
        let columns = of_class(document.root(), "column");
        // Three panels; queries and keys share a column, experts and the odd name have one each.
        let cells: Vec<_> = columns.iter().map(|column| of_class(*column, "cell").len()).collect();
        assert_eq!(cells, [3, 3, 1, 3, 3, 1, 3, 3, 1]);
        let bars = of_class(of_class(document.root(), "bars")[0], "cell");
        assert_eq!(bars.len(), 3, "a bar for each layer");
        let title =
            |bar: &Node<'_, '_>| bar.first_element_child().unwrap().text().unwrap().to_string();
        let titles: Vec<_> = bars.iter().map(title).collect();
        assert!(
            titles.iter().zip(["layer 3:", "layer 5:", "layer 6:"]).all(|(t, l)| t.starts_with(l))
        );
        let first = of_class(columns[0], "cell")[0].first_element_child().unwrap().text().unwrap();
        assert!(
            first.starts_with("layer 3, attn_q, attn_k\nΣ(act²) 0.2500, mean 0.1250"),
            "{first}"
        );
        let tags: Vec<_> = document.descendants().map(|node| node.tag_name().name()).collect();
        assert!(!tags.contains(&"script"), "names stay text");
        assert!(!text.contains('\u{1b}'));
    }
    assert!(svg.starts_with("<?xml"));
    assert!(html.contains("prefers-color-scheme: dark") && html.contains("<pre>"));
}

#[test]
fn cells_have_the_colours_of_their_values() {
    let place = Place::new();
    let layer = |layer: usize, size: f32| {
        (format!("blk.{layer}.attn_q.weight"), entry(&[16.0 * size, 0.0], &[16]))
    };
    let [svg, _] = drawn(&place, &matrix(vec![layer(0, 1.0), layer(1, 10.0), layer(2, 100.0)]));
    let document = parse(&svg);
    let fills: Vec<_> = of_class(of_class(document.root(), "column")[0], "cell")
        .iter()
        .map(|cell| cell.last_element_child().unwrap().attribute("fill").unwrap())
        .collect();
    // From 1 to 100: both ends of the scale, and its middle between #26828e and #1f9e89 (2 of 10 parts apart).
    assert_eq!((fills[0], fills[2]), ("#440154", "#fde725"));
    assert_eq!(fills[1], "#23908c");
}

#[test]
fn tensors_and_experts_that_met_nothing_are_listed() {
    let place = Place::new();
    odd().write(place.path("m.gguf"), Format::Gguf, false).unwrap();
    let json = place.ok("imatrix show m.gguf --json").json();
    let unmet =
        |layer: u32| json!({ "tensor": format!("blk.{layer}.ffn_up_exps.weight"), "experts": [1] });
    let expected = json!([unmet(3), unmet(5), { "tensor": "blk.6.attn_v.weight" }, unmet(6)]);
    assert_eq!(json["never_met"], expected);
    let order: Vec<_> =
        json["tensors"].as_array().unwrap().iter().map(|row| &row["kind"]).collect();
    assert_eq!(order[..3], ["attn_q", "attn_k", "ffn_up_exps"]);
    assert_eq!(order.last().unwrap().as_str(), Some("output"));
    assert_eq!(json["layers"][0]["cosine_similarity"], Json::Null, "no layer 2");
    assert_eq!(json["layers"][1]["cosine_similarity"], Json::Null, "no layer 4");
    assert!(place.ok("imatrix show m.gguf").stdout.contains("blk.6.attn_v.weight"));
}

#[test]
fn pictures_go_where_they_are_asked_for() {
    let place = Place::new();
    let ran = place.ok(&format!("imatrix show {PEERS} --svg a.svg --html a.html --layers"));
    assert!(ran.stdout.contains("picture a.svg") && ran.stdout.contains("picture a.html"));
    let stdout = place.ok(&format!("imatrix show {PEERS} --svg -")).stdout;
    assert_eq!(stdout.trim_end(), String::from_utf8(place.read("a.svg")).unwrap().trim_end());
    let exists = ["a.svg", "exists already", "--force"];
    place.fails(2, &format!("imatrix show {PEERS} --svg a.svg"), &exists);
    place.ok(&format!("imatrix show {PEERS} --svg a.svg --force --json"));
    place.fails(2, &format!("imatrix show {PEERS} --svg - --json"), &["--json and a picture"]);
    place.fails(2, &format!("imatrix show {PEERS} --svg x --html x"), &["the same file"]);
    matrix(vec![("output.weight".into(), entry(&[1.0], &[16]))])
        .write(place.path("flat.gguf"), Format::Gguf, false)
        .unwrap();
    place.fails(1, "imatrix show flat.gguf --svg x.svg", &["flat.gguf", "nothing to draw"]);
    assert!(place.ok("imatrix show flat.gguf").stdout.contains("output"));
    place.fails(1, "imatrix show @README.md", &["README.md"]);
}

#[test]
fn differences_are_told_worst_first() {
    let place = Place::new();
    let dat = "@tests/data/smollm2/imatrix-gpl3-4chunks.dat";
    let json = place.ok(&format!("imatrix diff {PEERS} {dat} --json")).json();
    let tensors = json["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 210);
    let cosines: Vec<_> =
        tensors.iter().map(|t| t["cosine_similarity"].as_f64().unwrap()).collect();
    assert!(cosines.is_sorted() && cosines[0] > 0.5 && cosines[209] < 1.0, "{cosines:?}");
    let rank = json["all"]["mean_rank_correlation"].as_f64().unwrap();
    assert!((0.5..1.0).contains(&rank), "{rank}");
    assert_eq!(json["all"]["least_cosine_similarity"].as_f64(), Some(cosines[0]));
    assert_eq!(json["kinds"].as_array().unwrap().len(), 7);
    let text = place.ok(&format!("imatrix diff {PEERS} {dat} --worst 3")).stdout;
    let worst = tensors[0]["tensor"].as_str().unwrap();
    assert!(text.contains(worst) && text.contains("and 207 more"), "{text}");
    let same = place.ok(&format!("imatrix diff {PEERS} {PEERS} --json")).json();
    assert_eq!(same["all"]["greatest_relative_l2"], 0.0);
    assert_eq!(same["all"]["least_rank_correlation"], 1.0);
    odd().write(place.path("odd.gguf"), Format::Gguf, false).unwrap();
    let parts = ["imatrix-gpl3.gguf, odd.gguf", "tensor 'blk.", "different models"];
    place.fails(1, &format!("imatrix diff {PEERS} odd.gguf"), &parts);
    matrix(vec![("output.weight".into(), entry(&[1.0], &[16]))])
        .write(place.path("flat.gguf"), Format::Gguf, false)
        .unwrap();
    place.fails(1, &format!("imatrix diff {PEERS} flat.gguf"), &["no tensor met an input in both"]);
    let text = place.ok("imatrix diff odd.gguf odd.gguf").stdout;
    assert!(text.contains("blk.6.</title>") && !text.contains("only in"), "{text}");
}

#[test]
fn tools_and_sources_are_told_apart() {
    let place = Place::new();
    fs::create_dir(place.path("show")).unwrap();
    for file in crate::support::files::entries(&shipped("recipes/demo/clerk")) {
        let from = shipped("recipes/demo/clerk").join(&file);
        fs::copy(from, place.path("show").join(&file)).unwrap();
    }
    let text = "-f @tests/data/demo/held-out.txt --ctx 64";
    place.ok(&format!("imatrix ./show {text} -o m.gguf"));
    let plain = place.ok("imatrix show m.gguf --json").stdout;
    for line in ["imatrix --json show m.gguf", "--json imatrix show m.gguf"] {
        assert_eq!(place.ok(line).stdout, plain, "{line}");
    }
    for line in
        ["imatrix ./show show m.gguf", "imatrix -o x.gguf show m.gguf", "imatrix -f t show m.gguf"]
    {
        place.fails(2, line, &["belongs to computing", "./NAME"]);
    }
    place.fails(2, "imatrix", &["required", "<SOURCE>"]);
    place.fails(2, "imatrix ./show", &["required", "--output"]);
    place.fails(2, "imatrix show", &["required"]);
    place.fails(2, "imatrix show -o x.gguf", &["-o"]);
}
