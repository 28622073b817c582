//! Whether the models of a stage go together: sizes, architecture, vocabulary, constants.

use super::donors::Donors;
use super::merge_plan::{Input, Place, TensorPlan};
use super::planner::{Planner, View};
use super::slices::Parts;
use crate::formats::source::TensorInfo;
use crate::model::arch::{Experts, HyperParams};
use crate::recipe::syntax::schema::Document;
use crate::recipe::syntax::yaml::Pos;
use std::collections::BTreeSet;

type Planned = [(TensorInfo, TensorPlan)];

/// The sizes that the models of a stack share: the width of all, and those that make a layer of the models
/// that give layers.
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

/// Compares every source with the first one that gives layers, reporting exact numbers. So is the donor of
/// the configuration, if it is known; and where a model's layers will run with constants of the donor
/// that are not its own there is a warning. `slices` are those of the stack and the ends that are merged apart.
pub(crate) fn check(
    planner: &mut Planner<'_>,
    slices: &[&Parts<'_>],
    donor: Option<(Input, Pos)>,
) -> bool {
    let layered = slices.iter().find(|slice| slice.layers > 0);
    let Some(first) = layered.or(slices.first()).and_then(|slice| slice.list.first()) else {
        return false;
    };
    let mut ok = true;
    let mut seen = BTreeSet::from([(first.input, true)]);
    for slice in slices {
        for part in &slice.list {
            if seen.insert((part.input, slice.layers > 0)) {
                ok &= fits(planner, part.input, part.pos, first.input, slice.layers > 0);
            }
        }
    }
    let Some((donor, pos)) = donor else { return ok };
    if seen.insert((donor, layered.is_some())) {
        ok &= fits(planner, donor, pos, first.input, layered.is_some());
    }
    let mut seen = BTreeSet::from([donor]);
    for slice in slices.iter().filter(|slice| slice.layers > 0) {
        for part in slice.list.iter().filter(|part| seen.insert(part.input)) {
            if let Some(message) = foreign_constants(planner, part.input, donor) {
                let remedy = "make the model whose constants shall rule the 'base_model'";
                planner.problems.warn(part.pos, message, remedy);
            }
        }
    }
    ok
}

/// Whether `input` has the architecture and sizes of `first`; the sizes of layers only if it gives layers.
fn fits(planner: &mut Planner<'_>, input: Input, pos: Pos, first: Input, of_layers: bool) -> bool {
    let (ours, theirs) = (planner.view(first), planner.view(input));
    let (name, other) = (planner.label(input), planner.label(first));
    if !std::ptr::eq(ours.arch, theirs.arch) {
        let message = format!(
            "'{name}' has architecture {}, '{other}' has {}",
            theirs.arch.model_type, ours.arch.model_type
        );
        planner.problems.error(pos, message, "models of one merge must share it");
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
    let message = format!("'{name}' does not fit '{other}': its {}", differing.join(", its "));
    let remedy = "choose models of the same sizes; only the number of layers may differ";
    planner.problems.error(pos, message, remedy);
    false
}

/// Constants of the forward pass in which `input` and the donor differ. The output has one value of
/// each for all layers, the donor's.
fn foreign_constants(planner: &Planner<'_>, input: Input, donor: Input) -> Option<String> {
    let (own, ruling) = (planner.view(input), planner.view(donor));
    let window = |config: &crate::formats::checkpoint::Config| match config.usize("sliding_window")
    {
        Some(n) => n.to_string(),
        None => "none".to_string(),
    };
    let used = |experts: Option<Experts>| experts.map_or("none".into(), |e| e.used.to_string());
    let optional = |x: Option<f32>| x.map_or("none".to_string(), |x| x.to_string());
    let constants = |view: &View<'_>| {
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
    let pairs = constants(&own).into_iter().zip(constants(&ruling));
    let differing: Vec<String> = pairs
        .filter(|((_, own), (_, ruling))| own != ruling)
        .map(|((key, own), (_, ruling))| format!("{key} {own}, now {ruling}"))
        .collect();
    (!differing.is_empty()).then(|| {
        format!(
            "the layers of '{}' will run with constants of the donor '{}': {}",
            planner.label(input),
            planner.label(donor),
            differing.join("; ")
        )
    })
}

/// Layers must all have the same optional tensors (biases): a model has one layout.
pub(crate) fn check_optional(
    planner: &mut Planner<'_>,
    slices: &[Parts<'_>],
    tensors: &Planned,
) -> bool {
    let suffix = |name: &str| name.splitn(4, '.').nth(3).unwrap_or_default().to_string();
    let mut layouts: Vec<BTreeSet<String>> = Vec::new();
    for (info, plan) in tensors {
        if let Place::Layer(layer) = plan.place {
            layouts.resize(layouts.len().max(layer + 1), BTreeSet::new());
            layouts[layer].insert(suffix(&info.name));
        }
    }
    let Some(first) = layouts.first().cloned() else { return true };
    let mut layer = 0;
    for slice in slices {
        if slice.layers > 0 && layouts[layer] != first {
            let odd: Vec<&str> =
                layouts[layer].symmetric_difference(&first).map(String::as_str).collect();
            let message = format!(
                "layers of this slice and of the first differ in having {}",
                odd.join(", ")
            );
            let remedy = "a model has the same tensors in all layers: choose models that agree";
            planner.problems.error(slice.pos, message, remedy);
            return false;
        }
        layer += slice.layers;
    }
    true
}

/// Embedding, head and tokenizer must speak of the same tokens.
pub(crate) fn check_vocabulary(
    planner: &mut Planner<'_>,
    document: &Document,
    tensors: &Planned,
    donors: &Donors,
) -> Option<()> {
    let rows = |place: Place| {
        let found = tensors.iter().find(|(_, plan)| plan.place == place);
        found.map(|(info, plan)| (info.shape[0], planner.label(plan.inputs[0].from)))
    };
    let (embedding, source) = rows(Place::Embedding)?;
    let mut wrong = Vec::new();
    if let Some((head, from)) = rows(Place::Head)
        && head != embedding
    {
        wrong.push(format!("the head from '{from}' has {head}"));
    }
    let config = planner.view(donors.config.0).hyper.n_vocab;
    if config != embedding {
        wrong.push(format!(
            "the configuration from '{}' says {config}",
            planner.label(donors.config.0)
        ));
    }
    let tokens = planner.view(donors.tokenizer.0).hyper.n_vocab;
    if tokens != embedding && tokens != config {
        let label = planner.label(donors.tokenizer.0);
        wrong.push(format!("the tokenizer's model '{label}' has {tokens}"));
    }
    if wrong.is_empty() {
        return Some(());
    }
    let message = format!(
        "vocabularies differ: the embedding from '{source}' has {embedding} rows, {}",
        wrong.join(", ")
    );
    let remedy = "take embedding, head, base_model and tokenizer from models with one vocabulary, or \
                  add 'tokenizer: {source: union}'";
    planner.problems.error(document.pos, message, remedy);
    None
}

/// A source whose weight is 0 in every tensor changes nothing; some recipes list one for the sake of
/// its tokenizer, others by mistake.
pub(crate) fn warn_of_zero_weights(
    planner: &mut Planner<'_>,
    slices: &[&Parts<'_>],
    tensors: &Planned,
) {
    for part in slices.iter().flat_map(|slice| &slice.list) {
        let weights: Vec<f64> = tensors
            .iter()
            .flat_map(|(_, plan)| &plan.inputs)
            .filter(|input| input.from == part.input)
            .filter_map(|input| input.params.get("weight"))
            .collect();
        if !weights.is_empty() && weights.iter().all(|&w| w == 0.0) {
            let message = format!(
                "'{}' has weight 0 everywhere: no tensor uses it",
                planner.label(part.input)
            );
            planner.problems.warn(part.pos, message, "give it a weight, or remove it");
        }
    }
}
