//! `aqueduct quantize SOURCE -o FILE|DIR TYPE...`: quantized GGUF files in one pass.

use super::mix::MixArguments;
use super::options::{ConvertArguments, ResumeArguments, RunArguments, SeedArgument};
use super::{Context, shell, show};
use crate::Error;
use crate::base::output;
use crate::base::size;
use crate::build::Source;
use crate::formats::gguf::{self, GgufModel};
use crate::measure::imatrix::{self, ImportanceMatrix, Record};
use crate::model::convert::{ConvertOptions, OutputType};
use crate::quantize::{
    self, Ftype, Importance, Output, OutputJournals, PlanOptions, QuantPlan, Sharding, Written,
};
use anyhow::Context as _;
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Write quantized GGUF files, all types in one pass over the weights.
///
/// A run that is interrupted, by Ctrl-C, an error or a crash, leaves whole tensors in hidden files beside
/// the outputs. The same command verifies them, makes the rest, and ends with the same bytes.
#[derive(Args)]
pub(super) struct Arguments {
    /// A recipe, a Hugging Face folder, a GGUF file, or a name on the hub.
    source: PathBuf,
    /// The types to write: Q4_K_M, Q5_K_M, Q6_K, Q8_0 and others, in any case.
    #[arg(required = true, value_name = "TYPE")]
    types: Vec<Ftype>,
    /// An importance matrix, as `aqueduct imatrix` or llama-imatrix writes it.
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// The folder to write into, where files are named Name-TYPE.gguf; with one type, a path that ends
    /// in .gguf is the file to write.
    #[arg(short, long, value_name = "FILE|DIR", required_unless_present = "dry_run")]
    output: Option<PathBuf>,
    /// Write nothing; show every tensor's type and the exact sizes.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    mix: MixArguments,
    #[command(flatten)]
    convert: ConvertArguments,
    #[command(flatten)]
    seed: SeedArgument,
    /// Write several files, NAME-00001-of-0000N.gguf, with at most this much tensor data in each.
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    max_shard_size: Option<u64>,
    /// Write as many files as SOURCE has shards, a GGUF file split into several, with the same tensors
    /// in each. Of a file that is not split, one file is made, under its plain name.
    #[arg(long, conflicts_with = "max_shard_size")]
    keep_split: bool,
    #[command(flatten)]
    resume: ResumeArguments,
    #[command(flatten)]
    run: RunArguments,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<()> {
        let started = Instant::now();
        let types = distinct(&self.types);
        let source = self.seed.open(&self.source, context)?;
        context.warn_of(&source);
        let mut importance = self.importance(context)?;
        let mut options = PlanOptions { sharding: self.sharding(), ..self.mix.options()? };
        // Blocks of these types go through as they are, where the source has them.
        let keep_blocks = types.iter().any(|ftype| ftype.keeps_blocks());
        let convert = ConvertOptions { keep_blocks, ..self.convert.options(OutputType::Auto) };
        let model = source.to_gguf(&convert, context.progress())?;
        let model = self.mix.prune(model, importance.as_mut(), &mut options)?;
        let make_plan = if self.dry_run { QuantPlan::dry_run } else { QuantPlan::new };
        let mut plans = Vec::with_capacity(types.len());
        for ftype in &types {
            let plan = make_plan(&model, *ftype, importance.as_ref(), &options)?;
            context.warn_all(plan.warnings.clone());
            plans.push(plan);
        }
        if self.keep_split && plans[0].shards.count() == 1 {
            let origin = model.origin();
            let text = format!("{origin}: all tensors are in one file, which --keep-split keeps");
            context.warn_all([text]);
        }
        let Some(target) = self.output.as_deref().filter(|_| !self.dry_run) else {
            return show::plans(context.json, &model, &plans);
        };
        let paths = paths(target, &types, &source)?;
        let inputs: Vec<_> = source.files().into_iter().chain(self.imatrix.clone()).collect();
        for (path, plan) in paths.iter().zip(&plans) {
            gguf::shard_paths(path, &plan.shards)
                .iter()
                .try_for_each(|path| output::check_not_input(path, &inputs))?;
        }
        let needed = plans.iter().map(QuantPlan::file_bytes).sum::<Result<u64, _>>()?;
        let parts = paths.iter().zip(&plans).flat_map(|(path, plan)| {
            gguf::shard_paths(path, &plan.shards).into_iter().filter_map(|path| {
                Some(std::fs::metadata(output::part_path(&path).ok()?).ok()?.len())
            })
        });
        output::check_space(target, needed.saturating_sub(parts.sum()))?;
        let outputs = plans.into_iter().zip(paths).map(|(plan, path)| Output { plan, path });
        let written =
            self.write(&source, &model, outputs.collect(), importance.as_ref(), context)?;
        let seconds = started.elapsed().as_secs_f64();
        if context.json {
            return context.json(&serde_json::json!({ "files": written, "seconds": seconds }));
        }
        show::table(&show::files_table(&written));
        show::text("");
        show::labelled("total", &context.spent().text(seconds));
        context.next(&[format!("aqueduct verify {}", shell::quoted(target))]);
        Ok(())
    }

    /// Writes `outputs`, and resumes an earlier run where the source's files are known.
    fn write(
        &self,
        source: &Source,
        model: &GgufModel,
        outputs: Vec<Output>,
        importance: Option<&Importance>,
        context: &Context,
    ) -> Result<Vec<Written>, Error> {
        let (run, progress) = (self.run.options(), context.progress());
        let Some(fingerprints) = source.fingerprints() else {
            return quantize::run(model, outputs, importance, run, None, progress);
        };
        let checkpointing = self.resume.checkpointing(fingerprints);
        let journals =
            OutputJournals::open(model, &outputs, importance, &checkpointing, run.force, progress)?;
        let written = quantize::run(model, outputs, importance, run, Some(&journals), progress);
        journals.end(written, progress)
    }

    /// How many files each type goes to.
    fn sharding(&self) -> Sharding {
        match self.max_shard_size {
            _ if self.keep_split => Sharding::Keep,
            Some(max) => Sharding::MaxBytes(max),
            None => Sharding::OneFile,
        }
    }

    /// The importance weights to use, if there are any.
    fn importance(&self, context: &Context) -> anyhow::Result<Option<Importance>> {
        let Some(path) = &self.imatrix else { return Ok(None) };
        let used = self.mix.filter(read_importance(path, context)?);
        if used.is_none() {
            let text = "no importance weights are left; quantizing goes on as without --imatrix";
            context.warn_all([text.to_string()]);
        }
        Ok(used)
    }
}

/// Where each type goes.
fn paths(target: &Path, types: &[Ftype], source: &Source) -> Result<Vec<PathBuf>, Error> {
    let is_file = target.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    if is_file && !target.is_dir() {
        if types.len() == 1 {
            return Ok(vec![target.to_path_buf()]);
        }
        return Err(Error::Usage(format!("{}: several types need a folder", target.display())));
    }
    let name = source.name();
    Ok(types.iter().map(|t| target.join(format!("{name}-{t}.gguf"))).collect())
}

/// The types, each once, in the order given.
pub(super) fn distinct(types: &[Ftype]) -> Vec<Ftype> {
    let mut kept = Vec::new();
    for &ftype in types {
        if !kept.contains(&ftype) {
            kept.push(ftype);
        }
    }
    kept
}

fn read_importance(path: &Path, context: &Context) -> anyhow::Result<Importance> {
    let matrix = ImportanceMatrix::read(path).context("the importance matrix cannot be used")?;
    let missing = matrix.record.as_ref().map(Record::missing).unwrap_or_default();
    if !missing.is_empty() {
        let (path, missing) = (path.display(), imatrix::ranges_text(&missing));
        context.warn_all([format!(
            "{path}: a part of an importance matrix, without chunks {missing}; `aqueduct imatrix merge` \
             adds the parts"
        )]);
    }
    context.warn_all(matrix.unseen_experts());
    Ok(Importance::new(&matrix, &path.display().to_string())?)
}
