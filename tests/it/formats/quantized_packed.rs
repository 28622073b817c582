//! Checkpoints of packed integers and of floats of four bits: GPTQ, AWQ, bitsandbytes, BitNet,
//! MXFP4, NVFP4.
//!
//! tests/data/quantized/README.md says what made the data (scripts/check-packed-sources).

use crate::support::program::shipped;
use aqueduct::base::dtype::DType;
use aqueduct::formats::checkpoint::{Checkpoint, SafetensorsFile};
use aqueduct::formats::source::TensorSource;
use aqueduct::quants;
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tempfile::TempDir;

const CASES: &[&str] = &[
    "gptq-2-bits",
    "gptq-3-bits",
    "gptq-3-bits-v2",
    "gptq-4-bits",
    "gptq-4-bits-act-order",
    "gptq-4-bits-no-groups",
    "gptq-8-bits",
    "auto-round-gptq",
    "awq",
    "awq-gemv",
    "awq-no-groups",
    "auto-round-awq",
    "bitsandbytes-8-bits",
    "bitsandbytes-fp4",
    "bitsandbytes-nf4",
    "bitsandbytes-nf4-bf16-storage",
    "bitsandbytes-nf4-nested",
    "bitnet",
    "bitnet-autobitlinear",
    "bitnet-online",
    "mxfp4-compressed-tensors",
    "mxfp4-gpt-oss",
    "nvfp4-compressed-tensors",
    "nvfp4-modelopt",
];

/// The module of most cases.
const MODULE: &str = "model.layers.0.mlp.up_proj";

fn case(name: &str) -> PathBuf {
    shipped("tests/data/quantized").join(name)
}

/// A tensor of a file: type, shape, bytes.
type Stored = (Dtype, Vec<usize>, Vec<u8>);

fn stored(file: &Path) -> BTreeMap<String, Stored> {
    let file = SafetensorsFile::open(file).unwrap();
    let entries = file.entries().iter().enumerate();
    entries
        .map(|(i, entry)| {
            let tensor = (entry.dtype, entry.shape.clone(), file.tensor_bytes(i).to_vec());
            (entry.name.clone(), tensor)
        })
        .collect()
}

/// A folder that can be changed before it is opened.
struct Folder {
    place: TempDir,
    config: Value,
    tensors: BTreeMap<String, Stored>,
}

impl Folder {
    fn of(name: &str) -> Folder {
        let config = fs::read_to_string(case(name).join("config.json")).unwrap();
        Folder {
            place: tempfile::tempdir().unwrap(),
            config: serde_json::from_str(&config).unwrap(),
            tensors: stored(&case(name).join("model.safetensors")),
        }
    }

    fn tensor(&mut self, last: &str) -> &mut Stored {
        self.tensors.get_mut(&format!("{MODULE}.{last}")).unwrap()
    }

    fn setting(&mut self, key: &str, value: Value) {
        self.config["quantization_config"][key] = value;
    }

    fn write(&self) -> &Path {
        let path = self.place.path();
        fs::write(path.join("config.json"), self.config.to_string()).unwrap();
        let views = self.tensors.iter().map(|(name, (dtype, shape, bytes))| {
            (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        serialize_to_file(views, None, &path.join("model.safetensors")).unwrap();
        path
    }

    fn open(&self) -> aqueduct::Result<Checkpoint> {
        Checkpoint::open(self.write())
    }

    /// The error of opening the folder, or of reading its first joined tensor.
    fn error(&self) -> String {
        match self.open() {
            Err(error) => error.to_string(),
            Ok(opened) => {
                let read = (0..opened.tensors.table().infos().len())
                    .try_for_each(|index| opened.tensors.read(index).map(drop));
                let shapes: Vec<_> = self.tensors.iter().map(|(n, t)| (n, t.0, &t.1)).collect();
                read.err().unwrap_or_else(|| panic!("{shapes:?}")).to_string()
            }
        }
    }
}

fn read(source: &dyn TensorSource, name: &str) -> Vec<f32> {
    source.read_name(name).unwrap().to_f32().unwrap()
}

fn float(dtype: Dtype) -> DType {
    match dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        other => panic!("{other}"),
    }
}

#[test]
fn values_are_those_of_the_reference() {
    for name in CASES {
        let checkpoint = Checkpoint::open(case(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(checkpoint.config.get("quantization_config").is_none(), "{name}");
        assert!(checkpoint.warnings[0].contains("quantized"), "{name}: {:?}", checkpoint.warnings);
        let expected = stored(&case(name).join("expected.safetensors"));
        let table = checkpoint.tensors.table();
        assert_eq!(table.infos().len(), expected.len(), "{name}: {table:?}");
        for (tensor, (dtype, shape, bytes)) in &expected {
            // A head that is stored without an embedding serves as both.
            let tensor = match tensor.as_str() {
                "lm_head.weight" if table.get(tensor).is_none() => "model.embed_tokens.weight",
                tensor => tensor,
            };
            let info = table.get(tensor).unwrap_or_else(|| panic!("{name}: {tensor}"));
            assert_eq!(info.shape, *shape, "{name}");
            let found = read(&*checkpoint.tensors, tensor);
            let mut rounded = vec![0; bytes.len()];
            quants::encode_float(float(*dtype), &found, &mut rounded).unwrap();
            let (mut ours, mut theirs) = (vec![0f32; found.len()], vec![0f32; found.len()]);
            quants::decode(float(*dtype), &rounded, &mut ours).unwrap();
            quants::decode(float(*dtype), bytes, &mut theirs).unwrap();
            // Of `online`, the mean of all weights: torch takes their sum in another order.
            let bound = if *name == "bitnet-online" { 1e-6 } else { 0.0 };
            for (at, (a, b)) in ours.iter().zip(&theirs).enumerate() {
                assert!((a - b).abs() <= bound * b.abs(), "{name}: {tensor}: {at}: {a} {b}");
            }
        }
    }
}

#[test]
fn what_the_weights_were_is_told() {
    for (name, kind) in [
        ("gptq-4-bits", "GPTQ (4 bits, groups of 32)"),
        ("gptq-4-bits-no-groups", "GPTQ (4 bits, a scale per row)"),
        ("awq", "AWQ (4 bits, groups of 32)"),
        ("bitsandbytes-nf4", "bitsandbytes NF4"),
        ("bitnet", "BitNet (-1, 0 or 1 over a scale)"),
        ("mxfp4-gpt-oss", "MXFP4"),
        ("nvfp4-modelopt", "NVFP4"),
    ] {
        let checkpoint = Checkpoint::open(case(name)).unwrap();
        assert_eq!(checkpoint.tensors.quantization(), Some(kind));
    }
}

/// `bytes`, rows of `row` bytes, with each row repeated `times` times within itself.
fn widened(bytes: &[u8], row: usize, times: usize) -> Vec<u8> {
    bytes.chunks(row).flat_map(|row| row.repeat(times)).collect()
}

/// A case whose matrix is repeated over and over below itself, so that it is read in several parts.
fn repeated(name: &str, times: usize) -> Folder {
    let mut folder = Folder::of(name);
    for (tensor, (dtype, shape, bytes)) in &mut folder.tensors {
        let last = tensor.rsplit('.').next().unwrap();
        match (name.split('-').next().unwrap(), last) {
            (_, "g_idx" | "quant_map" | "weight_format") => {}
            ("gptq" | "awq", _) => {
                *bytes = widened(bytes, shape[1] * dtype.bitsize() / 8, times);
                shape[1] *= times;
            }
            ("bitsandbytes", "bitsandbytes__nf4") => {
                let mut state: Value = serde_json::from_slice(bytes).unwrap();
                let rows = state["shape"][0].as_u64().unwrap();
                state["shape"][0] = json!(rows * times as u64);
                *bytes = state.to_string().into_bytes();
                *shape = vec![bytes.len()];
            }
            ("nvfp4", "weight_scale_2" | "weight_global_scale") => {}
            _ => {
                *bytes = bytes.repeat(times);
                shape[0] *= times;
            }
        }
    }
    folder
}

#[test]
fn parts_are_those_of_the_whole() {
    const TIMES: usize = 300;
    for name in [
        "gptq-3-bits",
        "gptq-4-bits-act-order",
        "awq",
        "bitsandbytes-nf4",
        "bitsandbytes-8-bits",
        "mxfp4-compressed-tensors",
        "nvfp4-modelopt",
    ] {
        let small = Checkpoint::open(case(name)).unwrap();
        let tensor = format!("{MODULE}.weight");
        let expected = read(&*small.tensors, &tensor).repeat(TIMES);
        let folder = repeated(name, TIMES);
        let large = folder.open().unwrap();
        let index = large.tensors.table().find(&tensor).unwrap();
        assert!(large.tensors.table().infos()[index].bytes().unwrap() > 2 << 20);
        let whole = large.tensors.read(index).unwrap();
        assert!(whole.to_f32().unwrap() == expected, "{name}");
        let parts = Mutex::new(vec![0u8; whole.bytes.len()]);
        let sink = |offset: usize, part: &[u8]| {
            parts.lock().unwrap()[offset..offset + part.len()].copy_from_slice(part);
            Ok(())
        };
        large.tensors.stream(index, &sink).unwrap();
        assert!(*parts.lock().unwrap() == *whole.bytes, "{name}");
    }
}

#[test]
fn each_missing_part_is_an_error_that_names_it() {
    for (name, lasts) in [
        ("gptq-4-bits", &["qzeros", "scales"][..]),
        ("awq", &["qzeros", "scales"]),
        ("bitsandbytes-nf4", &["weight", "weight.absmax", "weight.quant_map"]),
        ("bitsandbytes-nf4-nested", &["weight.nested_quant_map"]),
        ("bitsandbytes-8-bits", &["weight"]),
        ("bitnet", &["weight_scale"]),
        ("mxfp4-compressed-tensors", &["weight_scale"]),
        ("nvfp4-modelopt", &["weight_scale"]),
    ] {
        for last in lasts {
            let mut folder = Folder::of(name);
            folder.tensors.remove(&format!("{MODULE}.{last}")).unwrap();
            let error = folder.error();
            let missing = format!("'{MODULE}.{last}' is missing");
            assert!(error.contains(&missing), "{name}: {error}");
        }
    }
    let mut folder = Folder::of("bitsandbytes-nf4");
    folder.tensors.retain(|tensor, _| !tensor.contains("quant_state"));
    assert!(folder.error().contains("type U8 cannot be read"), "{}", folder.error());
}

fn elements(checkpoint: &Checkpoint) -> usize {
    checkpoint.tensors.table().infos().iter().map(|info| info.elements()).sum()
}

#[test]
fn shapes_and_types_that_do_not_fit_are_errors() {
    // Each tensor of each case with one row or column less, and as integers of another width.
    for name in CASES.iter().filter(|name| **name != "bitnet-online") {
        let original = Folder::of(name);
        let whole = original.open().unwrap();
        for tensor in original.tensors.keys() {
            let change = |change: &dyn Fn(&mut Stored)| {
                let mut folder = Folder::of(name);
                change(folder.tensors.get_mut(tensor).unwrap());
                folder
            };
            let (dtype, shape, _) = &original.tensors[tensor];
            let size = dtype.bitsize() / 8;
            for axis in 0..shape.len() {
                let folder = change(&|(_, shape, bytes)| {
                    shape[axis] -= 1;
                    bytes.truncate(shape.iter().product::<usize>() * size);
                });
                match folder.open() {
                    // Without a scale or group that it belongs to, a row less is a smaller matrix.
                    Ok(opened) => assert!(elements(&opened) < elements(&whole), "{name}: {tensor}"),
                    Err(error) => {
                        let error = error.to_string();
                        assert!(error.contains("quantized with"), "{name}: {error}");
                        assert!(error.len() < 1000, "{error}");
                    }
                }
            }
            let folder = change(&|(dtype, shape, bytes)| {
                (*dtype, *shape) = (Dtype::I64, vec![4]);
                *bytes = vec![0; 32];
            });
            if !tensor.ends_with("weight_format") {
                assert!(folder.error().contains("quantized with"), "{name}: {tensor}");
            }
        }
    }
}

#[test]
fn groups_that_do_not_exist_are_errors_with_their_input() {
    for bad in [-1i32, 4, i32::MAX] {
        let mut folder = Folder::of("gptq-4-bits-act-order");
        let (_, _, bytes) = folder.tensor("g_idx");
        bytes[4 * 7..4 * 8].copy_from_slice(&bad.to_le_bytes());
        let error = folder.error();
        let expected = format!("g_idx puts input 7 into group {bad}, and there are 4");
        assert!(error.contains(&expected) && error.contains("up_proj.weight"), "{error}");
    }
}

#[test]
fn quantization_states_are_checked() {
    let name = "weight.quant_state.bitsandbytes__nf4";
    for (from, to, expected) in [
        ("{", "", "quantization state is not usable"),
        ("\"blocksize\": 64", "\"blocksize\": 0", "not possible"),
        ("\"blocksize\": 64", "\"blocksize\": 32", "have lengths"),
        ("\"blocksize\": 64", "\"blocksize\": \"64\"", "not usable"),
        ("[32, 64]", "[32, 65]", "have lengths"),
        ("[32, 64]", "[18446744073709551615, 64]", "not possible"),
        ("bfloat16", "int4", "unknown dtype 'int4'"),
    ] {
        let mut folder = Folder::of("bitsandbytes-nf4");
        let (_, shape, bytes) = folder.tensor(name);
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(text.contains(from), "{text}");
        *bytes = text.replacen(from, to, 1).into_bytes();
        *shape = vec![bytes.len()];
        let error = folder.error();
        assert!(error.contains(expected), "{from} {to}: {error}");
    }
}

#[test]
fn options_that_are_not_read_are_named_with_the_method() {
    for (name, key, value, expected) in [
        ("gptq-4-bits", "checkpoint_format", json!("marlin"), "the layout 'marlin' is not known"),
        ("gptq-4-bits", "bits", json!(5), "5 bits are not read"),
        ("gptq-4-bits", "group_size", json!(0), "group_size of 0"),
        ("auto-round-gptq", "packing_format", json!("auto_round:exllamav3"), "is not known"),
        ("auto-round-gptq", "data_type", json!("mx_fp"), "only integers"),
        ("awq", "version", json!("gemv_fast"), "the layout 'gemv_fast' is not read"),
        ("awq", "bits", json!(3), "3 bits are not read"),
        ("bitnet", "use_rms_norm", json!(true), "use_rms_norm"),
    ] {
        let mut folder = Folder::of(name);
        folder.setting(key, value);
        let error = folder.error();
        let method = folder.config["quantization_config"]["quant_method"].as_str().unwrap();
        assert!(error.contains(expected) && error.contains("1 tensor"), "{name}: {error}");
        assert!(error.contains(&format!("quantized with '{method}'")), "{name}: {error}");
    }
    for method in
        ["hqq", "aqlm", "quip", "eetq", "exl2", "vptq", "spqr", "quanto", "torchao", "higgs"]
    {
        let mut folder = Folder::of("gptq-4-bits");
        folder.setting("quant_method", json!(method));
        let error = folder.error();
        let expected = format!("quantized with '{method}' (bits 4, group_size 32");
        assert!(error.contains(&expected) && error.contains("1 packed tensor"), "{error}");
    }
}

#[test]
fn modules_may_differ_and_carry_zero_biases() {
    // GPTQModel's `dynamic`: another width than the one for all.
    let mut folder = Folder::of("gptq-8-bits");
    folder.setting("bits", json!(4));
    assert!(folder.error().contains("do not fit together"));
    folder.setting("dynamic", json!({"+:.*up_proj": {"bits": 8}}));
    let bias = |value: u8| (Dtype::F16, vec![32], vec![value; 64]);
    folder.tensors.insert(format!("{MODULE}.bias"), bias(0));
    let opened = folder.open().unwrap();
    let plain = Checkpoint::open(case("gptq-8-bits")).unwrap();
    let name = format!("{MODULE}.weight");
    assert_eq!(read(&*opened.tensors, &name), read(&*plain.tensors, &name));
    assert_eq!(opened.tensors.table().infos().len(), 1, "a bias of zeros is none");
    folder.tensors.insert(format!("{MODULE}.bias"), bias(1));
    assert_eq!(folder.open().unwrap().tensors.table().infos().len(), 2);
}
