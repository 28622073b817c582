//! Quantized checkpoints as sources: values are the reference dequantizers', rows read in parts are
//! those of the whole, and what cannot be read is one error.

use crate::support::files::assert_error;
use crate::support::folders;
use crate::support::tiny_llama as convert;
use aqueduct::base::dtype::DType;
use aqueduct::formats::checkpoint::{Checkpoint, SafetensorsFile};
use aqueduct::formats::source::{PART_BYTES, TensorInfo, TensorSource};
use aqueduct::merge;
use aqueduct::model::convert::{ConvertOptions, OutputType, convert as to_gguf};
use aqueduct::quants;
use aqueduct::recipe::Folders;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/quantized")
}

/// A tensor of a safetensors file: name, type as the format names it, shape, bytes.
type Stored<'a> = (&'a str, &'a str, Vec<usize>, Vec<u8>);

/// A folder of `tensors` whose configuration has `quantization`.
fn folder(dir: &Path, quantization: Value, tensors: &[Stored<'_>]) -> PathBuf {
    let (mut header, mut bytes) = (Map::new(), Vec::new());
    for (name, dtype, shape, data) in tensors {
        let start = bytes.len();
        bytes.extend_from_slice(data);
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, bytes.len()]});
        header.insert(name.to_string(), entry);
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&bytes);
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("model.safetensors"), file).unwrap();
    let config =
        json!({"architectures": ["LlamaForCausalLM"], "quantization_config": quantization});
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    dir.to_path_buf()
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn i64s(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn encoded(dtype: DType, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * dtype.block_bytes()];
    quants::encode_float(dtype, values, &mut bytes).unwrap();
    bytes
}

/// FP8 codes of a matrix, all finite.
fn codes(count: usize) -> Vec<u8> {
    (0..count).map(|i| (i * 37 % 126) as u8 | ((i % 3 == 0) as u8) << 7).collect()
}

#[test]
fn values_equal_the_reference_dequantizers() {
    let mut formats = 0;
    for entry in std::fs::read_dir(data()).unwrap() {
        let dir = entry.unwrap().path();
        // Other folders are tests of quantized_packed.
        if !dir.is_dir() || !dir.with_extension("safetensors").is_file() {
            continue;
        }
        formats += 1;
        let expected = SafetensorsFile::open(dir.with_extension("safetensors")).unwrap();
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let mut names: Vec<&str> =
            checkpoint.tensors.table().infos().iter().map(|info| &info.name[..]).collect();
        let mut wanted: Vec<&str> = expected.entries().iter().map(|e| &e.name[..]).collect();
        names.sort();
        wanted.sort();
        assert_eq!(names, wanted, "{}: scales have no place in plain weights", dir.display());
        for (index, entry) in expected.entries().iter().enumerate() {
            let read = checkpoint.tensors.read_name(&entry.name).unwrap();
            assert_eq!(read.shape, entry.shape);
            // Reference dequantizers round the product to the type of the scales.
            let dtype = entry.info().unwrap().dtype;
            let ours = encoded(dtype, &read.to_f32().unwrap());
            assert!(ours == expected.tensor_bytes(index), "{}: {}", dir.display(), entry.name);
        }
        assert!(checkpoint.config.get("quantization_config").is_none());
        let quantization = checkpoint.tensors.quantization().unwrap();
        let [warning] = &checkpoint.warnings[..] else { panic!("{:?}", checkpoint.warnings) };
        assert!(warning.contains(quantization) && warning.contains("dequantized"), "{warning}");
    }
    assert!(formats >= 29, "{formats}");
}

#[test]
fn parts_of_a_stream_and_any_rows_are_those_of_the_whole() {
    let temp = tempfile::tempdir().unwrap();
    let (rows, columns) = (700, 1001);
    let scales: Vec<f32> = (0..6 * 8).map(|i| 0.01 + i as f32 * 0.003).collect();
    let words: Vec<u8> = (0..rows * 125 * 4).map(|i| (i * 97 % 251) as u8).collect();
    let scheme = json!({"weights": {"num_bits": 4, "group_size": 40, "strategy": "group"}});
    let fp8 = folder(
        &temp.path().join("fp8"),
        json!({"quant_method": "fp8", "weight_block_size": [128, 128]}),
        &[
            ("a.weight", "F8_E4M3", vec![rows, columns], codes(rows * columns)),
            ("a.weight_scale_inv", "F32", vec![6, 8], f32s(&scales)),
        ],
    );
    let packed = folder(
        &temp.path().join("packed"),
        json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"g": scheme}}),
        &[
            ("a.weight_packed", "I32", vec![rows, 125], words),
            ("a.weight_scale", "F32", vec![rows, 25], f32s(&vec![0.5; rows * 25])),
            ("a.weight_shape", "I64", vec![2], i64s(&[rows as i64, 1000])),
        ],
    );
    for dir in [fp8, packed] {
        let tensors = Checkpoint::open(dir).unwrap().tensors;
        let whole = tensors.read(0).unwrap();
        assert!(whole.bytes.len() > 2 * PART_BYTES);
        let parts = Mutex::new(vec![0u8; whole.bytes.len()]);
        let seen = Mutex::new(Vec::new());
        tensors
            .stream(0, &|offset, part| {
                parts.lock().unwrap()[offset..offset + part.len()].copy_from_slice(part);
                seen.lock().unwrap().push((offset, part.len()));
                Ok(())
            })
            .unwrap();
        assert!(parts.into_inner().unwrap() == *whole.bytes);
        let mut seen = seen.into_inner().unwrap();
        seen.sort();
        let last = whole.bytes.len() % PART_BYTES;
        assert_eq!(seen, [(0, PART_BYTES), (PART_BYTES, PART_BYTES), (2 * PART_BYTES, last)]);
        // The whole tensor is counted where it is held, and only parts where it is not.
        assert_eq!(tensors.working_bytes(0), whole.bytes.len() as u64);
        assert!(tensors.stream_bytes(0) <= (2 * PART_BYTES * rayon::current_num_threads()) as u64);
    }
}

#[test]
fn blocks_at_the_edges_have_their_own_scales() {
    let temp = tempfile::tempdir().unwrap();
    let dir = folder(
        temp.path(),
        json!({"quant_method": "fp8", "weight_block_size": [128, 128]}),
        &[
            ("a.weight", "F8_E4M3", vec![130, 129], vec![0x38; 130 * 129]),
            ("a.weight_scale_inv", "F32", vec![2, 2], f32s(&[1.0, 2.0, 3.0, 4.0])),
        ],
    );
    let values = Checkpoint::open(dir).unwrap().tensors.read(0).unwrap().to_f32().unwrap();
    let at = |row: usize, column: usize| values[row * 129 + column];
    assert_eq!(
        [at(0, 0), at(127, 127), at(0, 128), at(128, 0), at(129, 128)],
        [1., 1., 2., 3., 4.]
    );
}

/// A tiny Llama as `convert` has it, its projections in FP8, and the same model of the dequantized
/// values.
fn fp8_llama(dir: &Path) -> (PathBuf, convert::Tensors) {
    let plain = convert::tensors(DType::BF16);
    let (mut stored, mut values): (Vec<Stored<'_>>, convert::Tensors) = (Vec::new(), Vec::new());
    for (info, bytes) in &plain {
        if !info.name.contains("_proj") {
            stored.push((&info.name, "BF16", info.shape.clone(), bytes.clone()));
            values.push((info.clone(), bytes.clone()));
            continue;
        }
        let codes = codes(info.elements());
        let decoded: Vec<f32> =
            codes.iter().map(|&c| quants::fp8::E4M3[usize::from(c)] * 0.013).collect();
        let scale: &str = Box::leak(format!("{}_scale", info.name).into_boxed_str());
        stored.push((&info.name, "F8_E4M3", info.shape.clone(), codes));
        stored.push((scale, "F32", vec![], f32s(&[0.013])));
        let info = TensorInfo::new(&info.name, info.shape.clone(), DType::F32);
        values.push((info, f32s(&decoded)));
    }
    let dir = folder(dir, json!({"quant_method": "fp8"}), &stored);
    let mut config: Value = serde_json::from_str(convert::CONFIG).unwrap();
    config["quantization_config"] = json!({"quant_method": "fp8"});
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    std::fs::write(dir.join("tokenizer.json"), convert::tokenizer_json().to_string()).unwrap();
    (dir, values)
}

#[test]
fn converted_and_merged_models_are_those_of_the_dequantized_weights() {
    let temp = tempfile::tempdir().unwrap();
    let (dir, values) = fp8_llama(&temp.path().join("fp8"));
    let quantized = Checkpoint::open(&dir).unwrap();
    let plain_dir = temp.path().join("plain");
    std::fs::create_dir(&plain_dir).unwrap();
    let tokenizer = convert::tokenizer_json().to_string();
    let plain = convert::checkpoint(
        &plain_dir,
        convert::CONFIG,
        values,
        &[("tokenizer.json", tokenizer.as_bytes())],
    );
    for output_type in [OutputType::Auto, OutputType::F32, OutputType::F16, OutputType::BF16] {
        let options = ConvertOptions { output_type, ..ConvertOptions::default() };
        let [a, b] = [&quantized, &plain].map(|model| to_gguf(model, &options).unwrap());
        assert_eq!(a.tensors.table().infos(), b.tensors.table().infos());
        for (index, info) in a.tensors.table().infos().iter().enumerate() {
            let [a, b] = [&a, &b].map(|model| model.tensors.read(index).unwrap());
            assert!(a.bytes == b.bytes, "{}", info.name);
        }
        assert!(a.metadata.iter().all(|(key, _)| !key.contains("quantization_config")));
    }

    // As members of recipes: handed through, and averaged with the plain model.
    folders::write(&plain, &temp.path().join("values"), 1 << 20);
    let merged = |text: &str| {
        let path = temp.path().join("recipe.yml");
        std::fs::write(&path, text).unwrap();
        let plan = merge::plan(&path, &Folders::beside(&path, &[])).unwrap();
        let told = plan.warnings.iter().any(|warning| warning.message.contains("dequantized"));
        assert!(told, "{:?}", plan.warnings);
        assert!(plan.summary().members[0].quantization.as_ref().unwrap().contains("FP8 E4M3"));
        merge::open(plan)
    };
    let out = merged("merge_method: passthrough\nmodels: [{model: fp8}]\n");
    let written = temp.path().join("out");
    folders::write(&out, &written, 1 << 20);
    let config = std::fs::read_to_string(written.join("config.json")).unwrap();
    assert!(!config.contains("quantization_config"), "{config}");
    let average = merged(
        "merge_method: linear\nparameters: {weight: 0.5}\nmodels: [{model: fp8}, {model: values}]\n",
    );
    let back = Checkpoint::open(&written).unwrap();
    assert_eq!((back.warnings.len(), back.tensors.quantization()), (0, None));
    for info in plain.tensors.table().infos() {
        let of =
            |source: &dyn TensorSource| source.read_name(&info.name).unwrap().to_f32().unwrap();
        let expected = of(&*plain.tensors);
        assert_eq!(back.tensors.table().get(&info.name).unwrap().dtype, info.dtype);
        assert_eq!(of(&*back.tensors), expected, "{}", info.name);
        assert_eq!(of(&*average.tensors), expected, "{}", info.name);
    }
}

#[test]
fn a_stale_configuration_is_a_warning() {
    let temp = tempfile::tempdir().unwrap();
    for method in ["fp8", "compressed-tensors", "aqlm"] {
        let dir = folder(
            temp.path(),
            json!({"quant_method": method, "format": "pack-quantized", "bits": 4}),
            &[
                ("a.weight", "F32", vec![2, 2], f32s(&[1.0, 2.0, 3.0, 4.0])),
                ("a.k_scale", "F32", vec![1], f32s(&[1.0])),
            ],
        );
        let checkpoint = Checkpoint::open(dir).unwrap();
        assert_eq!(checkpoint.tensors.table().infos().len(), 1, "a scale of the cache is left out");
        assert_eq!(checkpoint.tensors.quantization(), None);
        assert!(checkpoint.config.get("quantization_config").is_none());
        let [warning] = &checkpoint.warnings[..] else { panic!("{:?}", checkpoint.warnings) };
        assert!(warning.contains(method) && warning.contains("plain"), "{warning}");
    }
}

#[test]
fn weights_without_a_configuration_are_read_by_their_types() {
    let temp = tempfile::tempdir().unwrap();
    let weight = ("a.weight", "F8_E5M2", vec![1, 2], vec![0x3c, 0xc0]);
    let scale = ("a.weight_scale", "F32", vec![], f32s(&[3.0]));
    for (tensors, expected) in
        [(vec![weight.clone()], [1.0, -2.0]), (vec![weight.clone(), scale], [3.0, -6.0])]
    {
        let dir = folder(temp.path(), Value::Null, &tensors);
        let checkpoint = Checkpoint::open(dir).unwrap();
        let values = checkpoint.tensors.read_name("a.weight").unwrap().to_f32().unwrap();
        assert_eq!(values, expected);
        assert_eq!(checkpoint.warnings.len(), 1);
    }
}

#[test]
fn what_is_not_supported_is_one_error_with_method_options_and_count() {
    let temp = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..42).map(|n| format!("model.layers.{n}.q.weight")).collect();
    let packed: Vec<Stored<'_>> =
        names.iter().map(|name| (&name[..], "I32", vec![2, 2], vec![0; 16])).collect();
    let transformed = json!({"config_groups": {"R1": {"type": "hadamard"}}});
    for (config, parts) in [
        (
            json!({"quant_method": "aqlm", "in_group_size": 8, "modules_to_not_convert": ["x"]}),
            &["'aqlm'", "in_group_size 8", "42 "][..],
        ),
        (
            json!({"quant_method": "compressed-tensors", "format": "marlin-24"}),
            &["'compressed-tensors'", "format marlin-24", "42 "],
        ),
        (
            json!({"quant_method": "compressed-tensors", "format": "pack-quantized",
                   "transform_config": transformed}),
            &["'compressed-tensors'", "transform_config", "42 "],
        ),
        (json!({"quant_method": "fp8"}), &["'fp8'", "42 tensors"]),
        (json!({"bits": 3}), &["bits 3", "42 "]),
        (Value::Null, &["no quantization_config", "42 tensors"]),
    ] {
        let dir = folder(temp.path(), config, &packed);
        let error = Checkpoint::open(dir).err().expect("must fail").to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error} lacks some of {parts:?}");
        assert!(error.matches(".q.weight").count() <= 1 && error.lines().count() == 1, "{error}");
        assert!(error.contains("F32, F16 or BF16"), "{error}");
    }
}

#[test]
fn parts_that_do_not_fit_are_refused_before_anything_is_decoded() {
    let temp = tempfile::tempdir().unwrap();
    let refused = |config: &Value, tensors: &[Stored<'_>], parts: &[&str]| {
        let dir = folder(temp.path(), config.clone(), tensors);
        assert_error(Checkpoint::open(dir), parts);
    };
    let fp8 = json!({"quant_method": "fp8", "weight_block_size": [128, 128]});
    let weight = || ("a.weight", "F8_E4M3", vec![6, 10], vec![0; 60]);
    refused(&fp8, &[weight()], &["a.weight", "no scale"]);
    for shape in [vec![7], vec![4, 1], vec![6, 10, 1], vec![0], vec![2, 2, 2], vec![1, 11]] {
        let count = shape.iter().product::<usize>();
        let scale = ("a.weight_scale_inv", "F32", shape, f32s(&vec![1.0; count]));
        refused(&fp8, &[weight(), scale], &["a.weight_scale_inv", "does not fit", "128x128"]);
    }
    let scale = |dtype| ("a.weight_scale", dtype, vec![1], vec![0; 4]);
    refused(&fp8, &[weight(), scale("I32")], &["a.weight_scale", "I32"]);
    let plain = ("a.weight", "F32", vec![1, 1], f32s(&[1.0]));
    refused(&fp8, &[plain, scale("F32")], &["a.weight", "F32", "yet has a scale"]);

    let scheme = json!({"weights": {"num_bits": 4, "group_size": 8, "strategy": "group"}});
    let packed = json!({"quant_method": "compressed-tensors", "format": "pack-quantized",
                        "config_groups": {"group_0": scheme}});
    let words = || ("a.weight_packed", "I32", vec![4, 2], vec![0; 32]);
    let scale = || ("a.weight_scale", "F32", vec![4, 2], vec![0; 32]);
    let shape = |of: &[i64]| ("a.weight_shape", "I64", vec![of.len()], i64s(of));
    let order = |of: &[i32]| {
        let bytes = of.iter().flat_map(|v| v.to_le_bytes()).collect();
        ("a.weight_g_idx", "I32", vec![of.len()], bytes)
    };
    let zero =
        |dtype, shape: Vec<usize>, bytes| ("a.weight_zero_point", dtype, shape, vec![0; bytes]);
    for (more, parts) in [
        (vec![scale()], &["no weight_shape"][..]),
        (vec![shape(&[4, 16])], &["no weight_scale"]),
        (vec![scale(), shape(&[4, -16])], &["weight_shape"]),
        (vec![scale(), shape(&[4, i64::MAX])], &["do not hold"]),
        (vec![scale(), shape(&[4, 17])], &["do not hold", "[4]"]),
        (vec![scale(), shape(&[5, 16])], &["do not hold"]),
        (vec![scale(), shape(&[16])], &["do not hold"]),
        (vec![scale(), shape(&[1, 2, 3, 4])], &["weight_shape"]),
        (vec![scale(), shape(&[4, 16]), order(&[0; 15])], &["weight_g_idx"]),
        (vec![scale(), shape(&[4, 16]), order(&[2; 16])], &["weight_g_idx", "2 scales"]),
        (vec![scale(), shape(&[4, 16]), order(&[-2; 16])], &["weight_g_idx"]),
        (vec![scale(), shape(&[4, 16]), zero("I32", vec![2, 2], 16)], &["zero points"]),
        (vec![scale(), shape(&[4, 16]), zero("I8", vec![4, 1], 4)], &["zero points"]),
        (vec![scale(), shape(&[4, 16]), zero("F32", vec![4, 2], 32)], &["zero points"]),
    ] {
        let tensors: Vec<Stored<'_>> = [vec![words()], more].concat();
        refused(&packed, &tensors, &[&["a.weight_packed"], parts].concat());
    }
    let good = [words(), scale(), shape(&[4, 16]), order(&[-1; 16])];
    assert!(Checkpoint::open(folder(temp.path(), packed, &good)).is_ok());
    // A truncated file.
    let file = temp.path().join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    assert_error(Checkpoint::open(temp.path()), &["model.safetensors", "truncated"]);
}
