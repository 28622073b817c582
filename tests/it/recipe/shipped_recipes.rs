//! The recipes that come with the project, and recipes as they are found in the wild, planned by shape.

use aqueduct::merge;
use aqueduct::recipe::{EndRow, MergePlan, PlanSummary, ShapesOnly, plan_text, render};
use std::path::{Path, PathBuf};

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes").join(name)
}

fn planned(path: &Path) -> MergePlan {
    merge::plan(path, &ShapesOnly::beside(path, &[])).unwrap_or_else(|e| panic!("{e}"))
}

fn wild(text: &str) -> PlanSummary {
    let path = Path::new("nowhere/recipe.yml");
    let lookup = ShapesOnly::beside(path, &[]);
    match plan_text(path, text, &merge::methods::specs(), &lookup) {
        Ok(plan) => plan.summary(),
        Err(problems) => panic!("{}", render("recipe.yml", &problems)),
    }
}

fn all_shipped() -> Vec<PathBuf> {
    let paths = std::fs::read_dir(shipped("")).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|e| e == "yml")).collect()
}

#[test]
fn every_recipe_of_the_project_plans_without_a_warning() {
    let recipes = all_shipped();
    assert!(recipes.len() >= 12);
    for path in recipes {
        let text = std::fs::read_to_string(&path).unwrap();
        let comment = text.lines().take_while(|line| line.starts_with('#')).count();
        assert!(comment >= 5, "{} does not say what it is", path.display());
        assert_eq!(planned(&path).warnings, [], "{}", path.display());
    }
}

#[test]
fn the_table_of_recipes_has_a_row_for_each_with_the_right_numbers() {
    let table = std::fs::read_to_string(shipped("README.md")).unwrap();
    for path in all_shipped() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let row = table.lines().find(|line| line.starts_with(&format!("| [{name}]({name}) |")));
        let row = row.unwrap_or_else(|| panic!("no row for {name}"));
        let plan = planned(&path);
        let (layers, parameters) = (plan.output().hyper.n_layer, plan.parameters());
        let numbers = format!("| {layers} | {} |", aqueduct::base::size::count(parameters));
        assert!(row.ends_with(&numbers), "{row} should end with {numbers}");
    }
}

#[test]
fn aqueducts_18b_has_80_layers_and_17_7_billion_parameters() {
    let plan = planned(&shipped("aqueducts-18b.yml"));
    let summary = plan.summary();
    let stack = summary.stages.last().unwrap();
    assert_eq!(stack.layers.len(), 80);
    // Two projections of 4096 x 4096, two of 1024 x 4096, three of 14336 x 4096, two norms.
    let layer = 2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14336 * 4096 + 2 * 4096;
    assert_eq!(summary.parameters, 80 * layer + 2 * 32000 * 4096 + 4096);
    assert_eq!(summary.parameters / 100_000_000, 177);
    assert_eq!(summary.warnings, []);
    assert_eq!(summary.members.len(), 6);
    let linear = |end: &EndRow| (end.apart, end.method, end.sources.len());
    for end in [&stack.embedding, &stack.final_norm, &stack.head] {
        assert_eq!(linear(end), (true, "linear", 6));
    }
    assert_eq!(stack.method, "passthrough");
    let crossing = summary.stages.iter().find(|stage| stage.name == "first-crossing").unwrap();
    let t =
        |layer: usize| (crossing.layers[layer].params[0].min, crossing.layers[layer].params[0].max);
    assert_eq!((t(0), t(15)), ((0.0, 0.0), (1.0, 1.0)));
    assert_eq!(plan.output().config.architecture().unwrap(), "LlamaForCausalLM");
    assert_eq!(plan.output().config.usize("num_hidden_layers"), Some(80));
}

#[test]
fn smollm2_grows_from_30_to_44_layers() {
    let plan = planned(&shipped("smollm2-upscale.yml"));
    let (layer, ends) =
        (2 * 576 * 576 + 2 * 192 * 576 + 3 * 1536 * 576 + 2 * 576, 49152 * 576 + 576);
    assert_eq!(plan.parameters(), 44 * layer + ends);
    assert!(plan.output().hyper.tied);
    let summary = plan.summary();
    let rows = &summary.stages[0].layers;
    assert_eq!((rows[21].sources[0].layer, rows[22].sources[0].layer), (Some(21), Some(8)));
}

/// Written after the layer lists that the makers of these models published.
#[test]
fn self_stacks_plan() {
    let goliath: String =
        [(0, 16), (8, 24), (17, 32), (25, 40), (33, 48), (41, 56), (49, 64), (57, 72), (65, 80)]
            .iter()
            .zip(
                ["Xwin-LM/Xwin-LM-70B-V0.1-llama2", "Sao10K/Euryale-1.3-L2-70B-llama-2"]
                    .iter()
                    .cycle(),
            )
            .map(|((a, b), model)| {
                format!("- sources:\n  - model: {model}\n    layer_range: [{a}, {b}]\n")
            })
            .collect();
    let summary = wild(&format!("slices:\n{goliath}merge_method: passthrough\ndtype: float16\n"));
    assert_eq!(summary.stages[0].layers.len(), 137);
    assert_eq!(summary.parameters / 1_000_000_000, 117);

    let ranges = [(0, 20), (10, 30), (20, 40), (30, 50), (40, 60), (50, 70), (60, 80)];
    let seven: String = ranges
        .iter()
        .map(|(a, b)| format!("- sources:\n  - layer_range: [{a}, {b}]\n    model: meta-llama/Meta-Llama-3-70B-Instruct\n"))
        .collect();
    let summary = wild(&format!("dtype: float16\nmerge_method: passthrough\nslices:\n{seven}"));
    assert_eq!(summary.stages[0].layers.len(), 140);

    let solar = "slices:\n- sources: [{model: mistralai/Mistral-7B-v0.1, layer_range: [0, 24]}]\n\
                 - sources: [{model: mistralai/Mistral-7B-v0.1, layer_range: [8, 32]}]\n\
                 merge_method: passthrough\ndtype: bfloat16\n";
    let summary = wild(solar);
    assert_eq!(summary.parameters, 10_731_524_096, "the size of SOLAR 10.7B");
}

#[test]
fn gradient_slerps_and_mirrored_linear_gradients_plan() {
    let slerp = "slices:\n  - sources:\n      - model: mistralai/Mistral-7B-v0.1\n        layer_range: [0, 32]\n\
                 \x20     - model: HuggingFaceH4/zephyr-7b-beta\n        layer_range: [0, 32]\nmerge_method: slerp\n\
                 base_model: mistralai/Mistral-7B-v0.1\nparameters:\n  t:\n    - filter: self_attn\n      value: [0, 0.5, 0.3, 0.7, 1]\n\
                 \x20   - filter: mlp\n      value: [1, 0.5, 0.7, 0.3, 0]\n    - value: 0.5 # fallback\ndtype: bfloat16\n";
    let summary = wild(slerp);
    let t = &summary.stages[0].layers[31].params[0];
    assert_eq!((t.min, t.max, t.by_filter.len()), (0.0, 1.0, 3));
    assert_eq!(summary.warnings, []);

    let mirrored = "name: down\nmerge_method: linear\nmodels:\n  - model: upstage/SOLAR-10.7B-v1.0\n    parameters:\n      weight: [1, 1, 1, 1, 0.5, 0, 0, 0, 0]\n\
                    \x20 - model: Sao10K/Fimbulvetr-11B-v2\n    parameters:\n      weight: [0, 0, 0, 0, 0.5, 1, 1, 1, 1]\n    parameters:\n      weight: [0, 0, 0, 0, 0.5, 1, 1, 1, 1]\n\
                    dtype: float16\n---\nmerge_method: linear\nmodels:\n- {model: down, parameters: {weight: 1.0}}\n- {model: upstage/SOLAR-10.7B-v1.0, parameters: {weight: 0.0}}\n";
    let summary = wild(mirrored);
    assert_eq!(summary.stages.len(), 2);
    let weights = |layer: usize| {
        let sources = &summary.stages[0].layers[layer].sources;
        (sources[0].params[0].min, sources[1].params[0].min)
    };
    assert_eq!((weights(0), weights(47)), ((1.0, 0.0), (0.0, 1.0)));
    let warned = |part: &str| summary.warnings.iter().any(|w| w.message.contains(part));
    assert!(warned("'parameters' is given twice") && warned("weight 0 everywhere"));
}

#[test]
fn a_name_of_no_known_family_is_an_error_with_the_way_out() {
    let path = Path::new("nowhere/recipe.yml");
    let lookup = ShapesOnly::beside(path, &[]);
    let text = "merge_method: passthrough\nmodels: [{model: org/Mystery-9B}]\n";
    let problems = plan_text(path, text, &merge::methods::specs(), &lookup).err().unwrap();
    assert!(problems[0].message.contains("'org/Mystery-9B' are not known"));
    assert!(
        problems[0].remedy.contains("nowhere/org/Mystery-9B/config.json"),
        "{}",
        problems[0].remedy
    );
}

#[test]
fn a_folder_with_only_config_json_is_enough_to_plan() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("org/Mystery-9B");
    std::fs::create_dir_all(&model).unwrap();
    let config = r#"{"architectures": ["MistralForCausalLM"], "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 100, "torch_dtype": "bfloat16"}"#;
    std::fs::write(model.join("config.json"), config).unwrap();
    let recipe = dir.path().join("recipe.yml");
    std::fs::write(&recipe, "merge_method: passthrough\nmodels: [{model: org/Mystery-9B}]\n")
        .unwrap();
    let plan = planned(&recipe);
    assert_eq!(plan.output().hyper.n_layer, 5);
    assert_eq!(plan.bytes(), 2 * plan.parameters());
    let merged = merge::open(plan);
    let error = merged.tensors.read(0).err().unwrap().to_string();
    assert!(error.contains("only the shapes of this model are known"), "{error}");
}
