//! The metadata of a converted model, in the peer's order: what it is, where it comes from, its
//! hyperparameters, its tokenizer.
//!
//! Source of keys and order: llama.cpp `gguf-py/gguf/{constants,metadata}.py` and
//! `conversion/{base,llama}.py`, October 2026.

use super::naming::{self, NameParts};
use super::{BaseModel, ConvertOptions};
use crate::arch::{Architecture, HyperParams, RopeScaling};
use crate::checkpoint::{Checkpoint, Config};
use crate::dtype::DType;
use crate::error::Result;
use crate::gguf::{Metadata, Value};
use crate::tokenizer::Vocabulary;

/// The version of the block formats, `general.quantization_version`.
const QUANTIZATION_VERSION: u32 = 2;

/// Everything a converted model's metadata are made from.
pub(super) struct Sources<'a> {
    pub checkpoint: &'a Checkpoint,
    pub options: &'a ConvertOptions,
    pub arch: &'a Architecture,
    pub hyper: &'a HyperParams,
    /// The type of the matrices.
    pub dtype: DType,
    pub parameters: u64,
    pub vocabulary: Vocabulary,
}

impl Sources<'_> {
    /// All keys. Fails if generation_config.json is there but cannot be read.
    pub fn into_metadata(self) -> Result<Metadata> {
        let mut metadata = Metadata::new();
        metadata.set("general.architecture", self.arch.gguf_name);
        metadata.set("general.type", "model");
        if let Some(path) = self.checkpoint.side_file("generation_config.json") {
            sampling(&Config::read(path)?, &mut metadata);
        }
        self.identity(&mut metadata);
        self.hyperparameters(&mut metadata);
        metadata.set("general.quantization_version", QUANTIZATION_VERSION);
        self.vocabulary.write_to(&mut metadata);
        match self.hyper.n_vocab {
            32016 => codellama_infill(&mut metadata),
            // The peer takes this size for Granite's small models, SmolLM2 among them.
            49152 => metadata.set("tokenizer.ggml.add_bos_token", false),
            _ => {}
        }
        Ok(metadata)
    }

    /// Name, base name, size and base models.
    fn identity(&self, metadata: &mut Metadata) {
        let mut ids = vec![self.checkpoint.name.as_str()];
        // What the configuration calls itself goes first, if it is a model's name and not a path. A
        // merge has its configuration from one of its members, whose name is not its own.
        let recorded = self.checkpoint.config.str("_name_or_path");
        if let Some(recorded) = recorded.filter(|r| r.matches('/').count() <= 1 && !r.is_empty())
            && self.options.base_models.is_empty()
        {
            ids.insert(0, recorded);
        }
        let parts: Vec<NameParts> =
            ids.iter().map(|id| NameParts::parse(id, self.parameters)).collect();
        let first = |part: fn(&NameParts) -> Option<&String>| parts.iter().find_map(part).cloned();
        let name = self.options.name.clone().unwrap_or_else(|| naming::title(&parts[0].full_name));
        let size = first(|p| p.size_label.as_ref());
        let mut set = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                metadata.set(format!("general.{key}"), value);
            }
        };
        set("name", Some(name));
        set("version", first(|p| p.version.as_ref()));
        set("organization", first(|p| p.organization.as_ref()).map(|o| naming::title(&o)));
        set("finetune", first(|p| p.finetune.as_ref()));
        set("basename", first(|p| p.basename.as_ref()));
        set("size_label", Some(size.unwrap_or_else(|| naming::size_label(self.parameters))));
        base_models(&self.options.base_models, metadata);
    }

    fn hyperparameters(&self, metadata: &mut Metadata) {
        let hyper = self.hyper;
        let mut set = |key: &str, value: Value| {
            metadata.set(format!("{}.{key}", self.arch.gguf_name), value);
        };
        // HyperParams bounds every count by 2^30, so none is cut here.
        let count = |n: usize| Value::U32(n as u32);
        set("block_count", count(hyper.n_layer));
        set("context_length", count(hyper.n_ctx_train));
        set("embedding_length", count(hyper.n_embd));
        set("feed_forward_length", count(hyper.n_ff));
        set("attention.head_count", count(hyper.n_head));
        set("attention.head_count_kv", count(hyper.n_head_kv));
        if let RopeScaling::Linear { factor } = hyper.rope_scaling {
            set("rope.scaling.type", "linear".into());
            set("rope.scaling.factor", factor.into());
        }
        set("rope.freq_base", hyper.rope_theta.into());
        set("attention.layer_norm_rms_epsilon", hyper.rms_eps.into());
        set("attention.key_length", count(hyper.head_dim));
        set("attention.value_length", count(hyper.head_dim));
        metadata.set("general.file_type", file_type(self.dtype));
        let mut set = |key: &str, value: Value| {
            metadata.set(format!("{}.{key}", self.arch.gguf_name), value);
        };
        set("vocab_size", count(hyper.n_vocab));
        set("rope.dimension_count", count(hyper.head_dim));
    }
}

/// `general.file_type` of a file whose matrices are `dtype`.
fn file_type(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::BF16 => 32,
        _ => 1,
    }
}

/// Recommended sampler settings: the key in generation_config.json and the one in GGUF.
#[rustfmt::skip]
const SAMPLING: &[(&str, &str, Number)] = &[
    ("top_k", "top_k", Number::Integer),
    ("top_p", "top_p", Number::Float),
    ("min_p", "min_p", Number::Float),
    ("xtc_probability", "xtc_probability", Number::Float),
    ("xtc_threshold", "xtc_threshold", Number::Float),
    ("temperature", "temp", Number::Float),
    ("penalty_last_n", "penalty_last_n", Number::Integer),
    ("penalty_repeat", "penalty_repeat", Number::Float),
    ("repetition_penalty", "penalty_repeat", Number::Float),
    ("mirostat", "mirostat", Number::Integer),
    ("mirostat_tau", "mirostat_tau", Number::Float),
    ("mirostat_eta", "mirostat_eta", Number::Float),
];

#[derive(Clone, Copy)]
enum Number {
    Integer,
    Float,
}

fn sampling(config: &Config, metadata: &mut Metadata) {
    for (from, to, number) in SAMPLING {
        let key = format!("general.sampling.{to}");
        let value = match number {
            Number::Integer => {
                config.get(from).and_then(|v| v.as_i64()?.try_into().ok()).map(Value::I32)
            }
            Number::Float => config.f64(from).map(|v| Value::F32(v as f32)),
        };
        if let Some(value) = value.filter(|_| metadata.get(&key).is_none()) {
            metadata.set(key, value);
        }
    }
}

/// The models a merge was made of.
fn base_models(models: &[BaseModel], metadata: &mut Metadata) {
    if models.is_empty() {
        return;
    }
    metadata.set("general.base_model.count", models.len() as u32);
    for (index, model) in models.iter().enumerate() {
        let mut set = |key: &str, value: Option<&str>| {
            if let Some(value) = value {
                metadata.set(format!("general.base_model.{index}.{key}"), value);
            }
        };
        set("name", Some(&model.name));
        set("version", model.version.as_deref());
        set("organization", model.organization.as_deref());
        set("repo_url", model.repo_url.as_deref());
    }
}

/// CodeLlama's infill tokens, whose vocabulary alone has this size.
fn codellama_infill(metadata: &mut Metadata) {
    for (kind, id) in [("prefix", 32007u32), ("suffix", 32008), ("middle", 32009), ("eot", 32010)] {
        let key = format!("tokenizer.ggml.{kind}_token_id");
        if metadata.get(&key).is_none() {
            metadata.set(key, id);
        }
    }
}
