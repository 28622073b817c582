//! Plans recipes over models that exist in memory only, and checks what is reported.

use aqueduct::base::dtype::DType;
use aqueduct::formats::checkpoint::{Checkpoint, Config};
use aqueduct::formats::source::{MemorySource, TensorInfo, TensorSource};
use aqueduct::merge;
use aqueduct::recipe::{
    Diagnostic, MemberError, MemberLookup, MergePlan, ModelRef, Severity, plan_text,
    shape_checkpoint,
};
use std::path::Path;
use std::sync::Arc;

/// Models by name; what is not said below is as in `a`.
pub(crate) struct Zoo;

pub(crate) fn config(name: &str) -> Option<Config> {
    let (mut class, mut hidden, mut layers, mut vocab) = ("LlamaForCausalLM", 32, 6, 64);
    let mut feed_forward = 48;
    let mut more = "";
    match name {
        "a" | "b" | "holey" | "liar" | "strange" => {}
        "m" => (class, more) = ("MistralForCausalLM", r#", "sliding_window": 4096"#),
        "deep" => layers = 12,
        "wide" => hidden = 64,
        "wordy" => vocab = 66,
        "thick" => feed_forward = 96,
        "tied" => more = r#", "tie_word_embeddings": true"#,
        "biased" => more = r#", "attention_bias": true"#,
        "alien" => class = "FooForCausalLM",
        _ => return None,
    }
    let json = format!(
        r#"{{"architectures": ["{class}"], "hidden_size": {hidden}, "intermediate_size": {feed_forward},
            "num_hidden_layers": {layers}, "num_attention_heads": 4, "num_key_value_heads": 2,
            "vocab_size": {vocab}{more}}}"#
    );
    Some(Config::parse(name, &json).unwrap())
}

impl MemberLookup for Zoo {
    fn shapes_only(&self) -> bool {
        true
    }

    fn open(&self, reference: &ModelRef) -> Result<Checkpoint, MemberError> {
        let Some(config) = config(&reference.path) else {
            let message = format!("model '{reference}' is not on disk");
            return Err(MemberError { message, remedy: "download it".to_string() });
        };
        let plain = config.architecture().unwrap() == "FooForCausalLM";
        let shapes = if plain {
            shape_checkpoint("a", self::config("a").unwrap())
        } else {
            shape_checkpoint(&reference.path, config.clone())
        };
        let mut checkpoint = Checkpoint { config, ..shapes.unwrap() };
        let spoiled = match reference.path.as_str() {
            "holey" => "model.layers.3.mlp.up_proj.weight",
            "liar" => "model.layers.2.mlp.down_proj.weight",
            "strange" => "model.layers.5.mlp.down_proj.weight",
            _ => return Ok(checkpoint),
        };
        let mut infos = checkpoint.tensors.table().infos().to_vec();
        let at = infos.iter().position(|info| info.name == spoiled).unwrap();
        match reference.path.as_str() {
            "holey" => drop(infos.remove(at)),
            "liar" => infos[at].shape = vec![32, 40],
            _ => {
                for name in ["model.layers.6.mlp.up_proj.weight", "score.weight"] {
                    infos.push(TensorInfo::new(name, vec![2], DType::F32));
                }
                infos.push(TensorInfo::new(
                    "model.layers.0.self_attn.rotary_emb.inv_freq",
                    vec![2],
                    DType::F32,
                ));
            }
        }
        let tensors = infos.into_iter().map(|info| {
            let bytes = vec![0; info.bytes().unwrap()];
            (info, bytes)
        });
        let source: Arc<dyn TensorSource> =
            Arc::new(MemorySource::new(&reference.path, tensors.collect()).unwrap());
        checkpoint.tensors = source;
        Ok(checkpoint)
    }
}

pub(crate) fn plan(text: &str) -> Result<MergePlan, Vec<Diagnostic>> {
    plan_text(Path::new("r.yml"), text, &merge::methods::specs(), &Zoo)
}

pub(crate) fn problems(text: &str) -> Vec<Diagnostic> {
    match plan(text) {
        Ok(plan) => plan.warnings,
        Err(problems) => problems,
    }
}

/// The recipe has a problem at `place` ("line:column") whose message and remedy contain these words.
#[track_caller]
pub(crate) fn expect(text: &str, severity: Severity, place: &str, message: &str, remedy: &str) {
    let all = problems(text);
    let fits = |d: &Diagnostic| {
        d.severity == severity
            && d.pos.to_string() == place
            && d.message.contains(message)
            && d.remedy.contains(remedy)
    };
    assert!(all.iter().any(fits), "{}", aqueduct::recipe::render("r.yml", &all));
    assert_eq!(plan(text).is_err(), all.iter().any(|d| d.severity == Severity::Error));
}

#[track_caller]
pub(crate) fn error(text: &str, place: &str, message: &str, remedy: &str) {
    expect(text, Severity::Error, place, message, remedy);
}

#[track_caller]
pub(crate) fn warning(text: &str, place: &str, message: &str, remedy: &str) {
    expect(text, Severity::Warning, place, message, remedy);
}

pub(crate) const MODELS: &str =
    "models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]\n";

pub(crate) fn linear(more: &str) -> String {
    format!("merge_method: linear\n{MODELS}{more}")
}

pub(crate) fn slices(list: &str) -> String {
    format!("merge_method: passthrough\nslices:\n{list}")
}
