//! Quantizing what is damaged, extreme or does not fit, as users run it: defined results, or one error that
//! names the tensor and leaves nothing.

use crate::support::program::{Place, finished, shipped};
use aqueduct::base::dtype::DType;
use aqueduct::formats::gguf::{self, GgufWriter};
use aqueduct::formats::source::TensorInfo;
use aqueduct::measure::imatrix::{Format, ImportanceMatrix};
use aqueduct::quants;
use std::collections::BTreeMap;
use std::fs;

const UP: &str = "blk.1.ffn_up.weight";
const NORM: &str = "blk.1.ffn_norm.weight";

/// A type for each tensor type that can be written, but F32.
const TYPES: &str = "F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K_S Q4_K_S Q5_K_S Q6_K IQ1_S IQ1_M IQ2_XXS \
                     IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ4_NL IQ4_XS TQ1_0 TQ2_0 MXFP4_MOE NVFP4 Q1_0 Q2_0";

/// A place with a model `m.gguf` in F32 and an importance matrix `i.gguf` for it.
fn place_with_model() -> Place {
    let place = Place::new();
    fs::copy(shipped("tests/data/quantize/clerk-imatrix.gguf"), place.path("i.gguf")).unwrap();
    place.ok("convert @recipes/demo/clerk --type f32 -o m.gguf");
    place
}

/// Writes `m.gguf` again as `to`, with some tensors changed.
fn altered(place: &Place, to: &str, mut alter: impl FnMut(&mut TensorInfo, &mut Vec<u8>)) {
    let model = gguf::open(place.path("m.gguf")).unwrap();
    let mut tensors = Vec::new();
    for info in model.tensors.table().infos() {
        let mut tensor =
            (info.clone(), model.tensors.read_name(&info.name).unwrap().bytes.to_vec());
        alter(&mut tensor.0, &mut tensor.1);
        tensors.push(tensor);
    }
    let infos = tensors.iter().map(|tensor| tensor.0.clone()).collect();
    let writer = GgufWriter::create(place.path(to), true, &model.metadata, infos).unwrap();
    for (index, (_, bytes)) in tensors.iter().enumerate() {
        writer.write_tensor(index, bytes).unwrap();
    }
    writer.finish().unwrap();
}

/// [`altered`] by the values of F32 tensors.
fn with_values(place: &Place, to: &str, mut alter: impl FnMut(&str, &mut [f32])) {
    altered(place, to, |info, bytes| {
        let mut values = vec![0f32; info.elements()];
        quants::decode(DType::F32, bytes, &mut values).unwrap();
        alter(&info.name, &mut values);
        quants::encode_float(DType::F32, &values, bytes).unwrap();
    });
}

/// The tensors of the file `name`: types, and values, which must be finite.
fn tensors(place: &Place, name: &str) -> BTreeMap<String, (DType, Vec<f32>)> {
    let model = gguf::open(place.path(name)).unwrap();
    let mut found = BTreeMap::new();
    for info in model.tensors.table().infos() {
        let data = model.tensors.read_name(&info.name).unwrap();
        assert_eq!(quants::first_invalid_block(info.dtype, &data.bytes), None, "{}", info.name);
        let values = data.to_f32().unwrap();
        assert_eq!(quants::first_non_finite(&values), None, "{name}: {}", info.name);
        found.insert(info.name.clone(), (info.dtype, values));
    }
    found
}

#[test]
fn weights_that_are_no_numbers_are_named_in_every_type() {
    let place = place_with_model();
    // Quantized, copied, and both; late in a tensor, so that other groups of rows are on their way.
    for (tensor, at, value) in [
        (UP, 50_000, f32::NAN),
        (UP, 3, f32::INFINITY),
        (NORM, 7, f32::NEG_INFINITY),
        ("output.weight", 0, f32::NAN),
    ] {
        with_values(&place, "bad.gguf", |name, values| {
            if name == tensor {
                values[at] = value;
            }
        });
        let index = format!("{at} is {value}");
        let parts = ["bad.gguf", tensor, &index];
        let quantize = "quantize bad.gguf --imatrix i.gguf";
        place.fails(1, &format!("{quantize} {TYPES} -o out"), &parts);
        place.fails(1, &format!("{quantize} F32 -o x.gguf --threads 1"), &parts);
        place.fails(1, &format!("{quantize} Q4_K_M --leave-output-tensor -o x.gguf"), &parts);
        place.fails(1, "convert bad.gguf --type bf16 -o x.gguf", &parts);
        // The folder that was to hold several files may stay, empty.
        fs::remove_dir(place.path("out")).unwrap();
    }
    assert_eq!(place.entries(), ["bad.gguf", "i.gguf", "m.gguf"]);
}

#[test]
fn the_first_of_several_damaged_weights_is_named_at_any_number_of_threads() {
    let place = place_with_model();
    with_values(&place, "bad.gguf", |name, values| {
        if name == UP || name == "blk.2.attn_q.weight" {
            values.iter_mut().skip(777).step_by(1000).for_each(|v| *v = f32::NAN);
        }
    });
    for threads in [1, 2, 7] {
        let line = format!("quantize bad.gguf Q8_0 Q4_0 -o out --threads {threads}");
        place.fails(1, &line, &[UP, "weight 777 is NaN"]);
    }
}

#[test]
fn damaged_scales_of_quantized_sources_are_named() {
    let place = place_with_model();
    // The scale of the third block: in Q4_1, the minimum. MXFP4's decodes to a number all the same.
    for (dtype, at, bytes) in [
        (DType::MXFP4, 0, &[0xff][..]),
        (DType::Q4_1, 2, &0x7e00u16.to_le_bytes()),
        (DType::Q8_0, 0, &0xfc00u16.to_le_bytes()),
    ] {
        altered(&place, "bad.gguf", |info, data| {
            if info.name == UP {
                info.dtype = dtype;
                *data = vec![0; info.bytes().unwrap()];
                data[2 * dtype.block_bytes() + at..][..bytes.len()].copy_from_slice(bytes);
            }
        });
        let scale = format!("weights 64 to 95 (row 0) have a {dtype} scale");
        let parts = ["bad.gguf", UP, &scale, "damaged"];
        place.fails(1, "quantize bad.gguf Q4_0 --allow-requantize -o x.gguf", &parts);
        let keep = format!("--tensor-type blk.1.ffn_up={dtype}");
        place.fails(1, &format!("quantize bad.gguf Q4_0 {keep} -o x.gguf"), &parts);
        place.fails(1, "convert bad.gguf --type f32 -o x.gguf", &parts);
    }
    assert_eq!(place.entries(), ["bad.gguf", "i.gguf", "m.gguf"]);
}

#[test]
fn weights_beyond_f16_are_refused_where_they_do_not_fit() {
    let place = place_with_model();
    let big = |name: &str, value: f32| {
        with_values(&place, name, |tensor, values| {
            if tensor == UP {
                values[3 * 256 + 5] = value;
            }
        })
    };
    big("large.gguf", 7e4);
    let parts = ["large.gguf", UP, "weight 773 (row 3) is 7e4", "F16", "--tensor-type"];
    place.fails(1, "quantize large.gguf F16 -o x.gguf", &parts);
    place.fails(1, "convert large.gguf --type f16 -o x.gguf", &[UP]);
    place.ok("quantize large.gguf Q8_0 Q4_K_M Q6_K BF16 NVFP4 MXFP4_MOE -o fine --quiet");
    for file in ["Q8_0", "Q4_K_M", "Q6_K", "BF16", "NVFP4"] {
        tensors(&place, &format!("fine/large-{file}.gguf"));
    }
    big("huge.gguf", -3e38);
    let parts = ["huge.gguf", UP, "weights 768 to 799 (row 3)", "Q8_0", "3e38"];
    place.fails(1, "quantize huge.gguf BF16 Q8_0 -o out", &parts);
    assert!(!place.path("out/huge-BF16.gguf").exists());
    // What the error suggests helps.
    let rest = "Q8_0 --tensor-type blk.1.ffn_up=bf16 -o x.gguf --quiet";
    place.ok(&format!("quantize huge.gguf {rest}"));
    assert_eq!(tensors(&place, "x.gguf")[UP].0, DType::BF16);
    // Every type takes it or names it.
    for name in TYPES.split_whitespace() {
        let line = format!("quantize huge.gguf --imatrix i.gguf {name} -o y.gguf --force --quiet");
        let output = place.command(&line).output().unwrap();
        if output.status.success() {
            tensors(&place, "y.gguf");
            fs::remove_file(place.path("y.gguf")).unwrap();
        } else {
            let stderr = finished(&line, 1, output).stderr;
            assert!(stderr.contains(UP) && stderr.contains("(row 3)"), "{stderr}");
            assert!(!place.path("y.gguf").exists());
        }
    }
}

#[test]
fn zeros_and_denormals_have_defined_results_in_every_type() {
    let place = place_with_model();
    with_values(&place, "odd.gguf", |name, values| match name {
        UP => values.fill(0.0),
        "blk.0.ffn_up.weight" => values.fill(f32::from_bits(3)),
        "blk.0.attn_q.weight" => values.iter_mut().for_each(|v| *v *= 1e-30),
        "blk.2.ffn_up.weight" => values.chunks_mut(256).for_each(|row| row[..255].fill(0.0)),
        _ => {}
    });
    let mut matrix = ImportanceMatrix::read(place.path("i.gguf")).unwrap();
    for (name, entry) in &mut matrix.entries {
        match name.as_str() {
            "blk.0.attn_k.weight" | UP => entry.sums.fill(0.0),
            "blk.0.attn_v.weight" => entry.sums.fill(f32::from_bits(1)),
            "blk.1.attn_q.weight" => entry.sums[1..].fill(0.0),
            "blk.1.attn_k.weight" => entry.counts[0] = 0,
            _ => {}
        }
    }
    matrix.write(place.path("odd-i.gguf"), Format::Gguf, false).unwrap();
    place.ok(&format!("quantize odd.gguf --imatrix odd-i.gguf {TYPES} -o out --quiet"));
    for name in TYPES.split_whitespace() {
        let made = tensors(&place, &format!("out/odd-{name}.gguf"));
        assert!(made[UP].1.iter().all(|v| *v == 0.0), "{name}: zeros stay zeros");
        let denormal = &made["blk.0.ffn_up.weight"].1;
        assert!(denormal.iter().all(|v| v.abs() < 1e-30), "{name}: {:e}", denormal[0]);
    }
}

#[test]
fn importance_that_cannot_be_is_named() {
    let place = place_with_model();
    let good = ImportanceMatrix::read(place.path("i.gguf")).unwrap();
    let columns = good.entries[UP].sums.len();
    for (value, shown) in [
        (f32::NAN, "column 9 holds NaN"),
        (f32::INFINITY, "column 9 holds inf"),
        (-1.0, "column 9 holds -1"),
    ] {
        for (format, file) in [(Format::Gguf, "bad.gguf"), (Format::Dat, "bad.dat")] {
            let mut matrix = good.clone();
            matrix.entries.get_mut(UP).unwrap().sums[9] = value;
            matrix.write(place.path(file), format, true).unwrap();
            // The older layout keeps means: -1 is a smaller number there.
            let shown = if value < 0.0 { "column 9 holds -" } else { shown };
            let line = format!("quantize m.gguf --imatrix {file} Q4_K_M IQ2_XXS -o out");
            place.fails(1, &line, &[file, UP, shown]);
        }
    }
    for (width, to) in [(columns - 1, "short"), (2 * columns, "long"), (32, "narrow")] {
        let mut matrix = good.clone();
        matrix.entries.get_mut(UP).unwrap().sums.resize(width, 1.0);
        matrix.write(place.path("bad.gguf"), Format::Gguf, true).unwrap();
        let numbers = format!("{width} values where {columns}");
        let line = format!("quantize m.gguf --imatrix bad.gguf Q4_K_M -o {to}.gguf");
        place.fails(1, &line, &["m.gguf", UP, &numbers, "another model"]);
    }
    assert_eq!(place.entries(), ["bad.dat", "bad.gguf", "i.gguf", "m.gguf"]);
}

#[test]
fn rows_that_no_block_divides_get_the_peers_fallbacks() {
    let place = place_with_model();
    let (wide, odd) = ("blk.0.ffn_up.weight", "blk.2.ffn_up.weight");
    // Cut to rows of 96 and 40.
    altered(&place, "cut.gguf", |info, bytes| {
        let row = if info.name == wide { 96 } else { 40 };
        if info.name == wide || info.name == odd {
            info.shape = vec![8, row];
            bytes.truncate(4 * 8 * row);
        }
    });
    // llama.cpp `src/llama-quant.cpp`, `tensor_type_fallback`, October 2026.
    let fallbacks = [
        ("IQ1_S", DType::IQ4_NL),
        ("IQ1_M", DType::IQ4_NL),
        ("IQ2_XXS", DType::IQ4_NL),
        ("IQ2_XS", DType::IQ4_NL),
        ("IQ2_S", DType::IQ4_NL),
        ("IQ3_XXS", DType::IQ4_NL),
        ("IQ3_S", DType::IQ4_NL),
        ("IQ4_XS", DType::IQ4_NL),
        ("Q2_K", DType::Q4_0),
        ("Q3_K_S", DType::Q4_0),
        ("TQ1_0", DType::Q4_0),
        ("TQ2_0", DType::Q4_0),
        ("Q2_0", DType::Q4_0),
        ("Q4_K_S", DType::Q5_0),
        ("Q5_K_S", DType::Q5_1),
        ("Q6_K", DType::Q8_0),
        ("Q4_0", DType::Q4_0),
        ("Q4_1", DType::Q4_1),
        ("Q5_0", DType::Q5_0),
        ("Q5_1", DType::Q5_1),
        ("Q8_0", DType::Q8_0),
        ("IQ4_NL", DType::IQ4_NL),
    ];
    let mut matrix = ImportanceMatrix::read(place.path("i.gguf")).unwrap();
    matrix.entries.get_mut(wide).unwrap().sums.truncate(96);
    matrix.entries.get_mut(odd).unwrap().sums.truncate(40);
    matrix.write(place.path("cut-i.gguf"), Format::Gguf, false).unwrap();
    let names = fallbacks.map(|(name, _)| name).join(" ");
    // Embedding and head have no importance values, which some of the types require.
    let ends = "--output-tensor-type q8_0 --token-embedding-type q8_0";
    let quantize = format!("quantize cut.gguf --imatrix cut-i.gguf --pure {ends}");
    let ran = place.ok(&format!("{quantize} {names} -o out"));
    assert!(ran.stderr.contains("Q4_K_S: 1 tensor with rows of 96 get Q5_0"), "{}", ran.stderr);
    let exact = tensors(&place, "cut.gguf");
    for (name, expected) in fallbacks {
        let made = tensors(&place, &format!("out/cut-{name}.gguf"));
        assert_eq!((made[wide].0, made[odd].0), (expected, DType::F16), "{name}");
        for tensor in [wide, odd] {
            let (x, y) = (&exact[tensor].1, &made[tensor].1);
            let largest = x.iter().fold(0f32, |a, v| a.max(v.abs()));
            assert!(x.iter().zip(y).all(|(x, y)| (x - y).abs() < 0.15 * largest), "{name}");
        }
    }
}

#[test]
fn bytes_depend_on_nothing_but_the_inputs() {
    let place = Place::new();
    fs::copy(shipped("tests/data/quantize/clerk-imatrix.gguf"), place.path("i.gguf")).unwrap();
    // Computed tensors, so that the limit of memory counts.
    let clerk = shipped("recipes/demo/clerk").display().to_string();
    let recipe = format!(
        "merge_method: linear\nmodels:\n  - model: {clerk}\n    parameters: {{weight: 1}}\n  - model: \
         {clerk}\n    parameters: {{weight: 3}}\ndtype: float16\n"
    );
    fs::write(place.path("m.yml"), recipe).unwrap();
    let run = |level: &str, rest: &str| {
        let line = format!("quantize m.yml --imatrix i.gguf --prune-layers 0,2 --quiet {rest}");
        let output = place.command(&line).env("AQUEDUCT_SIMD", level).output().unwrap();
        finished(&line, 0, output);
    };
    run("", &format!("{TYPES} -o all"));
    let reversed: Vec<&str> = TYPES.split_whitespace().rev().collect();
    let reversed = reversed.join(" ");
    run("baseline", &format!("{reversed} -o one --threads 1 --memory 1"));
    run("avx2", &format!("{TYPES} -o three --threads 3 --memory 300KB"));
    run("avx512", &format!("{reversed} -o five --threads 5 --memory 1GB"));
    for name in TYPES.split_whitespace() {
        run("", &format!("{name} -o alone/m-{name}.gguf"));
        let expected = place.read(&format!("all/m-{name}.gguf"));
        for folder in ["one", "three", "five", "alone"] {
            let found = place.read(&format!("{folder}/m-{name}.gguf"));
            assert!(found == expected, "{name} in {folder}");
        }
    }
}
