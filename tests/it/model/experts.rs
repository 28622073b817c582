//! Mixtures of experts against llama.cpp: importance expert by expert, whole quantized files. And that no
//! stage reads a stack of experts whole. tests/data/experts/README.md says what made the data; conversion
//! and logits are in `architectures`.

use crate::measure::imatrix_resume::interrupt;
use crate::support::golden_models::{checkpoint, write_folder};
use crate::support::program::{Place, shipped};
use aqueduct::base::error::Result;
use aqueduct::base::progress::Silent;
use aqueduct::formats::gguf::{self, GgufModel};
use aqueduct::formats::source::{TensorData, TensorSource, TensorTable};
use aqueduct::kernels::Precision;
use aqueduct::measure::imatrix::{self, ImportanceMatrix};
use aqueduct::model::convert::{ConvertOptions, OutputType, convert};
use aqueduct::quantize::{self, Ftype, Importance, Output, PlanOptions, QuantPlan, RunOptions};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs;
use std::sync::Arc;

fn golden() -> Value {
    let path = shipped("tests/data/experts/mixtral.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// A place with the model and what was made of it.
fn place(golden: &Value) -> Place {
    let place = Place::new();
    write_folder(&place, "mixtral", golden, 0);
    fs::write(place.path("text.txt"), golden["text"].as_str().unwrap()).unwrap();
    for name in ["imatrix.gguf", "imatrix.dat"] {
        fs::copy(shipped("tests/data/experts").join(name), place.path(name)).unwrap();
    }
    place
}

/// Every entry of `ours` has the counts of `theirs`, and its sums to a ten-thousandth.
fn assert_close(ours: &ImportanceMatrix, theirs: &ImportanceMatrix) {
    assert!(ours.entries.keys().eq(theirs.entries.keys()));
    assert_eq!(ours.chunk_count, theirs.chunk_count);
    for (name, theirs) in &theirs.entries {
        let ours = &ours.entries[name];
        assert_eq!(ours.counts, theirs.counts, "{name}");
        let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
        let pairs = ours.sums.iter().zip(&theirs.sums);
        let away = square(&mut pairs.map(|(&a, &b)| f64::from(a) - f64::from(b)));
        let size = square(&mut theirs.sums.iter().map(|&v| f64::from(v)));
        assert!(size > 0.0 && away <= 1e-8 * size, "{name}: {away} of {size}");
    }
}

#[test]
fn importance_of_every_expert_is_llama_imatrixs() {
    let golden = golden();
    let place = place(&golden);
    place.ok("convert mixtral --type f32 -o f32.gguf");
    let imatrix = "imatrix f32.gguf -f text.txt --ctx 32 --precision f32";
    let ran = place.ok(&format!("{imatrix} --threads 1 -o ours.gguf"));
    let warnings: Vec<&str> =
        ran.stderr.lines().filter(|line| line.contains("no token of the")).collect();
    assert_eq!(warnings.len(), 1, "{}", ran.stderr);
    assert!(warnings[0].contains("reached 1 expert (layer 0: 7)"), "{}", warnings[0]);
    place.ok(&format!("{imatrix} --format dat -o ours.dat"));
    for kind in ["gguf", "dat"] {
        let read =
            |name: &str| ImportanceMatrix::read(place.path(&format!("{name}.{kind}"))).unwrap();
        assert_close(&read("ours"), &read("imatrix"));
    }
    let ours = ImportanceMatrix::read(place.path("ours.gguf")).unwrap();
    let unseen = &ours.entries["blk.0.ffn_up_exps.weight"];
    assert_eq!((unseen.counts.len(), unseen.counts[7]), (8, 0));
    place.ok(&format!("{imatrix} --threads 3 -o again.gguf"));
    assert!(place.read("again.gguf") == place.read("ours.gguf"), "threads change the sums");
    // The same from the checkpoint, whose experts are tensors of their own.
    place.ok("convert mixtral --type f16 -o f16.gguf");
    let [one, many] = ["f16.gguf", "mixtral"].map(|source| {
        place.ok(&format!("imatrix {source} -f text.txt --ctx 32 -o {source}.im --precision f32"));
        place.read(&format!("{source}.im"))
    });
    assert!(one == many, "the source changes the sums");
}

#[test]
fn importance_of_experts_adds_up_and_is_continued() {
    let golden = golden();
    let place = place(&golden);
    place.ok("convert mixtral --type f16 -o f16.gguf");
    fs::write(place.path("long.txt"), golden["text"].as_str().unwrap().repeat(30)).unwrap();
    let imatrix = "imatrix f16.gguf -f long.txt --ctx 32";
    place.ok(&format!("{imatrix} -o whole.gguf"));
    for part in 1..=3 {
        place.ok(&format!("{imatrix} --shard {part}/3 -o part-{part}.gguf"));
    }
    place.ok("imatrix merge part-1.gguf part-2.gguf part-3.gguf -o merged.gguf");
    let read = |name: &str| ImportanceMatrix::read(place.path(name)).unwrap();
    assert_close(&read("merged.gguf"), &read("whole.gguf"));
    let saving = format!("{imatrix} --save-every 0 -o out.gguf");
    interrupt(&place, &saving);
    let ran = place.ok(&format!("{saving} --json")).json();
    assert!(ran["kept_layers"].as_u64().unwrap() > 0);
    assert!(place.read("out.gguf") == place.read("whole.gguf"), "continuing changes the bytes");
}

#[test]
fn quantized_experts_equal_llama_cpps() {
    let golden = golden();
    let place = place(&golden);
    place.ok("convert mixtral --type f16 -o mixtral.gguf");
    let hashes = golden["sha256"].as_object().unwrap();
    assert!(hashes.len() >= 7);
    let types: Vec<&str> = hashes.keys().map(String::as_str).collect();
    // One tensor for all experts, and one for each.
    for (source, out) in [("mixtral.gguf", "a"), ("mixtral", "b")] {
        let quantize =
            format!("quantize {source} --imatrix imatrix.gguf -o {out} {}", types.join(" "));
        let ran = place.ok(&quantize);
        assert_eq!(ran.stderr.matches("reached 1 expert").count(), 1, "{}", ran.stderr);
        for name in &types {
            let bytes = place.read(&format!("{out}/mixtral-{name}.gguf"));
            let hash: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hash, hashes[*name].as_str().unwrap(), "{name} of {source}");
        }
    }
}

/// A source whose stacks of experts nobody may read whole.
struct OneByOne(Arc<dyn TensorSource>);

impl TensorSource for OneByOne {
    fn origin(&self) -> &str {
        self.0.origin()
    }

    fn table(&self) -> &TensorTable {
        self.0.table()
    }

    fn read(&self, index: usize) -> Result<TensorData<'_>> {
        let name = &self.table().infos()[index].name;
        assert_eq!(self.0.pieces(index), 1, "{name} was read whole");
        self.0.read(index)
    }

    fn pieces(&self, index: usize) -> usize {
        self.0.pieces(index)
    }

    fn read_piece(&self, index: usize, piece: usize) -> Result<TensorData<'_>> {
        self.0.read_piece(index, piece)
    }
}

#[test]
fn every_stage_reads_one_expert_at_a_time() {
    let golden = golden();
    let checkpoint = checkpoint("mixtral", &golden, 0);
    let options = ConvertOptions { output_type: OutputType::F32, ..ConvertOptions::default() };
    let model = convert(&checkpoint, &options).unwrap();
    let stack = model.tensors.table().find("blk.1.ffn_down_exps.weight").unwrap();
    assert_eq!(model.tensors.pieces(stack), 8);
    let whole = model.tensors.read(stack).unwrap();
    assert_eq!(whole.shape, [8, 64, 64]);
    for expert in 0..8 {
        let name = format!("model.layers.1.block_sparse_moe.experts.{expert}.w2.weight");
        let own = checkpoint.tensors.read_name(&name).unwrap();
        let matrix = model.tensors.read_matrix(stack, expert).unwrap();
        assert_eq!((&matrix.shape, &matrix.bytes), (&own.shape, &own.bytes), "{name}");
        assert!(whole.bytes[expert * 64 * 64 * 4..].starts_with(&own.bytes));
    }
    let watched = GgufModel {
        metadata: model.metadata.clone(),
        tensors: Arc::new(OneByOne(Arc::clone(&model.tensors))),
        warnings: Vec::new(),
    };
    let place = place(&golden);
    gguf::write(&watched, &place.path("copy.gguf"), false, &Silent).unwrap();
    let copy = gguf::open(place.path("copy.gguf")).unwrap();
    let copied = copy.tensors.read_name("blk.1.ffn_down_exps.weight").unwrap();
    assert!(copied.bytes == whole.bytes);
    assert_eq!(copied.shape, whole.shape);

    let options = imatrix::Options { ctx: 32, precision: Precision::F32, ..Default::default() };
    let tokens: Vec<u32> = (0..128).map(|i| i * 7 % 300).collect();
    let computed =
        |model: &GgufModel| imatrix::compute(model, &tokens, &options, None, &Silent).unwrap();
    let (ours, plain) = (computed(&watched), computed(&copy));
    assert!(ours.imatrix.entries == plain.imatrix.entries);

    let importance = Importance::new(&ours.imatrix, "im").unwrap();
    let mut bytes = Vec::new();
    for (model, name) in [(&watched, "a.gguf"), (&copy, "b.gguf")] {
        let (ftype, options) = (Ftype::Q4_0, PlanOptions::default());
        let plan = QuantPlan::new(model, ftype, Some(&importance), &options).unwrap();
        let outputs = vec![Output { plan, path: place.path(name) }];
        quantize::run(model, outputs, Some(&importance), RunOptions::default(), None, &Silent)
            .unwrap();
        bytes.push(place.read(name));
    }
    assert!(bytes[0] == bytes[1]);
}

#[test]
fn a_bound_on_memory_changes_no_bit_of_a_mixture() {
    let golden = golden();
    let place = place(&golden);
    place.ok("convert mixtral --type f32 -o f32.gguf");
    let model = gguf::open(place.path("f32.gguf")).unwrap();
    let hyper =
        aqueduct::model::arch::HyperParams::from_metadata("m", &model.metadata, false).unwrap();
    let tokens: Vec<u32> = (0..40 * 64).map(|i| i * i % 300).collect();
    let table = model.tensors.table();
    let least = |bound: u64| {
        let text = (tokens.len(), 64);
        aqueduct::model::forward::memory_estimate(&hyper, table, Precision::F32, text, 0, bound)
    };
    let (spilled, roomy) = (least(1), least(u64::MAX));
    assert!(spilled < roomy);
    let computed = |memory: u64| {
        let precision = Precision::F32;
        let options = imatrix::Options { ctx: 64, precision, memory, ..Default::default() };
        imatrix::compute(&model, &tokens, &options, None, &Silent).unwrap()
    };
    let (small, large) = (computed(spilled), computed(roomy));
    assert!(small.imatrix.entries == large.imatrix.entries);
    assert_eq!(small.perplexity, large.perplexity);
}

#[test]
fn what_is_no_mixture_says_why() {
    let golden = golden();
    let place = place(&golden);
    let with = |key: &str, value: Value| {
        let mut config = golden["config"].clone();
        config[key] = value;
        fs::write(place.path("mixtral/config.json"), config.to_string()).unwrap();
    };
    let convert = "convert mixtral -o out.gguf";
    with("num_local_experts", 9.into());
    place.fails(1, convert, &["experts.8.w1.weight' is missing", "gate.weight' has shape [8, 64]"]);
    with("num_local_experts", 7.into());
    place.fails(1, convert, &["experts.7.w3.weight' is beyond the 7 experts"]);
    with("num_experts_per_tok", 9.into());
    place.fails(1, convert, &["9 of 8 experts of length 64 are no mixture"]);
    with("model_type", "llama".into());
    place.fails(
        1,
        convert,
        &["block_sparse_moe.gate.weight' is not a tensor of this architecture"],
    );

    with("vocab_size", golden["config"]["vocab_size"].clone());
    let mut dense = golden.clone();
    dense["config"]["architectures"] = serde_json::json!(["LlamaForCausalLM"]);
    dense["config"]["model_type"] = "llama".into();
    write_folder(&place, "dense", &dense, 0);
    let recipe = "merge_method: linear\nmodels:\n- {model: mixtral, parameters: {weight: 1}}\n\
                  - {model: dense, parameters: {weight: 1}}\n";
    fs::write(place.path("recipe.yml"), recipe).unwrap();
    let parts = ["'dense' has architecture llama, 'mixtral' has mixtral"];
    place.fails(1, "plan recipe.yml", &parts);
}

#[test]
fn experts_of_qwen_whose_weights_do_not_sum_to_one_have_no_gguf() {
    let path = shipped("tests/data/architectures/qwen3_moe.json");
    let mut golden: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let place = Place::new();
    golden["config"]["norm_topk_prob"] = false.into();
    write_folder(&place, "other", &golden, 0);
    place.fails(1, "convert other -o out.gguf", &["'norm_topk_prob' is not true"]);
    golden["config"]["mlp_only_layers"] = serde_json::json!([1]);
    fs::write(place.path("other/config.json"), golden["config"].to_string()).unwrap();
    place.fails(1, "convert other -o out.gguf", &["layers without experts"]);
}
