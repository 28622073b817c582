//! Old and new spellings of keys in config.json, alone, side by side and in contradiction.
//!
//! What is expected is what transformers 5.24 reads: `AutoConfig.from_pretrained` of the same keys, and for the original
//! context the frequencies of the model made of it.

use crate::support::golden_models::{checkpoint, converted, golden, write_folder};
use crate::support::program::Place;
use aqueduct::formats::checkpoint::Config;
use aqueduct::formats::source::TensorTable;
use aqueduct::model::arch::{Description, HyperParams, RopeScaling, Settings, reconcile};
use aqueduct::model::convert::OutputType;
use serde_json::{Value, json};

/// The sizes of a model, `more` and the keys of its class.
fn config(kind: &str, more: Value) -> Config {
    let mut config = json!({
        "model_type": kind, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 7,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "vocab_size": 304,
        "tie_word_embeddings": true,
    });
    match kind {
        "qwen3_moe" => config["moe_intermediate_size"] = 12.into(),
        "gemma3_text" => config["sliding_window"] = 12.into(),
        _ => {}
    }
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    Config::parse("m/config.json", &config.to_string()).unwrap()
}

/// The hyperparameters and the warnings of a model without tensors, whose reading must say something of each of `parts`
/// and nothing if there are none. Reconciled, it must read the same and be silent.
fn read(kind: &str, more: Value, parts: &[&str]) -> HyperParams {
    let mut config = config(kind, more);
    let warnings = |config: &Config| {
        Settings::of(config).unwrap().warnings().map(str::to_string).collect::<Vec<_>>()
    };
    let found = warnings(&config).join("\n");
    assert_eq!(found.is_empty(), parts.is_empty(), "{found}");
    for part in parts {
        assert!(found.contains(part), "{part} is not in: {found}");
    }
    let described = Description::of(&config, &TensorTable::default()).unwrap();
    assert_eq!(described.warnings.join("\n"), found);
    let hyper = HyperParams::from_config(&config).unwrap();
    reconcile(&mut config).unwrap();
    let again = HyperParams::from_config(&config).unwrap();
    assert_eq!(again, hyper, "{}", config.to_json());
    let known = ["GGUF files", "whole heads"];
    let left: Vec<String> =
        warnings(&config).into_iter().filter(|w| !known.iter().any(|k| w.contains(k))).collect();
    assert!(left.is_empty(), "{left:?} of {}", config.to_json());
    hyper
}

fn linear(factor: f32) -> RopeScaling {
    RopeScaling::Linear { factor }
}

#[test]
fn the_value_in_rope_parameters_counts() {
    let nested = json!({"rope_type": "default", "rope_theta": 777.0});
    let both = json!({"rope_theta": 10000.0, "rope_parameters": nested});
    let hyper = read("llama", both, &["10000", "777", "'rope_theta'"]);
    assert_eq!((hyper.rope_theta, hyper.rope_scaling), (777.0, RopeScaling::None));
    // The same value twice is no contradiction, whole or not.
    let same = json!({"rope_theta": 777, "rope_parameters": nested});
    assert_eq!(read("llama", same, &[]).rope_theta, 777.0);
    let outside = json!({"rope_theta": 5555.0, "rope_parameters": {"rope_type": "default"}});
    assert_eq!(read("llama", outside, &[]).rope_theta, 5555.0);
    let null = json!({"rope_theta": null, "rope_scaling": null, "rope_parameters": {"rope_theta": 5.5, "rope_type": null}});
    assert_eq!(read("llama", null, &[]).rope_theta, 5.5);
}

#[test]
fn rope_scaling_beside_rope_parameters_scales() {
    let hand = json!({"rope_type": "linear", "factor": 4.0});
    let nested = json!({"rope_type": "default", "rope_theta": 777.0});
    let with_theta = json!({
        "rope_scaling": {"rope_type": "linear", "factor": 4.0, "rope_theta": 777.0}, "rope_parameters": nested});
    let hyper = read("llama", with_theta, &["'rope_scaling' is used", "linear", "default"]);
    assert_eq!((hyper.rope_theta, hyper.rope_scaling), (777.0, linear(4.0)));
    // As in transformers, nothing of rope_parameters is left, and the sentence says what is lost.
    let outside = json!({"rope_theta": 5555.0, "rope_scaling": hand, "rope_parameters": nested});
    let hyper = read("llama", outside, &["rope_theta 777 is lost"]);
    assert_eq!((hyper.rope_theta, hyper.rope_scaling), (5555.0, linear(4.0)));
    let alone = json!({"rope_scaling": hand, "rope_parameters": nested});
    let hyper = read("llama", alone, &["rope_theta 777 is lost"]);
    assert_eq!((hyper.rope_theta, hyper.rope_scaling), (10000.0, linear(4.0)));
    let empty = json!({"rope_scaling": {}, "rope_parameters": nested});
    assert_eq!(read("llama", empty, &[]).rope_theta, 777.0);
    // Gemma 3 merges the two.
    let by_layer = json!({
        "full_attention": {"rope_type": "default", "rope_theta": 111.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 222.0}});
    let gemma = json!({"rope_scaling": hand, "rope_parameters": by_layer});
    let hyper = read("gemma3_text", gemma, &["'rope_scaling' is used"]);
    assert_eq!((hyper.rope_theta, hyper.local_rope_theta), (111.0, Some(222.0)));
    assert_eq!(hyper.rope_scaling, linear(4.0));
}

#[test]
fn gemma_3_has_a_base_for_each_kind_of_layer() {
    let by_layer = json!({
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 111.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 222.0}});
    let old = json!({"rope_parameters": by_layer, "rope_theta": 5.0, "rope_local_base_freq": 6.0});
    let hyper = read(
        "gemma3_text",
        old,
        &["'rope_theta' is 5", "111", "'rope_local_base_freq' is 6", "222"],
    );
    assert_eq!((hyper.rope_theta, hyper.local_rope_theta), (111.0, Some(222.0)));
    let half = json!({"rope_parameters": {"full_attention": {"rope_theta": 777.0}}, "rope_local_base_freq": 6.0});
    let hyper = read("gemma3_text", half, &[]);
    assert_eq!((hyper.rope_theta, hyper.local_rope_theta), (777.0, Some(6.0)));
    let flat = json!({"rope_parameters": {"rope_theta": 777.0, "rope_type": "default"}, "rope_local_base_freq": 6.0});
    let hyper = read("gemma3_text", flat, &["'rope_parameters' has no entry"]);
    assert_eq!((hyper.rope_theta, hyper.local_rope_theta), (1e6, Some(6.0)));
    let none = read("gemma3_text", json!({}), &[]);
    assert_eq!((none.rope_theta, none.local_rope_theta), (1e6, Some(1e4)));
}

#[test]
fn the_original_context_beside_the_object_counts_first() {
    let yarn = json!({"rope_type": "yarn", "factor": 4.0});
    let inner = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
    let of = |more: Value, parts: &[&str]| read("llama", more, parts).original_context;
    assert_eq!(of(json!({"rope_scaling": yarn}), &[]), 512);
    assert_eq!(of(json!({"rope_scaling": inner}), &[]), 64);
    let outer = json!({"rope_scaling": yarn, "original_max_position_embeddings": 128});
    assert_eq!(of(outer, &[]), 128);
    let both = json!({"rope_scaling": inner, "original_max_position_embeddings": 128});
    assert_eq!(of(both, &["is 128", "is 64", "128 is used"]), 128);
    let both = json!({"rope_parameters": inner, "original_max_position_embeddings": 128});
    assert_eq!(of(both, &["is 128", "is 64", "128 is used"]), 128);
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0});
    let scaling = read("llama", json!({"rope_scaling": llama3}), &[]).rope_scaling;
    assert!(matches!(scaling, RopeScaling::Llama3 { original_context: 512.0, .. }), "{scaling:?}");
    let long = json!({"type": "su", "rope_type": "longrope", "short_factor": [1.0, 1.25], "long_factor": [2.0, 2.0], "factor": 8.0});
    let more = json!({"rope_scaling": long, "original_max_position_embeddings": 32});
    let RopeScaling::LongRope { attention_factor, .. } = read("llama", more, &[]).rope_scaling
    else {
        panic!("long rope")
    };
    assert!((attention_factor - 1.26491).abs() < 1e-5, "{attention_factor}");
    // Phi 3's class has a value of its own.
    let long = json!({"rope_type": "longrope", "short_factor": [1.0, 1.25], "long_factor": [2.0, 2.0],
        "original_max_position_embeddings": 64});
    assert_eq!(
        read("phi3", json!({"rope_scaling": long}), &["is 64", "4096"]).original_context,
        4096
    );
}

#[test]
fn keys_inside_the_object_have_older_names() {
    let two = json!({"rope_scaling": {"type": "linear", "rope_type": "dynamic", "factor": 2.0}});
    let hyper = read("llama", two, &["linear", "dynamic", "'rope_type' is used"]);
    assert_eq!(hyper.rope_scaling, RopeScaling::Dynamic { factor: 2.0 });
    let yarn = |more: Value, parts: &[&str]| {
        let mut map = json!({"rope_type": "yarn", "factor": 4.0});
        map.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        match read("qwen2", json!({"rope_parameters": map}), parts).rope_scaling {
            RopeScaling::Yarn(yarn) => yarn.attention_factor,
            other => panic!("{other:?}"),
        }
    };
    let both = json!({"attn_factor": 3.0, "attention_factor": 2.0});
    assert_eq!(yarn(both, &["'rope_parameters.attention_factor' is 2", "is 3"]), Some(2.0));
    assert_eq!(yarn(json!({"attn_factor": 3.0}), &[]), Some(3.0));
    assert_eq!(
        yarn(json!({"mscale": 2.0, "mscale_all_dim": 1.0}), &["'mscale'", "GGUF files"]),
        None
    );
}

#[test]
fn the_part_of_a_head_that_turns() {
    let nested = json!({"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5});
    let both = json!({"partial_rotary_factor": 1.0, "rope_parameters": nested});
    let hyper = read("phi3", both, &["'partial_rotary_factor' is 1", "is 0.5"]);
    assert_eq!((hyper.rope_dims, hyper.head_dim), (2, 4));
    // Llama's class turns whole heads whatever the key says.
    let hyper = read("llama", json!({"partial_rotary_factor": 0.5}), &["whole heads"]);
    assert_eq!(hyper.rope_dims, 4);
}

#[test]
fn experts_are_counted_under_either_name() {
    let count = |kind: &str, more: Value, parts: &[&str]| read(kind, more, parts).experts.unwrap();
    let of = |more: [(&str, usize); 2]| {
        let mut map = json!({"num_experts_per_tok": 2});
        more.iter().for_each(|(key, n)| map[*key] = (*n).into());
        map
    };
    for (kind, expected) in [("qwen3_moe", 4), ("mixtral", 8)] {
        for key in ["num_experts", "num_local_experts", "n_routed_experts"] {
            assert_eq!(count(kind, of([(key, 6), (key, 6)]), &[]).count, 6);
        }
        let both = of([("num_experts", 8), ("num_local_experts", 4)]);
        let parts = ["'num_experts'", "is 8", "'num_local_experts'", "is 4"];
        assert_eq!(count(kind, both, &parts).count, expected, "{kind}");
    }
    let null = json!({"num_experts": null, "num_local_experts": 4, "num_experts_per_tok": 3});
    assert_eq!(count("qwen3_moe", null, &[]).used, 3);
}

#[test]
fn windows_are_listed_or_follow_a_pattern() {
    let windowed = |kind: &str, more: Value, parts: &[&str]| {
        let hyper = read(kind, more, parts);
        hyper.windowed.iter().map(|&w| if w { 's' } else { 'f' }).collect::<String>()
    };
    let of = |more: Value, parts: &[&str]| windowed("gemma3_text", more, parts);
    assert_eq!(of(json!({"sliding_window_pattern": 3}), &[]), "ssfssfs");
    assert_eq!(of(json!({"_sliding_window_pattern": 6}), &[]), "sssssfs");
    assert_eq!(
        of(json!({"_sliding_window_pattern": 3}), &["'_sliding_window_pattern' is 3"]),
        "sssssfs"
    );
    let two = json!({"sliding_window_pattern": 3, "_sliding_window_pattern": 2});
    assert_eq!(of(two, &["'_sliding_window_pattern' is 2"]), "ssfssfs");
    let kinds = ["sliding_attention", "full_attention"];
    let list: Vec<_> = (0..7).map(|layer| kinds[usize::from(layer % 4 == 0)]).collect();
    let listed = json!({"sliding_window_pattern": 2, "layer_types": list});
    assert_eq!(of(listed, &["'sliding_window_pattern' is 2", "layer_types"]), "fsssfss");
    // Gemma 2 has no key for it.
    let gemma2 = json!({"sliding_window_pattern": 3});
    assert_eq!(windowed("gemma2", gemma2, &["'sliding_window_pattern' is 3"]), "sfsfsfs");
}

#[test]
fn types_and_activations() {
    let both = json!({"torch_dtype": "bfloat16", "dtype": "float16"});
    let config = config("llama", both.clone());
    assert_eq!(Settings::of(&config).unwrap().str("torch_dtype"), Some("float16"));
    read("llama", both, &["'dtype' is \"float16\"", "bfloat16"]);
    read("llama", json!({"torch_dtype": "bfloat16", "dtype": null}), &[]);
    let gemma = json!({"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"});
    read("gemma3_text", gemma, &["'hidden_activation' is \"gelu_pytorch_tanh\"", "'hidden_act'"]);
    read("gemma3_text", json!({"hidden_act": "gelu"}), &[]);
    read("llama", json!({"hidden_act": "gelu"}), &["'hidden_act' is 'gelu'", "GGUF files"]);
}

#[test]
fn what_is_absent_or_of_another_kind() {
    let mut mistral = config("mistral", json!({"max_position_embeddings": null}));
    mistral.remove("num_key_value_heads");
    mistral.set("num_attention_heads", 8);
    assert_eq!(HyperParams::from_config(&mistral).unwrap().n_head_kv, 8);
    let refused = |more: Value, part: &str| {
        let error = HyperParams::from_config(&config("llama", more)).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(
        json!({"rope_scaling": "linear"}),
        "'rope_scaling' is \"linear\", where an object is needed",
    );
    refused(json!({"rope_theta": "1e4"}), "'rope_theta' is \"1e4\", where a number is needed");
    refused(json!({"rope_parameters": {"rope_theta": []}}), "'rope_theta' is []");
    refused(json!({"num_key_value_heads": "2"}), "where a usable count is needed");
    refused(json!({"hidden_size": 1.5}), "'hidden_size' is 1.5");
    let whole = config("llama", json!({"hidden_size": 32.0}));
    assert_eq!(HyperParams::from_config(&whole).unwrap().n_embd, 32);
}

#[test]
fn a_list_of_ends_gives_its_first() {
    let mut golden = golden("llama");
    golden["config"]["bos_token_id"] = json!([7, 8]);
    let model = converted(&checkpoint("llama", &golden, 0), OutputType::F16);
    assert_eq!(model.metadata.u64("tokenizer.ggml.bos_token_id"), Some(7));
}

#[test]
fn merged_configurations_have_one_value_under_every_name() {
    let place = Place::new();
    let mut golden = golden("qwen3_moe");
    let edits = json!({
        "dtype": "float32", "torch_dtype": "bfloat16", "num_local_experts": 8, "num_experts": 4, "rope_theta": 1000.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 777.0}, "architectures": null});
    write_folder(&place, "a", &golden, 0);
    for (key, value) in edits.as_object().unwrap() {
        golden["config"][key] = value.clone();
    }
    std::fs::write(place.path("a/config.json"), golden["config"].to_string()).unwrap();
    let recipe = "merge_method: passthrough\nmodels: [{model: a}]\n";
    std::fs::write(place.path("recipe.yml"), recipe).unwrap();
    let stderr = place.ok("merge recipe.yml -o folder").stderr;
    for part in ["'rope_theta' is 1000", "777", "'num_local_experts' is 8", "'num_experts'"] {
        assert!(stderr.contains(part), "{part} is not in: {stderr}");
    }
    let config = Config::read(&place.path("folder/config.json")).unwrap();
    assert_eq!(config.get("rope_theta"), Some(&json!(777.0)));
    assert_eq!(config.get("num_experts"), Some(&json!(8)));
    assert_eq!(config.get("num_local_experts"), Some(&json!(8)));
    assert_eq!(
        (config.str("dtype"), config.str("torch_dtype")),
        (Some("float32"), Some("float32"))
    );
    assert_eq!(config.architecture().unwrap(), "Qwen3MoeForCausalLM");
    let stderr = place.ok("convert folder -o out.gguf").stderr;
    assert!(!stderr.contains("rope_theta"), "{stderr}");
    let stderr = place.ok("convert a -o a.gguf").stderr;
    assert!(stderr.contains("777"), "{stderr}");
    let theta = |file: &str| {
        let model = aqueduct::formats::gguf::open(place.path(file)).unwrap();
        model.metadata.get("qwen3moe.rope.freq_base").cloned()
    };
    assert_eq!(theta("out.gguf"), Some(777f32.into()));
    assert_eq!(theta("a.gguf"), Some(777f32.into()));
}
