//! `aqueduct build SOURCE -o DIR`: everything, one pass over the stages.

use super::options::{
    CalibrationArguments, ConvertArguments, DateArgument, ResumeArguments, RunArguments,
    SeedArgument, positive,
};
use super::quantize::distinct;
use super::{Context, shell, show};
use crate::Error;
use crate::base::size;
use crate::build::{self, Build, BuildOptions, Calibration, EvalText, Source};
use crate::measure::evaluate::{Estimate, Evaluations};
use crate::model::convert::OutputType;
use crate::quantize::{Ftype, PlanOptions, presets};
use crate::recipe::{self, BuildSettings, Diagnostic, MergePlan};
use crate::report;
use clap::Args;
use std::path::PathBuf;
use std::str::FromStr;

/// Do everything: merge in flight, collect an importance matrix, write the quantized files.
///
/// A recipe may have settings for this command in a document of its own with the key `build`, which
/// options given here take precedence over.
#[derive(Args)]
pub(super) struct Arguments {
    /// A recipe, a Hugging Face folder, a GGUF file, or a name on the hub.
    source: PathBuf,
    /// The folder to write into.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Lists of types: publisher, i1, static, small or full, and types, with commas between them.
    #[arg(long, value_name = "LIST")]
    preset: Option<TypeList>,
    /// The types to write, with commas between them; those of --preset come first
    /// [default: Q4_K_M,Q5_K_M,Q6_K,Q8_0].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    types: Vec<Ftype>,
    #[command(flatten)]
    texts: CalibrationArguments,
    /// Tokens in a chunk of calibration text, and of that of --eval [default: 512].
    #[arg(long, value_name = "N", value_parser = positive)]
    ctx: Option<usize>,
    /// Use at most this many chunks [default: all]. Of several texts each gets a share by its length.
    #[arg(long, value_name = "N", value_parser = positive)]
    chunks: Option<usize>,
    /// Measure perplexity of each file on this text, and its divergence from the source.
    #[arg(long, value_name = "TEXT")]
    eval: Option<PathBuf>,
    /// Use at most this many chunks of the text of --eval [default: all].
    #[arg(long, value_name = "N", value_parser = positive)]
    eval_chunks: Option<usize>,
    /// Write the merged model too, as a Hugging Face folder.
    #[arg(long)]
    keep_stack: bool,
    /// Write a file in F16 too.
    #[arg(long)]
    keep_f16: bool,
    /// Divide files with more tensor data than this, and the stack into shards no larger [default: 50GB,
    /// the most that the hub takes, and 5GB].
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    max_shard_size: Option<u64>,
    /// Who makes the files, for their metadata and the model card.
    #[arg(long, value_name = "NAME")]
    quantized_by: Option<String>,
    /// The result's licence, as the hub calls it [default: that of the members, where they agree].
    #[arg(long, value_name = "LICENSE")]
    license: Option<String>,
    /// A model that this one is made from, as the hub calls it; may be given several times [default: the
    /// members' names, where they are known].
    #[arg(long, value_name = "OWNER/NAME")]
    base_model: Vec<String>,
    #[command(flatten)]
    date: DateArgument,
    #[command(flatten)]
    resume: ResumeArguments,
    /// Accept a source that is quantized already, though quality suffers twice.
    #[arg(long)]
    allow_requantize: bool,
    #[command(flatten)]
    convert: ConvertArguments,
    #[command(flatten)]
    seed: SeedArgument,
    #[command(flatten)]
    run: RunArguments,
}

/// Types that presets and names stand for.
#[derive(Clone)]
struct TypeList(Vec<Ftype>);

impl FromStr for TypeList {
    type Err = String;

    fn from_str(text: &str) -> Result<TypeList, String> {
        presets::types(text).map(TypeList)
    }
}

const LARGEST_STACK_SHARD: u64 = 5_000_000_000;
const DEFAULT_TYPES: [Ftype; 4] = [Ftype::Q4_K_M, Ftype::Q5_K_M, Ftype::Q6_K, Ftype::Q8_0];

/// The figures of each file in one line; `eval` shows more.
fn figures_table(evaluation: &Evaluations) -> String {
    let rows = evaluation.models.iter().map(|model| {
        let of = |estimate: Estimate, digits: usize| {
            format!("{:.digits$} +- {:.digits$}", estimate.value, estimate.error)
        };
        let mut row = vec![model.name.clone(), of(model.perplexity, 4)];
        row.extend(model.divergence.iter().flat_map(|divergence| {
            let same = format!("{:.2} %", 100.0 * divergence.same_top.value);
            [of(divergence.kld.mean, 6), same]
        }));
        row
    });
    report::table(&["file", ">perplexity", ">KL divergence", ">same top token"], rows)
}

/// The types that the recipe's settings ask for.
fn settings_types(plan: &MergePlan) -> Result<Vec<Ftype>, Error> {
    let mut types = Vec::new();
    for (name, pos) in &plan.settings.types {
        types.extend(presets::types(name).map_err(|message| {
            let problem = Diagnostic::error(*pos, message, "write a preset's name, or types");
            recipe::recipe_error(&plan.path, &[problem])
        })?);
    }
    Ok(types)
}

impl Arguments {
    /// What is not given, taken from the settings in the recipe.
    fn complete(&mut self, plan: &MergePlan) -> Result<(), Error> {
        let BuildSettings { ctx, chunks, eval, eval_chunks, .. } = &plan.settings;
        let settings = &plan.settings;
        let beside = |path: &String| plan.path.with_file_name(path);
        if self.preset.is_none() && self.types.is_empty() {
            self.types = settings_types(plan)?;
        }
        self.texts.complete(&settings.calibration, settings.files.iter().map(beside).collect());
        if self.base_model.is_empty() {
            self.base_model = settings.base_models.clone();
        }
        self.ctx = self.ctx.or(*ctx);
        self.chunks = self.chunks.or(*chunks);
        self.eval_chunks = self.eval_chunks.or(*eval_chunks);
        self.eval = self.eval.take().or_else(|| eval.as_ref().map(beside));
        self.max_shard_size = self.max_shard_size.or(settings.max_shard_size);
        self.keep_stack |= settings.keep_stack;
        self.keep_f16 |= settings.keep_f16;
        let or = |given: &mut Option<String>, set: &Option<String>| {
            *given = given.take().or_else(|| set.clone());
        };
        or(&mut self.quantized_by, &settings.quantized_by);
        or(&mut self.license, &settings.license);
        Ok(())
    }

    /// The types to write, each once.
    fn types(&self) -> Vec<Ftype> {
        let preset = self.preset.iter().flat_map(|list| &list.0);
        let mut types: Vec<_> = preset.chain(&self.types).copied().collect();
        if types.is_empty() {
            types.extend(DEFAULT_TYPES);
        }
        types.extend(self.keep_f16.then_some(Ftype::F16));
        distinct(&types)
    }

    fn eval_text(&self) -> Result<Option<EvalText>, Error> {
        let Some(path) = &self.eval else { return Ok(None) };
        let read = Calibration::read(std::slice::from_ref(path))?;
        let (name, text) = (read.names.concat(), read.texts.concat());
        Ok(Some(EvalText { name, text, chunks: self.eval_chunks }))
    }

    pub(super) fn run(mut self, context: &Context) -> anyhow::Result<()> {
        let source = self.seed.open(&self.source, context)?;
        context.warn_of(&source);
        let mut name = self.convert.name();
        if let Source::Recipe { plan, .. } = &source {
            self.complete(plan)?;
            name = name.or_else(|| plan.settings.name.clone());
        }
        if self.eval_chunks.is_some() && self.eval.is_none() {
            return Err(Error::Usage("--eval-chunks needs a text, --eval TEXT".to_string()).into());
        }
        let defaults = BuildOptions::default();
        let options = BuildOptions {
            types: self.types(),
            name,
            quantized_by: self.quantized_by.clone(),
            license: self.license.clone(),
            base_models: self.base_model.clone(),
            eval: self.eval_text()?,
            max_file_bytes: self.max_shard_size.unwrap_or(defaults.max_file_bytes),
            calibration: self.texts.choose()?,
            ctx: self.ctx.unwrap_or(defaults.ctx),
            chunks: self.chunks,
            texts: self.texts.files().iter().chain(&self.eval).cloned().collect(),
            keep_stack: self
                .keep_stack
                .then_some(self.max_shard_size.unwrap_or(LARGEST_STACK_SHARD)),
            force: self.run.force,
            date: self.date.today(),
            restart: self.resume.restart,
            save_every: self.resume.save_every,
            memory: self.run.options().memory,
            forward_memory: self.run.forward_memory(),
            convert: self.convert.options(OutputType::Auto),
            plan: PlanOptions { allow_requantize: self.allow_requantize, ..PlanOptions::default() },
        };
        if self.keep_stack && source.checkpoint().is_none() {
            context.warn_all(["--keep-stack does nothing for a GGUF file".to_string()]);
        }
        let built = build::build(&source, &self.output, &options, context.progress())?;
        if context.json {
            return context.json(&built);
        }
        show::table(&show::files_table(&built.files));
        if let Some(evaluation) = &built.evaluation {
            show::text("");
            show::table(&figures_table(evaluation));
        }
        print_summary(&built, context);
        let dir = shell::quoted(&self.output);
        context.next(&[
            format!("aqueduct verify {dir}"),
            format!("aqueduct publish {dir} OWNER/NAME --dry-run"),
        ]);
        Ok(())
    }
}

/// What lies in the folder beside the quants, and what the stages took.
fn print_summary(built: &Build, context: &Context) {
    show::text("");
    show::labelled(
        "imatrix",
        &format!(
            "{} ({}), {} chunks, perplexity {:.4} +- {:.4}",
            built.imatrix.display(),
            size::display(built.imatrix_bytes),
            built.chunks,
            built.perplexity,
            built.perplexity_error,
        ),
    );
    if let Some(stack) = &built.stack {
        show::labelled("stack", &stack.display().to_string());
    }
    for path in &built.documents {
        show::labelled("wrote", &path.display().to_string());
    }
    show::labelled("sums", &built.checksums.display().to_string());
    show::text("");
    show::table(&context.spent().table(built.seconds));
    show::text("");
}
