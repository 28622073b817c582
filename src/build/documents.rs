//! What is written beside the quants for people: README.md, report.html, the recipe and the picture of its plan.

use super::checksums::SUMS_FILE;
use super::file_names::name_of;
use super::options::BuildOptions;
use super::provenance::Origins;
use super::result::Build;
use super::source::Source;
use crate::base::error::{Error, Result};
use crate::base::progress::Progress;
use crate::formats::checkpoint::CARD_FILE;
use crate::formats::gguf::{self, GgufModel};
use crate::measure::evaluate::Evaluations;
use crate::model::tokenizer::{ChatTemplate, ChatTemplates, Date};
use crate::quantize::{Written, presets};
use crate::report::{
    self, Figures, Published, PublishedEvaluation, PublishedFile, PublishedImatrix, PublishedMerge,
    TypedTensor,
};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

const REPORT_FILE: &str = "report.html";
const RECIPE_FILE: &str = "recipe.yml";
const PICTURE_FILE: &str = "plan.svg";

/// The documents that a build of `source` into `dir` writes.
pub(super) fn targets(source: &Source, dir: &Path) -> Vec<PathBuf> {
    let mut names = vec![CARD_FILE, REPORT_FILE];
    if matches!(source, Source::Recipe { .. }) {
        names.extend([RECIPE_FILE, PICTURE_FILE]);
    }
    names.into_iter().map(|name| dir.join(name)).collect()
}

/// A document: its name, its text, and what of it is not of a single run, as times are.
pub(super) struct Document {
    pub name: &'static str,
    pub text: String,
    pub lasting: String,
}

/// The documents about `built`.
///
/// # Errors
/// If a file of the build cannot be read again.
pub(super) fn texts(
    source: &Source,
    model: &GgufModel,
    origins: &Origins,
    built: &Build,
    options: &BuildOptions,
    progress: &dyn Progress,
) -> Result<Vec<Document>> {
    let prompt = prompt(model, options.date, progress);
    let folder = Published { prompt, ..published(source, model, origins, built, options)? };
    let report = report::published_html(&folder);
    let mut texts = vec![(CARD_FILE, report::published_readme(&folder))];
    if let Some(merge) = folder.merge {
        texts.push((RECIPE_FILE, merge.recipe));
        texts.push((PICTURE_FILE, report::stack_svg(&merge.summary, &built.name)));
    }
    // The report tells what the others and the figures do, and times.
    let mut lasting = serde_json::to_string(&built.evaluation).expect("plain data serialize");
    texts.iter().for_each(|(_, text)| lasting.push_str(text));
    let mut documents: Vec<_> = texts
        .into_iter()
        .map(|(name, text)| Document { name, lasting: text.clone(), text })
        .collect();
    documents.insert(1, Document { name: REPORT_FILE, text: report, lasting });
    Ok(documents)
}

/// Everything the documents say of the folder, except the prompt.
fn published(
    source: &Source,
    model: &GgufModel,
    origins: &Origins,
    built: &Build,
    options: &BuildOptions,
) -> Result<Published> {
    let file = |(at, written): (usize, &Written)| {
        published_file(written, built.evaluation.as_ref().and_then(|all| figures(all, at)))
    };
    let infos = model.tensors.table().infos();
    let statistics = report::imatrix_statistics(&built.imatrix)?;
    let imatrix = PublishedImatrix {
        file: name_of(&built.imatrix),
        bytes: built.imatrix_bytes,
        chunks: built.chunks,
        ctx: options.ctx,
        // Those that were read, which may be fewer than were given.
        texts: statistics.datasets.iter().map(|name| name_of(Path::new(name))).collect(),
        statistics,
    };
    let licenses = match origins.conflict() {
        Some(_) => origins.licenses.clone(),
        None => Vec::new(),
    };
    Ok(Published {
        name: model.metadata.str("general.name").unwrap_or(&built.name).to_string(),
        quantized_by: options.quantized_by.clone(),
        architecture: model.architecture()?.to_string(),
        parameters: infos.iter().map(|info| info.elements() as u64).sum(),
        base_models: origins.base_models.clone(),
        license: origins.license.clone(),
        licenses,
        quantized_sources: origins.quantized.clone(),
        tags: origins.tags.clone(),
        languages: origins.languages.clone(),
        pipeline_tag: origins.pipeline_tag.clone().unwrap_or_else(|| "text-generation".into()),
        files: built.files.iter().enumerate().map(file).collect::<Result<_>>()?,
        imatrix,
        evaluation: evaluation(built, options),
        prompt: None,
        merge: match source {
            Source::Recipe { plan, .. } => Some(PublishedMerge {
                summary: plan.summary(),
                recipe: plan.text.clone(),
                recipe_file: RECIPE_FILE,
                picture: PICTURE_FILE,
            }),
            Source::Folder(_) | Source::Gguf { .. } => None,
        },
        checksums: SUMS_FILE,
        timings: timings(built),
    })
}

/// The file as it is on disk, whose table lists the tensors' types.
fn published_file(written: &Written, figures: Option<Figures>) -> Result<PublishedFile> {
    let model = gguf::open(&written.path)?;
    let infos = model.tensors.table().infos().iter().filter(|info| info.shape.len() > 1);
    let tensors = infos.map(|info| TypedTensor {
        name: info.name.clone(),
        dtype: info.dtype.to_string(),
        bits: 8.0 * info.dtype.block_bytes() as f64 / info.dtype.block_len() as f64,
    });
    let ftype = written.ftype.parse().map_err(Error::Usage)?;
    let mut bytes = 0;
    let paths = written.paths();
    for path in &paths {
        bytes += std::fs::metadata(path).map_err(Error::io(path, "examine"))?.len();
    }
    Ok(PublishedFile {
        names: paths.iter().map(|path| name_of(path)).collect(),
        ftype: written.ftype.clone(),
        bytes,
        bits_per_weight: written.bits_per_weight,
        seconds: written.seconds,
        advice: presets::advice(ftype),
        figures,
        tensors: tensors.collect(),
    })
}

/// What was measured of file number `at`.
fn figures(all: &Evaluations, at: usize) -> Option<Figures> {
    let model = all.models.get(at)?;
    let divergence = model.divergence.as_ref()?;
    let (kld, same_top) = (divergence.kld.mean, divergence.same_top);
    Some(Figures { perplexity: model.perplexity, kld, same_top })
}

fn evaluation(built: &Build, options: &BuildOptions) -> Option<PublishedEvaluation> {
    let (all, text) = (built.evaluation.as_ref()?, options.eval.as_ref()?);
    let first = all.models.first()?;
    Some(PublishedEvaluation {
        text: name_of(Path::new(&text.name)),
        tokens: first.tokens,
        ctx: all.ctx,
        perplexity: first.divergence.as_ref()?.reference_perplexity,
    })
}

/// A system prompt and a question as the model reads them; without the former if its template refuses that.
/// `None` if the model has no template, or one that cannot be run, which is a warning.
fn prompt(model: &GgufModel, today: Date, progress: &dyn Progress) -> Option<String> {
    if ChatTemplates::of_metadata(&model.metadata).is_empty() {
        return None;
    }
    let system = json!({"role": "system", "content": "{system_prompt}"});
    let user = json!({"role": "user", "content": "{prompt}"});
    let rendered = |messages: Value| {
        let template = ChatTemplate::from_metadata(model.origin(), &model.metadata, today);
        let template = template.map_err(|e| e.to_string())?;
        let variables = Map::from_iter([("messages".to_string(), messages)]);
        let failed = |e| format!("{}: the chat template fails: {e}", model.origin());
        template.render_prompt(&variables).map_err(failed)
    };
    match rendered(json!([system, user])).or_else(|_| rendered(json!([user]))) {
        Ok(prompt) => Some(prompt),
        Err(reason) => {
            let what = "the model card says nothing of the prompt";
            progress.warn(&format!("{reason}; {what}"));
            None
        }
    }
}

fn timings(built: &Build) -> Vec<(&'static str, f64)> {
    let mut timings = vec![("importance matrix", built.imatrix_seconds)];
    timings.push((report::QUANTIZING, built.quantize_seconds));
    timings.extend(built.evaluation_seconds.map(|seconds| ("evaluation", seconds)));
    timings.push(("all so far", built.seconds));
    timings
}
