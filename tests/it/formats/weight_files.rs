//! Which files of a folder are its weights, where index, whole file and shards disagree.

use aqueduct::base::dtype::DType;
use aqueduct::formats::checkpoint::Checkpoint;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;
use std::fs;
use std::path::Path;

/// Writes a safetensors file of F32 scalars.
pub(crate) fn write_scalars(path: &Path, tensors: &[(&str, f32)]) {
    let bytes: Vec<_> = tensors.iter().map(|(_, value)| value.to_le_bytes()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, _), bytes)| {
        (name.to_string(), TensorView::new(Dtype::F32, vec![1], bytes).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A folder with config.json and such files; an index where `index` lists something.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &[(&str, f32)])], index: &[(&str, &str)]) -> Folder {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), r#"{"architectures": ["LlamaForCausalLM"]}"#)
            .unwrap();
        for (name, tensors) in files {
            write_scalars(&dir.path().join(name), tensors);
        }
        if !index.is_empty() {
            let map: serde_json::Map<_, _> =
                index.iter().map(|(t, f)| (t.to_string(), json!(f))).collect();
            let text = json!({ "weight_map": map }).to_string();
            fs::write(dir.path().join("model.safetensors.index.json"), text).unwrap();
        }
        Folder(dir)
    }

    /// Checks the values of all tensors, and that each of `warnings` is part of the only warning.
    fn reads(&self, tensors: &[(&str, f32)], warnings: &[&str]) {
        let model = Checkpoint::open(self.0.path()).unwrap();
        let mut read: Vec<_> = (model.tensors.table().infos().iter())
            .map(|info| {
                let values = model.tensors.read_name(&info.name).unwrap().to_f32().unwrap();
                (info.name.as_str(), values[0])
            })
            .collect();
        read.sort_by_key(|(name, _)| *name);
        assert_eq!(read, tensors, "{:?}", model.warnings);
        assert_eq!(model.warnings.len(), usize::from(!warnings.is_empty()), "{:?}", model.warnings);
        for part in warnings {
            assert!(model.warnings[0].contains(part), "{part}: {}", model.warnings[0]);
        }
    }

    fn fails(&self, parts: &[&str]) {
        let text = Checkpoint::open(self.0.path()).err().unwrap().to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
}

const ONE: &str = "model-00001-of-00002.safetensors";
const TWO: &str = "model-00002-of-00002.safetensors";
const WHOLE: &str = "model.safetensors";

#[test]
fn a_whole_file_beside_an_index_is_used_as_transformers_uses_it() {
    let index = [("a", ONE), ("b", TWO)];
    let stale = Folder::new(&[(WHOLE, &[("a", 1.0), ("b", 2.0)])], &index);
    stale.reads(
        &[("a", 1.0), ("b", 2.0)],
        &["index.json lists 2 files, but 2 of them are missing", WHOLE],
    );

    let whole: &[_] = &[("a", 1.0), ("b", 2.0)];
    let shards: &[(&str, &[(&str, f32)])] =
        &[(WHOLE, whole), (ONE, &[("a", 3.0)]), (TWO, &[("b", 4.0)])];
    for index in [&index[..], &[]] {
        let both = Folder::new(shards, index);
        both.reads(&[("a", 1.0), ("b", 2.0)], &["both model.safetensors", "transformers"]);
    }
    // An index that names the whole file is no contradiction.
    Folder::new(&[(WHOLE, whole)], &[("a", WHOLE), ("b", WHOLE)]).reads(whole, &[]);
    Folder::new(&[(WHOLE, whole)], &[("a", WHOLE)])
        .reads(whole, &["does not list 1 tensors", "'b'"]);
}

#[test]
fn a_partial_whole_file_gives_way_to_shards_that_hold_more() {
    let files: &[(&str, &[(&str, f32)])] =
        &[(WHOLE, &[("a", 1.0)]), (ONE, &[("a", 3.0)]), (TWO, &[("b", 4.0)])];
    for index in [&[("a", ONE), ("b", TWO)][..], &[]] {
        Folder::new(files, index)
            .reads(&[("a", 3.0), ("b", 4.0)], &["lacks 1 of their tensors; the shards are used"]);
    }
    let apart: &[(&str, &[(&str, f32)])] =
        &[(WHOLE, &[("c", 1.0)]), (ONE, &[("a", 3.0)]), (TWO, &[("b", 4.0)])];
    Folder::new(apart, &[]).fails(&[
        "model.safetensors holds 'c'",
        "they hold 'a'",
        "not the model",
    ]);
}

#[test]
fn tensors_are_read_from_where_they_are() {
    let files: &[(&str, &[(&str, f32)])] =
        &[(ONE, &[("a", 1.0), ("b", 2.0)]), (TWO, &[("c", 3.0)])];
    let all = [("a", 1.0), ("b", 2.0), ("c", 3.0)];
    Folder::new(files, &[("a", ONE), ("b", TWO), ("c", TWO)])
        .reads(&all, &["puts 1 tensors into other files", "'b'", TWO, ONE]);
    Folder::new(files, &[("a", ONE), ("c", TWO)]).reads(&all, &["does not list 1 tensors", "'b'"]);
    Folder::new(files, &[("a", ONE), ("b", ONE), ("c", TWO), ("d", TWO)])
        .reads(&all, &["lists 1 tensors that no file holds", "'d'", TWO]);
    // A file that the index does not name holds what it lists.
    let other: &[(&str, &[(&str, f32)])] =
        &[(ONE, &[("a", 1.0)]), ("extra.safetensors", &[("b", 2.0)])];
    Folder::new(other, &[("a", ONE), ("b", ONE)])
        .reads(&all[..2], &["puts 1 tensors", "'extra.safetensors'"]);
}

#[test]
fn of_two_places_the_index_s_counts_and_copies_are_harmless() {
    let files: &[(&str, &[(&str, f32)])] =
        &[(ONE, &[("a", 1.0), ("b", 2.0)]), (TWO, &[("b", 9.0)])];
    Folder::new(files, &[("a", ONE), ("b", TWO)])
        .reads(&[("a", 1.0), ("b", 9.0)], &["1 tensors are in several files", "'b'", TWO]);
    Folder::new(files, &[]).fails(&[ONE, TWO, "'b'", "other values"]);
    let copies: &[(&str, &[(&str, f32)])] =
        &[(ONE, &[("a", 1.0), ("b", 2.0)]), (TWO, &[("b", 2.0), ("c", 3.0)])];
    Folder::new(copies, &[]).reads(&[("a", 1.0), ("b", 2.0), ("c", 3.0)], &["with equal values"]);
}

#[test]
fn series_of_shards_are_told_apart_by_what_is_complete() {
    let three = |n: u32| format!("model-{n:05}-of-00003.safetensors");
    let (x, y, z) = (three(1), three(2), three(3));
    let left: &[(&str, &[(&str, f32)])] =
        &[(ONE, &[("a", 1.0)]), (TWO, &[("b", 2.0)]), (&z, &[("b", 5.0)])];
    let pair = [("a", 1.0), ("b", 2.0)];
    Folder::new(left, &[]).reads(&pair, &["another series", &z]);
    Folder::new(left, &[("a", ONE), ("b", TWO)]).reads(&pair, &["not named by", &z]);
    let both: &[(&str, &[(&str, f32)])] = &[
        (ONE, &[("a", 1.0)]),
        (TWO, &[("b", 2.0)]),
        (&x, &[("a", 3.0)]),
        (&y, &[("b", 4.0)]),
        (&z, &[("c", 5.0)]),
    ];
    Folder::new(both, &[]).fails(&["two series", ONE, &x]);
    Folder::new(both, &[("a", ONE), ("b", TWO)]).reads(&pair, &["3 shards", "not named by"]);
    // The index names a series that is not there; another one holds all that it lists.
    Folder::new(&both[..2], &[("a", &x), ("b", &y)]).reads(&pair, &[&x, "missing", ONE]);
    Folder::new(&both[..1], &[("a", &x), ("b", &y)])
        .fails(&["2 of 2 shards are missing", "hf download"]);
    Folder::new(&both[2..4], &[]).fails(&["shard 'model-00003-of-00003.safetensors' is missing"]);
}

#[test]
fn shards_may_be_called_otherwise() {
    let files: &[(&str, &[(&str, f32)])] =
        &[("w-1-of-2.safetensors", &[("a", 1.0)]), ("w-2-of-2.safetensors", &[("b", 2.0)])];
    let pair = [("a", 1.0), ("b", 2.0)];
    Folder::new(files, &[]).reads(&pair, &[]);
    let zero: &[(&str, &[(&str, f32)])] = &[
        ("m-00000-of-00002.safetensors", &[("a", 1.0)]),
        ("m-00001-of-00002.safetensors", &[("b", 2.0)]),
    ];
    Folder::new(zero, &[]).reads(&pair, &[]);
    let free: &[(&str, &[(&str, f32)])] =
        &[("first.safetensors", &[("a", 1.0)]), ("second.safetensors", &[("b", 2.0)])];
    Folder::new(free, &[]).reads(&pair, &["share no tensor", "first.safetensors"]);
    // Mistral's own files hold the same weights under other names.
    let mistral: &[(&str, &[(&str, f32)])] =
        &[(ONE, &[("a", 1.0)]), (TWO, &[("b", 2.0)]), ("consolidated.safetensors", &[("w", 3.0)])];
    Folder::new(mistral, &[]).reads(&pair, &[]);
    let mistral: &[(&str, &[(&str, f32)])] = &[
        (ONE, &[("a", 1.0)]),
        (TWO, &[("b", 2.0)]),
        ("consolidated-00001-of-00001.safetensors", &[("w", 3.0)]),
    ];
    Folder::new(mistral, &[]).reads(&pair, &[]);
}

#[test]
fn pytorch_files_serve_where_safetensors_are_incomplete() {
    let bytes = 7f32.to_le_bytes();
    let listed: Vec<crate::support::pytorch_file::Tensor<'_>> =
        vec![("a", DType::F32, &[1], &bytes)];
    let file =
        crate::support::pytorch_file::zip(&crate::support::pytorch_file::archive(&listed), false);
    let incomplete = Folder::new(&[], &[("a", ONE)]);
    incomplete.fails(&["is missing"]);
    fs::write(incomplete.0.path().join("pytorch_model.bin"), &file).unwrap();
    incomplete.reads(&[("a", 7.0)], &["safetensors files cannot be used", "pytorch_model.bin"]);

    let both = Folder::new(&[(WHOLE, &[("a", 1.0)])], &[]);
    fs::write(both.0.path().join("pytorch_model.bin"), &file).unwrap();
    both.reads(&[("a", 1.0)], &[]);
    let fewer = Folder::new(&[(WHOLE, &[("b", 1.0)])], &[]);
    fs::write(fewer.0.path().join("pytorch_model.bin"), &file).unwrap();
    fewer.reads(&[("b", 1.0)], &["pytorch_model.bin holds 'a'", "the safetensors files are used"]);
}
