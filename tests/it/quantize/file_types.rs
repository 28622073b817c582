//! Whole files of every type against llama.cpp's, by hash: metadata, order, padding, the choice of each
//! tensor's type, and its bytes. tests/data/quantize/README.md says what made the hashes.

use crate::support::program::{Place, shipped};
use aqueduct::base::dtype::DType;
use aqueduct::formats::gguf::{self, GgufModel};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;

/// The type of each tensor of the file `name`.
fn types(place: &Place, name: &str) -> BTreeMap<String, DType> {
    let model = gguf::open(place.path(name)).unwrap();
    let infos = model.tensors.table().infos();
    infos.iter().map(|info| (info.name.clone(), info.dtype)).collect()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Tensors of `model` that differ from the golden `tensors`, each with both descriptions.
fn differing(
    model: &GgufModel,
    tensors: &serde_json::Map<String, serde_json::Value>,
) -> Vec<String> {
    let mut found = Vec::new();
    for info in model.tensors.table().infos() {
        let bytes = model.tensors.read_name(&info.name).unwrap().bytes.into_owned();
        let ours = format!("{} {}", info.dtype, &hex(&bytes)[..16]);
        let theirs = tensors.get(&info.name).and_then(|t| t.as_str()).unwrap_or("nothing");
        if ours != theirs {
            found.push(format!("{}: {ours}, llama.cpp {theirs}", info.name));
        }
    }
    found
}

#[test]
fn whole_files_equal_llama_cpps() {
    let text = fs::read_to_string(shipped("tests/data/quantize/clerk.json")).unwrap();
    let golden: serde_json::Map<_, _> = serde_json::from_str(&text).unwrap();
    assert!(golden.len() >= 31, "{}", golden.len());
    let place = Place::new();
    // The names of both files are recorded in what is made of them.
    let imatrix = shipped("tests/data/quantize/clerk-imatrix.gguf");
    fs::copy(imatrix, place.path("clerk-imatrix.gguf")).unwrap();
    place.ok("convert @recipes/demo/clerk --type f16 -o clerk.gguf");
    let types: Vec<&str> = golden.keys().map(String::as_str).collect();
    let quantize = "quantize clerk.gguf --imatrix clerk-imatrix.gguf --quiet";
    place.ok(&format!("{quantize} -o out {}", types.join(" ")));
    let mut problems = Vec::new();
    for name in types {
        let path = format!("out/clerk-{name}.gguf");
        if hex(&place.read(&path)) != golden[name]["sha256"].as_str().unwrap() {
            let model = gguf::open(place.path(&path)).unwrap();
            let tensors = differing(&model, golden[name]["tensors"].as_object().unwrap());
            problems.push(format!("{name}: {tensors:#?}"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    // The hashes cover every type that can be written but NVFP4, MXFP4,
    // which only experts get, and floats, which need none.
    let covered = |dtype: &DType| text.contains(&format!("\"{dtype} ")) || *dtype == DType::Q2_0;
    let writable = DType::all().filter(|d| aqueduct::quants::can_quantize(*d) && d.is_quantized());
    let missing: Vec<_> = writable.filter(|d| !covered(d)).collect();
    assert_eq!(missing, [DType::MXFP4, DType::NVFP4]);
}

#[test]
fn files_made_with_options_equal_llama_cpps() {
    let text = fs::read_to_string(shipped("tests/data/quantize/options.json")).unwrap();
    let golden: serde_json::Map<_, _> = serde_json::from_str(&text).unwrap();
    assert!(golden.len() >= 10, "{}", golden.len());
    let place = Place::new();
    let imatrix = shipped("tests/data/quantize/clerk-imatrix.gguf");
    fs::copy(imatrix, place.path("clerk-imatrix.gguf")).unwrap();
    place.ok("convert @recipes/demo/clerk --type f16 -o clerk.gguf");
    let mut problems = Vec::new();
    for (arguments, expected) in &golden {
        let quantize = "quantize clerk.gguf --imatrix clerk-imatrix.gguf --quiet --force";
        place.ok(&format!("{quantize} -o made.gguf {arguments}"));
        if hex(&place.read("made.gguf")) != expected["sha256"].as_str().unwrap() {
            let model = gguf::open(place.path("made.gguf")).unwrap();
            let tensors = differing(&model, expected["tensors"].as_object().unwrap());
            problems.push(format!("{arguments}: {tensors:#?}"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// A place with a model `m.gguf` in F16 and an importance matrix `i.gguf` for it.
fn place_with_model() -> Place {
    let place = Place::new();
    fs::copy(shipped("tests/data/quantize/clerk-imatrix.gguf"), place.path("i.gguf")).unwrap();
    place.ok("convert @recipes/demo/clerk --type f16 -o m.gguf");
    place
}

#[test]
fn types_of_tensors_can_be_asked_for() {
    let place = place_with_model();
    let made = |rest: &str| {
        place.ok(&format!("quantize m.gguf Q4_K_M -o x.gguf --force --quiet {rest}"));
        types(&place, "x.gguf")
    };
    let (q4, q6, q8) = (DType::Q4_K, DType::Q6_K, DType::Q8_0);
    let plain = made("");
    assert_eq!((plain["output.weight"], plain["token_embd.weight"]), (q6, q4));
    assert_eq!(plain["blk.2.ffn_down.weight"], q6);

    let pure = made("--pure");
    let quantized = pure.values().filter(|t| t.is_quantized());
    assert!(quantized.clone().count() > 20 && quantized.clone().all(|&t| t == q4), "{pure:?}");
    assert_eq!(made("--leave-output-tensor")["output.weight"], DType::F16);
    let ends = made("--output-tensor-type q8_0 --token-embedding-type bf16");
    assert_eq!((ends["output.weight"], ends["token_embd.weight"]), (q8, DType::BF16));
    let large = place.ok("quantize m.gguf q4_k_l -o l.gguf --json").json();
    assert_eq!(large["files"][0]["ftype"], "Q4_K_L");
    let l = types(&place, "l.gguf");
    assert_eq!((l["output.weight"], l["token_embd.weight"]), (q8, q8));
    assert_eq!(l["blk.0.attn_q.weight"], q4);

    // The first pattern that fits decides, those of the file last.
    fs::write(place.path("types.txt"), "attn_=iq4_nl  ffn_up=q5_k\n\nffn_up=q6_k\n").unwrap();
    let some = made("--tensor-type attn_[qk]=q8_0 --tensor-type-file types.txt");
    assert_eq!((some["blk.1.attn_q.weight"], some["blk.1.attn_k.weight"]), (q8, q8));
    assert_eq!(some["blk.1.attn_v.weight"], DType::IQ4_NL);
    assert_eq!(some["blk.1.ffn_up.weight"], DType::Q5_K);
    assert_eq!(some["blk.1.ffn_gate.weight"], plain["blk.1.ffn_gate.weight"]);

    let bad = "quantize m.gguf Q4_K_M -o y.gguf --tensor-type";
    place.fails(2, &format!("{bad} a(=q8_0"), &["no regular expression"]);
    place.fails(2, &format!("{bad} attn_q"), &["PATTERN=TYPE"]);
    fs::write(place.path("types.txt"), "attn_q=q8_0\nattn_k=q7\n").unwrap();
    let from_file = "quantize m.gguf Q4_K_M -o y.gguf --tensor-type-file types.txt";
    place.fails(2, from_file, &["types.txt:2", "unknown tensor type 'q7'"]);
    assert!(!place.path("y.gguf").exists());
}

#[test]
fn metadata_and_importance_weights_can_be_picked() {
    let place = place_with_model();
    let quantize = "quantize m.gguf Q4_K_M --imatrix i.gguf --quiet";
    let set = "--override-kv general.author=str:me --override-kv llama.context_length=int:64";
    place.ok(&format!("{quantize} -o set.gguf {set}"));
    let metadata = gguf::open(place.path("set.gguf")).unwrap().metadata;
    assert_eq!(metadata.str("general.author"), Some("me"));
    assert_eq!(metadata.u64("llama.context_length"), Some(64));
    let keys: Vec<&str> = metadata.iter().map(|(key, _)| key).collect();
    // As llama-quantize has it: what is set comes after the file's type and before the matrix.
    let at = |key: &str| keys.iter().position(|k| *k == key).unwrap();
    assert_eq!(at("general.author"), at("general.file_type") + 1);
    assert_eq!(at("llama.context_length") + 1, at("quantize.imatrix.file"));
    place.fails(2, &format!("{quantize} -o y.gguf --override-kv a=7"), &["KEY=TYPE:VALUE"]);

    for (flag, count) in [("--include-weights ffn_down", 3), ("--exclude-weights ffn_down", 18)] {
        let output = place.command(&format!("{quantize} -o some.gguf --force {flag}")).output();
        assert!(output.unwrap().status.success());
        let metadata = gguf::open(place.path("some.gguf")).unwrap().metadata;
        assert_eq!(metadata.u64("quantize.imatrix.entries_count"), Some(count), "{flag}");
    }
    place.fails(2, "quantize m.gguf Q8_0 -o y.gguf --include-weights a", &["--imatrix"]);

    // A matrix of which nothing is used is none: nothing is recorded, the mix is that without.
    let quantize = "quantize m.gguf Q4_0 --force";
    let none =
        place.ok(&format!("{quantize} -o none.gguf --imatrix i.gguf --include-weights nothing"));
    assert!(none.stderr.contains("no importance weights are left"), "{}", none.stderr);
    place.ok(&format!("{quantize} -o without.gguf"));
    assert!(place.read("none.gguf") == place.read("without.gguf"));
}

#[test]
fn layers_can_be_pruned() {
    let place = place_with_model();
    let names = |file: &str| types(&place, file).into_keys().collect::<Vec<_>>();
    let all = names("m.gguf");
    place.ok("quantize m.gguf F16 -o p.gguf --prune-layers 0,1 --quiet");
    let pruned = names("p.gguf");
    let kept = |name: &&String| !name.starts_with("blk.1.") && !name.starts_with("blk.2.");
    assert_eq!(pruned, all.iter().filter(kept).cloned().collect::<Vec<_>>());
    let model = gguf::open(place.path("p.gguf")).unwrap();
    assert_eq!(model.metadata.u64("llama.block_count"), Some(1));
    assert_eq!(model.metadata.iter().last().unwrap().0, "llama.block_count");
    let whole = gguf::open(place.path("m.gguf")).unwrap();
    let bytes =
        |model: &GgufModel, name: &str| model.tensors.read_name(name).unwrap().bytes.to_vec();
    let down = |layer| format!("blk.{layer}.ffn_down.weight");
    assert!(bytes(&model, &down(0)) == bytes(&whole, &down(2)));

    // The weights of the layers that stay go with them, and all entries are recorded.
    let quantize = "quantize m.gguf --imatrix i.gguf IQ3_XXS --prune-layers 0,1";
    place.ok(&format!("{quantize} -o q.gguf --quiet"));
    let metadata = gguf::open(place.path("q.gguf")).unwrap().metadata;
    assert_eq!(metadata.u64("quantize.imatrix.entries_count"), Some(21));
    place.ok("quantize m.gguf --imatrix i.gguf IQ3_XXS -o w.gguf --quiet");
    let file = |name: &str| gguf::open(place.path(name)).unwrap();
    assert!(bytes(&file("q.gguf"), &down(0)) == bytes(&file("w.gguf"), &down(2)));
    let told = place.ok(&format!("{quantize} --dry-run --json")).json();
    assert_eq!(told[0]["bytes"], place.read("q.gguf").len());
    assert_eq!(told[0]["tensors"].as_array().unwrap().len(), pruned.len());

    let quantize = "quantize m.gguf Q8_0 -o y.gguf --prune-layers";
    place.fails(2, &format!("{quantize} 3"), &["m.gguf: no layer 3 to prune", "0 to 2"]);
    place.fails(2, &format!("{quantize} 0,1,2"), &["no layer would stay"]);
    place.fails(2, &format!("{quantize} 1,-1"), &["--prune-layers"]);
    place.fails(2, &format!("{quantize} one"), &["invalid value 'one'"]);
    assert!(!place.path("y.gguf").exists());
}

#[test]
fn a_dry_run_tells_what_a_run_makes_and_writes_nothing() {
    let place = place_with_model();
    let before = place.entries();
    let quantize = "quantize m.gguf --imatrix i.gguf Q4_K_M IQ2_M";
    let table = place.ok(&format!("{quantize} --dry-run")).stdout;
    let json = place.ok(&format!("{quantize} --dry-run --json")).json();
    assert_eq!(place.entries(), before);
    place.ok(&format!("{quantize} -o out --quiet"));
    for (index, name) in ["Q4_K_M", "IQ2_M"].into_iter().enumerate() {
        let file = format!("out/m-{name}.gguf");
        let bytes = place.read(&file).len();
        assert_eq!((&json[index]["ftype"], &json[index]["bytes"]), (&name.into(), &bytes.into()));
        assert!(table.contains(&bytes.to_string()), "{table}");
        let made = types(&place, &file);
        for tensor in json[index]["tensors"].as_array().unwrap() {
            let dtype = made[tensor["name"].as_str().unwrap()];
            assert_eq!(tensor["type"], dtype.name());
        }
    }
    place.fails(2, "quantize m.gguf Q8_0", &["--output"]);

    // Sizes need no matrix; the file does.
    let told = place.ok("quantize m.gguf IQ2_M --dry-run --json");
    assert!(told.stderr.contains("IQ2_M needs an importance matrix"), "{}", told.stderr);
    assert_eq!(told.json()[0]["ftype"], "IQ2_M");
    place.fails(1, "quantize m.gguf IQ2_M -o y.gguf", &["needs an importance matrix"]);
}
