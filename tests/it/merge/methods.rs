//! What recipes say of merge methods: parameters, their limits and words, numbers of models, seeds.

use crate::support::recipe_checks::{error, plan, problems, warning};
use aqueduct::merge;
use aqueduct::recipe::{Folders, ParamDefault, plan_text};
use std::path::Path;

/// A recipe for `method` with the base `a` and two models; the second has the parameters `of_model`.
fn recipe(method: &str, of_model: &str, more: &str) -> String {
    format!(
        "merge_method: {method}\nbase_model: a\nmodels: [{{model: b, parameters: {{weight: 1}}}}, \
         {{model: b@2, parameters: {{{of_model}}}}}]\n{more}"
    )
}

#[test]
fn every_method_of_the_peer_is_there() {
    // mergekit 0.1.5, `merge_methods/registry.py`.
    let peers = "arcee_fusion breadcrumbs breadcrumbs_ties dare_linear dare_ties della della_linear \
                 karcher linear model_stock multislerp nearswap nuslerp passthrough ram ramplus_tl sce \
                 slerp task_arithmetic ties";
    let specs = merge::methods::specs();
    let names: Vec<&str> = specs.iter().map(|spec| spec.name).collect();
    assert_eq!(names, peers.split_whitespace().collect::<Vec<_>>());
}

/// The defaults of mergekit 0.1.5.
#[test]
fn defaults_are_the_peers() {
    let expected: &[(&str, &[(&str, f64)])] = &[
        ("ties", &[("density", 1.0), ("normalize", 1.0), ("rescale", 0.0), ("lambda", 1.0)]),
        ("dare_linear", &[("density", 1.0), ("normalize", 0.0), ("rescale", 1.0)]),
        ("dare_ties", &[("density", 1.0), ("normalize", 0.0), ("rescale", 1.0)]),
        ("breadcrumbs", &[("gamma", 0.01), ("normalize", 0.0), ("rescale", 0.0)]),
        ("breadcrumbs_ties", &[("gamma", 0.01), ("normalize", 0.0), ("rescale", 0.0)]),
        ("della", &[("epsilon", 0.15), ("normalize", 1.0), ("rescale", 1.0), ("lambda", 1.0)]),
        ("della_linear", &[("epsilon", 0.15), ("normalize", 0.0), ("rescale", 1.0)]),
        ("nuslerp", &[("nuslerp_flatten", 1.0), ("nuslerp_row_wise", 0.0)]),
        ("multislerp", &[("normalize_weights", 1.0), ("eps", 1e-8)]),
        ("karcher", &[("max_iter", 10.0), ("tol", 1e-5)]),
        ("model_stock", &[("filter_wise", 0.0)]),
        ("sce", &[("select_topk", 1.0)]),
        ("ram", &[("epsilon", 1e-5)]),
        ("ramplus_tl", &[("epsilon", 1e-5), ("r", 0.1), ("alpha", 0.2)]),
    ];
    let specs = merge::methods::specs();
    for (method, params) in expected {
        let spec = specs.iter().find(|spec| spec.name == *method).unwrap();
        for (name, value) in *params {
            let param = spec.param(name).unwrap_or_else(|| panic!("{method} lacks {name}"));
            assert_eq!(param.default, ParamDefault::Value(*value), "{method}: {name}");
        }
    }
    for (method, name) in [("ties", "weight"), ("nearswap", "t"), ("nuslerp", "weight")] {
        let spec = specs.iter().find(|spec| spec.name == method).unwrap();
        assert_eq!(spec.param(name).unwrap().default, ParamDefault::Required);
    }
}

#[test]
fn values_that_cannot_be_are_errors() {
    let density = |value: &str| recipe("ties", &format!("weight: 1, density: {value}"), "");
    assert_eq!(problems(&density("[0, 1]")), []);
    error(&density("1.2"), "3:93", "'density' is 1.2, outside 0 to 1", "from 0 to 1");
    error(&density("[0.5, -0.1]"), "3:93", "'density' is -0.1, outside 0 to 1", "from 0 to 1");
    let clauses = density("[{filter: mlp, value: 0.5}, {value: 7}]");
    error(&clauses, "3:121", "'density' is 7, outside 0 to 1", "from 0 to 1");
    let topk = recipe("sce", "", "parameters: {select_topk: 1.5}\n");
    error(&topk, "4:27", "'select_topk' is 1.5, outside 0 to 1", "from 0 to 1");
    let eps = recipe("multislerp", "weight: 1", "parameters: {eps: -1}\n");
    error(&eps, "4:19", "'eps' is -1, less than 0", "give 0 or more");
}

#[test]
fn probabilities_of_della_must_be_probabilities() {
    let della = |values: &str| recipe("della", &format!("weight: 1, {values}"), "");
    for sound in ["density: 0.5", "density: 0.9, epsilon: 0.05", "density: 1", "density: 0"] {
        assert_eq!(problems(&della(sound)), [], "{sound}");
    }
    for values in ["density: 0.9", "density: 0.1", "density: [0.5, 0.6], epsilon: 0.4"] {
        error(&della(values), "3:55", "is not between 0 and 1", "a smaller 'epsilon'");
    }
    assert_eq!(problems(&della("density: 0.9")).len(), 1, "said once for all tensors");
}

#[test]
fn rescaling_has_names() {
    let with =
        |value: &str| recipe("dare_ties", "weight: 1", &format!("parameters: {{{value}}}\n"));
    let value = |text: &str| {
        let plan = plan(&with(&format!("rescale: {text}"))).unwrap_or_else(|_| panic!("{text}"));
        plan.output().tensors[0].params.need("rescale")
    };
    for (text, expected) in
        [("true", 1.0), ("l1", 1.0), ("'l1'", 1.0), ("1", 1.0), ("density", 2.0), ("false", 0.0)]
    {
        assert_eq!(value(text), expected, "{text}");
    }
    assert_eq!(value("[{filter: embed_tokens, value: density}, {value: false}]"), 2.0);
    error(
        &with("rescale: l3"),
        "4:23",
        "'rescale' is the text 'l3', not a number or a known word",
        "one of: none, l1, density",
    );
    error(&with("normalize: l1"), "4:25", "'normalize' is the text 'l1', not a number", "finite");
    let summary = plan(&with("rescale: density")).map_err(|_| ()).unwrap().summary();
    let cell = summary.stages[0].embedding.params.iter().find(|c| c.name == "rescale").unwrap();
    assert_eq!((cell.word, cell.is_default), (Some("density"), false));
}

#[test]
fn seeds_are_whole_numbers_and_belong_to_random_methods() {
    let seed = |text: &str| recipe("dare_ties", "weight: 1", &format!("seed: {text}\n"));
    for (text, expected) in [("42", 42), ("'7'", 7), ("0", 0)] {
        let plan = plan(&seed(text)).map_err(|_| ()).unwrap();
        assert_eq!(plan.output().seed, expected);
        assert_eq!(plan.summary().stages[0].seed, Some(expected));
    }
    for text in ["-1", "1.5", "luck", "[1]"] {
        error(&seed(text), "4:7", "'seed' is", "seed: 42");
    }
    let ties = recipe("ties", "weight: 1", "seed: 1\n");
    warning(&ties, "4:7", "'seed' has no effect", "remove it");
}

#[test]
fn what_the_peer_decides_for_its_memory_is_passed_over() {
    for method in ["ties", "dare_ties", "task_arithmetic", "sce"] {
        let weight = if method == "sce" { "" } else { "weight: 1" };
        let text = recipe(method, weight, "parameters: {int8_mask: true}\n");
        let text = if method == "sce" { text.replacen("weight: 1", "", 1) } else { text };
        assert_eq!(problems(&text), [], "{method}");
    }
}

#[test]
fn an_optional_base_does_not_count_as_a_model() {
    let nuslerp = |models: &str, more: &str| {
        format!("merge_method: nuslerp\nparameters: {{weight: 1}}\nmodels: [{models}]\n{more}")
    };
    let two = "{model: b}, {model: b@2}";
    let sources = |text: &str| {
        let plan = plan(text).map_err(|_| ()).unwrap();
        let tensor = &plan.output().tensors[0];
        (tensor.inputs.len(), tensor.base)
    };
    assert_eq!(sources(&nuslerp(two, "")), (2, None));
    assert_eq!(sources(&nuslerp(two, "base_model: a\n")), (3, Some(2)));
    let listed = nuslerp("{model: a}, {model: b}, {model: b@2}", "base_model: a\n");
    assert_eq!(sources(&listed), (3, Some(0)));
    let message = "takes 2 models, not 1";
    error(&nuslerp(two, "base_model: b\n"), "3:1", message, "the 'base_model' does not count");
    error(&nuslerp("{model: b}", "base_model: a\n"), "3:1", message, "does not count");
    let slices = "merge_method: nuslerp\nbase_model: a\nparameters: {weight: 1}\nslices:\n\
                  - sources: [{model: b, layer_range: [0, 6]}, {model: b@2, layer_range: [0, 6]}]\n";
    warning(
        slices,
        "5:3",
        "the base model 'a' is not a source of this slice",
        "add it to the sources",
    );
}

#[test]
fn numbers_of_models_are_those_that_the_method_takes() {
    let stock = "merge_method: model_stock\nbase_model: a\nmodels: [{model: b}]\n";
    error(stock, "3:1", "takes 3 or more models, not 2", "counts as a model");
    let near = "merge_method: nearswap\nbase_model: a\nparameters: {t: 0.1}\nmodels: [{model: b}, {model: b@2}]\n";
    error(near, "4:1", "takes 2 models, not 3", "change the list");
    let zero = "merge_method: multislerp\nmodels: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: -1}}]\n";
    error(zero, "2:1", "add up to 0", "normalize_weights: false");
}

/// A dropped element is the base's, so the seed alone decides where the result equals it.
#[test]
fn a_seed_in_the_recipe_decides_what_is_drawn() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/merge");
    let path = data.join("recipes/dare.yml");
    let lookup = Folders::beside(&path, &[data.join("models")]);
    let merged = |more: &str| {
        let text = format!(
            "merge_method: dare_ties\nbase_model: base\ndtype: float32\n\
             models: [{{model: a, parameters: {{weight: 0.5, density: 0.3}}}}]\n{more}"
        );
        let plan = plan_text(&path, &text, &merge::methods::specs(), &lookup);
        let merged = merge::open(plan.map_err(|_| ()).unwrap());
        merged.tensors.read_name("model.layers.0.mlp.up_proj.weight").unwrap().bytes.into_owned()
    };
    assert_eq!(merged("seed: 3\n"), merged("seed: 3\n"));
    assert_eq!(merged(""), merged("seed: 0\n"));
    assert_ne!(merged("seed: 3\n"), merged("seed: 4\n"));
    assert_ne!(merged("parameters: {rescale: density}\n"), merged(""));
    assert_eq!(merged("parameters: {rescale: l1}\n"), merged(""));
}
