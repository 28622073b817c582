//! `report::inspect`: what is in a file, told apart by content.

use crate::support::files::assert_error;
use crate::support::folders;
use aqueduct::base::dtype::DType;
use aqueduct::formats::gguf::{self, Array, GgufWriter, Metadata, Value};
use aqueduct::formats::source::TensorInfo;
use aqueduct::measure::imatrix::{Entry, Format, ImportanceMatrix};
use aqueduct::report::{Inspection, inspect};
use serde_json::{Value as Json, json};
use std::path::Path;

/// JSON and text of the report on `path`.
fn report(path: &Path) -> (Json, String) {
    let inspection = inspect(path).unwrap();
    (serde_json::to_value(&inspection).unwrap(), inspection.render())
}

fn write_gguf(path: &Path) {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", "llama");
    metadata.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
    metadata.set("bad.float", f32::NAN);
    let tokens = (0..100).map(|i| format!("<{i}>")).collect();
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
    metadata.set("tokenizer.chat_template", "{%- if a -%}\n\u{1b}[31mred");
    metadata.set("split.no", Value::U16(1));
    metadata.set("split.count", Value::U16(2));
    let tensors = vec![
        TensorInfo::new("a.weight", vec![2, 256], DType::Q4_K),
        TensorInfo::new("b.weight", vec![64], DType::F32),
    ];
    let writer = GgufWriter::create(path, false, &metadata, tensors).unwrap();
    writer.write_tensor(0, &[0; 288]).unwrap();
    writer.write_tensor(1, &[0; 256]).unwrap();
    writer.finish().unwrap();
}

#[test]
fn gguf_files_are_described() {
    let dir = tempfile::tempdir().unwrap();
    // A misleading name, and a shard whose sibling is missing: neither matters.
    let path = dir.path().join(gguf::shard_name("x.safetensors", 1, 2));
    write_gguf(&path);
    let (json, text) = report(&path);
    assert_eq!(json["format"], "gguf");
    assert_eq!((&json["version"], &json["shard"]), (&json!(3), &json!([2, 2])));
    assert_eq!(json["metadata"][1]["value"].to_string(), "0.00001", "not an f64's digits");
    assert_eq!(json["metadata"][2]["value"], "NaN");
    assert_eq!(json["metadata"][3]["length"], 100);
    assert_eq!(json["metadata"][3]["value"].as_array().unwrap().len(), 8);
    assert_eq!(json["parameters"], 576);
    assert_eq!(json["bits_per_weight"], (288.0 + 256.0) * 8.0 / 576.0);
    assert_eq!(
        json["tensors"][0],
        json!({"name": "a.weight", "type": "Q4_K", "shape": [2, 256], "parameters": 512, "bytes": 288})
    );
    assert_eq!(json["types"][1]["type"], "F32");
    for part in ["shard 2 of 2", "100: <0>, <1>", "2 x 256", "288 B", "7.556", "4.500"] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "a file's text must not steer the terminal");
}

#[test]
fn safetensors_files_are_described() {
    let dir = tempfile::tempdir().unwrap();
    folders::write(&folders::model(), &dir.path().join("m"), 1 << 20);
    let path = dir.path().join("m/renamed.gguf");
    std::fs::rename(dir.path().join("m/model.safetensors"), &path).unwrap();
    let (json, text) = report(&path);
    assert_eq!(json["format"], "safetensors");
    assert_eq!(json["metadata"]["format"], "pt");
    assert_eq!(json["parameters"], 60 + 4 * 39 + 5);
    assert_eq!(json["tensors"].as_array().unwrap().len(), 10);
    assert!(text.contains("model.layers.10.self_attn.q_proj.weight"), "{text}");
}

#[test]
fn imatrix_files_of_both_layouts_are_described() {
    let dir = tempfile::tempdir().unwrap();
    let entry = Entry { sums: vec![512.0, 1024.0], counts: vec![512] };
    let matrix = ImportanceMatrix {
        entries: [("blk.0.attn_q.weight".to_string(), entry)].into(),
        datasets: vec!["text.txt".to_string()],
        chunk_count: 1,
        chunk_size: 512,
        record: None,
    };
    for (format, layout) in [(Format::Gguf, "gguf"), (Format::Dat, "dat")] {
        let path = dir.path().join(layout).with_extension("bin");
        matrix.write(&path, format, false).unwrap();
        assert!(matches!(inspect(&path).unwrap(), Inspection::Imatrix(_)));
        let (json, text) = report(&path);
        assert_eq!((&json["format"], &json["layout"]), (&json!("imatrix"), &json!(layout)));
        assert_eq!(json["datasets"], json!(["text.txt"]));
        assert_eq!(json["chunks"], 1);
        let row = &json["entries"][0];
        assert_eq!((&row["columns"], &row["matrices"]), (&json!(2), &json!(1)));
        assert_eq!(row["sum_of_squares"], 3.0, "means of 1 and 2");
        assert!(text.contains("blk.0.attn_q.weight") && text.contains("100.0%"), "{text}");
    }
}

#[test]
fn anything_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    let contents: [(&[u8], &str); 4] = [
        (b"", "the file is empty"),
        (b"\x05", "no GGUF, safetensors or imatrix file"),
        (b"hello, this is a text file", "no GGUF, safetensors or imatrix file"),
        (&[0; 100], "bytes are zero"),
    ];
    for (content, what) in contents {
        std::fs::write(&path, content).unwrap();
        assert_error(inspect(&path), &["x.gguf", what]);
    }
    assert_error(inspect(dir.path()), &["folder"]);
    assert_error(inspect(dir.path().join("none")), &["none", "open"]);
}
