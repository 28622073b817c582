//! The whole flow through the program: stages chained and in one go give the same bytes from any
//! source at any thread count, and what is interrupted or finds no space leaves nothing behind.

use crate::support::files::{assert_same_folders, entries};
use crate::support::program::{Place, arguments, finished, one_error, shipped};
use aqueduct::formats::gguf::{self, GgufModel};
use aqueduct::measure::imatrix::ImportanceMatrix;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const TEXT: &str = "@tests/data/demo/held-out.txt";

/// The metadata without the keys that `skip` picks, and every tensor's name, type and bytes.
fn contents(path: &Path, skip: impl Fn(&str) -> bool) -> (Vec<String>, Vec<(String, Vec<u8>)>) {
    let model = gguf::open(path).unwrap();
    let kept = model.metadata.iter().filter(|(key, _)| !skip(key));
    let metadata = kept.map(|(key, value)| format!("{key} = {value:?}")).collect();
    let infos = model.tensors.table().infos();
    let tensor = |i: usize| {
        let info = &infos[i];
        let bytes = model.tensors.read(i).unwrap().bytes.into_owned();
        (format!("{} {:?} {:?}", info.name, info.dtype, info.shape), bytes)
    };
    (metadata, (0..infos.len()).map(tensor).collect())
}

fn assert_same_files(place: &Place, left: &str, right: &str) {
    assert!(place.read(left) == place.read(right), "{left} and {right} differ");
}

/// Checks that each weight in Q8_0 is within half a step of its block's scale, max / 127.
fn assert_near(quantized: &GgufModel, exact: &GgufModel) {
    let mut blocks = 0;
    for info in exact.tensors.table().infos() {
        let read = |m: &GgufModel| m.tensors.read_name(&info.name).unwrap().to_f32().unwrap();
        let (ours, exact) = (read(quantized), read(exact));
        for (ours, exact) in ours.chunks(32).zip(exact.chunks(32)) {
            let largest = exact.iter().fold(0f32, |a, v| a.max(v.abs()));
            // The scale is rounded to F16, 2^-11 of it, which 127 steps multiply.
            let allowed = largest * (0.5 / 127.0 + 1.0 / 2048.0) + 1e-6;
            let near = ours.iter().zip(exact).all(|(a, b)| (a - b).abs() <= allowed);
            assert!(near, "{}: {ours:?} for {exact:?}", info.name);
            blocks += 1;
        }
    }
    assert!(blocks > 60_000, "{blocks}");
}

#[test]
fn a_build_makes_all_its_files_and_tells_of_them() {
    let place = Place::new();
    let build = "build @recipes/demo.yml --chunks 2 --keep-stack";
    let ran = place.ok(&format!("{build} -o out"));
    let quants = ["demo-Q4_K_M.gguf", "demo-Q5_K_M.gguf", "demo-Q6_K.gguf", "demo-Q8_0.gguf"];
    let first = [".aqueduct-build.json", "README.md", "SHA256SUMS"];
    let last = ["demo-imatrix.gguf", "demo-stack", "plan.svg", "recipe.yml", "report.html"];
    let all = [&first[..], &quants, &last].concat();
    assert_eq!(entries(&place.path("out")), all);
    for name in quants.iter().chain(&[
        "demo-imatrix.gguf",
        "demo-stack",
        "SHA256SUMS",
        "bits per weight",
        "size",
        "seconds",
        "perplexity",
    ]) {
        assert!(ran.stdout.contains(name), "{name} is not in\n{}", ran.stdout);
    }
    assert!(ran.stderr.contains("wrote out/demo-Q6_K.gguf"), "{}", ran.stderr);

    place.ok("convert @recipes/demo.yml -o exact.gguf");
    let open = |name: &str| gguf::open(place.path(name)).unwrap();
    for name in quants {
        let model = open(&format!("out/{name}"));
        assert_eq!(model.metadata.str("quantize.imatrix.file"), Some("demo-imatrix.gguf"));
        assert_eq!(model.metadata.u64("quantize.imatrix.chunks_count"), Some(2));
        assert_eq!(model.tensors.table().infos().len(), 48);
    }
    assert_near(&open("out/demo-Q8_0.gguf"), &open("exact.gguf"));
    place.ok("merge @recipes/demo.yml -o demo-stack");
    assert_same_folders(&place.path("demo-stack"), &place.path("out/demo-stack"));

    // The same once more: other threads, another way of telling.
    let ran = place.ok(&format!("{build} -o one --json --quiet --threads 1"));
    assert_eq!(ran.stderr, "");
    let json = ran.json();
    let files = json["files"].as_array().unwrap();
    let names: Vec<_> = files.iter().map(|f| f["path"].as_str().unwrap()).collect();
    assert_eq!(names, quants.map(|name| format!("one/{name}")));
    for file in files {
        let bytes = fs::metadata(place.path(file["path"].as_str().unwrap())).unwrap().len();
        assert_eq!(file["bytes"], bytes);
        assert!(file["bits_per_weight"].as_f64().unwrap() > 4.0);
    }
    assert_eq!((&json["chunks"], &json["imatrix"]), (&2.into(), &"one/demo-imatrix.gguf".into()));
    assert!(json["perplexity"].as_f64().unwrap() > 1.0);
    place.ok(&format!("{build} -o two --threads 2"));
    for folder in ["two", "out"] {
        assert_same_folders(
            &place.path("one/demo-stack"),
            &place.path(&format!("{folder}/demo-stack")),
        );
        for name in quants.iter().chain(&["demo-imatrix.gguf", "README.md", "plan.svg"]) {
            assert_same_files(&place, &format!("one/{name}"), &format!("{folder}/{name}"));
        }
    }
}

#[test]
fn chained_stages_equal_one_step() {
    let place = Place::new();
    let matrix = format!("imatrix @recipes/demo.yml -f {TEXT} --ctx 64 -o i.gguf");
    place.ok(&matrix);
    let quantize = "--imatrix i.gguf Q4_K_M";
    place.ok(&format!("quantize @recipes/demo.yml {quantize} -o direct.gguf"));
    // The folder's name is not the recipe's; its model card tells what it is.
    place.ok("merge @recipes/demo.yml -o merged");
    place.ok("convert merged -o merged.gguf");
    place.ok(&format!("quantize merged.gguf {quantize} -o chained.gguf"));
    assert_same_files(&place, "direct.gguf", "chained.gguf");
    place.ok("convert @recipes/demo.yml -o float.gguf");
    place.ok(&format!("quantize float.gguf {quantize} -o half-chained.gguf"));
    assert_same_files(&place, "direct.gguf", "half-chained.gguf");
    let model = gguf::open(place.path("direct.gguf")).unwrap();
    assert_eq!(model.metadata.str("general.name"), Some("Demo"));
    assert_eq!(model.metadata.u64("general.base_model.count"), Some(2));
}

#[test]
fn several_types_in_one_pass_equal_one_by_one() {
    let place = Place::new();
    place.ok(&format!("imatrix @recipes/demo/clerk -f {TEXT} --ctx 64 -o i.gguf"));
    let types = ["Q2_K", "Q3_K_M", "Q4_0", "Q5_K_S", "BF16"];
    let quantize = "quantize @recipes/demo/clerk --imatrix i.gguf";
    let ran = place.ok(&format!("{quantize} -o all {} Q4_0 --json", types.join(" ")));
    let json = ran.json();
    let files = json["files"].as_array().unwrap();
    let listed: Vec<_> = files.iter().map(|f| f["ftype"].as_str()).collect();
    assert_eq!(listed, types.map(Some), "in the order given, each once");
    let mut names = types.map(|t| format!("clerk-{t}.gguf"));
    names.sort();
    assert_eq!(entries(&place.path("all")), names);
    for ftype in types {
        place.ok(&format!("{quantize} -o {ftype}.gguf {} --quiet", ftype.to_lowercase()));
        assert_same_files(&place, &format!("{ftype}.gguf"), &format!("all/clerk-{ftype}.gguf"));
    }
}

#[test]
fn neither_memory_nor_threads_change_a_byte() {
    let place = Place::new();
    // Tensors of this recipe are computed, so that the budget counts; one byte is room for one at a time.
    let quantize = "quantize @recipes/demo.yml Q4_K_M Q8_0 --quiet";
    place.ok(&format!("{quantize} -o plenty"));
    place.ok(&format!("{quantize} -o scant --memory 1"));
    place.ok(&format!("{quantize} -o alone --memory 300KB --threads 1"));
    for folder in ["scant", "alone"] {
        assert_same_folders(&place.path("plenty"), &place.path(folder));
    }
    place.fails(2, &format!("{quantize} -o none --memory little"), &["is not a size"]);
}

#[test]
fn a_model_may_be_written_to_several_files() {
    let place = Place::new();
    let quantize = "quantize @recipes/demo.yml Q8_0";
    place.ok(&format!("{quantize} -o whole.gguf"));
    let ran = place.ok(&format!("{quantize} -o parts.gguf --max-shard-size 1MB --json"));
    let json = &ran.json()["files"];
    let names = [1, 2, 3].map(|no| format!("parts-{no:05}-of-00003.gguf"));
    assert_eq!((&json[0]["shards"], &json[0]["path"]), (&3.into(), &names[0].as_str().into()));
    for (no, name) in names.iter().enumerate() {
        let file = gguf::GgufFile::open(place.path(name)).unwrap();
        assert_eq!(file.split(), Some((no as u64, 3)));
        let metadata = &file.header().metadata;
        assert_eq!(metadata.u64("split.tensors.count"), Some(48));
        assert_eq!(metadata.str("general.architecture").is_some(), no == 0);
        assert!(fs::metadata(place.path(name)).unwrap().len() < 1_100_000);
    }
    // Any of them opens the whole, which is the same model.
    let all = |name: &str| contents(&place.path(name), |_| false);
    assert!(all("whole.gguf") == all(&names[1]));
    place.ok(&format!("convert {} -o joined.gguf", names[2]));
    assert_same_files(&place, "whole.gguf", "joined.gguf");
    place.fails(2, &format!("{quantize} -o p.gguf --max-shard-size x"), &["is not a size"]);
}

#[test]
fn importance_matrices_of_both_layouts_do_the_same() {
    let place = Place::new();
    let model = "@recipes/demo/storyteller";
    // 8 chunks of 64 tokens: counts are powers of two, and the roundings of the older layout (a mean,
    // then a mean times chunks) are exact.
    for format in ["gguf", "dat"] {
        let rest = format!("-f {TEXT} --ctx 64 --chunks 8 --format {format} -o i.{format}");
        let ran = place.ok(&format!("imatrix {model} {rest} --json"));
        let json = ran.json();
        assert_eq!((&json["entries"], &json["chunks"]), (&21.into(), &8.into()));
        assert_eq!(json["running_perplexity"].as_array().unwrap().len(), 8);
        place.ok(&format!("quantize {model} --imatrix i.{format} Q2_K_S Q4_K_M -o {format}"));
    }
    for ftype in ["Q2_K_S", "Q4_K_M"] {
        let read = |format: &str| {
            let path = place.path(&format!("{format}/storyteller-{ftype}.gguf"));
            contents(&path, |key| key == "quantize.imatrix.file")
        };
        assert!(read("gguf") == read("dat"), "{ftype}");
    }
    // 9 chunks: one rounding more, and no bit beyond that.
    for format in ["gguf", "dat"] {
        place.ok(&format!("imatrix {model} -f {TEXT} --ctx 64 --format {format} -o 9.{format}"));
    }
    let [new, old] = ["9.gguf", "9.dat"].map(|f| ImportanceMatrix::read(place.path(f)).unwrap());
    assert_eq!((new.chunk_count, old.chunk_count), (9, 9));
    for (name, entry) in &new.entries {
        let weights = |m: &ImportanceMatrix| m.weights_for(name, entry.sums.len()).unwrap();
        for (a, b) in weights(&new).unwrap().iter().zip(weights(&old).unwrap()) {
            assert!((a - b).abs() <= 2.0 * f32::EPSILON * a, "{name}: {a} and {b}");
        }
    }
}

#[test]
fn a_gguf_file_is_as_good_a_source_as_its_recipe() {
    let place = Place::new();
    place.ok("convert @recipes/demo.yml -o demo-F16.gguf");
    for (source, to) in [("@recipes/demo.yml", "of-recipe"), ("demo-F16.gguf", "of-gguf")] {
        place.ok(&format!("build {source} -o {to} --chunks 1 --types Q8_0,Q3_K_L"));
        place.ok(&format!("imatrix {source} -f {TEXT} --ctx 128 -o {to}/i.gguf"));
    }
    for name in ["i.gguf", "demo-imatrix.gguf"] {
        assert_same_files(&place, &format!("of-recipe/{name}"), &format!("of-gguf/{name}"));
    }
    // Metadata tell the one from the other, and nothing else does.
    let provenance = |key: &str| key.starts_with("aqueduct.");
    for name in ["demo-Q8_0.gguf", "demo-Q3_K_L.gguf"] {
        let read = |folder: &str| contents(&place.path(folder).join(name), provenance);
        assert!(read("of-recipe") == read("of-gguf"), "{name}");
    }

    // Wider floats hold the same numbers.
    place.ok("convert demo-F16.gguf --type f32 -o wide.gguf");
    place.ok("quantize wide.gguf Q4_0 -o wide-Q4_0.gguf");
    place.ok("quantize demo-F16.gguf Q4_0 -o narrow-Q4_0.gguf");
    assert_same_files(&place, "wide-Q4_0.gguf", "narrow-Q4_0.gguf");

    // Quantized files: decoded on request, quantized again only with consent.
    let quantized = "of-gguf/demo-Q8_0.gguf";
    place.ok(&format!("convert {quantized} -o copy.gguf"));
    assert_same_files(&place, quantized, "copy.gguf");
    place.ok(&format!("convert {quantized} --type f32 -o decoded.gguf"));
    let [coded, decoded] = [quantized, "decoded.gguf"].map(|n| gguf::open(place.path(n)).unwrap());
    for info in coded.tensors.table().infos() {
        let read = |m: &GgufModel| m.tensors.read_name(&info.name).unwrap().to_f32().unwrap();
        assert_eq!(read(&coded), read(&decoded), "{}", info.name);
    }
    let before = place.entries();
    let refused = ["output.weight", "is Q8_0 already", "--allow-requantize"];
    place.fails(1, &format!("quantize {quantized} Q4_K_M -o again.gguf"), &refused);
    let error = place.fails(1, &format!("build {quantized} -o again"), &["is Q8_0 already"]);
    assert!(error.starts_with("error:"), "{error}");
    assert_eq!(place.entries(), before);
    place.ok(&format!("quantize {quantized} Q4_K_M --allow-requantize -o again.gguf"));
    place.ok(&format!("imatrix {quantized} -f {TEXT} --ctx 64 -o again-imatrix.gguf"));
    assert_eq!(gguf::open(place.path("again.gguf")).unwrap().tensors.table().infos().len(), 48);
}

/// Every file and folder below `folder`.
fn tree(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for name in entries(folder) {
        let path = folder.join(&name);
        if path.is_dir() {
            names.extend(tree(&path).into_iter().map(|inner| format!("{name}/{inner}")));
        }
        names.push(name);
    }
    names
}

#[test]
fn a_full_disk_leaves_nothing() {
    let recipe = "@recipes/demo.yml";
    for line in [
        format!("merge {recipe} -o x"),
        format!("convert {recipe} -o x.gguf"),
        format!("imatrix {recipe} -f {TEXT} --ctx 64 -o x.gguf"),
        format!("quantize {recipe} Q8_0 -o x.gguf"),
        format!("quantize {recipe} Q8_0 Q4_K_M -o out"),
        format!("build {recipe} --chunks 1 -o out"),
        format!("build {recipe} --chunks 1 --keep-stack -o out"),
    ] {
        let place = Place::new();
        // As in `outputs`: a limit on file sizes, 8 kB, stands for the full disk.
        let output = Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\""])
            .arg(env!("CARGO_BIN_EXE_aqueduct"))
            .args(arguments(&line))
            .current_dir(place.path("."))
            .output()
            .unwrap();
        let ran = finished(&line, 1, output);
        assert_eq!(ran.stdout, "", "{line}");
        one_error(&line, &ran.stderr, &["no larger file", "needed"]);
        let left = tree(&place.path("."));
        assert!(left.is_empty() || left == ["out"], "{line} left {left:?}");
    }
}

#[test]
fn ctrl_c_leaves_nothing_unfinished() {
    let place = Place::new();
    // Minutes of text, of which the first chunks are enough.
    let text = fs::read_to_string(shipped("calibration/aqueduct-v1.txt")).unwrap();
    fs::write(place.path("long.txt"), text.repeat(30)).unwrap();
    let line = "build @recipes/demo.yml -o out -f long.txt --keep-stack";
    let mut command = place.command(line);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !place.path("out/demo-stack").exists() {
        assert!(Instant::now() < deadline, "the stack is never written");
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(300));
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let started = Instant::now();
    let ran = finished(line, 130, child.wait_with_output().unwrap());
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    assert_eq!(ran.stdout, "");
    one_error(line, &ran.stderr, &["interrupted"]);
    assert!(ran.stderr.contains("what is done stays in out (1 whole outputs)"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("Final estimate"), "too late to interrupt: {}", ran.stderr);
    // What was whole before may stay.
    assert_eq!(entries(&place.path("out")), [".aqueduct-build.json", "demo-stack"]);
    place.ok("plan out/demo-stack");
}
