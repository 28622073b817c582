//! GGUF files as members of a merge: there and back again, and what cannot go back.

use crate::support::files::assert_error;
use crate::support::program::{Place, shipped};
use crate::support::tiny_llama as conversion;
use aqueduct::base::dtype::DType;
use aqueduct::formats::checkpoint::{Checkpoint, SideFile};
use aqueduct::formats::gguf::{self, Array, GgufModel, Metadata, Value};
use aqueduct::formats::source::{MemorySource, TensorInfo};
use aqueduct::model::convert::{ConvertOptions, OutputType, convert};
use aqueduct::model::restore::restore;
use aqueduct::model::tokenizer::{self, Vocabulary};
use serde_json::json;
use std::fs;
use std::sync::Arc;

fn options(output_type: OutputType) -> ConvertOptions {
    ConvertOptions { output_type, ..ConvertOptions::default() }
}

fn clerk() -> Checkpoint {
    Checkpoint::open(shipped("recipes/demo/clerk")).unwrap()
}

/// The keys that begin with `prefix`, sorted: where BOS is said to be added depends on the file that says it.
fn keys<'a>(metadata: &'a Metadata, prefix: &str) -> Vec<(&'a str, &'a Value)> {
    let mut keys: Vec<_> = metadata.iter().filter(|(key, _)| key.starts_with(prefix)).collect();
    keys.sort_by_key(|(key, _)| *key);
    keys
}

#[test]
fn a_converted_model_restores_to_what_it_was() {
    let original = clerk();
    let model = convert(&original, &options(OutputType::F16)).unwrap();
    let back = restore(&model, "clerk").unwrap();
    for info in original.tensors.table().infos() {
        let (was, is) =
            (original.tensors.read_name(&info.name), back.tensors.read_name(&info.name));
        let (was, is) = (was.unwrap(), is.unwrap());
        // Norms are F32 in GGUF, which holds every F16 exactly.
        if is.dtype == was.dtype {
            assert_eq!(is.bytes, was.bytes, "{}", info.name);
        } else {
            assert_eq!((is.dtype, info.shape.len()), (DType::F32, 1));
        }
        assert_eq!(
            (is.shape.clone(), is.to_f32().unwrap()),
            (was.shape.clone(), was.to_f32().unwrap())
        );
    }
    for key in [
        "hidden_size",
        "intermediate_size",
        "max_position_embeddings",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
        "rms_norm_eps",
        "rope_theta",
        "tie_word_embeddings",
        "torch_dtype",
        "vocab_size",
        "bos_token_id",
        "eos_token_id",
    ] {
        assert_eq!(back.config.get(key), original.config.get(key), "{key}");
    }
    let again = convert(&back, &options(OutputType::F16)).unwrap();
    assert_eq!(keys(&again.metadata, "llama."), keys(&model.metadata, "llama."));
    assert_eq!(keys(&again.metadata, "tokenizer."), keys(&model.metadata, "tokenizer."));
    assert_eq!(
        keys(&again.metadata, "general.sampling"),
        keys(&model.metadata, "general.sampling")
    );
}

/// Names, types and bytes of a file's tensors, by name.
fn tensors(path: &std::path::Path) -> Vec<(TensorInfo, Vec<u8>)> {
    let model = gguf::open(path).unwrap();
    let infos = model.tensors.table().infos();
    let read = |i: usize| (infos[i].clone(), model.tensors.read(i).unwrap().bytes.into_owned());
    let mut all: Vec<_> = (0..infos.len()).map(read).collect();
    all.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    all
}

#[test]
fn recipes_take_gguf_files_and_give_the_same_bytes() {
    let place = Place::new();
    place.ok("convert @recipes/demo/clerk -o first.gguf");
    let recipe = "merge_method: passthrough\nmodels: [{model: first.gguf}]\n";
    fs::write(place.path("recipe.yml"), recipe).unwrap();
    place.ok("convert recipe.yml -o second.gguf");
    assert!(tensors(&place.path("first.gguf")) == tensors(&place.path("second.gguf")));
    // By way of a folder, too.
    place.ok("merge recipe.yml -o folder");
    let names = place.path("folder");
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
        assert!(names.join(name).is_file(), "{name}");
    }
    place.ok("convert folder -o third.gguf");
    assert!(tensors(&place.path("first.gguf")) == tensors(&place.path("third.gguf")));
    // Quantizing the recipe is quantizing the file.
    place.ok("quantize recipe.yml -o from-recipe.gguf Q4_K_M");
    place.ok("quantize first.gguf -o from-file.gguf Q4_K_M");
    let [a, b] = ["from-recipe.gguf", "from-file.gguf"].map(|p| place.path(p));
    assert!(tensors(&a) == tensors(&b));
}

#[test]
fn quantized_members_are_what_their_blocks_mean() {
    let place = Place::new();
    place.ok("quantize @recipes/demo/clerk -o q Q4_K_M Q8_0");
    for name in ["Q4_K_M", "Q8_0"] {
        let file = place.path(&format!("q/clerk-{name}.gguf"));
        let recipe =
            format!("merge_method: passthrough\nmodels: [{{model: q/clerk-{name}.gguf}}]\n");
        fs::write(place.path("recipe.yml"), &recipe).unwrap();
        place.ok("convert recipe.yml --type f32 -o wide.gguf --force");
        let wide = gguf::open(place.path("wide.gguf")).unwrap();
        let model = gguf::open(&file).unwrap();
        let mut quantized = 0;
        for info in model.tensors.table().infos() {
            quantized += usize::from(info.dtype.is_quantized());
            let read = |m: &GgufModel| m.tensors.read_name(&info.name).unwrap().to_f32().unwrap();
            assert_eq!(read(&wide), read(&model), "{}", info.name);
        }
        assert!(quantized > 10, "{quantized}");
        // What a recipe asks for is what it gives.
        let half = format!("{recipe}dtype: bfloat16\n");
        fs::write(place.path("recipe.yml"), half).unwrap();
        place.ok("merge recipe.yml -o half --force");
        let half = Checkpoint::open(place.path("half")).unwrap();
        assert!(half.tensors.table().infos().iter().all(|info| info.dtype == DType::BF16));
    }
}

#[test]
fn gguf_files_and_folders_merge_with_each_other() {
    let place = Place::new();
    place.ok("convert @recipes/demo/clerk -o clerk.gguf");
    let clerk_folder = shipped("recipes/demo/clerk").display().to_string();
    let recipe = |first: &str, second: &str| {
        format!(
            "merge_method: slerp\nbase_model: {first}\nparameters: {{t: 0.3}}\ndtype: float16\n\
             models: [{{model: {first}}}, {{model: {second}}}]\n"
        )
    };
    let other = shipped("recipes/demo/storyteller").display().to_string();
    fs::write(place.path("a.yml"), recipe(&clerk_folder, &other)).unwrap();
    fs::write(place.path("b.yml"), recipe("./clerk.gguf", &other)).unwrap();
    for name in ["a", "b"] {
        place.ok(&format!("merge {name}.yml -o {name}"));
    }
    let (a, b) = (Checkpoint::open(place.path("a")), Checkpoint::open(place.path("b")));
    let (a, b) = (a.unwrap().tensors, b.unwrap().tensors);
    for info in a.table().infos() {
        assert_eq!(a.read_name(&info.name).unwrap().bytes, b.read_name(&info.name).unwrap().bytes);
    }
    // A GGUF file is known by its content wherever a plan needs shapes alone.
    place.ok("plan b.yml --no-members");
}

/// The tiny model with its tokenizer, as GGUF.
fn tiny(config: &str) -> GgufModel {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = conversion::tokenizer_json().to_string();
    let files = [("tokenizer.json", tokenizer.as_bytes())];
    let tensors = conversion::tensors(DType::F16);
    let checkpoint = conversion::checkpoint(dir.path(), config, tensors, &files);
    convert(&checkpoint, &options(OutputType::F16)).unwrap()
}

#[test]
fn added_tokens_and_padding_go_there_and_back() {
    let model = tiny(conversion::CONFIG);
    let again = convert(&restore(&model, "tiny").unwrap(), &options(OutputType::F16)).unwrap();
    assert_eq!(keys(&again.metadata, "tokenizer."), keys(&model.metadata, "tokenizer."));
}

#[test]
fn rope_scalings_are_recognized_by_their_divisors() {
    let with = |scaling: &serde_json::Value| {
        let mut config: serde_json::Value = serde_json::from_str(conversion::CONFIG).unwrap();
        config["rope_scaling"] = scaling.clone();
        // So long that the tiny heads have a frequency that is scaled.
        config["rope_theta"] = 500_000.0.into();
        tiny(&config.to_string())
    };
    for (factor, kind) in [(8.0, "llama3"), (32.0, "llama3"), (2.5, "linear")] {
        let mut scaling = json!({ "factor": factor, "rope_type": kind });
        if kind == "llama3" {
            scaling["high_freq_factor"] = 4.0.into();
            scaling["low_freq_factor"] = 1.0.into();
            scaling["original_max_position_embeddings"] = 8192.into();
        }
        let back = restore(&with(&scaling), "tiny").unwrap();
        assert_eq!(back.config.get("rope_scaling").unwrap()["factor"], factor);
        let again = convert(&back, &options(OutputType::F16)).unwrap();
        let freqs = |m: &GgufModel| {
            m.tensors.read_name("rope_freqs.weight").map(|d| d.bytes.into_owned()).ok()
        };
        assert_eq!(freqs(&again), freqs(&with(&scaling)));
        assert_eq!(freqs(&again).is_some(), kind == "llama3");
    }
    let odd = json!({"factor": 3.0, "rope_type": "llama3", "high_freq_factor": 4.0,
        "low_freq_factor": 1.0, "original_max_position_embeddings": 8192});
    assert_error(restore(&with(&odd), "tiny"), &["rope_freqs.weight", "no known 'rope_scaling'"]);
}

/// A vocabulary with scores, as `tokenizer.*` keys.
fn scored(add_space_prefix: Option<bool>) -> Metadata {
    let tokens = [
        "<unk>",
        "<s>",
        "</s>",
        "<0x0A>",
        "\u{2581}a",
        "a",
        "b",
        "ab",
        "a b",
        "<|im_end|>",
        "[PAD10]",
    ];
    let scores: [f32; 11] = [0., 0., 0., 0., -1.5, -2., -3., -0.25, -1000., -1000., -10000.];
    let kinds = [2, 3, 3, 6, 1, 1, 1, 1, 4, 3, 5];
    let mut metadata = Metadata::new();
    if let Some(add) = add_space_prefix {
        metadata.set("tokenizer.ggml.add_space_prefix", add);
    }
    metadata.set("tokenizer.ggml.model", "llama");
    metadata.set("tokenizer.ggml.pre", "default");
    let tokens = tokens.map(str::to_string).to_vec();
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
    metadata.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores.to_vec())));
    metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds.to_vec())));
    for (kind, id) in [("eos", 9u32), ("bos", 1), ("unknown", 0)] {
        metadata.set(format!("tokenizer.ggml.{kind}_token_id"), id);
    }
    metadata.set("tokenizer.ggml.add_bos_token", true);
    metadata.set("tokenizer.ggml.add_eos_token", false);
    metadata.set("tokenizer.chat_template", "{{ messages }}");
    metadata
}

#[test]
fn vocabularies_with_scores_go_there_and_back() {
    for add_space_prefix in [None, Some(true), Some(false)] {
        let metadata = scored(add_space_prefix);
        let files = tokenizer::restore("test.gguf", &metadata).unwrap();
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["tokenizer.model", "tokenizer_config.json"]);
        let side_files =
            files.into_iter().map(|(name, bytes)| SideFile::generated(name, bytes)).collect();
        // Ids come from the configuration, as Llama 2's do.
        let config = r#"{"bos_token_id": 1, "eos_token_id": 9}"#;
        let config = aqueduct::formats::checkpoint::Config::parse("config.json", config).unwrap();
        let checkpoint = Checkpoint { config, side_files, ..clerk() };
        let vocabulary = Vocabulary::from_checkpoint(&checkpoint, 11, None).unwrap();
        let mut again = Metadata::new();
        vocabulary.write_to(&mut again);
        for (key, value) in
            metadata.iter().filter(|(key, _)| *key != "tokenizer.ggml.unknown_token_id")
        {
            assert_eq!(again.get(key), Some(value), "{key}");
        }
    }
}

#[test]
fn a_tokenizer_that_cannot_be_restored_is_missed_only_where_it_is_needed() {
    let place = Place::new();
    let mut model = convert(&clerk(), &options(OutputType::F16)).unwrap();
    model.metadata.set("tokenizer.ggml.pre", "default");
    let layout = aqueduct::base::progress::Silent;
    gguf::write(&model, &place.path("odd.gguf"), false, &layout).unwrap();
    let recipe = "merge_method: passthrough\nmodels: [{model: odd.gguf}]\n";
    fs::write(place.path("recipe.yml"), recipe).unwrap();
    let parts = ["odd.gguf", "'tokenizer.json'", "pre-tokenizer 'default'", "tokenizer_source"];
    place.fails(1, "merge recipe.yml -o out", &parts);
    place.fails(1, "convert recipe.yml -o out.gguf", &parts);
    let donor = format!("{recipe}tokenizer_source: {}\n", shipped("recipes/demo/clerk").display());
    fs::write(place.path("recipe.yml"), donor).unwrap();
    place.ok("convert recipe.yml -o out.gguf");
    place.ok("merge recipe.yml -o out");
}

/// The tiny model with one tensor exchanged or added.
fn with_tensor(name: &str, shape: &[usize], dtype: DType) -> GgufModel {
    let mut model = tiny(conversion::CONFIG);
    let infos = model.tensors.table().infos().iter().filter(|info| info.name != name).cloned();
    let mut tensors: Vec<(TensorInfo, Vec<u8>)> =
        infos.map(|info| (info.clone(), vec![0; info.bytes().unwrap()])).collect();
    let info = TensorInfo::new(name, shape.to_vec(), dtype);
    let bytes = vec![0; info.bytes().unwrap()];
    tensors.push((info, bytes));
    model.tensors = Arc::new(MemorySource::new("odd.gguf", tensors).unwrap());
    model
}

#[test]
fn files_that_are_no_members() {
    let wrong =
        |name: &str, shape: &[usize], dtype| restore(&with_tensor(name, shape, dtype), "odd");
    assert!(wrong("blk.0.attn_q.weight", &[8, 8], DType::BF16).is_ok());
    let error = wrong("blk.0.attn_q.weight", &[8, 4], DType::F16);
    assert_error(error, &["odd.gguf", "'blk.0.attn_q.weight' has shape [8, 4], not [8, 8]"]);
    let error = wrong("blk.0.ffn_gate_exps.weight", &[2, 12, 8], DType::F16);
    assert_error(error, &["'blk.0.ffn_gate_exps.weight' is not a tensor of architecture llama"]);
    let error = wrong("blk.0.attn_q.weight", &[8, 8], DType::I8);
    assert_error(error, &["'blk.0.attn_q.weight' is I8, which cannot be decoded"]);
    let set = |key: &str, value: Value| {
        let mut model = tiny(conversion::CONFIG);
        model.metadata.set(key, value);
        restore(&model, "odd")
    };
    assert_error(set("general.architecture", "gptneox".into()), &["gptneox", "known are llama"]);
    assert_error(set("general.type", "mmproj".into()), &["type 'mmproj'"]);
    assert_error(set("llama.rope.dimension_count", 2u32.into()), &["part of each head"]);
    assert_error(set("llama.expert_count", 8u32.into()), &["expert_used_count' is missing"]);
    assert_error(set("llama.attention.head_count_kv", 3u32.into()), &["do not go together"]);

    let place = Place::new();
    fs::write(place.path("notes.txt"), "hello").unwrap();
    let recipe = "merge_method: passthrough\nmodels: [{model: notes.txt}]\n";
    fs::write(place.path("recipe.yml"), recipe).unwrap();
    place.fails(1, "plan recipe.yml", &["recipe.yml:2:18", "neither a folder nor a GGUF file"]);
}

/// A real vocabulary, with merges, through this library and through the tokenizers library's eyes.
#[test]
#[ignore = "needs models/SmolLM2-135M-Instruct: scripts/fetch-smollm2"]
fn smollm2_goes_there_and_back() {
    let original = Checkpoint::open(shipped("models/SmolLM2-135M-Instruct")).unwrap();
    let model = convert(&original, &options(OutputType::Auto)).unwrap();
    let back = restore(&model, "smollm2").unwrap();
    let again = convert(&back, &options(OutputType::Auto)).unwrap();
    assert_eq!(keys(&again.metadata, "tokenizer."), keys(&model.metadata, "tokenizer."));
    assert_eq!(keys(&again.metadata, "llama."), keys(&model.metadata, "llama."));
    let infos = model.tensors.table().infos();
    for info in infos {
        let read = |m: &GgufModel| m.tensors.read_name(&info.name).unwrap().bytes.into_owned();
        assert!(read(&again) == read(&model), "{}", info.name);
    }
}
