//! Habits of recipes in the wild: what the peer's YAML library and schema let through, understood the same
//! way here.

use crate::support::recipe_checks::{error, linear, plan, problems, slices, warning};
use aqueduct::recipe::{MergePlan, render};

#[track_caller]
fn sound(text: &str) -> MergePlan {
    plan(text).unwrap_or_else(|problems| panic!("{}", render("r.yml", &problems)))
}

/// The values of parameter `name` of all sources of `tensor`.
fn values(plan: &MergePlan, tensor: &str, name: &str) -> Vec<f64> {
    let output = plan.output();
    let index = output.table.find(tensor).unwrap();
    output.tensors[index].inputs.iter().filter_map(|input| input.params.get(name)).collect()
}

/// Tensor by tensor, what the output is made of.
fn made_of(plan: &MergePlan) -> Vec<String> {
    plan.output().tensors.iter().map(|tensor| format!("{tensor:?}")).collect()
}

#[test]
fn modules_are_slices_or_models_with_parameters_of_their_own() {
    let inner =
        "- sources:\n  - {model: a, layer_range: [0, 3]}\n  - {model: b, layer_range: [3, 6]}\n";
    let indented = inner.replace("\n", "\n    ");
    let plain = format!("merge_method: linear\nparameters: {{weight: 2}}\nslices:\n{inner}");
    let module = format!(
        "merge_method: linear\nparameters: {{weight: 2}}\nmodules:\n  default:\n    slices:\n    {indented}\n"
    );
    assert_eq!(made_of(&sound(&module)), made_of(&sound(&plain)));
    // Source, then slice, then module, then recipe.
    let text = "merge_method: linear\nparameters: {weight: 4}\nmodules:\n  default:\n    parameters: {weight: [{filter: mlp, value: 3}]}\n    slices:\n\
                \x20   - parameters: {weight: [{filter: up_proj, value: 2}]}\n      sources:\n\
                \x20     - {model: a, layer_range: [0, 2], parameters: {weight: [{filter: layers.1.mlp.up, value: 1}]}}\n";
    let plan = sound(text);
    let weight = |tensor: &str| values(&plan, &format!("model.layers.{tensor}.weight"), "weight");
    assert_eq!(weight("1.mlp.up_proj"), [1.0]);
    assert_eq!(weight("0.mlp.up_proj"), [2.0]);
    assert_eq!(weight("0.mlp.down_proj"), [3.0]);
    assert_eq!(weight("0.self_attn.q_proj"), [4.0]);
    assert_eq!(plan.warnings, []);
    let models = "merge_method: linear\nmodules: {default: {models: [{model: a}, {model: b}], parameters: {weight: 1}}}\n";
    assert_eq!(values(&sound(models), "lm_head.weight", "weight"), [1.0, 1.0]);
}

#[test]
fn wrong_modules() {
    let at = |modules: &str, place: &str, message: &str, remedy: &str| {
        error(&format!("merge_method: linear\nmodules: {modules}\n"), place, message, remedy);
    };
    at("{}", "2:1", "'modules' is empty", "default");
    at("[]", "2:10", "'modules' is a list", "default");
    at("{defualt: {models: []}}", "2:11", "unknown key 'defualt'", "did you mean 'default'?");
    at("{vision_tower: {models: []}}", "2:11", "unknown key 'vision_tower'", "default");
    at("{default: {}}", "2:11", "neither 'models' nor 'slices'", "slices");
    at("{default: {models: []}}", "2:21", "'models' is empty", "list");
    at("{default: {models: [], slices: []}}", "2:33", "both 'models' and 'slices'", "keep one");
    at("{default: {slice: []}}", "2:21", "unknown key 'slice' in a module", "'slices'");
    at(
        "{default: {parameters: {wieght: 1}, models: [{model: a}]}}",
        "2:34",
        "no parameter 'wieght'",
        "'weight'",
    );
    error(&linear("modules: {}\n"), "3:1", "both 'models' and 'modules'", "keep one");
}

/// After a self-stack that was copied many times: one key again and again to hold anchors, a mapping of
/// parameters merged into sources.
#[test]
fn keys_of_any_name_may_hold_anchors() {
    let text = "const_tag: &MODEL a\nconst_tag: &RESIDUAL 0.5\nconst_tag: &QK 0.7\n\
                scale-filter-env: &scaled\n  parameters:\n    scale:\n\
                \x20     - {filter: o_proj, value: *RESIDUAL}\n      - {filter: down_proj, value: *RESIDUAL}\n\
                \x20     - {filter: q_proj, value: *QK}\n      - value: 1.0\n\
                slices:\n- sources:\n  - {model: *MODEL, layer_range: [0, 4]}\n\
                - sources:\n  - model: *MODEL\n    layer_range: [2, 6]\n    <<: *scaled\n\
                merge_method: passthrough\n";
    let plan = sound(text);
    assert_eq!(plan.warnings, []);
    let scale = |tensor: &str| values(&plan, &format!("model.layers.{tensor}.weight"), "scale");
    assert_eq!(scale("0.mlp.down_proj"), [] as [f64; 0]);
    assert_eq!(scale("4.mlp.down_proj"), [0.5]);
    assert_eq!(scale("7.self_attn.q_proj"), [0.7]);
    assert_eq!(scale("7.mlp.up_proj"), [1.0]);
    error(
        &slices("- sources: [{model: a, layer_range: [0, 6]}]\nconst_tag: 3\n"),
        "4:1",
        "unknown key 'const_tag'",
        "known keys",
    );
    error(&linear("dtyp: &x float16\ndtype: *y\n"), "4:8", "unknown anchor", "mend");
}

#[test]
fn merged_mappings_give_way_to_keys_beside_them_and_repeated_keys_to_later_ones() {
    let text = "merge_method: linear\nmodels:\n- &first\n  model: a\n  parameters: &p {weight: 0.25, <<: {weight: 7}}\n\
                - {<<: *first, model: b}\n- {<<: [{parameters: {weight: 3}}, *first], model: m}\n\
                - {model: a, parameters: {weight: 0.5}, parameters: {<<: *p, weight: 1}}\n";
    assert_eq!(values(&sound(text), "lm_head.weight", "weight"), [0.25, 0.25, 3.0, 1.0]);
    warning(text, "8:14", "'parameters' is given twice; the one at line 8 counts", "remove one");
    warning(
        &linear("dtype: float32\ndtype: float16\ndtype: bfloat16\n"),
        "4:1",
        "line 5 counts",
        "",
    );
    let slices = "slices: [{sources: [{model: a, layer_range: [0, 1]}]}]\n";
    let text = format!("merge_method: passthrough\n{slices}{}", slices.replace("1]", "2]"));
    assert_eq!(sound(&text).output().hyper.n_layer, 2);
}

#[test]
fn numbers_may_be_texts_and_lists_may_have_one_element() {
    let weight = |given: &str| {
        let text = format!(
            "merge_method: linear\nmodels: [{{model: a, parameters: {{weight: {given}}}}}]\n"
        );
        let plan = sound(&text);
        [0, 3, 5].map(|layer| {
            values(&plan, &format!("model.layers.{layer}.mlp.up_proj.weight"), "weight")[0]
        })
    };
    for (given, value) in [
        ("1e-5", 1e-5),
        ("\"1e-5\"", 1e-5),
        ("' 0.5 '", 0.5),
        ("+.5", 0.5),
        ("5.", 5.0),
        ("1E2", 100.0),
        ("[0.5]", 0.5),
        ("[\"0.5\"]", 0.5),
        ("[3]", 3.0),
        ("{value: [\"2\"]}", 2.0),
        ("[{value: 2}]", 2.0),
        ("[{filter: '*', value: 2}]", 2.0),
        ("[{filter: \"*\", value: [2, 2]}, {value: 3}]", 2.0),
        ("[{filter: null, value: 2}]", 2.0),
        ("true", 1.0),
        ("on", 1.0),
    ] {
        assert_eq!(weight(given), [value; 3], "{given}");
    }
    assert_eq!(weight("['5', \"1e1\"]"), [5.0, 8.0, 10.0]);
    let normalize = |given: &str| {
        let plan = sound(&linear(&format!("parameters: {{normalize: {given}}}\n")));
        plan.output().tensors[0].params.flag("normalize")
    };
    for (given, flag) in [
        ("false", false),
        ("'no'", false),
        ("0", false),
        ("0.0", false),
        ("1", true),
        ("Yes", true),
    ] {
        assert_eq!(normalize(given), flag, "{given}");
    }
    let quoted = slices("- sources: [{model: a, layer_range: ['0', \"6\"]}]\n");
    assert_eq!(sound(&quoted).output().hyper.n_layer, 6);
}

#[test]
fn a_condition_without_a_match_asks_the_next_wider_place() {
    let text = "merge_method: slerp\nbase_model: a\nslices:\n- parameters: {t: {filter: mlp, value: [0, 1]}}\n  sources:\n\
                \x20 - {model: a, layer_range: [0, 2]}\n  - {model: b, layer_range: [0, 2]}\nparameters: {t: [{filter: norm, value: 0.25}, {value: 0.5}]}\n";
    let plan = sound(text);
    let t = |tensor: &str| {
        let output = plan.output();
        output.tensors[output.table.find(tensor).unwrap()].params.need("t")
    };
    assert_eq!(t("model.layers.1.mlp.up_proj.weight"), 1.0);
    assert_eq!(t("model.layers.1.input_layernorm.weight"), 0.25);
    assert_eq!(t("lm_head.weight"), 0.5);
    let unmatched = text.replace("filter: mlp", "filter: expert");
    warning(&unmatched, "4:19", "the filter 'expert' matches no tensor", "a part of tensor names");
    assert!(plan.warnings.is_empty());
}

#[test]
fn stages_may_stand_in_any_order_and_be_named_anywhere() {
    let one = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}, {model: two}]\n";
    let two = "models:\n- model: b\n- model: {model: {path: three}}\nmerge_method: linear\nname: two\nparameters: {weight: 1}\n";
    let three = "merge_method: passthrough\nmodels: [{model: a}]\nname: \"three\"\n";
    for order in [[one, two, three], [three, two, one], [two, one, three], [three, one, two]] {
        let plan = sound(&order.join("---\n"));
        let names: Vec<String> = plan.stages.iter().map(|stage| stage.label()).collect();
        assert_eq!(names, ["three", "two", "output"]);
        assert_eq!(plan.warnings, []);
    }
    let text = [two, &format!("{one}name: one\n"), three].join("\n---\n");
    assert_eq!(sound(&text).output().label(), "one", "the one that no other uses");
    let numbered = format!(
        "{}---\n{}",
        three.replace("\"three\"", "7"),
        slices("- sources: [{model: 7, layer_range: [0, 6]}]\n")
    );
    assert_eq!(sound(&numbered).stages.len(), 2);
}

#[test]
fn slices_of_no_layers_give_the_ends() {
    let text = "merge_method: linear\nslices:\n\
                - sources: [{model: a, layer_range: [0, 0], parameters: {weight: 1}}, {model: b, layer_range: [3, 3], parameters: {weight: 2}}]\n\
                - sources: [{model: a, layer_range: [0, 2], parameters: {weight: 1}}]\n\
                - sources: [{model: b, layer_range: [6, 6], parameters: {weight: 3}}]\n";
    let plan = sound(text);
    assert_eq!(values(&plan, "model.embed_tokens.weight", "weight"), [1.0, 2.0]);
    assert_eq!(values(&plan, "model.norm.weight", "weight"), [3.0]);
    assert_eq!(values(&plan, "lm_head.weight", "weight"), [3.0]);
    assert_eq!(plan.output().hyper.n_layer, 2);
    assert_eq!(plan.warnings, []);
}

#[test]
fn a_range_in_models_may_say_what_is_so_anyway() {
    let text = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a, layer_range: [0, 6]}, {model: b}]\n";
    assert_eq!(problems(text), []);
    let part = text.replace("[0, 6]", "[0, 5]");
    error(&part, "3:34", "'models' takes all 6 layers of 'a'", "use 'slices'");
}

#[test]
fn keys_that_only_other_methods_read_are_a_warning() {
    let text = "models:\n  - model: a\n  - model: b\n    parameters:\n      density: 0.53\n      weight: \"0.4\"\n\
                merge_method: task_arithmetic\nbase_model: a\nparameters:\n  int8_mask: true\n  normalize: \"false\"\ndtype: bfloat16\n";
    warning(text, "5:7", "'density' has no effect", "remove it");
    assert_eq!(values(&sound(text), "lm_head.weight", "weight"), [0.4]);
}

#[test]
fn a_base_model_that_is_a_source_like_any_other_needs_its_weight() {
    let text = "merge_method: linear\nbase_model: a\nmodels: [{model: a}, {model: b, parameters: {weight: 1}}]\n";
    error(text, "3:18", "'weight' is missing for source 'a'", "add 'parameters");
}

/// Faults of every kind in one recipe: what one check finds does not keep the others from looking.
#[test]
fn faults_of_different_kinds_are_found_in_one_go() {
    let text = "merge_method: linear\nparameters: {weight: 1, normalise: 0}\nslices:\n\
                - sources: [{model: a, layer_range: [0, 9]}]\n\
                - sources: [{model: holey, layer_range: [0, 6]}]\n\
                - sources: [{model: liar, layer_range: [0, 6]}]\n\
                head: {merge_method: slerp, base_model: gone, models: [{model: b}]}\n\
                embeddings: {merge_method: linear, models: [{model: a, parameters: {weight: heavy}}, {model: b}]}\n\
                dtype: f16\n---\nname: other\nmerge_method: ties2\nmodels: [{model: missing}]\n";
    let found: Vec<String> =
        problems(text).iter().map(|d| format!("{} {}", d.pos, d.message)).collect();
    let expected = [
        ("2:25", "no parameter 'normalise'"),
        ("4:37", "beyond the 6 layers"),
        ("5:21", "lacks the tensor 'model.layers.3.mlp.up_proj.weight'"),
        ("6:21", "config.json says [32, 48]"),
        ("7:22", "'t' is missing"),
        ("7:41", "'gone' is not on disk"),
        ("8:77", "'weight' is the text 'heavy'"),
        ("8:94", "'weight' is missing for source 'b'"),
        ("9:8", "unknown dtype"),
        ("11:7", "the stage 'other' is not used"),
        ("12:15", "unknown merge_method 'ties2'"),
        ("13:18", "'missing' is not on disk"),
    ];
    for (place, message) in expected {
        let fits = |text: &String| text.starts_with(&format!("{place} ")) && text.contains(message);
        assert!(found.iter().any(fits), "{place} {message} is not in {found:#?}");
    }
}
