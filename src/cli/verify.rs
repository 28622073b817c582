//! `aqueduct verify DIR|FILE`: whether GGUF files are whole, unchanged, and made from their source.

use super::mix::override_kv;
use super::options::{ConvertArguments, positive};
use super::{Context, show};
use crate::Result;
use crate::base::size;
use crate::build::Source;
use crate::build::verify::{self, Derive, Report};
use crate::formats::gguf::{GgufModel, Value};
use crate::model::convert::{ConvertOptions, OutputType};
use crate::quantize::Pruning;
use crate::report;
use crate::report::escape_control_chars;
use anyhow::bail;
use clap::Args;
use std::path::PathBuf;

/// Check GGUF files: structure, padding, block scales, SHA256SUMS, and that they derive from their source.
///
/// Exit code 1 means that there are problems; all of them are listed.
#[derive(Args)]
pub(super) struct Arguments {
    /// A GGUF file, any shard of a split one, or a folder of GGUF files.
    target: PathBuf,
    /// What the files were made from, a recipe, a Hugging Face folder or a GGUF file: tensors are made again,
    /// with the types that they have, and compared bit for bit.
    #[arg(long, value_name = "SOURCE")]
    source: Option<PathBuf>,
    /// The importance matrix that the files were made with [default: the one that they name, beside them or
    /// where it was].
    #[arg(long, value_name = "FILE", requires = "source")]
    imatrix: Option<PathBuf>,
    /// Compare all tensors with the source.
    #[arg(long, requires = "source", conflicts_with = "sample")]
    full: bool,
    /// How many tensors to compare with the source, chosen at random.
    #[arg(long, value_name = "N", default_value = "16", value_parser = positive)]
    sample: usize,
    /// Chooses those tensors.
    #[arg(long, value_name = "N", default_value = "0")]
    seed: u64,
    /// Set a metadata key of the source first, as `quantize --override-kv` did.
    #[arg(long, value_name = "KEY=TYPE:VALUE", value_parser = override_kv, requires = "source")]
    override_kv: Vec<(String, Value)>,
    /// Drop these layers of the source first, as `quantize --prune-layers` did.
    #[arg(long, value_name = "LAYERS", value_delimiter = ',', requires = "source")]
    prune_layers: Vec<usize>,
    #[command(flatten)]
    convert: ConvertArguments,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<()> {
        let model = match &self.source {
            None => None,
            Some(path) => {
                let source = Source::open_with_progress(path, context.progress())?;
                context.warn_of(&source);
                let keep_blocks = verify::has_kept_blocks(&self.target)?;
                let options =
                    ConvertOptions { keep_blocks, ..self.convert.options(OutputType::Auto) };
                Some(self.changed(source.to_gguf(&options, context.progress())?)?)
            }
        };
        let derive = model.as_ref().map(|(source, pruning)| Derive {
            source,
            pruning: pruning.as_ref(),
            imatrix: self.imatrix.as_deref(),
            sample: (!self.full).then_some(self.sample),
            seed: self.seed,
        });
        let report = verify::verify(&self.target, derive.as_ref(), context.progress())?;
        if context.json {
            show::json(&report)?;
        } else {
            print_report(&report);
        }
        context.warn_all(report.notes.clone());
        match report.problems.len() {
            0 => Ok(()),
            1 => bail!("{}: 1 problem", self.target.display()),
            n => bail!("{}: {n} problems", self.target.display()),
        }
    }

    /// The source with the changes that `quantize` was given; files do not record them.
    fn changed(&self, mut model: GgufModel) -> Result<(GgufModel, Option<Pruning>)> {
        let pruning = match self.prune_layers.as_slice() {
            [] => None,
            layers => Some(Pruning::new(&model, layers)?),
        };
        for (key, value) in &self.override_kv {
            model.metadata.set(key.as_str(), value.clone());
        }
        if let Some(pruning) = &pruning {
            model = pruning.model(&model)?;
        }
        Ok((model, pruning))
    }
}

/// Prints the report for people.
fn print_report(report: &Report) {
    if !report.files.is_empty() {
        let rows = report.files.iter().map(|file| {
            let wrong = report.problems.iter().filter(|problem| problem.file == file.path).count();
            let verdict = if wrong == 0 { "ok".to_string() } else { format!("{wrong} wrong") };
            let [tensors, size] = [file.tensors.to_string(), size::display(file.bytes)];
            vec![file.path.display().to_string(), tensors, size, verdict]
        });
        show::table(&report::table(&["file", ">tensors", ">size", ""], rows));
        show::text("");
    }
    let mut lines = Vec::new();
    if let Some(sums) = &report.checksums {
        lines.push(format!("{}: {} sums compared", sums.path.display(), sums.files));
    }
    if let Some(derivation) = &report.derivation {
        let verify::Derivation { source, tensors, of, compared, seed } = derivation;
        let chosen = seed.map_or(String::new(), |seed| format!(", chosen by seed {seed}"));
        lines.push(format!(
            "{tensors} of the {of} tensors of {source} made again{chosen}: {compared} compared"
        ));
    }
    lines.extend(report.problems.iter().map(|problem| escape_control_chars(&problem.to_string())));
    if report.problems.is_empty() {
        lines.push("nothing is wrong".to_string());
    }
    show::text(&lines.join("\n"));
}
