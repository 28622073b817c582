//! Conversion: a checkpoint (a Hugging Face folder or a merge) as a GGUF model.
//!
//! Only metadata are made here; tensors are renamed, reordered and cast when they are read, one at a
//! time, and not copied where nothing changes. So conversion takes no time and no memory of note, and
//! the imatrix and quantize stages work on a checkpoint as on a GGUF file. Which tensors there are, and
//! how they are named and permuted, is declared in [`crate::model::arch`].

mod blocks;
mod cast;
mod experts;
mod identity;
mod metadata;
mod naming;
mod tensors;

pub use identity::{merge_front_matter, write_base_models};

use crate::base::dtype::DType;
use crate::base::error::{Error, Result};
use crate::formats::checkpoint::{Checkpoint, ModelCard};
use crate::formats::gguf::GgufModel;
use crate::model::arch::{Description, VocabularyRules};
use crate::model::tokenizer::{SpacePrefix, Vocabulary};
use std::str::FromStr;
use std::sync::Arc;
use tensors::ConvertedSource;

/// The float type of a converted model's matrices. Norms and biases are always F32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputType {
    /// The type of the checkpoint's first matrix that is F16 or BF16; F16 if there is none.
    #[default]
    Auto,
    F16,
    BF16,
    F32,
}

impl FromStr for OutputType {
    type Err = String;

    fn from_str(text: &str) -> Result<OutputType, String> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(OutputType::Auto),
            "f16" => Ok(OutputType::F16),
            "bf16" => Ok(OutputType::BF16),
            "f32" => Ok(OutputType::F32),
            _ => Err(format!("unknown type '{text}'; known are f16, bf16, f32 and auto")),
        }
    }
}

/// How to convert.
#[derive(Clone, Debug, Default)]
pub struct ConvertOptions {
    pub output_type: OutputType,
    /// `general.name`; else the model card's, or it is made from the checkpoint's name.
    pub name: Option<String>,
    /// `tokenizer.ggml.pre`, where it cannot be recognised.
    pub pre_tokenizer: Option<String>,
    /// Matrices that are stored in blocks of a GGUF type, MXFP4 or NVFP4, keep them, if the output type is
    /// [`OutputType::Auto`]; they are dequantized otherwise.
    pub keep_blocks: bool,
}

/// The GGUF model that `checkpoint` is. Reads the tokenizer's files but no weights.
///
/// # Errors
/// If the architecture is unknown, tensors are missing, unexpected or of the wrong shape (all of them
/// are named), or there is no usable tokenizer. Reading a tensor later fails if a value is not finite
/// or too large for F16.
pub fn convert(checkpoint: &Checkpoint, options: &ConvertOptions) -> Result<GgufModel> {
    let config = &checkpoint.config;
    let Description { arch, hyper, mut warnings } = Description::of_checkpoint(checkpoint)?;
    if hyper.experts.is_some_and(|experts| !experts.normalized) {
        let detail = "'norm_topk_prob' is not true, so the weights of a token's experts have no fixed sum; GGUF \
                      cannot tell, and programs that read it take them to sum to 1";
        return Err(Error::model(config.origin(), detail));
    }
    let dtype = matrix_type(checkpoint, options.output_type);
    let keep_blocks = options.keep_blocks && options.output_type == OutputType::Auto;
    let tensors = ConvertedSource::new(checkpoint, arch, &hyper, dtype, keep_blocks)?;
    let dtype = tensors.block_type().unwrap_or(dtype);
    let vocabulary =
        Vocabulary::from_checkpoint(checkpoint, hyper.n_vocab, options.pre_tokenizer.as_deref())?;
    let vocabulary = vocabulary.with_space_prefix(match arch.vocabulary {
        VocabularyRules::Llama => SpacePrefix::Config,
        VocabularyRules::Plain => SpacePrefix::Tokenizer,
        VocabularyRules::NoSpacePrefix => SpacePrefix::Never,
    });
    let origin = config.origin();
    warnings.extend(vocabulary.warnings().iter().map(|warning| format!("{origin}: {warning}")));
    let parameters = tensors.parameters(&hyper);
    let card = checkpoint.card.as_ref().map(ModelCard::front_matter).unwrap_or_default();
    warnings.extend(card.warning);
    warnings.extend(vocabulary.warnings.iter().cloned());
    let sources = metadata::Sources {
        checkpoint,
        options,
        arch,
        hyper: &hyper,
        dtype,
        parameters,
        vocabulary,
        card: &card.keys,
    };
    Ok(GgufModel { metadata: sources.into_metadata()?, tensors: Arc::new(tensors), warnings })
}

/// The type of the matrices. config.json's `torch_dtype` does not count: some fine-tunes lie.
fn matrix_type(checkpoint: &Checkpoint, wanted: OutputType) -> DType {
    let matrices =
        || checkpoint.tensors.table().infos().iter().filter(|info| info.shape.len() >= 2);
    let half = |dtype: &DType| matches!(dtype, DType::F16 | DType::BF16);
    match wanted {
        OutputType::F16 => DType::F16,
        OutputType::BF16 => DType::BF16,
        OutputType::F32 => DType::F32,
        OutputType::Auto => matrices().map(|info| info.dtype).find(half).unwrap_or(DType::F16),
    }
}
