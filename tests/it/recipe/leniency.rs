//! What mergekit takes in a recipe and people write: its options as keys, null values, marks of byte order; and seeds.
//!
//! Keys: `options.py` and `config.py` of mergekit 0.0.2 to 0.1.5. Nulls, `slices: []`, int8_mask, random_seed and unknown keys
//! were tried with `MergeConfiguration` of 0.1.5, 0.1.4, 0.0.6 and 0.0.5.

use crate::support::program::Place;
use crate::support::recipe_checks::{linear, plan, problems};
use aqueduct::recipe::{MergePlan, Severity};

fn planned(text: &str) -> MergePlan {
    plan(text).unwrap_or_else(|problems| panic!("{text}\n{problems:?}"))
}

fn warnings(text: &str) -> Vec<String> {
    planned(text).warnings.into_iter().map(|problem| problem.message).collect()
}

#[test]
fn options_of_mergekit_are_warned_of_with_the_reason() {
    let base = warnings(&linear(""));
    for (key, reason) in [
        ("allow_crimes: true", "different architectures"),
        ("async_write: true", "while others are computed"),
        ("clone_tensors: true", "several times"),
        ("copy_tokenizer: false", "whatever the recipe says"),
        ("cuda: true", "on the processor"),
        ("device: cuda:0", "on the processor"),
        ("gpu_rich: true", "on the processor"),
        ("input_model_parameters: {a: {weight: 1}}", "since 0.0.3"),
        ("int8_mask: true", "one bit"),
        ("lazy_unpickle: true", "when they are needed"),
        ("lora_merge_cache: /tmp/x", "without a cache"),
        ("lora_merge_dtype: float32", "float32"),
        ("low_cpu_memory: true", "on the processor"),
        ("multi_gpu: true", "on the processor"),
        ("num_threads: 4", "threads"),
        ("out_shard_size: 5B", "size of shards"),
        ("quiet: true", "option"),
        ("read_to_gpu: true", "on the processor"),
        ("safe_serialization: false", "safetensors"),
        ("transformers_cache: ./x", "HF_HOME"),
        ("trust_remote_code: true", "no code"),
        ("unsafe_truncate_embeddings: true", "never cut off"),
        ("verbosity: 2", "option"),
        ("write_model_card: false", "whatever the recipe says"),
        ("write_threads: 2", "threads"),
    ] {
        let name = key.split(':').next().unwrap();
        let told = warnings(&linear(&format!("{key}\n")));
        assert_eq!(told.len(), base.len() + 1, "{key}: {told:?}");
        let own = told.iter().find(|text| text.starts_with(&format!("'{name}' has no effect: ")));
        assert!(own.is_some_and(|text| text.contains(reason)), "{key}: {told:?}");
        // Null says nothing.
        assert_eq!(warnings(&linear(&format!("{name}: null\n"))), base, "{key}");
    }
    // Nor does what happens anyway.
    let usual = "write_model_card: true\ncopy_tokenizer: true\nallow_crimes: false\ncuda: false\n\
                 safe_serialization: true\ntrust_remote_code: false\n";
    assert_eq!(warnings(&linear(usual)), base);
}

#[test]
fn misspelt_keys_stay_errors_with_a_suggestion() {
    for (key, remedy) in [
        ("randm_seed: 3", "did you mean 'random_seed'?"),
        ("base_modle: a", "did you mean 'base_model'?"),
        ("wirte_model_card: true", "known keys are"),
    ] {
        let found = problems(&linear(&format!("{key}\n")));
        let own = found.iter().find(|problem| problem.message.contains("unknown key"));
        let own = own.unwrap_or_else(|| panic!("{key}: {found:?}"));
        assert_eq!(own.severity, Severity::Error);
        assert!(own.remedy.contains(remedy), "{key}: {own:?}");
    }
}

#[test]
fn null_means_absent_and_marks_of_byte_order_nothing() {
    let plain = planned(&linear(""));
    let nulls = "slices: null\nmodules: ~\nparameters: null\ntokenizer_source: null\ntokenizer:\nbase_model: null\n\
                 out_dtype: null\nchat_template: null\nname: null\nseed: null\nrandom_seed: null\n\
                 embeddings: null\nfinal_norm: null\nhead: null\n";
    for text in [linear(nulls), linear("slices: []\n"), format!("\u{feff}{}", linear(""))] {
        let lenient = planned(&text);
        let texts = |plan: &MergePlan| -> Vec<_> {
            plan.warnings.iter().map(|warning| warning.message.clone()).collect()
        };
        assert_eq!(texts(&lenient), texts(&plain), "{text}");
        let tensors = |plan: &MergePlan| format!("{:?}", plan.stages[0].tensors);
        assert_eq!(tensors(&lenient).len(), tensors(&plain).len(), "{text}");
        assert!(!lenient.text.starts_with('\u{feff}'));
    }
    // Two that say something are still too many, and none is too few.
    assert!(plan(&linear("slices:\n- sources: []\n")).is_err());
    assert!(plan("merge_method: linear\nmodels: null\nslices: null\n").is_err());
    let slice = "merge_method: passthrough\ndtype: float16\nmodels: null\nslices:\n- base_model: null\n  parameters: null\n  \
                 residual_weight: null\n  sources:\n  - {model: a, layer_range: [0, 2], parameters: null}\n";
    planned(slice);
}

const RANDOM: &str = "merge_method: dare_linear\nbase_model: storyteller\ndtype: float16\nmodels:\n  \
                      - {model: clerk, parameters: {weight: 1.0, density: 0.5}}\n";

/// The demo's models, and the recipe above with `more`.
fn place(more: &str) -> Place {
    let place = Place::new();
    let demo = crate::support::program::shipped("recipes/demo");
    let recipe = RANDOM
        .replace("storyteller", demo.join("storyteller").to_str().unwrap())
        .replace("clerk", demo.join("clerk").to_str().unwrap());
    std::fs::write(place.path("r.yml"), format!("{recipe}{more}")).unwrap();
    place
}

#[test]
fn random_seed_and_the_option_seed_what_is_drawn() {
    let weights = |more: &str, options: &str| {
        let place = place(more);
        place.ok(&format!("merge r.yml -o out --quiet {options}"));
        (
            place.read("out/model.safetensors"),
            String::from_utf8(place.read("out/recipe.yml")).unwrap(),
        )
    };
    let (own, text) = weights("seed: 42\n", "");
    assert_eq!(weights("random_seed: 42\n", "").0, own);
    assert_ne!(weights("", "").0, own);
    for (more, seeded) in [
        ("", "seed: 42\n"),
        ("seed: 7 # mine\n", "seed: 42 # mine\n"),
        ("random_seed: 7\n", "random_seed: 42\n"),
    ] {
        let (made, recipe) = weights(more, "--seed 42");
        assert_eq!(made, own, "{more:?}");
        // The recipe that goes with the result makes the result.
        assert!(recipe.ends_with(seeded), "{recipe}");
    }
    assert!(text.ends_with("seed: 42\n"));
    let place = place("");
    let plan = place.ok("plan r.yml --seed 9 --json").json();
    assert_eq!(plan["merge"]["stages"][0]["seed"], 9);
    for seed in ["3", "4"] {
        place.ok(&format!("convert r.yml -o {seed}.gguf --seed {seed} --quiet"));
        place.ok(&format!("quantize r.yml -o q{seed} F16 --seed {seed} --quiet"));
    }
    assert_ne!(place.read("3.gguf"), place.read("4.gguf"));
    assert_ne!(place.read("q3/r-F16.gguf"), place.read("q4/r-F16.gguf"));
}

#[test]
fn a_seed_that_changes_nothing_is_warned_of_and_one_that_changes_is_not_continued() {
    let place = place("");
    let ran = place.ok("convert @recipes/demo/clerk -o c.gguf --seed 3");
    assert!(ran.stderr.contains("--seed does nothing"), "{}", ran.stderr);
    let demo = crate::support::program::shipped("recipes/demo/clerk");
    let recipe = format!("merge_method: passthrough\nmodels:\n- model: {}\n", demo.display());
    std::fs::write(place.path("plain.yml"), recipe).unwrap();
    let ran = place.ok("merge plain.yml -o plain --seed 3");
    assert!(ran.stderr.contains("--seed has no effect"), "{}", ran.stderr);
    std::fs::write(place.path("t.txt"), "A page about a house by the sea. ".repeat(40)).unwrap();
    let build = "build r.yml -f t.txt --ctx 32 --chunks 1 --types Q8_0 -o b --quiet";
    place.ok(&format!("{build} --seed 5"));
    let made = place.read("b/r-Q8_0.gguf");
    place.fails(2, &format!("{build} --seed 6"), &["the recipe", "--force"]);
    place.ok(&format!("{build} --seed 5"));
    assert_eq!(place.read("b/r-Q8_0.gguf"), made);
    // What lies beside the files makes them again.
    place.ok(
        "build b/recipe.yml -f t.txt --ctx 32 --chunks 1 --types Q8_0 -o again --name r --quiet",
    );
    let tensors = |path: &str| {
        let model = aqueduct::formats::gguf::open(place.path(path)).unwrap();
        let infos = model.tensors.table().infos().len();
        (0..infos).map(|i| model.tensors.read(i).unwrap().bytes.into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(tensors("again/r-Q8_0.gguf"), tensors("b/r-Q8_0.gguf"));
}

#[test]
fn recipes_that_cannot_record_a_seed_say_so() {
    let place = place("seed:\n  - 3\n");
    place.fails(1, "plan r.yml --seed 4", &["'seed' is a list"]);
}
