//! The metadata of a converted model, in llama.cpp's order: what it is, who made it ([`super::identity`]),
//! its hyperparameters, its tokenizer.
//!
//! Source of keys and order: llama.cpp `gguf-py/gguf/constants.py` and
//! `conversion/base.py`, October 2026; what is an architecture's own is declared in [`crate::model::arch`].

use super::{ConvertOptions, identity};
use crate::base::dtype::DType;
use crate::base::error::Result;
use crate::formats::checkpoint::{Checkpoint, Config};
use crate::formats::gguf::{Metadata, Value};
use crate::model::arch::{Architecture, HyperParams, Key, Parameters, VocabularyRules};
use crate::model::tokenizer::Vocabulary;
use serde_json::{Map, Value as Json};

/// The version of the block formats, `general.quantization_version`.
const QUANTIZATION_VERSION: u32 = 2;

/// Everything a converted model's metadata are made from.
pub(super) struct Sources<'a> {
    pub checkpoint: &'a Checkpoint,
    pub options: &'a ConvertOptions,
    pub arch: &'a Architecture,
    pub hyper: &'a HyperParams,
    /// The type of the matrices, or of the blocks that some keep.
    pub dtype: DType,
    pub parameters: Parameters,
    pub vocabulary: Vocabulary,
    /// The front matter of the model's card.
    pub card: &'a Map<String, Json>,
}

impl Sources<'_> {
    /// All keys. Fails if generation_config.json is there but cannot be read.
    pub(super) fn into_metadata(self) -> Result<Metadata> {
        let mut metadata = Metadata::new();
        metadata.set("general.architecture", self.arch.gguf_name);
        let early = self.arch.keys.iter().filter(|key| key.is_early());
        early.for_each(|key| key.write(self.arch, self.hyper, &mut metadata));
        metadata.set("general.type", "model");
        if let Some(file) = self.checkpoint.side_file("generation_config.json") {
            sampling(&Config::from_side_file(file)?, &mut metadata);
        }
        let name = self.options.name.as_deref();
        identity::write(self.checkpoint, self.card, name, self.parameters, &mut metadata);
        self.hyperparameters(&mut metadata);
        metadata.set("general.quantization_version", QUANTIZATION_VERSION);
        self.vocabulary.write_to(&mut metadata);
        match self.hyper.n_vocab {
            _ if self.arch.vocabulary != VocabularyRules::Llama => {}
            32016 => codellama_infill(&mut metadata),
            // The peer takes this size for Granite's small models, SmolLM2 among them.
            49152 => metadata.set("tokenizer.ggml.add_bos_token", false),
            _ => {}
        }
        Ok(metadata)
    }

    fn hyperparameters(&self, metadata: &mut Metadata) {
        for key in self.arch.keys.iter().filter(|key| !key.is_early()) {
            match key {
                Key::FileType => metadata.set("general.file_type", file_type(self.dtype)),
                key => key.write(self.arch, self.hyper, metadata),
            }
        }
    }
}

/// `general.file_type` of a file whose matrices are `dtype`, or some of them, kept in their blocks.
fn file_type(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::BF16 => 32,
        DType::MXFP4 => 38,
        DType::NVFP4 => 39,
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

/// CodeLlama's infill tokens, whose vocabulary alone has this size.
fn codellama_infill(metadata: &mut Metadata) {
    for (kind, id) in [("prefix", 32007u32), ("suffix", 32008), ("middle", 32009), ("eot", 32010)] {
        let key = format!("tokenizer.ggml.{kind}_token_id");
        if metadata.get(&key).is_none() {
            metadata.set(key, id);
        }
    }
}
