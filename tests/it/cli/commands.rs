//! The commands that write no model, as users run them.

use crate::support::files::entries;
use crate::support::program::{Place, copy_member, finished, one_error, shipped};
use aqueduct::measure::imatrix::{Format, ImportanceMatrix};
use serde_json::Value as Json;
use std::fs;

fn write_recipe(place: &Place, name: &str, member: &str, rest: &str) {
    let clerk = shipped("recipes/demo/clerk");
    let text = format!(
        "merge_method: linear\nmodels:\n  - model: {}\n    parameters: {{weight: 1}}\n  \
         - model: {member}\n    parameters: {{weight: 1}}\ndtype: float16\n{rest}",
        clerk.display()
    );
    fs::write(place.path(name), text).unwrap();
}

// --- plan ---

const BAD: &str = "merge_method: linear
models:
  - model: nowhere
    parameters: {weigth: 1}
dtype: float13
extra: 1
";

#[test]
fn plan_tells_all_that_is_wrong_with_a_recipe() {
    let place = Place::new();
    fs::write(place.path("bad.yml"), BAD).unwrap();
    let places = ["bad.yml:3:12: error: model 'nowhere'", "bad.yml:4:18: error:", "'weigth'"];
    let more = ["bad.yml:5:8: error:", "float13", "bad.yml:6:1: error:", "'extra'", "4 errors"];
    let text = place.fails(1, "plan bad.yml", &places);
    assert_eq!(place.fails(1, "plan bad.yml", &more), text);
    assert_eq!(place.fails(1, "merge bad.yml -o out", &more), text, "other commands tell the same");

    let line = "plan bad.yml --json";
    let ran = finished(line, 1, place.command(line).output().unwrap());
    assert_eq!(one_error(line, &ran.stderr, &more), text);
    let event: Json = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!((&event["event"], &event["exit_code"]), (&"error".into(), &1.into()));
    let json = ran.json();
    let problems = json["problems"].as_array().unwrap();
    let lines: Vec<_> = problems.iter().map(|p| p["pos"]["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [3, 4, 5, 6]);
    assert!(problems.iter().all(|p| p["severity"] == "error" && p["message"].is_string()));
    assert_eq!(place.entries(), ["bad.yml"]);
}

#[test]
fn plan_knows_every_kind_of_source() {
    let place = Place::new();
    place.ok("convert @recipes/demo.yml -o demo.gguf");
    place.ok("quantize demo.gguf Q4_K_M Q8_0 -o quants");
    let sources = [
        ("@recipes/demo.yml", 5, 2_231_040),
        ("demo.gguf", 5, 2_231_040),
        ("@recipes/demo/clerk", 3, 1_443_584),
        ("quants/demo-Q8_0.gguf", 5, 2_231_040),
    ];
    for (source, layers, parameters) in sources {
        let json = place.ok(&format!("plan {source} --json --types q4_k_m,Q8_0")).json();
        let build = &json["build"];
        assert_eq!(build["layers"], layers, "{source}");
        assert_eq!(build["parameters"], parameters, "{source}");
        assert_eq!(build["files"].as_array().unwrap().len(), 2, "{source}");
        assert_eq!(json["merge"].is_object(), source.ends_with(".yml"), "{source}");
        assert!(build["calibration_tokens"].as_u64().unwrap() > 10_000, "{source}");
        let ran = place.ok(&format!("plan {source} --types Q4_K_M,Q8_0"));
        for part in [&format!("{layers} layers"), "-Q4_K_M.gguf", "-Q8_0.gguf", "peak memory"] {
            assert!(ran.stdout.contains(part), "{source}: {part} is not in {}", ran.stdout);
        }
        assert_eq!(ran.stderr, "", "{source}");
    }
    // The forecast is exact except for the metadata that name the imatrix.
    let json = place.ok("plan demo.gguf --json --types Q4_K_M").json();
    let forecast = json["build"]["files"][0]["bytes"].as_u64().unwrap();
    let made = place.read("quants/demo-Q4_K_M.gguf").len() as u64;
    assert!(forecast.abs_diff(made) < 1024, "{forecast} for {made}");
    assert_eq!(place.entries(), ["demo.gguf", "quants"], "a plan writes nothing");
}

#[test]
fn the_large_recipe_is_planned_without_its_members() {
    let place = Place::new();
    let ran = place.ok("plan @recipes/aqueducts-18b.yml --no-members");
    for part in ["Aqueducts-18B: 80 layers, 17.7B parameters", "Aqueducts-18B-Q4_K_M.gguf"] {
        assert!(ran.stdout.contains(part), "{part} is not in {}", ran.stdout);
    }
    let json = place.ok("plan @recipes/aqueducts-18b.yml --no-members --json").json();
    assert_eq!(json["build"]["layers"], 80);
    assert_eq!(json["build"]["without_tokenizer"], true);
    let parts = ["aqueducts-18b.yml:", "is not on disk", "help: put its folder"];
    place.fails(1, "plan @recipes/aqueducts-18b.yml", &parts);
}

// --- inspect ---

#[test]
fn inspect_describes_every_kind_of_file() {
    let place = Place::new();
    place.ok("convert @recipes/demo/clerk -o clerk.gguf");
    let text = "-f @tests/data/demo/held-out.txt --ctx 64 --chunks 2";
    place.ok(&format!("imatrix clerk.gguf {text} -o i.gguf"));
    place.ok(&format!("imatrix clerk.gguf {text} -o i.dat --format dat"));
    let kinds = [
        ("clerk.gguf", "gguf", "blk.2.ffn_up.weight"),
        ("@recipes/demo/clerk/model.safetensors", "safetensors", "model.layers.2.mlp.up_proj"),
        ("i.gguf", "imatrix", "blk.2.ffn_up.weight"),
        ("i.dat", "imatrix", "blk.2.ffn_up.weight"),
    ];
    for (file, format, tensor) in kinds {
        let json = place.ok(&format!("inspect {file} --json")).json();
        assert_eq!(json["format"], format, "{file}");
        let ran = place.ok(&format!("inspect {file}"));
        assert!(ran.stdout.contains(tensor), "{file}: {}", ran.stdout);
    }
    place.fails(1, "inspect @recipes/demo.yml", &["demo.yml", "no GGUF, safetensors or imatrix"]);
    place.fails(1, "inspect @recipes/demo", &["a folder; name one of the files in it"]);
    place.fails(1, "inspect missing.gguf", &["missing.gguf: cannot", "No such file"]);
}

// --- Exit codes ---

#[test]
fn wrong_usage_exits_with_2() {
    let place = Place::new();
    place.ok("convert @recipes/demo/clerk -o clerk.gguf");
    let gguf = place.read("clerk.gguf");
    let cases: &[(&str, &[&str])] = &[
        ("quantize clerk.gguf Q8_0 -o x.gguf --frob", &["--frob"]),
        ("frobnicate", &["frobnicate"]),
        ("quantize clerk.gguf -o x.gguf", &["<TYPE>"]),
        ("quantize clerk.gguf Q4_X -o x.gguf", &["unknown quant type 'Q4_X'", "did you mean Q4_"]),
        ("build clerk.gguf -o x --types Q4_K_M,Q6_X", &["'Q6_X'", "did you mean Q6_K"]),
        ("plan clerk.gguf --types q7_0", &["'q7_0'", "did you mean"]),
        ("quantize clerk.gguf Q8_0 Q6_K -o x.gguf", &["x.gguf", "several types need a folder"]),
        ("convert clerk.gguf -o x.gguf --type q8", &["--type", "q8"]),
        ("imatrix clerk.gguf -o x --ctx 0", &["--ctx", "1 or more"]),
        ("imatrix clerk.gguf -o x --format txt", &["--format", "gguf", "dat"]),
        ("merge @recipes/demo.yml -o x --max-shard-size 5XB", &["--max-shard-size"]),
        ("merge clerk.gguf -o x", &["clerk.gguf", "not a recipe"]),
        ("plan clerk.gguf --threads 0", &["--threads"]),
        ("convert @recipes/demo/clerk -o clerk.gguf", &["clerk.gguf", "exists already", "--force"]),
        (
            "quantize clerk.gguf Q8_0 -o clerk.gguf",
            &["clerk.gguf", "an input of this command", "another name"],
        ),
        ("imatrix clerk.gguf -o clerk.gguf", &["clerk.gguf", "exists already", "--force"]),
    ];
    for (line, parts) in cases {
        place.fails(2, line, parts);
    }
    assert_eq!(place.entries(), ["clerk.gguf"]);
    assert_eq!(place.read("clerk.gguf"), gguf);
}

#[test]
fn outputs_that_exist_are_refused_before_the_work() {
    let place = Place::new();
    for folder in ["merged", "out", "out/demo-stack"] {
        fs::create_dir(place.path(folder)).unwrap();
    }
    for file in ["merged/mine", "out/demo-Q8_0.gguf", "out/demo-stack/mine"] {
        fs::write(place.path(file), "mine").unwrap();
    }
    let recipe = "@recipes/demo.yml";
    let exists = |name| [name, "exists already", "--force"];
    place.fails(2, &format!("merge {recipe} -o merged"), &exists("merged"));
    place.fails(2, &format!("quantize {recipe} Q6_K Q8_0 -o out"), &exists("demo-Q8_0.gguf"));
    // Without a check beforehand a build would print its perplexity before the error.
    let build = |rest: &str| format!("build {recipe} -o out {rest}");
    let error = place.fails(2, &build("--types Q6_K,Q8_0"), &exists("demo-Q8_0.gguf"));
    assert!(error.starts_with("error: "), "{error}");
    place.fails(2, &build("--types Q6_K --keep-stack"), &exists("demo-stack"));
    fs::create_dir(place.path("out/demo-imatrix.gguf")).unwrap();
    let not_a_file = ["demo-imatrix.gguf", "exists and is not a file"];
    for line in [
        &build("--types Q6_K --force"),
        "imatrix @recipes/demo.yml -o out/demo-imatrix.gguf --force",
    ] {
        let output = place.command(line).output().unwrap();
        let ran = finished(line, 2, output);
        assert!(ran.stderr.starts_with("error: "), "work was done first: {}", ran.stderr);
        one_error(line, &ran.stderr, &not_a_file);
    }
    let left = ["demo-Q8_0.gguf", "demo-imatrix.gguf", "demo-stack"];
    assert_eq!(entries(&place.path("out")), left);
    assert_eq!(entries(&place.path("merged")), ["mine"]);
    // With --force the same folder is replaced as a whole.
    place.ok(&format!("merge {recipe} -o merged --force"));
    assert!(!entries(&place.path("merged")).contains(&"mine".to_string()));
}

#[test]
fn help_and_version_are_no_failures() {
    let place = Place::new();
    for line in ["--help", "help build", "quantize --help", "--version"] {
        assert!(!place.ok(line).stdout.is_empty(), "{line}");
    }
}

// --- Hostile input ---

#[test]
fn sources_that_are_not_models_are_recognised() {
    let place = Place::new();
    fs::write(place.path("short.gguf"), b"GGUF\x03\0\0\0\x01").unwrap();
    fs::write(place.path("noise.yml"), [0xffu8, 0, 1, 2]).unwrap();
    fs::create_dir(place.path("empty")).unwrap();
    let weights = "@recipes/demo/clerk/model.safetensors";
    let cases: &[(&str, &[&str])] = &[
        ("nowhere", &["nowhere: cannot", "No such file"]),
        ("short.gguf", &["short.gguf"]),
        ("noise.yml", &["noise.yml"]),
        ("empty", &["empty", "config.json"]),
        (weights, &["weights alone", "name the folder"]),
        ("@tests/data/smollm2/imatrix-gpl3.gguf", &["importance matrix, not a model"]),
    ];
    for (source, parts) in cases {
        place.fails(1, &format!("plan {source}"), parts);
        place.fails(1, &format!("convert {source} -o x.gguf"), parts);
        place.fails(1, &format!("imatrix {source} -o x.gguf"), parts);
        place.fails(1, &format!("eval {source} -f @tests/data/demo/held-out.txt"), parts);
        place.fails(1, &format!("quantize {source} Q8_0 -o x.gguf"), parts);
        place.fails(1, &format!("build {source} -o x"), parts);
    }
    assert_eq!(place.entries(), ["empty", "noise.yml", "short.gguf"]);
}

#[test]
fn damaged_folders_are_refused() {
    let place = Place::new();
    let copy = |to| copy_member(&place, "clerk", to);
    fs::remove_file(copy("no-config").join("config.json")).unwrap();

    let config = copy("unknown").join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("Mistral", "Frog").replace("mistral", "frog")).unwrap();

    let weights = copy("truncated").join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 1000]).unwrap();

    place.ok("merge @recipes/demo.yml -o sharded --max-shard-size 1MB");
    let shard = entries(&place.path("sharded")).into_iter().find(|n| n.starts_with("model-00002"));
    let shard = shard.expect("4 MB in shards of 1 MB");
    fs::remove_file(place.path("sharded").join(&shard)).unwrap();

    let cases: &[(&str, &[&str])] = &[
        ("no-config", &["no-config", "config.json"]),
        ("unknown", &["unknown", "FrogForCausalLM"]),
        ("truncated", &["truncated", "model.safetensors"]),
        ("sharded", &["sharded", shard.as_str()]),
    ];
    for (source, parts) in cases {
        place.fails(1, &format!("plan {source}"), parts);
        place.fails(1, &format!("quantize {source} Q8_0 -o x.gguf"), parts);
        place.fails(1, &format!("build {source} -o x"), parts);
        write_recipe(&place, "r.yml", source, "");
        place.fails(1, "merge r.yml -o x", &[&[source, "r.yml:"], &parts[1..]].concat());
        fs::remove_file(place.path("r.yml")).unwrap();
    }
    assert_eq!(place.entries(), ["no-config", "sharded", "truncated", "unknown"]);
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    let place = Place::new();
    let tensor = "model.layers.1.mlp.up_proj.weight";
    let path = copy_member(&place, "clerk", "nan").join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: Json = serde_json::from_slice(&bytes[8..header]).unwrap();
    assert_eq!(json[tensor]["dtype"], "F16");
    let at = header + json[tensor]["data_offsets"][0].as_u64().unwrap() as usize + 2 * 77;
    bytes[at..at + 2].copy_from_slice(&0x7e00u16.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    write_recipe(&place, "nan.yml", "nan", "");
    let parts = ["nan", tensor, "77 is NaN"];
    for line in [
        "merge nan.yml -o x",
        "convert nan.yml -o x.gguf",
        "convert nan -o x.gguf",
        "quantize nan Q8_0 -o x.gguf",
        "imatrix nan -f @tests/data/demo/held-out.txt --ctx 64 -o x.gguf",
        "eval nan -f @tests/data/demo/held-out.txt --ctx 64",
        "build nan -o x --types Q8_0 --chunks 1",
    ] {
        place.fails(1, line, &parts);
    }
    assert_eq!(place.entries(), ["nan", "nan.yml"]);
}

#[test]
fn importance_matrices_that_do_not_fit() {
    let place = Place::new();
    let (member, text) = ("@recipes/demo/clerk", "@tests/data/demo/held-out.txt");
    let foreign = "@tests/data/smollm2/imatrix-gpl3.gguf";
    let line = format!("quantize {member} Q4_K_M --imatrix {foreign} -o x.gguf");
    place.fails(1, &line, &["blk.0.attn_k.weight", "576 values where 256", "another model"]);
    place.ok(&format!("convert {member} -o clerk.gguf"));
    let line = "quantize clerk.gguf Q4_K_M --imatrix clerk.gguf -o x.gguf";
    place.fails(1, line, &["importance matrix cannot be used", "clerk.gguf"]);
    let line = "quantize clerk.gguf Q4_K_M --imatrix gone.dat -o x.gguf";
    place.fails(1, line, &["gone.dat", "No such file"]);

    // Types of two bits need importance weights, which is reported before anything is written.
    let parts = ["Q2_K_S needs an importance matrix", "--imatrix", "blk.0.attn_k.weight"];
    let ran = place.fails(1, "quantize clerk.gguf Q8_0 Q2_K_S -o quants/", &parts);
    assert!(ran.starts_with("error:"), "{ran}");
    assert_eq!(place.entries(), ["clerk.gguf"]);

    // Entries that are missing: a warning where they help, an error where they are needed.
    place.ok(&format!("imatrix clerk.gguf -f {text} --ctx 64 -o whole.gguf"));
    let mut matrix = ImportanceMatrix::read(place.path("whole.gguf")).unwrap();
    for name in ["blk.1.ffn_up.weight", "blk.2.attn_q.weight"] {
        matrix.entries.remove(name).unwrap();
    }
    matrix.write(place.path("part.gguf"), Format::Gguf, false).unwrap();
    let ran =
        place.ok("quantize clerk.gguf Q4_K_M --imatrix part.gguf -o part-Q4_K_M.gguf --quiet");
    let warning = "warning: Q4_K_M: the importance matrix has no entry for blk.1.ffn_up.weight, \
                   blk.2.attn_q.weight\n";
    let mut names: Vec<&str> = ran.stderr.trim_end().split([' ', ',']).collect();
    names.sort_unstable();
    let mut expected: Vec<&str> = warning.trim_end().split([' ', ',']).collect();
    expected.sort_unstable();
    assert_eq!(names, expected, "{}", ran.stderr);
    let whole = place.ok("quantize clerk.gguf Q4_K_M --imatrix whole.gguf -o w.gguf --quiet");
    assert_eq!(whole.stderr, "", "embedding and head are never in an imatrix by default");
    let line = "quantize clerk.gguf Q2_K_S --imatrix part.gguf -o x.gguf";
    place.fails(1, line, &["Q2_K_S needs", "blk.1.ffn_up.weight", "blk.2.attn_q.weight"]);
    assert!(!place.path("x.gguf").exists());
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let place = Place::new();
    let commands = ["plan", "merge", "convert", "imatrix", "quantize", "eval", "build", "inspect"];
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = place.ok(&format!("completions {shell}")).stdout;
        assert!(commands.iter().all(|command| text.contains(command)), "{shell}: {text}");
        assert!(text.contains("from-chunk"), "{shell}");
    }
    let checked = std::process::Command::new("bash")
        .args(["-n", "-c", &place.ok("completions bash").stdout])
        .output()
        .unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let made = place.ok("man -o pages --json").json();
    let pages: Vec<&str> =
        made["pages"].as_array().unwrap().iter().map(|page| page.as_str().unwrap()).collect();
    for command in commands {
        let page = format!("aqueduct-{command}.1");
        assert!(pages.contains(&page.as_str()), "{page} is not among {pages:?}");
        let text = String::from_utf8(place.read(&format!("pages/{page}"))).unwrap();
        assert!(
            text.contains(".SH NAME") && text.contains(&format!("aqueduct {command}")),
            "{text}"
        );
    }
    assert!(pages.contains(&"aqueduct-imatrix-show.1") && pages.contains(&"aqueduct.1"));
    assert!(place.entries() == ["pages"]);
    place.fails(2, "man -o pages", &["exists"]);
}
