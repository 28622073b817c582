//! Whole files of every type against llama.cpp's, by hash: metadata, order, padding, the choice of each
//! tensor's type, and its bytes. tests/data/quantize/README.md says what made the hashes.

use super::cli::{Place, shipped};
use aqueduct::dtype::DType;
use aqueduct::gguf::{self, GgufModel};
use sha2::{Digest, Sha256};
use std::fs;

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
    // The hashes cover every type that can be written but NVFP4, and floats, which need none.
    let covered = |dtype: &DType| text.contains(&format!("\"{dtype} ")) || *dtype == DType::Q2_0;
    let writable = DType::all().filter(|d| aqueduct::quants::can_quantize(*d) && d.is_quantized());
    let missing: Vec<_> = writable.filter(|d| !covered(d)).collect();
    assert_eq!(missing, [DType::NVFP4]);
}
