//! Every kind of problem a recipe can have: where it is reported, and what to do about it.

use crate::support::recipe_checks::{MODELS, error, linear, plan, problems, slices, warning};
use aqueduct::recipe::Severity;

#[test]
fn a_sound_recipe_has_no_problems() {
    assert_eq!(problems(&linear("dtype: float16\n")), []);
}

#[test]
fn syntax_and_shape_of_the_document() {
    error("a: b: c\n", "1:5", "", "mend the YAML");
    error("", "1:1", "the recipe is empty", "merge_method");
    error("- 1\n", "1:1", "a recipe is a list", "mapping");
    error(MODELS, "1:1", "'merge_method' is missing", "add 'merge_method");
    error("merge_method: linear\n", "1:1", "neither 'models' nor 'slices'", "add 'models'");
    let both = linear("slices: [{sources: [{model: a, layer_range: [0, 1]}]}]\n");
    error(&both, "3:1", "both 'models' and 'slices'", "keep one");
    error("merge_method: linear\nslices: []\n", "2:1", "'slices' is empty", "list the slices");
    error("merge_method: linear\nmodels: a\n", "2:9", "'models' is the text 'a'", "a list of");
}

#[test]
fn unknown_keys_with_the_nearest_known_one() {
    error(&linear("dtyp: float16\n"), "3:1", "unknown key 'dtyp'", "did you mean 'dtype'?");
    error(&linear("author: me\n"), "3:1", "unknown key 'author'", "known keys are name,");
    let text = "merge_method: passthrough\nslices:\n- source: [{model: a, layer_range: [0, 6]}]\n";
    error(text, "3:3", "unknown key 'source' in a slice", "did you mean 'sources'?");
    let text = "merge_method: linear\nmodels: [{model: a, range: [0, 6]}]\n";
    error(text, "2:21", "unknown key 'range' in a source", "known keys are model");
    error(
        &linear("parameters: {normalise: 1}\n"),
        "3:14",
        "no parameter 'normalise'",
        "did you mean 'normalize'?",
    );
    error(&linear("parameters: {wight: 1}\n"), "3:14", "no parameter 'wight'", "'weight'");
}

#[test]
fn wrong_types() {
    error(&linear("dtype: int8\n"), "3:8", "unknown dtype: the text 'int8'", "bfloat16");
    error(
        &linear("parameters: {weight: heavy}\n"),
        "3:22",
        "'weight' is the text 'heavy'",
        "a finite number",
    );
    error(&linear("parameters: {weight: .nan}\n"), "3:22", "not a number", "a finite number");
    error(&linear("parameters: {weight: []}\n"), "3:22", "empty list", "one number or more");
    error(&linear("parameters: 3\n"), "3:13", "'parameters' is the number 3", "write 'parameters:");
    error(&linear("parameters: {weight: [{filter: mlp}]}\n"), "3:23", "no 'value'", "value: 0.5");
    let text = "merge_method: passthrough\nslices:\n- sources: [{model: a, layer_range: 6}]\n";
    error(text, "3:37", "'layer_range' is the number 6", "[FIRST, END]");
    error(&linear("name: [x]\n"), "3:7", "'name' is a list", "name: NAME");
    error(
        "merge_method: linear\nmodels: [{parameters: {weight: 1}}]\n",
        "2:10",
        "no 'model'",
        "model: NAME",
    );
    let adapters = "merge_method: linear\nmodels: [{model: a+b+c}]\n";
    error(adapters, "2:18", "one '+' may set off an adapter", "write a folder");
    let adapters = "merge_method: linear\nmodels: [{model: {model: a+b, lora: c}}]\n";
    error(adapters, "2:37", "more than one adapter", "a stage of its own");
}

#[test]
fn what_is_known_but_not_supported_is_said_to_be() {
    error(
        "merge_method: linaer\nmodels: [{model: b}]\n",
        "1:15",
        "unknown merge_method",
        "did you mean 'linear'?",
    );
    error(
        "merge_method: zzz\nmodels: [{model: b}]\n",
        "1:15",
        "unknown merge_method",
        "known methods are arcee_fusion",
    );
    let unknown = "merge_method: zzz\nslices: [{sources: [{model: b, layer_range: [2, 1]}]}]\n";
    error(unknown, "2:45", "runs backwards", "write [1, 2]");
    error(&linear("tokenizer_source: base\n"), "3:19", "there is none", "add 'base_model");
}

#[test]
fn missing_members_and_parameters() {
    error(
        "merge_method: linear\nmodels: [{model: org/gone, parameters: {weight: 1}}]\n",
        "2:18",
        "'org/gone' is not on disk",
        "download it",
    );
    error(
        "merge_method: linear\nmodels: [{model: alien, parameters: {weight: 1}}]\n",
        "2:18",
        "FooForCausalLM",
        "supported architecture",
    );
    error(
        "merge_method: linear\nmodels: [{model: a}]\n",
        "2:18",
        "'weight' is missing for source 'a'",
        "add 'parameters: {weight",
    );
    let filtered = "merge_method: linear\nmodels: [{model: a, parameters: {weight: [{filter: mlp, value: 1}]}}]\n";
    error(filtered, "2:18", "'weight' is missing", "add an entry '{value: ...}'");
    let slerp = "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\n";
    error(slerp, "1:15", "'t' is missing", "parameters: {t: 0.5}");
    error(
        "merge_method: slerp\nmodels: [{model: a}, {model: b}]\n",
        "1:15",
        "needs a 'base_model'",
        "add 'base_model",
    );
}

#[test]
fn numbers_of_models() {
    let three = "merge_method: slerp\nbase_model: a\nparameters: {t: 0}\nmodels: [{model: a}, {model: b}, {model: m}]\n";
    error(three, "4:1", "takes 2 models, not 3", "change the list");
    let two = "merge_method: passthrough\nmodels: [{model: a}, {model: b}]\n";
    error(two, "2:1", "takes 1 model, not 2", "one source");
}

#[test]
fn layer_ranges() {
    error(
        &slices("- sources: [{model: a, layer_range: [4, 2]}]\n"),
        "3:37",
        "[4, 2] runs backwards",
        "write [2, 4]",
    );
    error(
        &slices("- sources: [{model: a, layer_range: [0, 7]}]\n"),
        "3:37",
        "beyond the 6 layers of 'a'",
        "at most 6",
    );
    error(
        &slices("- sources: [{model: a}]\n"),
        "3:13",
        "no 'layer_range'",
        "add 'layer_range: [0, 6]'",
    );
    error(
        &slices("- sources: [{model: a, layer_range: [0, 0]}]\n"),
        "3:3",
        "no layers",
        "add a slice",
    );
    let text = "merge_method: linear\nparameters: {weight: 1}\nslices:\n- sources:\n  - {model: a, layer_range: [0, 6]}\n  - {model: b, layer_range: [0, 5]}\n";
    error(text, "6:5", "'b' gives 5, 'a' gives 6", "equally long");
    let text =
        "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}, {model: deep}]\n";
    error(text, "3:30", "'deep' has 12 layers, 'a' has 6", "layer_range");
    let text = "merge_method: task_arithmetic\nbase_model: a\nparameters: {weight: 1}\nslices:\n- sources: [{model: b, layer_range: [0, 6]}]\n";
    error(text, "5:3", "needs the base model 'a' among the sources", "{model: a, layer_range");
}

#[test]
fn models_that_do_not_go_together() {
    let with = |model: &str| {
        format!(
            "merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: a}}, {{model: {model}}}]\n"
        )
    };
    error(&with("wide"), "3:30", "hidden_size is 64, not 32", "the same sizes");
    error(
        &with("wordy"),
        "3:30",
        "has shape [66, 32] in 'wordy', but [64, 32] in 'a'",
        "add 'tokenizer: {source: union}'",
    );
    error(
        &with("biased"),
        "3:18",
        "lacks the tensor 'model.layers.0.self_attn.q_proj.bias' and",
        "",
    );
    error(
        &with("holey"),
        "3:30",
        "lacks the tensor 'model.layers.3.mlp.up_proj.weight'",
        "incomplete",
    );
    error(&with("liar"), "3:30", "has shape [32, 40], config.json says [32, 48]", "do not match");
    let stack = slices(
        "- sources: [{model: a, layer_range: [0, 6]}]\n- sources: [{model: wordy, layer_range: [0, 6]}]\n",
    );
    error(
        &stack,
        "1:1",
        "the embedding from 'a' has 64 rows, the head from 'wordy' has 66",
        "the same vocabulary",
    );
    let stack = slices(
        "- sources: [{model: a, layer_range: [0, 6]}]\n- sources: [{model: biased, layer_range: [0, 6]}]\n",
    );
    error(&stack, "4:3", "differ in optional tensors: self_attn.k_proj.bias", "the same tensors");
    error(
        &linear("base_model: wordy\n"),
        "1:1",
        "the configuration from 'wordy' says 66",
        "the same vocabulary",
    );
}

#[test]
fn mistral_and_llama_members_mix_with_a_word_about_constants() {
    let text = slices(
        "- sources: [{model: a, layer_range: [0, 6]}]\n- sources: [{model: m, layer_range: [0, 6]}]\n",
    );
    warning(&text, "4:21", "sliding_window is none, not 4096", "base_model");
    let plan = plan(&text).unwrap_or_else(|_| panic!("mixed members are normal"));
    assert_eq!(plan.output().config.architecture().unwrap(), "LlamaForCausalLM");
    assert_eq!(plan.output().hyper.n_layer, 12);
}

#[test]
fn stages() {
    let stage = |name: &str, model: &str| {
        format!("name: {name}\nmerge_method: passthrough\nmodels: [{{model: {model}}}]\n---\n")
    };
    let text =
        stage("x", "y") + &stage("y", "x") + "merge_method: passthrough\nmodels: [{model: x}]\n";
    error(&text, "7:18", "stages form a cycle: 'y' uses 'x'", "another model");
    let text =
        stage("x", "a") + &stage("x", "b") + "merge_method: passthrough\nmodels: [{model: x}]\n";
    error(&text, "5:7", "two stages have the name 'x'; the other is at 1:7", "a different name");
    let text = "merge_method: passthrough\nmodels: [{model: a}]\n---\nmerge_method: passthrough\nmodels: [{model: b}]\n";
    error(text, "4:1", "a second stage without a name", "add 'name: NAME'");
    let text = stage("x", "a") + &stage("y", "b");
    error(&text, "5:7", "more than one stage could be the output", "remove the name");
    let text = stage("x", "a") + "merge_method: passthrough\nmodels: [{model: b}]\n";
    warning(&text, "1:7", "the stage 'x' is not used", "or remove it");
    // The output may come first, and names may be keys that come last.
    let text = "merge_method: passthrough\nmodels: [{model: x}]\n---\nmerge_method: passthrough\nmodels: [{model: deep}]\nname: x\n";
    assert_eq!(plan(text).map_err(|_| ()).unwrap().output().hyper.n_layer, 12);
}

#[test]
fn things_that_have_no_effect() {
    let text = "merge_method: linear\nmodels: [{model: a, parameters: {weight: [{filter: mpl, value: 2}, {value: 1}]}}]\n";
    warning(text, "2:43", "the filter 'mpl' matches no tensor", "model.layers.0.");
    let text = "merge_method: linear\nmodels: [{model: a, parameters: {weight: [{value: 1}, {filter: mlp, value: 2}]}}]\n";
    warning(text, "2:55", "the filter 'mlp' has no effect", "move it up");
    let zero = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 0}}]\n";
    warning(zero, "2:55", "'b' has weight 0 everywhere", "remove it");
    warning(
        &linear("parameters: {density: 0.5}\n"),
        "3:14",
        "'density' has no effect",
        "remove it",
    );
    warning(
        &linear("dtype: float16\ndtype: float32\n"),
        "3:1",
        "'dtype' is given twice; the one at line 4 counts",
        "remove one",
    );
    let t = "merge_method: slerp\nbase_model: a\nparameters: {t: 0}\nmodels: [{model: a, parameters: {t: 1}}, {model: b}]\n";
    warning(t, "4:34", "'t' is not read from a source", "move it");
    let middle = slices(
        "- sources: [{model: a, layer_range: [0, 6]}]\n- sources: [{model: b, layer_range: [1, 1]}]\n- sources: [{model: a, layer_range: [0, 6]}]\n",
    );
    let beyond = "merge_method: slerp\nbase_model: a\nparameters: {t: [0, 50]}\nmodels: [{model: a}, {model: b}]\n";
    warning(beyond, "3:17", "'t' is 50, outside 0 to 1", "extrapolates");
    warning(&middle, "4:3", "a slice without layers has no effect", "to the start or the end");
    let none = "merge_method: linear\nparameters: {normalize: true}\nmodels: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: -1}}]\n";
    error(none, "3:1", "add up to 0", "normalize: false");
}

#[test]
fn tensors_that_would_be_left_out_are_counted() {
    let text = "merge_method: passthrough\nmodels: [{model: strange}]\n";
    warning(text, "2:18", "2 tensors that architecture llama does not use", "config.json");
}

/// Recipes come from anywhere: whatever is wrong with one, there is an answer and no panic.
#[test]
fn damaged_recipes_never_panic() {
    let text = "name: ends\nmerge_method: linear\nparameters: {normalize: true}\nmodels:\n\
                - {model: a, parameters: {weight: [1, 0.5]}}\n- {model: b, parameters: {weight: [{filter: mlp, value: 1}, {value: 2}]}}\n\
                ---\nname: mid\nmerge_method: slerp\nbase_model: a\nslices:\n\
                - sources: [{model: a, layer_range: [0, 3]}, {model: deep, layer_range: [2, 5]}]\nparameters: {t: [0, 1]}\n\
                ---\nmerge_method: passthrough\nslices:\n- sources: [{model: ends, layer_range: [0, 0]}]\n\
                - sources: [{model: mid, layer_range: [0, 3]}]\n- sources: [{model: ends, layer_range: [1, 6]}]\ndtype: float16\n";
    assert_eq!(problems(text), []);
    let survives = |text: &str| {
        if let Err(problems) = plan(text) {
            assert!(
                problems.iter().any(|d| d.severity == Severity::Error),
                "no reason given: {text}"
            );
        }
    };
    let lines: Vec<&str> = text.lines().collect();
    for skipped in 0..lines.len() {
        let kept: Vec<&str> =
            lines.iter().enumerate().filter(|(i, _)| *i != skipped).map(|(_, l)| *l).collect();
        survives(&kept.join("\n"));
    }
    let replacements =
        ["", " ", "\n", "9", "-", "[", "}", ":", "99999999999999999999", "x", "&a ", "*a"];
    for at in 0..text.len() {
        let with = replacements[at % replacements.len()];
        survives(&format!("{}{with}{}", &text[..at], &text[at + 1..]));
        if at % 7 == 0 {
            survives(&text[..at]);
        }
    }
    survives(&"[".repeat(100_000));
    survives(&"{a: ".repeat(100_000));
    survives(&"- ".repeat(100_000));
    let doubling: String =
        (1..40).map(|i| format!("a{i}: &a{i} [*a{}, *a{}]\n", i - 1, i - 1)).collect();
    survives(&format!("a0: &a0 [x, x]\n{doubling}"));
}

#[test]
fn all_problems_are_reported_at_once_in_the_order_of_the_text() {
    let text = "merge_metod: linear\nmerge_method: linear\ndtype: int4\nslices:\n\
                - sources:\n  - {model: a, layer_range: [0, 9]}\n  - {model: gone, layer_range: [3, 1]}\n\
                ---\nname: x\nmerge_method: tise\nmodels: [{model: b}]\n---\nname: x\nmerge_method: linear\nmodels: [{model: b}]\n";
    let all = problems(text);
    let places: Vec<String> = all.iter().map(|d| d.pos.to_string()).collect();
    assert_eq!(
        places,
        [
            "1:1", "3:8", "6:13", "6:29", "7:13", "7:13", "7:32", "9:7", "10:15", "13:7", "13:7",
            "15:18"
        ],
        "{all:#?}"
    );
    let rendered = aqueduct::recipe::render("dir/r.yml", &all);
    assert!(rendered.starts_with("dir/r.yml: 10 errors in the recipe\n"), "{rendered}");
    let excerpt = "\ndir/r.yml:6:29: error: layer_range [0, 9] goes beyond the 6 layers of 'a'\n  \
                   6 |   - {model: a, layer_range: [0, 9]}\n    |                             ^^^^^^\n  \
                   help: the end is the layer after the last: it can be at most 6\n";
    assert!(rendered.contains(excerpt), "{rendered}");
}

#[test]
fn wild_habits_are_understood() {
    // Numbers as text, one-element lists, YAML 1.1 booleans, anchors and merge keys.
    let text = "x: &common {weight: \"1e-5\"}\n".replace("x: ", "parameters: ")
        + "merge_method: linear\nmodels:\n- {model: a, parameters: {<<: *common, weight: [0.5]}}\n- {model: b, parameters: *common}\n";
    let plan = plan(&text).map_err(|p| aqueduct::recipe::render("r", &p)).unwrap();
    let weights: Vec<f64> =
        plan.output().tensors[3].inputs.iter().map(|i| i.params.need("weight")).collect();
    assert_eq!(weights, [0.5, 1e-5]);
    let text = linear("parameters: {normalize: no}\n");
    assert!(
        !self::plan(&text).map_err(|_| ()).unwrap().output().tensors[0].params.flag("normalize")
    );
}

#[test]
fn parameters_are_looked_up_from_the_source_outwards() {
    let text = "merge_method: linear\nparameters: {weight: [{filter: layers.5., value: 4}, {value: 3}]}\nslices:\n\
                - sources:\n  - {model: a, layer_range: [0, 2], parameters: {weight: [{filter: mlp, value: 1}]}}\n\
                \x20 - {model: deep, layer_range: [5, 7]}\n  parameters: {weight: [{filter: norm, value: 2}]}\n";
    let plan = plan(text).map_err(|p| aqueduct::recipe::render("r", &p)).unwrap();
    let weights = |name: &str| -> Vec<f64> {
        let output = plan.output();
        let index = output.table.find(name).unwrap();
        output.tensors[index].inputs.iter().map(|i| i.params.need("weight")).collect()
    };
    assert_eq!(
        weights("model.layers.0.mlp.up_proj.weight"),
        [1.0, 4.0],
        "filters see the input's name"
    );
    assert_eq!(weights("model.layers.0.input_layernorm.weight"), [2.0, 2.0]);
    assert_eq!(weights("model.layers.1.self_attn.q_proj.weight"), [3.0, 3.0]);
    assert_eq!(weights("lm_head.weight"), [3.0, 3.0]);
}

#[test]
fn the_donor_is_the_base_model_else_the_first_source_and_the_plan_says_so() {
    let donor = |more: &str| {
        let plan = plan(&linear(more)).map_err(|p| aqueduct::recipe::render("r", &p)).unwrap();
        let summary = plan.summary();
        let stage = summary.stages.last().unwrap().clone();
        let of = |d: &aqueduct::recipe::DonorSummary| format!("{} ({})", d.member, d.reason);
        (of(&stage.config_donor), of(&stage.tokenizer_donor))
    };
    let first = "a (first source of the output)".to_string();
    assert_eq!(donor(""), (first.clone(), first.clone()));
    let base = "b (base_model of the output)".to_string();
    assert_eq!(donor("base_model: b\n"), (base.clone(), base));
    assert_eq!(donor("tokenizer_source: b\n"), (first, "b (tokenizer_source)".to_string()));
}

#[test]
fn the_summary_shows_layers_with_sources_and_values() {
    let text = "merge_method: slerp\nbase_model: b\nmodels: [{model: a}, {model: b}]\n\
                parameters: {t: [{filter: mlp, value: [0, 1]}, {value: 0.5}]}\ndtype: float16\n";
    let summary = plan(text).map_err(|p| aqueduct::recipe::render("r", &p)).unwrap().summary();
    let stage = &summary.stages[0];
    assert_eq!(stage.layers.len(), 6);
    let row = &stage.layers[5];
    assert_eq!((row.layer, row.sources[1].layer, row.sources[1].is_base), (5, Some(5), true));
    assert_eq!((row.params[0].name, row.params[0].min, row.params[0].max), ("t", 0.5, 1.0));
    assert_eq!(row.params[0].by_filter.len(), 2);
    assert_eq!(row.params[0].by_filter[1].filter.as_deref(), Some("mlp"));
    assert_eq!(stage.embedding.sources[0].params, []);
    assert_eq!(summary.bytes, summary.parameters * 2);
    assert_eq!(
        summary.parameters,
        2 * 64 * 32 + 32 + 6 * (2 * 32 + 2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32)
    );
    let json = serde_json::to_value(&summary).unwrap();
    assert_eq!(json["stages"][0]["layers"][5]["params"][0]["name"], "t");
}
