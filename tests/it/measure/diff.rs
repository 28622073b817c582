//! `aqueduct diff`: how two models of any kind differ.

use crate::support::program::Place;
use aqueduct::formats::gguf::{self, GgufWriter};
use aqueduct::quants;
use serde_json::Value as Json;
use std::fs;

/// A place with the demo's clerk in F16, and in Q4_K_M.
fn place() -> Place {
    let place = Place::new();
    place.ok("convert @recipes/demo/clerk --type f16 -o clerk.gguf");
    place.ok("quantize clerk.gguf Q4_K_M -o q4.gguf");
    place
}

fn tensor<'a>(json: &'a Json, name: &str) -> &'a Json {
    let tensors = json["tensors"].as_array().unwrap();
    tensors.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name}"))
}

#[test]
fn a_model_equals_itself_whatever_it_is_stored_as() {
    let place = place();
    let ran = place.ok("diff @recipes/demo/clerk clerk.gguf");
    assert!(ran.stdout.contains("no difference in 30 tensors"), "{}", ran.stdout);
    place.ok("split q4.gguf -o s --max-tensors 9");
    let json = place.ok("diff q4.gguf s-00001-of-00004.gguf --json").json();
    assert_eq!((&json["all"]["identical"], &json["all"]["rmse"]), (&30.into(), &0.0.into()));
    assert_eq!((&json["metadata"], &json["all"]["cosine"]), (&Json::Array(vec![]), &1.0.into()));
    // A recipe is a model too, and its tensors are those that it quantizes.
    place.ok("convert @recipes/demo.yml --type f16 -o demo.gguf");
    let json = place.ok("diff @recipes/demo.yml demo.gguf --json").json();
    assert_eq!(json["all"]["identical"], json["all"]["tensors"]);
}

#[test]
fn errors_of_quants_are_those_of_their_values() {
    let place = place();
    let line = "diff clerk.gguf q4.gguf --json";
    let ran = place.ok(line);
    let threads = place.ok(&format!("{line} --threads 3"));
    assert!(ran.stdout == threads.stdout, "figures depend on the threads");
    let json = ran.json();
    let (a, b) = (gguf::open(place.path("clerk.gguf")), gguf::open(place.path("q4.gguf")));
    let (a, b) = (a.unwrap().tensors, b.unwrap().tensors);
    for name in ["token_embd.weight", "blk.1.ffn_down.weight", "blk.0.attn_q.weight"] {
        let [a, b] = [&a, &b].map(|m| m.read_name(name).unwrap().to_f32().unwrap());
        let pairs = || a.iter().zip(&b).map(|(a, b)| (f64::from(*a), f64::from(*b)));
        let errors: f64 = pairs().map(|(a, b)| (a - b) * (a - b)).sum();
        let [aa, bb, ab] = [|a, _| a * a, |_, b| b * b, |a, b| a * b]
            .map(|f: fn(f64, f64) -> f64| pairs().map(|(a, b)| f(a, b)).sum::<f64>());
        let max = pairs().map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let row = tensor(&json, name);
        let is = |key: &str, expected: f64| {
            let found = row[key].as_f64().unwrap();
            assert!((found / expected - 1.0).abs() < 1e-9, "{name} {key}: {found}, {expected}");
        };
        is("rmse", (errors / a.len() as f64).sqrt());
        is("relative_error", (errors / aa).sqrt());
        is("max_abs", max);
        is("cosine", ab / (aa * bb).sqrt());
        assert_eq!((&row["first_type"], &row["identical"]), (&"F16".into(), &false.into()));
    }
    assert_eq!(tensor(&json, "blk.0.attn_norm.weight")["identical"], true);
    let keys = json["metadata"].as_array().unwrap().iter().map(|row| row["key"].as_str().unwrap());
    let keys: Vec<_> = keys.collect();
    assert!(keys.contains(&"general.file_type"), "{keys:?}");
    let table = place.ok("diff clerk.gguf q4.gguf --worst 3").stdout;
    assert!(table.contains("F16 → Q4_K") && table.contains("and 20 more"), "{table}");
}

#[test]
fn one_weight_another_shape_and_a_missing_tensor_are_found() {
    let place = place();
    let model = gguf::open(place.path("clerk.gguf")).unwrap();
    let mut infos = model.tensors.table().infos().to_vec();
    let at = |name: &str| infos.iter().position(|info| info.name == name).unwrap();
    let (shaped, changed, renamed) =
        (at("token_embd.weight"), at("blk.1.attn_q.weight"), at("blk.2.attn_norm.weight"));
    infos[shaped].shape.reverse();
    infos[renamed].name = "blk.9.attn_norm.weight".to_string();
    let path = place.path("other.gguf");
    let writer = GgufWriter::create(&path, false, &model.metadata, infos).unwrap();
    for index in 0..model.tensors.table().infos().len() {
        let mut bytes = model.tensors.read(index).unwrap().bytes.into_owned();
        if index == changed {
            let mut value = [0f32];
            quants::decode(aqueduct::base::dtype::DType::F16, &bytes[2000..2002], &mut value)
                .unwrap();
            bytes[2001] ^= 0x80;
            assert!(value[0] != 0.0);
        }
        writer.write_tensor(index, &bytes).unwrap();
    }
    writer.finish().unwrap();
    let json = place.ok("diff clerk.gguf other.gguf --json").json();
    assert_eq!(json["all"]["identical"], 27);
    assert_eq!(json["only_first"][0]["name"], "blk.2.attn_norm.weight");
    assert_eq!(json["only_second"][0]["name"], "blk.9.attn_norm.weight");
    assert!(tensor(&json, "token_embd.weight")["rmse"].is_null());
    let row = tensor(&json, "blk.1.attn_q.weight");
    let count: f64 =
        row["first_shape"].as_array().unwrap().iter().map(|d| d.as_f64().unwrap()).product();
    let (rmse, max) = (row["rmse"].as_f64().unwrap(), row["max_abs"].as_f64().unwrap());
    assert!((rmse * count.sqrt() / max - 1.0).abs() < 1e-12, "one weight differs, by {max}");
    let text = place.ok("diff clerk.gguf other.gguf").stdout;
    assert!(text.contains("only in other.gguf: blk.9.attn_norm.weight"), "{text}");
    place.fails(1, "diff clerk.gguf nowhere.gguf", &["nowhere.gguf"]);
}

#[test]
fn pictures_show_every_tensor() {
    let place = place();
    let line = "diff clerk.gguf q4.gguf --svg d.svg --html d.html --json";
    let json = place.ok(line).json();
    assert_eq!(json["pictures"].as_array().unwrap().len(), 2);
    let svg = fs::read_to_string(place.path("d.svg")).unwrap();
    let tree = roxmltree::Document::parse(&svg).unwrap();
    let cells = tree.descendants().filter(|node| node.attribute("class") == Some("cell"));
    let titles: Vec<_> = cells
        .filter_map(|cell| cell.descendants().find(|node| node.has_tag_name("title"))?.text())
        .collect();
    // Two panels.
    assert_eq!(titles.len(), 60);
    let down = titles.iter().find(|title| title.starts_with("blk.1.ffn_down.weight")).unwrap();
    let row = tensor(&json, "blk.1.ffn_down.weight");
    assert!(down.contains(row["second_type"].as_str().unwrap()), "{down}");
    assert!(down.contains("relative error 0.0"), "{down}");
    let html = fs::read_to_string(place.path("d.html")).unwrap();
    assert!(
        roxmltree::Document::parse_with_options(
            &html,
            roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() }
        )
        .is_ok()
    );
    assert!(html.contains("blk.2.ffn_up.weight") && html.contains("tensor, worst first"));
    place.fails(2, line, &["d.svg", "exists"]);
}
