//! What a build adds to its files so that people can use them: lists of types, names, figures, checksums,
//! where everything comes from.

use crate::support::files::entries;
use crate::support::program::Place;
use aqueduct::formats::gguf;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use std::fs;
use std::process::Command;

const TEXT: &str = "@tests/data/demo/held-out.txt";
const RECIPE: &str = "@recipes/demo.yml";

fn hash(bytes: impl AsRef<[u8]>) -> String {
    Sha256::digest(bytes.as_ref()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn presets_and_types_are_written_once_each() {
    let place = Place::new();
    let build = format!("build {RECIPE} --chunks 1 --json --quiet");
    let types = |line: &str| {
        let json = place.ok(line).json();
        let files = json["files"].as_array().unwrap().clone();
        files.iter().map(|f| f["ftype"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    let listed = types(&format!("{build} -o a --preset small,Q2_K_L --types Q4_0,Q6_K --keep-f16"));
    assert_eq!(listed, ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q2_K_L", "Q4_0", "F16"]);
    let publisher = types(&format!("{build} -o b --preset publisher"));
    assert_eq!(publisher.len(), 26);
    assert_eq!(entries(&place.path("b")).iter().filter(|name| name.contains("-Q")).count(), 17);
    // The variant differs from its type in the ends alone.
    let dtype = |name: &str, tensor: &str| {
        let model = gguf::open(place.path(name)).unwrap();
        model.tensors.table().get(tensor).unwrap().dtype.to_string()
    };
    assert_eq!(dtype("b/demo-Q2_K_L.gguf", "output.weight"), "Q8_0");
    assert_eq!(
        dtype("b/demo-Q2_K_L.gguf", "blk.1.ffn_up.weight"),
        dtype("b/demo-Q2_K.gguf", "blk.1.ffn_up.weight")
    );
    let parts = ["'publishers' is no preset", "publisher", "did you mean"];
    place.fails(2, &format!("build {RECIPE} -o c --preset publishers"), &parts);
}

#[test]
fn names_are_the_conventions_where_metadata_tell() {
    let place = Place::new();
    place.ok(&format!("merge {RECIPE} -o Anvil-500K-Instruct-v0.2"));
    let card = "---\nbase_model: acme/anvil\nlicense: mit\nmodel_basename: Anvil\nmodel_size_label: 500K\n\
                model_finetune: Instruct\nmodel_version: v0.2\n---\n";
    fs::write(place.path("Anvil-500K-Instruct-v0.2/README.md"), card).unwrap();
    let rest = "--types Q8_0 --chunks 1 --quiet";
    place.ok(&format!("build Anvil-500K-Instruct-v0.2 -o a {rest} --max-shard-size 1MB"));
    let names = entries(&place.path("a"));
    let shard = |n: usize| format!("Anvil-500K-Instruct-v0.2-Q8_0-{n:05}-of-00003.gguf");
    for n in 1..=3 {
        assert!(names.contains(&shard(n)), "{names:?}");
    }
    let sums = fs::read_to_string(place.path("a/SHA256SUMS")).unwrap();
    assert!((1..=3).all(|n| sums.contains(&shard(n))), "{sums}");
    let metadata = gguf::open(place.path("a").join(shard(1))).unwrap().metadata;
    assert_eq!(metadata.str("general.license"), Some("mit"));

    place.ok(&format!("build Anvil-500K-Instruct-v0.2 -o b {rest} --name A/B"));
    let model = gguf::open(place.path("b/A-B-Q8_0.gguf")).unwrap();
    assert_eq!(model.metadata.str("general.name"), Some("A/B"));
    place.ok("convert Anvil-500K-Instruct-v0.2 -o x-F16.gguf");
    place.ok(&format!("build x-F16.gguf -o c {rest} --name Hammer"));
    let model = gguf::open(place.path("c/Hammer-Q8_0.gguf")).unwrap();
    assert_eq!(model.metadata.str("general.name"), Some("Hammer"));
}

#[test]
fn sums_are_those_of_sha256sum() {
    let place = Place::new();
    place.ok(&format!("build {RECIPE} -o out --types Q4_0 --chunks 1 --keep-stack --quiet"));
    let sums = fs::read_to_string(place.path("out/SHA256SUMS")).unwrap();
    let mut named = Vec::new();
    for line in sums.lines() {
        let (sum, name) = line.split_once("  ").unwrap();
        assert_eq!(sum, hash(fs::read(place.path("out").join(name)).unwrap()), "{name}");
        named.push(name);
    }
    assert!(named.contains(&"demo-Q4_0.gguf") && named.contains(&"demo-stack/config.json"));
    assert!(named.is_sorted() && !named.contains(&"SHA256SUMS"), "{named:?}");
    let check = |expected: bool| {
        let mut command = Command::new("sha256sum");
        command.args(["--check", "--strict", "--quiet", "SHA256SUMS"]);
        // Not every system has the program.
        if let Ok(output) = command.current_dir(place.path("out")).output() {
            assert_eq!(output.status.success(), expected, "{output:?}");
        }
    };
    check(true);
    let path = place.path("out/demo-Q4_0.gguf");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    check(false);
}

#[test]
fn files_are_measured_as_eval_measures_them() {
    let place = Place::new();
    let build = format!("build {RECIPE} -o out --types Q8_0,Q2_K --chunks 1 --ctx 64");
    let ran = place.ok(&format!("{build} --eval {TEXT} --eval-chunks 4 --json --quiet"));
    let built = ran.json();
    let line = format!("eval out/demo-Q8_0.gguf out/demo-Q2_K.gguf -f {TEXT} --ctx 64 --chunks 4");
    let apart = place.ok(&format!("{line} --against {RECIPE} --json --quiet")).json();
    assert_eq!(built["evaluation"]["models"], apart["models"]);
    let kld = |n: usize| {
        built["evaluation"]["models"][n]["divergence"]["kld"]["mean"]["value"].as_f64().unwrap()
    };
    assert!(kld(0) > 0.0 && kld(0) < kld(1) / 4.0, "{} {}", kld(0), kld(1));
    let shown = place.ok(&format!("{build} --force --eval {TEXT} --eval-chunks 4")).stdout;
    assert!(shown.contains("KL divergence") && shown.contains("+-"), "{shown}");

    fs::write(place.path("short.txt"), "Once.").unwrap();
    let parts = ["short.txt", "less than one chunk of 64"];
    place.fails(2, &format!("{build} --force --eval short.txt"), &parts);
    place.fails(2, &format!("{build} --force --eval-chunks 2"), &["--eval"]);
}

#[test]
fn files_tell_what_they_are_made_of() {
    let place = Place::new();
    fs::write(place.path("text.txt"), fs::read_to_string("calibration/aqueduct-v1.txt").unwrap())
        .unwrap();
    let rest = "--types Q4_0 --chunks 1 --quiet -f text.txt --quantized-by someone";
    place.ok(&format!("build {RECIPE} -o out {rest} --license apache-2.0"));
    let metadata = gguf::open(place.path("out/demo-Q4_0.gguf")).unwrap().metadata;
    let told = |key: &str| metadata.str(key).unwrap_or_else(|| panic!("no {key}")).to_string();
    assert_eq!(told("general.quantized_by"), "someone");
    assert_eq!(told("general.license"), "apache-2.0");
    assert_eq!(told("aqueduct.version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(told("aqueduct.recipe.sha256").len(), 64);
    let imatrix = fs::read(place.path("out/demo-imatrix.gguf")).unwrap();
    assert_eq!(told("aqueduct.imatrix.sha256"), hash(imatrix));
    assert_eq!(told("aqueduct.calibration.0.name"), "text.txt");
    let text = fs::read(place.path("text.txt")).unwrap();
    assert_eq!(told("aqueduct.calibration.0.sha256"), hash(text));
    assert_eq!(metadata.u64("aqueduct.member.count"), Some(2));
    assert_eq!(told("aqueduct.member.1.name"), "demo/clerk");
    // What `sha256sum *.safetensors | sha256sum` prints in the member's folder.
    for (n, member) in ["storyteller", "clerk"].iter().enumerate() {
        let folder = crate::support::program::shipped("recipes/demo").join(member);
        let weights = entries(&folder).into_iter().filter(|name| name.ends_with(".safetensors"));
        let line =
            |name: String| format!("{}  {name}\n", hash(fs::read(folder.join(&name)).unwrap()));
        let lines: String = weights.map(line).collect();
        assert_eq!(told(&format!("aqueduct.member.{n}.sha256")), hash(lines.into_bytes()));
    }

    // quantize makes llama-quantize's bytes, and so adds none of this.
    place.ok(&format!("quantize {RECIPE} --imatrix out/demo-imatrix.gguf Q4_0 -o plain.gguf"));
    let plain = gguf::open(place.path("plain.gguf")).unwrap().metadata;
    assert!(plain.iter().all(|(key, _)| !key.starts_with("aqueduct.")));
}

#[test]
fn licences_that_differ_are_told() {
    let place = Place::new();
    for (name, license) in [("storyteller", "mit"), ("clerk", "apache-2.0")] {
        let to = place.path(name);
        fs::create_dir(&to).unwrap();
        let from = crate::support::program::shipped("recipes/demo").join(name);
        for file in entries(&from) {
            fs::copy(from.join(&file), to.join(&file)).unwrap();
        }
        fs::write(to.join("README.md"), format!("---\nlicense: {license}\n---\n")).unwrap();
    }
    let recipe = "merge_method: linear\nmodels:\n  - model: storyteller\n    parameters: {weight: 1}\n  \
                  - model: clerk\n    parameters: {weight: 1}\ndtype: float16\n";
    fs::write(place.path("two.yml"), recipe).unwrap();
    let build = "build two.yml --types Q4_0 --chunks 1 --quiet";
    let ran = place.ok(&format!("{build} -o a"));
    let warning =
        "warning: the members have different licences (storyteller: mit; clerk: apache-2.0)";
    assert!(ran.stderr.contains(warning), "{}", ran.stderr);
    let license = |name: &str| {
        let metadata = gguf::open(place.path(name)).unwrap().metadata;
        metadata.str("general.license").map(str::to_string)
    };
    assert_eq!(license("a/two-Q4_0.gguf"), None);
    let ran = place.ok(&format!("{build} -o b --license mit"));
    assert_eq!((ran.stderr.as_str(), license("b/two-Q4_0.gguf").as_deref()), ("", Some("mit")));
}

/// The front matter of the card, and the text below it.
fn card(place: &Place, folder: &str) -> (Json, String) {
    let card = fs::read_to_string(place.path(folder).join("README.md")).unwrap();
    let (front, body) = card.strip_prefix("---\n").unwrap().split_once("\n---\n").unwrap();
    (serde_yaml::from_str(front).unwrap(), body.to_string())
}

#[test]
fn the_card_tells_what_the_hub_and_people_want_to_know() {
    let place = Place::new();
    let recipe = fs::read_to_string("recipes/demo.yml").unwrap();
    let from = crate::support::program::shipped("recipes/demo");
    let recipe = recipe.replace("demo/", &format!("{}/", from.display()));
    fs::write(place.path("mine.yml"), format!("{recipe}chat_template: chatml\n")).unwrap();
    let rest = "--types Q8_0,IQ4_XS --chunks 1 --quantized-by someone --license someones-own";
    let bases = "--base-model acme/storyteller --base-model acme/clerk";
    let eval = format!("--ctx 64 --eval {TEXT}");
    let build = format!("build mine.yml -o out {rest} {bases} {eval} --json --quiet");
    let built = place.ok(&build).json();
    let (front, body) = card(&place, "out");
    assert_eq!(front["base_model"], serde_json::json!(["acme/storyteller", "acme/clerk"]));
    assert_eq!(front["base_model_relation"], "quantized");
    assert_eq!(
        (&front["license"], &front["license_name"]),
        (&"other".into(), &"someones-own".into())
    );
    assert_eq!(front["tags"], serde_json::json!(["gguf", "imatrix", "merge"]));
    assert_eq!(
        (&front["pipeline_tag"], &front["quantized_by"]),
        (&"text-generation".into(), &"someone".into())
    );
    let metadata = gguf::open(place.path("out/mine-Q8_0.gguf")).unwrap().metadata;
    let told = |key: &str| metadata.str(&format!("general.base_model.{key}")).unwrap().to_string();
    assert_eq!((told("0.organization"), told("1.name")), ("Acme".to_string(), "Clerk".to_string()));
    assert_eq!(told("1.repo_url"), "https://huggingface.co/acme/clerk");
    for n in [0, 1] {
        let model = &built["evaluation"]["models"][n];
        let name = model["name"].as_str().unwrap();
        let row =
            body.lines().find(|line| line.starts_with(&format!("| [{name}]({name}) |"))).unwrap();
        let perplexity = format!(" {:.4} ± ", model["perplexity"]["value"].as_f64().unwrap());
        let kld = model["divergence"]["kld"]["mean"]["value"].as_f64().unwrap();
        assert!(row.contains(&perplexity) && row.contains(&format!("| {kld:.6} |")), "{row}");
    }
    let prompt = "```\n<|im_start|>system\n{system_prompt}<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n\
                  <|im_start|>assistant\n```\n";
    for part in [
        prompt,
        "sha256sum --check",
        "```yaml\n# A small Aqueducts",
        "plan.svg",
        "[acme/clerk](https://",
    ] {
        assert!(body.contains(part), "{part} is not in\n{body}");
    }
    assert_eq!(
        fs::read(place.path("out/recipe.yml")).unwrap(),
        fs::read(place.path("mine.yml")).unwrap()
    );
    // Every table row has as many cells as its head.
    let cells = |line: &str| line.replace("\\|", "").matches('|').count();
    let rows: Vec<_> = body.lines().filter(|line| line.starts_with('|')).collect();
    assert!(rows.len() == 4 && rows.iter().all(|row| cells(row) == 9), "{rows:?}");
}

#[test]
fn names_and_recipes_cannot_break_the_card() {
    let place = Place::new();
    let build = format!("build {RECIPE} -o out --types Q8_0 --chunks 1 --quiet --name");
    let name = "a|b](x) <i>`\"';: #1";
    let mut arguments: Vec<_> = crate::support::program::arguments(&build);
    arguments.push(name.into());
    let output = place.command("").args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let (front, body) = card(&place, "out");
    assert_eq!(front["model_name"], name);
    let heading = body.lines().find(|line| line.starts_with("# ")).unwrap();
    assert_eq!(heading, "# a\\|b\\](x) &lt;i\\>\\`\"';: \\#1 GGUF");
    let page = fs::read_to_string(place.path("out/report.html")).unwrap();
    assert!(!page.contains("<i>`") && page.contains("&lt;i&gt;`"));
}

#[test]
fn the_report_draws_every_file_and_loads_nothing() {
    let place = Place::new();
    let rest = format!("--chunks 1 --ctx 64 --eval {TEXT} --quiet");
    place.ok(&format!("build {RECIPE} -o out --types Q2_K,Q4_K_M,Q3_K_S,F32 {rest}"));
    let page = fs::read_to_string(place.path("out/report.html")).unwrap();
    let page = page.strip_prefix("<!DOCTYPE html>\n").unwrap();
    let tree = roxmltree::Document::parse(page).unwrap();
    let class = |name: &str| {
        let name = name.to_string();
        tree.descendants().filter(move |n| n.attribute("class") == Some(&name))
    };
    let plots: Vec<_> = class("plot").collect();
    let points =
        |n: usize| plots[n].descendants().filter(|node| node.has_tag_name("circle")).count();
    // F32 is the source itself, whose divergence no logarithm has.
    assert_eq!((plots.len(), points(0), points(1)), (2, 3, 4));
    assert!(page.contains("not drawn: F32"), "F32 is not told of");
    let maps: Vec<_> =
        class("maps").flat_map(|n| n.children()).filter(|n| n.has_tag_name("figure")).collect();
    assert_eq!(maps.len(), 4);
    // 7 matrices in each of 5 layers, embedding and head.
    let titles = |n: usize| maps[n].descendants().filter(|node| node.has_tag_name("title"));
    assert_eq!(titles(1).count(), 37);
    let of_file = gguf::open(place.path("out/demo-Q4_K_M.gguf")).unwrap();
    let dtype = of_file.tensors.table().get("blk.2.attn_v.weight").unwrap().dtype;
    let told = format!("blk.2.attn_v.weight: {dtype}");
    assert!(titles(1).any(|title| title.text() == Some(&told)), "{told}");
    for heading in ["Importance of layers", "The stack", "Timings"] {
        assert!(
            tree.descendants().any(|n| n.has_tag_name("h2") && n.text() == Some(heading)),
            "{heading}"
        );
    }
    for node in tree.descendants() {
        assert!(!["script", "img", "link", "iframe", "object"].contains(&node.tag_name().name()));
        assert!(["src", "href"].iter().all(|name| node.attribute(*name).is_none()), "{node:?}");
    }
    // Without a text there is nothing to plot.
    place.ok(&format!("build {RECIPE} -o plain --types Q8_0 --chunks 1 --quiet"));
    assert!(
        !fs::read_to_string(place.path("plain/report.html")).unwrap().contains("class=\"plot\"")
    );
}

#[test]
fn a_recipe_may_say_how_it_is_built() {
    let place = Place::new();
    let from = crate::support::program::shipped("recipes/demo");
    let recipe = fs::read_to_string("recipes/demo.yml").unwrap();
    let recipe = recipe.replace("demo/", &format!("{}/", from.display()));
    let with = |settings: &str| {
        fs::write(place.path("mine.yml"), format!("build: {settings}\n---\n{recipe}")).unwrap();
    };
    fs::write(place.path("text.txt"), fs::read("calibration/aqueduct-v1.txt").unwrap()).unwrap();
    with(
        "{name: Anvil, preset: small, types: [Q4_0], file: text.txt, chunks: 1, ctx: 64, eval: text.txt, \
         eval_chunks: 2, max_shard_size: 10MB, keep_f16: true, quantized_by: someone, license: mit, base_model: a/b}",
    );
    let ran = place.ok("build mine.yml -o out --types Q3_K_S --json --quiet").json();
    let types = |ran: &Json| -> Vec<String> {
        ran["files"]
            .as_array()
            .unwrap()
            .iter()
            .map(|f| f["ftype"].as_str().unwrap().into())
            .collect()
    };
    assert_eq!(types(&ran), ["Q3_K_S", "F16"], "options come first");
    assert_eq!((&ran["name"], &ran["chunks"]), (&"Anvil".into(), &1.into()));
    assert_eq!(ran["evaluation"]["ctx"], 64);
    assert_eq!(ran["evaluation"]["models"][0]["chunks"], 2);
    let metadata = gguf::open(place.path("out/Anvil-Q3_K_S.gguf")).unwrap().metadata;
    assert_eq!(metadata.str("general.quantized_by"), Some("someone"));
    let (front, _) = card(&place, "out");
    assert_eq!((&front["license"], &front["base_model"][0]), (&"mit".into(), &"a/b".into()));
    let ran = place.ok("build mine.yml -o all --json --quiet").json();
    assert_eq!(types(&ran), ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "F16"]);
    // Merging does not care.
    place.ok("merge mine.yml -o merged --quiet");
    place.ok(&format!("merge {RECIPE} -o plain --quiet"));
    let weights = |folder: &str| fs::read(place.path(folder).join("model.safetensors")).unwrap();
    assert!(weights("merged") == weights("plain"));

    for (settings, code, parts) in [
        (
            "{presets: small}",
            1,
            &["mine.yml:1:9", "unknown key 'presets'", "did you mean 'preset'"][..],
        ),
        ("{chunks: 0}", 1, &["mine.yml:1:17", "1 or more"]),
        ("{keep_f16: maybe}", 1, &["true or false"]),
        ("{max_shard_size: much}", 1, &["is not a size"]),
        ("small", 1, &["'build' is the text 'small'"]),
        ("{preset: smal}", 1, &["mine.yml:1:17", "'smal' is no preset"]),
        ("{eval_chunks: 2}", 2, &["--eval TEXT"]),
        ("{file: gone.txt}", 1, &["gone.txt"]),
        ("{}\n---\nbuild: {}", 1, &["'build' is given twice"]),
    ] {
        with(settings);
        place.fails(code, "build mine.yml -o none", parts);
    }
}
