//! Checks that the models of a stage fit together: sizes, architecture, vocabulary, constants.

use super::donors::Donors;
use super::merge_plan::{PlanInput, TensorPlan};
use super::models::{ModelView, Models};
use super::slices::ResolvedSlice;
use crate::formats::source::TensorInfo;
use crate::model::arch::{Experts, HyperParams};
use crate::recipe::place::StackPlace;
use crate::recipe::syntax::diagnostics::Diagnostics;
use crate::recipe::syntax::schema::RecipeDocument;
use crate::recipe::syntax::yaml::Pos;
use std::collections::BTreeSet;

type PlannedTensors = [(TensorInfo, TensorPlan)];

/// The sizes that all models of a stack must share. `of_layers` adds those that only models that
/// provide layers must share.
fn sizes(hyper: &HyperParams, of_layers: bool) -> Vec<(&'static str, usize)> {
    let mut sizes = vec![("hidden_size", hyper.n_embd)];
    if of_layers {
        sizes.extend([
            ("intermediate_size", hyper.n_ff),
            ("num_attention_heads", hyper.n_head),
            ("num_key_value_heads", hyper.n_head_kv),
            ("head_dim", hyper.head_dim),
        ]);
        if let Some(experts) = hyper.experts {
            sizes.extend([
                ("number of experts", experts.count),
                ("experts' feed-forward length", experts.n_ff),
            ]);
        }
    }
    sizes
}

/// Compares every source, and the donor of the configuration if it is known, with the first source
/// that provides layers. Warns of layers that will run with constants of the donor that differ from
/// their model's. `slices` are those of the stack and the ends that are merged separately.
pub(crate) fn check(
    models: &Models<'_>,
    slices: &[&ResolvedSlice<'_>],
    donor: Option<(PlanInput, Pos)>,
    problems: &mut Diagnostics,
) -> bool {
    let layered = slices.iter().find(|slice| slice.layers > 0);
    let Some(first) = layered.or(slices.first()).and_then(|slice| slice.sources.first()) else {
        return false;
    };
    let mut ok = true;
    let mut seen = BTreeSet::from([(first.input, true)]);
    for slice in slices {
        for source in &slice.sources {
            if seen.insert((source.input, slice.layers > 0)) {
                let of_layers = slice.layers > 0;
                ok &= fits(models, source.input, source.pos, first.input, of_layers, problems);
            }
        }
    }
    let Some((donor, pos)) = donor else { return ok };
    if seen.insert((donor, layered.is_some())) {
        ok &= fits(models, donor, pos, first.input, layered.is_some(), problems);
    }
    let mut seen = BTreeSet::from([donor]);
    for slice in slices.iter().filter(|slice| slice.layers > 0) {
        for source in slice.sources.iter().filter(|source| seen.insert(source.input)) {
            if let Some(message) = foreign_constants(models, source.input, donor) {
                let remedy = "set 'base_model' to the model whose constants the result should have";
                problems.warn(source.pos, message, remedy);
            }
        }
    }
    ok
}

/// Whether `input` has the architecture and sizes of `first`, including those of layers with
/// `of_layers`. Reports what differs.
fn fits(
    models: &Models<'_>,
    input: PlanInput,
    pos: Pos,
    first: PlanInput,
    of_layers: bool,
    problems: &mut Diagnostics,
) -> bool {
    let (ours, theirs) = (models.view(first), models.view(input));
    let (name, other) = (models.label(input), models.label(first));
    if !std::ptr::eq(ours.arch, theirs.arch) {
        let message = format!(
            "'{name}' has architecture {}, '{other}' has {}",
            theirs.arch.model_type, ours.arch.model_type
        );
        problems.error(pos, message, "choose models of the same architecture");
        return false;
    }
    let differing: Vec<String> = sizes(theirs.hyper, of_layers)
        .iter()
        .zip(sizes(ours.hyper, of_layers))
        .filter(|(theirs, ours)| theirs.1 != ours.1)
        .map(|(theirs, ours)| format!("{} is {}, not {}", theirs.0, theirs.1, ours.1))
        .collect();
    if differing.is_empty() {
        return true;
    }
    let message = format!("'{name}' does not fit '{other}': {}", differing.join("; "));
    let remedy = "choose models of the same sizes; only the number of layers may differ";
    problems.error(pos, message, remedy);
    false
}

/// A warning about constants of the forward pass in which `input` and the donor differ. All layers
/// of the output use the donor's.
fn foreign_constants(models: &Models<'_>, input: PlanInput, donor: PlanInput) -> Option<String> {
    let (own, of_donor) = (models.view(input), models.view(donor));
    let window = |config: &crate::formats::checkpoint::Config| match config.usize("sliding_window")
    {
        Some(n) => n.to_string(),
        None => "none".to_string(),
    };
    let used = |experts: Option<Experts>| experts.map_or("none".into(), |e| e.used.to_string());
    let optional = |x: Option<f32>| x.map_or("none".to_string(), |x| x.to_string());
    let constants = |view: &ModelView<'_>| {
        let hyper = view.hyper;
        [
            ("rope_theta", hyper.rope_theta.to_string()),
            ("rope_local_base_freq", optional(hyper.local_rope_theta)),
            ("rms_norm_eps", hyper.rms_eps.to_string()),
            ("rope_scaling", format!("{:?}", hyper.rope_scaling)),
            ("sliding_window", window(view.config)),
            ("the scale of attention", optional(hyper.attention_scale)),
            ("attn_logit_softcapping", optional(hyper.attention_soft_cap)),
            ("final_logit_softcapping", optional(hyper.logit_soft_cap)),
            ("embedding_multiplier", hyper.embedding_scale.to_string()),
            ("residual_multiplier", hyper.residual_scale.to_string()),
            ("logits_scaling", hyper.logit_scale.to_string()),
            ("num_experts_per_tok", used(hyper.experts)),
        ]
    };
    let pairs = constants(&own).into_iter().zip(constants(&of_donor));
    let differing: Vec<String> = pairs
        .filter(|((_, own), (_, of_donor))| own != of_donor)
        .map(|((key, own), (_, of_donor))| format!("{key} is {of_donor}, not {own}"))
        .collect();
    (!differing.is_empty()).then(|| {
        format!(
            "the layers of '{}' will run with constants from the configuration of '{}': {}",
            models.label(input),
            models.label(donor),
            differing.join("; ")
        )
    })
}

/// Checks that all layers have the same optional tensors (biases).
pub(crate) fn check_optional(
    slices: &[ResolvedSlice<'_>],
    tensors: &PlannedTensors,
    problems: &mut Diagnostics,
) -> bool {
    let suffix = |name: &str| name.splitn(4, '.').nth(3).unwrap_or_default().to_string();
    let mut layouts: Vec<BTreeSet<String>> = Vec::new();
    for (info, plan) in tensors {
        if let StackPlace::Layer(layer) = plan.place {
            layouts.resize(layouts.len().max(layer + 1), BTreeSet::new());
            layouts[layer].insert(suffix(&info.name));
        }
    }
    let Some(first) = layouts.first().cloned() else { return true };
    let mut layer = 0;
    for slice in slices {
        if slice.layers > 0 && layouts[layer] != first {
            let differing: Vec<&str> =
                layouts[layer].symmetric_difference(&first).map(String::as_str).collect();
            let message = format!(
                "this slice and the first slice differ in optional tensors: {}",
                differing.join(", ")
            );
            let remedy = "choose models with the same tensors in every layer";
            problems.error(slice.pos, message, remedy);
            return false;
        }
        layer += slice.layers;
    }
    true
}

/// Checks that embedding, head, configuration and tokenizer have the same number of tokens.
pub(crate) fn check_vocabulary(
    models: &Models<'_>,
    document: &RecipeDocument,
    tensors: &PlannedTensors,
    donors: &Donors,
    problems: &mut Diagnostics,
) -> Option<()> {
    let rows = |place: StackPlace| {
        let found = tensors.iter().find(|(_, plan)| plan.place == place);
        found.map(|(info, plan)| (info.shape[0], models.label(plan.inputs[0].from)))
    };
    let (embedding, source) = rows(StackPlace::Embedding)?;
    let mut wrong = Vec::new();
    if let Some((head, from)) = rows(StackPlace::Head)
        && head != embedding
    {
        wrong.push(format!("the head from '{from}' has {head}"));
    }
    let config = models.view(donors.config.0).hyper.n_vocab;
    if config != embedding {
        wrong.push(format!(
            "the configuration from '{}' says {config}",
            models.label(donors.config.0)
        ));
    }
    let tokens = models.view(donors.tokenizer.0).hyper.n_vocab;
    if tokens != embedding && tokens != config {
        let label = models.label(donors.tokenizer.0);
        wrong.push(format!("the tokenizer's model '{label}' has {tokens}"));
    }
    if wrong.is_empty() {
        return Some(());
    }
    let message = format!(
        "vocabularies differ: the embedding from '{source}' has {embedding} rows, {}",
        wrong.join(", ")
    );
    let remedy = "take embedding, head, base_model and tokenizer from models with the same \
                  vocabulary, or add 'tokenizer: {source: union}'";
    problems.error(document.pos, message, remedy);
    None
}

/// Warns of sources whose weight is 0 in every tensor. Some recipes list one for its tokenizer,
/// others by mistake.
pub(crate) fn warn_of_zero_weights(
    models: &Models<'_>,
    slices: &[&ResolvedSlice<'_>],
    tensors: &PlannedTensors,
    problems: &mut Diagnostics,
) {
    for source in slices.iter().flat_map(|slice| &slice.sources) {
        let weights: Vec<f64> = tensors
            .iter()
            .flat_map(|(_, plan)| &plan.inputs)
            .filter(|input| input.from == source.input)
            .filter_map(|input| input.params.get("weight"))
            .collect();
        if !weights.is_empty() && weights.iter().all(|&w| w == 0.0) {
            let message = format!(
                "'{}' has weight 0 everywhere: no tensor uses it",
                models.label(source.input)
            );
            problems.warn(source.pos, message, "give it a weight, or remove it");
        }
    }
}
