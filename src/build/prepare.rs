//! What a build prepares before it reads the first weight: the model in GGUF terms, the beginning of
//! its file names, the tokens of the calibration text, and a plan for each type.

use super::calibration::Calibration;
use super::file_names::{conventional_stem, file_stem};
use super::options::BuildOptions;
use super::source::Source;
use crate::base::error::{Error, Result};
use crate::base::progress::Progress;
use crate::formats::checkpoint::{CARD_FILE, ModelCard};
use crate::formats::gguf::GgufModel;
use crate::measure::imatrix;
use crate::model::tokenizer::Tokenizer;
use crate::quantize::{Ftype, QuantPlan};

/// The source in GGUF terms, under the name in `options` if there is one.
pub(super) fn named_model(
    source: &Source,
    options: &BuildOptions,
    progress: &dyn Progress,
) -> Result<GgufModel> {
    let mut convert = options.convert.clone();
    convert.name = options.name.clone().or(convert.name);
    convert.keep_blocks = options.types.iter().any(|ftype| ftype.keeps_blocks());
    let mut model = source.to_gguf(&convert, progress)?;
    if let (Source::Gguf { .. }, Some(name)) = (source, &options.name) {
        model.metadata.set("general.name", name.as_str());
    }
    Ok(model)
}

/// The beginning of all file names, before the type.
pub(super) fn stem(source: &Source, model: &GgufModel, options: &BuildOptions) -> String {
    match &options.name {
        Some(name) => file_stem(name),
        None => conventional_stem(&model.metadata).unwrap_or_else(|| source.name()),
    }
}

/// A plan for each type, made as if the importance matrix were there already.
pub(super) fn plan_types(model: &GgufModel, options: &BuildOptions) -> Result<Vec<QuantPlan>> {
    let plan_options = options.plan_options();
    let plan = |&ftype: &Ftype| QuantPlan::expecting_imatrix(model, ftype, &plan_options);
    options.types.iter().map(plan).collect()
}

/// The files that are written beside a merged model's weights: the recipe and a model card.
pub fn recipe_files(source: &Source) -> Vec<(String, Vec<u8>)> {
    let Source::Recipe { plan, checkpoint } = source else { return Vec::new() };
    let mut files = vec![("recipe.yml".to_string(), plan.text.clone().into_bytes())];
    if let Some(ModelCard::Text(card)) = &checkpoint.card {
        files.push((CARD_FILE.to_string(), card.clone().into_bytes()));
    }
    files
}

/// The tokens of the calibration text, at least one chunk of them.
pub(super) struct Prepared {
    pub tokens: Vec<u32>,
    pub options: imatrix::Options,
}

impl Prepared {
    /// Tokenizes the calibration text.
    ///
    /// # Errors
    /// If it, or the text to evaluate on, is shorter than one chunk.
    pub(super) fn new(model: &GgufModel, options: &BuildOptions) -> Result<Prepared> {
        let tokenizer = Tokenizer::from_metadata(model.origin(), &model.metadata)?;
        let Calibration { names, texts } = &options.calibration;
        let (texts, bos) = imatrix::named_tokens(&tokenizer, names, texts, false)?;
        let mut imatrix_options = imatrix::Options {
            ctx: options.ctx,
            chunks: options.chunks,
            bos,
            memory: options.forward_memory,
            ..imatrix::Options::default()
        };
        let tokens = imatrix::arrange(texts, &mut imatrix_options)?;
        imatrix::chunk_tokens(&tokens, &imatrix_options)?;
        check_eval_text(&tokenizer, options)?;
        Ok(Prepared { tokens, options: imatrix_options })
    }
}

/// Fails if the text to evaluate on is shorter than one chunk.
fn check_eval_text(tokenizer: &Tokenizer, options: &BuildOptions) -> Result<()> {
    let Some(eval) = &options.eval else { return Ok(()) };
    let (tokens, _) = imatrix::tokenize(tokenizer, std::slice::from_ref(&eval.text), false)?;
    if tokens.len() >= options.ctx {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "{}: the text has {} tokens, less than one chunk of {}; use a longer text or a smaller \
         --ctx",
        eval.name,
        tokens.len(),
        options.ctx
    )))
}
