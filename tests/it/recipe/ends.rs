//! `embeddings`, `final_norm` and `head`: ends of a stack that are merged apart from its slices.

use crate::merge::golden_merges::{made, plan_made};
use crate::support::recipe_checks::{error, plan, problems, warning};
use aqueduct::base::dtype::DType;
use aqueduct::formats::checkpoint::Checkpoint;
use aqueduct::merge;
use aqueduct::recipe::{MergePlan, render};
use aqueduct::report::{merge_readme, render_merge};

/// A model of one layer with weights that look random and differ with `seed` and the tensor.
fn random(name: &str, tied: bool, dtype: DType, seed: u32) -> Checkpoint {
    made(name, tied, dtype, move |tensor, i| {
        let mixed = tensor.bytes().fold(seed, |h, b| (h ^ u32::from(b)).wrapping_mul(16_777_619));
        let mixed = (mixed ^ i as u32).wrapping_mul(2_654_435_761);
        (mixed >> 8) as f32 / 8_388_608.0 - 1.0
    })
}

fn members(tied: bool) -> Vec<(&'static str, Checkpoint)> {
    let names = [("a", DType::F16, 1), ("b", DType::BF16, 2), ("c", DType::F32, 3)];
    names.map(|(name, dtype, seed)| (name, random(name, tied, dtype, seed))).to_vec()
}

/// Name, type, shape and bytes of every tensor.
fn tensors(plan: MergePlan) -> Vec<(String, DType, Vec<usize>, Vec<u8>)> {
    let source = merge::open(plan).tensors;
    let infos = source.table().infos().iter().enumerate();
    let read = |index: usize| source.read(index).unwrap();
    infos
        .map(|(index, info)| {
            let data = read(index);
            (info.name.clone(), data.dtype, data.shape.clone(), data.bytes.into_owned())
        })
        .collect()
}

const STACK: &str = "- sources: [{model: a, layer_range: [0, 1]}]\n\
                     - sources: [{model: b, layer_range: [0, 1], parameters: {scale: 0.5}}]\n";

#[test]
fn ends_said_directly_give_the_bytes_of_the_bookend_trick() {
    let mean = "merge_method: linear\nmodels:\n- {model: a, parameters: {weight: 0.7}}\n\
                - {model: b, parameters: {weight: [0.2, 9]}}\n- {model: c, parameters: {weight: \"1e-1\"}}\n";
    let arc = "merge_method: slerp\nbase_model: c\nmodels: [{model: a}, {model: c}]\n\
               parameters: {t: [{filter: norm, value: 0.25}, {filter: lm_head, value: 0.75}, {value: 1}]}\n";
    let bookends = format!(
        "name: low\n{mean}dtype: float32\n---\nname: high\n{arc}dtype: float32\n---\n\
         merge_method: passthrough\nbase_model: a\ndtype: float16\nslices:\n\
         - sources: [{{model: low, layer_range: [0, 0]}}]\n{STACK}\
         - sources: [{{model: high, layer_range: [0, 0]}}]\n"
    );
    let indented = |text: &str| text.replace('\n', "\n  ").trim_end().to_string();
    let (mean, arc) = (indented(mean), indented(&arc.replace("models:", "sources:")));
    let direct = format!(
        "merge_method: passthrough\nbase_model: a\ndtype: float16\nslices:\n{STACK}\
         embeddings:\n  {mean}\nfinal_norm: &top\n  {arc}\nhead: *top\n"
    );
    let expected = tensors(plan_made(members(false), &bookends));
    assert_eq!(tensors(plan_made(members(false), &direct)), expected);
    assert_eq!(expected.len(), 1 + 2 * 9 + 2);
    let plain = format!("merge_method: passthrough\ndtype: float16\nslices:\n{STACK}");
    let plain = tensors(plan_made(members(false), &plain));
    let differ: Vec<&str> = (plain.iter().zip(&expected))
        .filter(|(plain, ours)| plain != ours)
        .map(|(plain, _)| plain.0.as_str())
        .collect();
    assert_eq!(differ, ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]);
}

#[test]
fn an_end_that_is_not_given_is_that_of_its_slice() {
    let text = format!(
        "merge_method: passthrough\nslices:\n{STACK}final_norm: {{merge_method: passthrough, \
         models: [{{model: c}}]}}\n"
    );
    let given = plan_made(members(false), &text);
    assert_eq!(given.warnings, []);
    let stage = given.summary().stages.pop().unwrap();
    let from = |row: &aqueduct::recipe::EndRow| (row.apart, row.sources[0].from.clone());
    assert_eq!(from(&stage.embedding), (false, "a".to_string()));
    assert_eq!(from(&stage.final_norm), (true, "c".to_string()));
    assert_eq!(from(&stage.head), (false, "b".to_string()));
}

#[test]
fn tied_members_give_their_embeddings_to_a_head_and_the_output_is_untied() {
    let ends = "embeddings: {merge_method: passthrough, models: [{model: a}]}\n";
    let stack = format!("merge_method: passthrough\ndtype: float32\nslices:\n{STACK}{ends}");
    let head =
        "head: {merge_method: linear, parameters: {weight: 1}, models: [{model: a}, {model: b}]}\n";
    let plan = plan_made(members(true), &format!("{stack}{head}"));
    assert_eq!(plan.warnings, []);
    let merged = merge::open(plan);
    assert_eq!(merged.config.bool("tie_word_embeddings"), Some(false));
    let values = |c: &Checkpoint, name: &str| c.tensors.read_name(name).unwrap().to_f32().unwrap();
    let all = members(true);
    let embeddings = [0, 1].map(|i| values(&all[i].1, "model.embed_tokens.weight"));
    let mean: Vec<f32> =
        embeddings[0].iter().zip(&embeddings[1]).map(|(a, b)| (a + b) / 2.0).collect();
    assert_eq!(values(&merged, "lm_head.weight"), mean);

    let plan = plan_made(members(true), &format!("{stack}head: tied\n"));
    assert_eq!(plan.warnings, []);
    assert!(plan.output().hyper.tied);
    let text = render_merge(&plan.summary());
    assert!(text.contains("tied to the embedding"), "{text}");
    let merged = merge::open(plan);
    assert_eq!(merged.config.bool("tie_word_embeddings"), Some(true));
    assert!(merged.tensors.table().get("lm_head.weight").is_none());

    let plan = plan_made(members(true), &stack);
    let [warning] = plan.warnings.as_slice() else { panic!("{:?}", plan.warnings) };
    assert!(warning.message.contains("have no output head"), "{warning}");
    assert!(warning.remedy.contains("head: tied"), "{warning}");
    assert!(!plan.output().hyper.tied);
}

fn stack(ends: &str) -> String {
    format!(
        "merge_method: passthrough\nslices:\n- sources: [{{model: a, layer_range: [0, 6]}}]\n{ends}"
    )
}

#[test]
fn ends_are_checked_like_recipes() {
    let at = |ends: &str, place: &str, message: &str, remedy: &str| {
        error(&stack(ends), place, message, remedy);
    };
    at("head: a\n", "4:7", "'head' is the text 'a'", "merge_method: linear");
    at("heads: {}\n", "4:1", "unknown key 'heads'", "did you mean 'head'?");
    at("embedding: {}\n", "4:1", "unknown key 'embedding'", "did you mean 'embeddings'?");
    at("head: {}\n", "4:1", "'head' has no 'merge_method'", "add 'merge_method");
    at("head: {merge_method: linear}\n", "4:1", "'head' has no 'models'", "models: [{model");
    at(
        "head: {merge_method: linear, models: [{model: a}], sources: []}\n",
        "4:52",
        "both 'models' and 'sources'",
        "keep one",
    );
    at("head: {merge_method: linear, sources: []}\n", "4:30", "'sources' is empty", "list");
    at("head: {merge_method: liner, models: [{model: a}]}\n", "4:22", "'liner'", "'linear'");
    at(
        "head: {merge_method: linear, model: [{model: a}]}\n",
        "4:30",
        "unknown key 'model' in 'head'",
        "'models'",
    );
    at(
        "head: {merge_method: linear, models: [{model: a, layer_range: [0, 0]}]}\n",
        "4:50",
        "unknown key 'layer_range'",
        "known keys are model, parameters",
    );
    at("head: {merge_method: linear, models: [{model: a}]}\n", "4:47", "'weight' is missing", "");
    at("head: {merge_method: linear, models: [{model: gone}]}\n", "4:47", "'gone' is not", "");
    at(
        "head: {merge_method: passthrough, models: [{model: a}, {model: b}]}\n",
        "4:35",
        "takes 1 model, not 2",
        "",
    );
    let slerp =
        "head: {merge_method: slerp, models: [{model: a}, {model: b}], parameters: {t: 0.5}}\n";
    at(slerp, "4:22", "needs a 'base_model'", "add 'base_model");
    at(
        "head: {merge_method: passthrough, models: [{model: wide}]}\n",
        "4:52",
        "hidden_size is 64",
        "",
    );
    let wordy = "head: {merge_method: passthrough, models: [{model: wordy}]}\n";
    at(wordy, "1:1", "the head from 'wordy' has 66", "the same vocabulary");
    let both = "embeddings: {merge_method: linear, parameters: {weight: 1}, models: [{model: a}, {model: wordy}]}\n";
    at(both, "4:90", "has shape [66, 32]", "same vocabulary");
    let sum = "head: {merge_method: linear, models: [{model: a, parameters: {weight: 0}}]}\n";
    at(sum, "4:30", "add up to 0", "normalize: false");
}

#[test]
fn what_has_no_effect_on_an_end_is_said() {
    let at = |ends: &str, place: &str, message: &str| warning(&stack(ends), place, message, "");
    let one = |parameters: &str| {
        format!(
            "head: {{merge_method: linear, models: [{{model: b, parameters: {parameters}}}]}}\n"
        )
    };
    at(&one("{weight: [1, 2]}"), "4:71", "a gradient has no layers to run over here");
    let filter = "{weight: [{filter: embed, value: 1}, {value: 2}]}";
    at(&one(filter), "4:72", "the filter 'embed' matches no tensor");
    at(&one("{weight: 1, density: 1}"), "4:74", "'density' has no effect on merge_method 'linear'");
    at("head: tied\n", "4:7", "'head: tied' drops the output head of 'a'");
    let bookends = "- sources: [{model: b, layer_range: [0, 0]}]\nhead: &b {merge_method: passthrough, \
                    models: [{model: b}]}\nfinal_norm: *b\n";
    at(bookends, "4:3", "a slice without layers has no effect");
    // Filters of the recipe around an end do not reach it.
    let text = "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\n\
                parameters: {t: [{filter: lm_head, value: 0}, {value: 1}]}\n\
                head: {merge_method: passthrough, models: [{model: b}]}\n";
    warning(text, "4:18", "the filter 'lm_head' matches no tensor", "model.layers");
}

#[test]
fn ends_may_come_from_stages_and_from_models_with_other_layers() {
    let text = "name: mean\nmerge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}, {model: b}]\n---\n"
        .to_string()
        + &stack(
            "head: {merge_method: passthrough, models: [{model: mean}]}\n\
             embeddings: {merge_method: passthrough, models: [{model: thick}]}\n",
        );
    assert_eq!(problems(&text), [], "only the width of the stack matters to its ends");
    let thick = "merge_method: passthrough\nbase_model: thick\nmodels: [{model: a}]\n";
    error(thick, "2:13", "intermediate_size is 96, not 48", "the same sizes");
    let circle = "name: x\n".to_string()
        + &stack("head: {merge_method: passthrough, models: [{model: y}]}\n")
        + "---\nname: y\nmerge_method: passthrough\nmodels: [{model: x}]\n";
    error(&circle, "5:52", "stages form a cycle", "another model");
}

#[test]
fn plans_show_the_methods_and_sources_of_ends() {
    let ends = "embeddings: &e {merge_method: linear, parameters: {weight: 0.5}, models: [{model: a}, {model: b}]}\n\
                final_norm: *e\n\
                head: {merge_method: slerp, base_model: a, models: [{model: a}, {model: b}], parameters: {t: 0.25}}\n";
    let plan = plan(&stack(ends)).unwrap_or_else(|p| panic!("{}", render("r", &p)));
    let summary = plan.summary();
    let text = render_merge(&summary);
    for row in [
        "passthrough; embedding and norm: linear; head: slerp",
        "linear: 0.5 A + 0.5 B",
        "slerp: A* + B, t 0.25",
    ] {
        assert!(text.contains(row), "{row} is not in\n{text}");
    }
    let json = serde_json::to_value(&summary).unwrap();
    let stage = &json["stages"][0];
    assert_eq!(stage["method"], "passthrough");
    assert_eq!(
        (&stage["head"]["method"], &stage["head"]["apart"]),
        (&"slerp".into(), &true.into())
    );
    assert_eq!(stage["head"]["params"][0]["max"], 0.25);
    assert_eq!(stage["embedding"]["sources"][1]["params"][0]["name"], "weight");
    let card = merge_readme("m", &summary, "", &serde_json::Map::new());
    let row = "- `output`: 6 layers, passthrough; embedding and norm: linear; head: slerp\n";
    assert!(card.contains(row), "{card}");
}
