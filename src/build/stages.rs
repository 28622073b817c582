//! The stages of a build, each of which makes its outputs that are missing.
//!
//! A stage asks the [`State`] of the folder for the status of its outputs, and lets [`Stages::produce`] make
//! the missing ones under hidden names, record them and give them their names. Not here: what is decided
//! before the first weight is read (`run`).

mod targets;

use super::checksums::{self, SUMS_FILE};
use super::documents;
use super::file_names::name_of;
use super::options::BuildOptions;
use super::prepare::{Prepared, recipe_files};
use super::provenance::{self, Inputs, Origins};
use super::result::Build;
use super::source::Source;
use super::state::{OutputStatus, State, Target};
use crate::base::error::{Error, Result};
use crate::base::output;
use crate::base::progress::Progress;
use crate::base::resume::{Checkpointing, Fingerprint};
use crate::formats::checkpoint;
use crate::formats::gguf::{self, GgufModel, shard_paths};
use crate::measure::evaluate::{self, Against, Evaluation, Evaluations, Keep, Subject};
use crate::measure::imatrix::{self, Format, ImportanceMatrix, LayerCheckpoints, Perplexity};
use crate::model::convert;
use crate::quantize::{
    self, Importance, Output, QuantPlan, RunOptions, TensorHashes, TensorJournal, Written,
};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A running build.
pub(super) struct Stages<'a> {
    source: &'a Source,
    model: &'a GgufModel,
    dir: &'a Path,
    name: &'a str,
    options: &'a BuildOptions,
    state: &'a State,
    progress: &'a dyn Progress,
    /// Outputs that existed already.
    reused: RefCell<Vec<PathBuf>>,
}

/// The importance matrix, on the disk and in memory.
struct Matrix {
    path: PathBuf,
    hash: String,
    imatrix: ImportanceMatrix,
    perplexity: Perplexity,
    seconds: f64,
}

impl<'a> Stages<'a> {
    pub(super) fn new(
        source: &'a Source,
        model: &'a GgufModel,
        dir: &'a Path,
        name: &'a str,
        options: &'a BuildOptions,
        state: &'a State,
        progress: &'a dyn Progress,
    ) -> Stages<'a> {
        let reused = RefCell::default();
        Stages { source, model, dir, name, options, state, progress, reused }
    }

    /// Runs all stages. `plans` has one plan for each type, in their order.
    pub(super) fn run(
        &self,
        calibration: &Prepared,
        plans: &[QuantPlan],
        origins: &Origins,
        started: Instant,
    ) -> Result<Build> {
        self.announce();
        let inputs = Inputs::read(self.source, self.progress)?;
        let (stack, imatrix) = (self.stack(&inputs), self.imatrix(&inputs, calibration)?);
        self.check(stack.as_ref(), &imatrix, plans)?;
        self.sweep(stack.as_ref(), plans)?;

        let stack = stack.map(|stack| self.write_stack(&stack, &inputs)).transpose()?;
        let matrix = self.matrix(&imatrix, &inputs, calibration)?;
        let branded = self.brand(&inputs, origins, &matrix)?;
        let quantizing = Instant::now();
        let files = self.quantize(&branded, &inputs, &matrix)?;
        let quantize_seconds = quantizing.elapsed().as_secs_f64();
        let evaluating = Instant::now();
        let evaluation = self.evaluate(&inputs, &files)?;
        let evaluation_seconds = evaluation.as_ref().map(|_| evaluating.elapsed().as_secs_f64());
        let bytes = std::fs::metadata(&matrix.path).map_err(Error::io(&matrix.path, "examine"))?;
        let mut built = Build {
            name: self.name.to_string(),
            stack,
            imatrix: matrix.path,
            imatrix_bytes: bytes.len(),
            imatrix_seconds: matrix.seconds,
            chunks: matrix.perplexity.running.len(),
            perplexity: matrix.perplexity.estimate,
            perplexity_error: matrix.perplexity.error,
            files,
            quantize_seconds,
            evaluation,
            evaluation_seconds,
            reused: Vec::new(),
            documents: Vec::new(),
            checksums: self.dir.join(SUMS_FILE),
            seconds: started.elapsed().as_secs_f64(),
        };
        built.documents = self.write_documents(&branded, origins, &built)?;
        self.write_sums(&built)?;
        self.state.finish()?;
        built.reused = self.reused.take();
        built.seconds = started.elapsed().as_secs_f64();
        Ok(built)
    }

    /// Announces the names of the stages that follow.
    fn announce(&self) {
        let merge = self.options.keep_stack.and(self.source.checkpoint()).map(|_| "merge");
        let evaluate = self.options.eval.as_ref().map(|_| "evaluate");
        let first = std::iter::once("hash inputs").chain(merge);
        let names = first.chain(["imatrix", "quantize"]).chain(evaluate).chain(["documents"]);
        self.progress.stages(&names.collect::<Vec<_>>());
    }

    /// Fails, before any work, if files are in the way that no build has made, or an output is an input.
    pub(super) fn refuse_foreign(&self, plans: &[QuantPlan]) -> Result<()> {
        let quants = self.quant_paths(plans).map(|(plan, path)| Target {
            name: name_of(&path),
            paths: shard_paths(&path, &plan.shards),
            fingerprints: Vec::new(),
        });
        let imatrix = self.dir.join(format!("{}-imatrix.gguf", self.name));
        let others = std::iter::once(imatrix).chain(self.document_paths());
        let others = others.map(|path| self.target(path, Vec::new()));
        let inputs: Vec<_> =
            self.source.files().into_iter().chain(self.options.texts.clone()).collect();
        for target in quants.chain(others) {
            for path in &target.paths {
                output::check_not_input(path, &inputs)?;
            }
            if let OutputStatus::Foreign(path) = self.state.status(&target)? {
                output::check_file_target(&path, self.options.force)?;
            }
        }
        if self.options.keep_stack.is_some() && self.source.checkpoint().is_some() {
            let path = self.dir.join(format!("{}-stack", self.name));
            output::check_not_input(&path, &inputs)?;
            if let OutputStatus::Foreign(path) =
                self.state.status(&self.target(path, Vec::new()))?
            {
                output::check_dir_target(&path, self.options.force)?;
            }
        }
        Ok(())
    }

    /// Fails if whole outputs would be replaced without permission, or space is lacking. Reports what is
    /// made anew.
    fn check(&self, stack: Option<&Target>, imatrix: &Target, plans: &[QuantPlan]) -> Result<()> {
        let mut changed = Vec::new();
        let mut bytes = 0;
        if let Some(stack) = stack {
            match self.state.status(stack)? {
                OutputStatus::Foreign(path) => output::check_dir_target(&path, self.options.force)?,
                OutputStatus::Changed(reason) => changed.push((stack.paths[0].clone(), reason)),
                OutputStatus::Begun | OutputStatus::Whole => {}
                OutputStatus::New => bytes += self.stack_bytes(),
            }
        }
        if let OutputStatus::Changed(reason) = self.state.status(imatrix)? {
            changed.push((imatrix.paths[0].clone(), reason));
        }
        // The new matrix is unknown, but it changes if its inputs have changed.
        let stale = self.state.difference(&imatrix.name, &imatrix.fingerprints);
        for (plan, path) in self.quant_paths(plans) {
            let paths = shard_paths(&path, &plan.shards);
            let there = Target { name: name_of(&path), paths, fingerprints: Vec::new() };
            match (self.state.status(&there)?, &stale) {
                (OutputStatus::Changed(_), Some(reason)) => {
                    changed.push((path, format!("the importance matrix changes: {reason}")));
                }
                (OutputStatus::Changed(_), None) => {}
                _ => bytes += plan.file_bytes()?,
            }
        }
        self.allow(&changed)?;
        let parts = self.quant_paths(plans).flat_map(|(plan, path)| {
            shard_paths(&path, &plan.shards).into_iter().filter_map(|p| output::part_path(&p).ok())
        });
        let there: u64 = parts.filter_map(|part| Some(std::fs::metadata(part).ok()?.len())).sum();
        output::check_space(self.dir, bytes.saturating_sub(there))
    }

    fn stack_bytes(&self) -> u64 {
        let infos = self.source.checkpoint().map(|stack| stack.tensors.table().infos());
        infos.unwrap_or_default().iter().filter_map(|info| info.bytes()).sum::<usize>() as u64
    }

    /// Fails without `--force` if whole outputs have to be made anew, for the reasons given.
    fn allow(&self, changed: &[(PathBuf, String)]) -> Result<()> {
        if self.options.force || changed.is_empty() {
            let anew = |(path, reason): &(PathBuf, String)| {
                self.progress.note(&format!("{} is made anew: {reason}", path.display()));
            };
            changed.iter().for_each(anew);
            return Ok(());
        }
        let list = changed.iter().map(|(path, reason)| format!("\n  {}: {reason}", path.display()));
        Err(Error::Usage(format!(
            "{}: holds what was made of something else; --force makes it anew, or choose another folder:{}",
            self.dir.display(),
            list.collect::<String>()
        )))
    }

    /// Removes what interrupted builds have left and is of no use.
    fn sweep(&self, stack: Option<&Target>, plans: &[QuantPlan]) -> Result<()> {
        let quants = self.quant_paths(plans);
        let shards = quants.flat_map(|(plan, path)| shard_paths(&path, &plan.shards));
        let imatrix =
            ["", ".layers"].map(|end| self.dir.join(format!("{}-imatrix.gguf{end}", self.name)));
        let mut paths: Vec<_> = shards.chain(imatrix).chain(self.document_paths()).collect();
        let mut names: Vec<String> = paths.iter().map(|path| name_of(path)).collect();
        names.extend(self.quant_paths(plans).map(|(_, path)| name_of(&path)));
        names.extend(stack.map(|stack| stack.name.clone()));
        names.push(self.reference_name());
        paths.push(self.dir.join(self.reference_name()));
        let left = self.state.sweep(&names, &paths)?;
        if !left.is_empty() {
            let left: Vec<String> = left.iter().map(|path| name_of(path)).collect();
            self.progress.warn(&format!(
                "{} holds files of an earlier build that this one does not include; they stay, but README.md and \
                 {SUMS_FILE} do not list them: {}",
                self.dir.display(),
                left.join(", ")
            ));
        }
        Ok(())
    }

    fn reuse(&self, path: &Path) {
        self.progress.note(&format!("{} is there, and whole", path.display()));
        self.reused.borrow_mut().push(path.to_path_buf());
    }

    /// Makes one file or folder: see [`Stages::produce_all`]. Returns what `make` returns.
    fn produce<T>(
        &self,
        target: &Target,
        replace: bool,
        inputs: &Inputs,
        make: impl FnOnce(&Path) -> Result<T>,
    ) -> Result<T> {
        let started = Instant::now();
        self.produce_all(std::slice::from_ref(target), replace, inputs, |hidden| {
            let made = make(&hidden[0])?;
            Ok((made, vec![started.elapsed().as_secs_f64()]))
        })
    }

    /// Makes `targets`: records that they are begun, lets `make` write them under their hidden paths,
    /// checks that no input has changed meanwhile, and gives the recorded files their names. `make` also
    /// returns the seconds that each target took. With `replace` targets may take the place of files that
    /// are there.
    fn produce_all<T>(
        &self,
        targets: &[Target],
        replace: bool,
        inputs: &Inputs,
        make: impl FnOnce(&[PathBuf]) -> Result<(T, Vec<f64>)>,
    ) -> Result<T> {
        self.state.begin(targets, replace)?;
        let hidden = targets.iter().map(|target| output::part_path(&target.paths[0]));
        let (made, seconds) = make(&hidden.collect::<Result<Vec<_>>>()?)?;
        inputs.check_unchanged()?;
        let outputs: Vec<_> = targets.iter().cloned().zip(seconds).collect();
        self.state.seal(&outputs, self.progress)?;
        Ok(made)
    }

    fn write_stack(&self, target: &Target, inputs: &Inputs) -> Result<PathBuf> {
        let path = &target.paths[0];
        let status = self.state.status(target)?;
        if status == OutputStatus::Whole {
            self.reuse(path);
            return Ok(path.clone());
        }
        let Some(stack) = self.source.checkpoint() else { return Ok(path.clone()) };
        self.progress.stage("merge", 1);
        // The folder gets its name only when it is whole. Here it lacks nothing but the record.
        let unrecorded = status == OutputStatus::Begun && path.is_dir();
        self.produce(target, true, inputs, |hidden| {
            if !unrecorded || hidden.exists() {
                let write = checkpoint::WriteOptions {
                    max_shard_bytes: self.options.keep_stack.unwrap_or(u64::MAX),
                    extra: recipe_files(self.source),
                    // What may not be replaced has been refused.
                    force: true,
                    memory: self.options.memory,
                    checkpointing: Some(self.checkpointing(&target.fingerprints)),
                };
                checkpoint::write(stack, path, &write, self.progress)?;
            }
            checkpoint::remove_record(path)
        })?;
        self.progress.note(&format!("wrote {}", path.display()));
        Ok(path.clone())
    }

    fn checkpointing(&self, fingerprints: &[Fingerprint]) -> Checkpointing {
        let (restart, every) = (self.options.restart, self.options.save_every);
        Checkpointing { fingerprints: fingerprints.to_vec(), restart, every }
    }

    fn matrix(&self, target: &Target, inputs: &Inputs, calibration: &Prepared) -> Result<Matrix> {
        let path = target.paths[0].clone();
        let guard = || inputs.check_unchanged();
        let checkpointing = self.checkpointing(&target.fingerprints);
        let checkpoints = LayerCheckpoints::new(&path, checkpointing, &guard)?;
        let status = self.state.status(target)?;
        if status != OutputStatus::Begun {
            checkpoints.finish()?;
        }
        if status == OutputStatus::Whole {
            let imatrix = ImportanceMatrix::read(&path)?;
            if let Some(record) = &imatrix.record {
                self.reuse(&path);
                let perplexity = record.perplexity(imatrix.chunk_size);
                return self.matrix_of(path, imatrix, perplexity);
            }
        }
        let computed = self.produce(target, self.options.force, inputs, |hidden| {
            let (tokens, options) = (&calibration.tokens, &calibration.options);
            let computed =
                imatrix::compute(self.model, tokens, options, Some(&checkpoints), self.progress);
            let layers = checkpoints.saved();
            if layers > 0 && computed.is_err() {
                self.state.keep(&target.name, format!("{layers} layers of the importance matrix"));
            }
            let computed = computed?;
            computed.imatrix.write(hidden, Format::Gguf, true)?;
            Ok(computed)
        })?;
        checkpoints.finish()?;
        self.progress.note(&format!("wrote {}", path.display()));
        self.matrix_of(path, computed.imatrix, computed.perplexity)
    }

    fn matrix_of(
        &self,
        path: PathBuf,
        imatrix: ImportanceMatrix,
        perplexity: Perplexity,
    ) -> Result<Matrix> {
        let name = name_of(&path);
        let hash = self.state.recorded_hash(&name).unwrap_or_default();
        Ok(Matrix { path, hash, imatrix, perplexity, seconds: self.state.seconds(&name) })
    }

    /// Returns the model with the metadata that quantized files have in addition.
    fn brand(&self, inputs: &Inputs, origins: &Origins, matrix: &Matrix) -> Result<GgufModel> {
        let mut model = self.model.clone();
        if let Some(license) = &origins.license {
            model.metadata.set("general.license", license.as_str());
        }
        // The card of a model that is not a merge has them already.
        if matches!(self.source, Source::Recipe { .. }) && origins.all_named() {
            convert::write_base_models(&origins.base_models, &mut model.metadata);
        }
        provenance::record(
            &mut model.metadata,
            inputs,
            self.options,
            (&matrix.imatrix, &matrix.hash),
        );
        Ok(model)
    }

    fn quantize(
        &self,
        model: &GgufModel,
        inputs: &Inputs,
        matrix: &Matrix,
    ) -> Result<Vec<Written>> {
        let importance = Importance::new(&matrix.imatrix, &name_of(&matrix.path))?;
        let options = self.options.plan_options();
        let plan = |&ftype| QuantPlan::new(model, ftype, Some(&importance), &options);
        let plans = self.options.types.iter().map(plan).collect::<Result<Vec<_>>>()?;
        let (mut written, mut missing, mut changed) = (Vec::new(), Vec::new(), Vec::new());
        for (at, (plan, path)) in self.quant_paths(&plans).enumerate() {
            let target = self.quant(inputs, plan, &path, &matrix.hash)?;
            let seconds = self.state.seconds(&target.name);
            written.push(Written { seconds, ..Written::of(plan, &path)? });
            match self.state.status(&target)? {
                OutputStatus::Whole => {
                    self.reuse(&path);
                    continue;
                }
                OutputStatus::Changed(reason) => changed.push((path.clone(), reason)),
                OutputStatus::New | OutputStatus::Begun | OutputStatus::Foreign(_) => {}
            }
            plan.warnings.iter().for_each(|warning| self.progress.warn(warning));
            missing.push((at, target, path));
        }
        self.allow(&changed)?;
        let outputs = missing
            .iter()
            .map(|(at, _, path)| Output { plan: plans[*at].clone(), path: path.clone() });
        let targets: Vec<_> = missing.iter().map(|(_, target, _)| target.clone()).collect();
        let made = self.make(model, inputs, &importance, outputs.collect(), targets)?;
        for ((at, _, _), made) in missing.iter().zip(made) {
            written[*at] = made;
        }
        Ok(written)
    }

    /// Makes the missing quantized files.
    fn make(
        &self,
        model: &GgufModel,
        inputs: &Inputs,
        importance: &Importance,
        outputs: Vec<Output>,
        targets: Vec<Target>,
    ) -> Result<Vec<Written>> {
        if outputs.is_empty() {
            return Ok(Vec::new());
        }
        self.progress.stage("quantize", 1);
        let made = self.produce_all(&targets, self.options.force, inputs, |_| {
            let names = targets.iter().map(|target| target.name.clone()).collect();
            let journal = StateJournal { state: self.state, names, inputs, options: self.options };
            let run = RunOptions { force: true, memory: self.options.memory };
            let made = quantize::run(
                model,
                outputs,
                Some(importance),
                run,
                Some(&journal),
                self.progress,
            )?;
            let seconds = made.iter().map(|made| made.seconds).collect();
            Ok((made, seconds))
        })?;
        for path in made.iter().flat_map(Written::paths) {
            self.progress.note(&format!("wrote {}", path.display()));
        }
        Ok(made)
    }

    /// Returns the name of the file with the source's log-probabilities, which exists during evaluation.
    fn reference_name(&self) -> String {
        format!(".{}-reference-logits", self.name)
    }

    /// Evaluates `files` against the source, if a text was given.
    fn evaluate(&self, inputs: &Inputs, files: &[Written]) -> Result<Option<Evaluations>> {
        let Some(eval) = &self.options.eval else { return Ok(None) };
        let mut common = inputs.fingerprints();
        let text = format!("{:?} {:?} {}", self.options.ctx, eval.chunks, eval.text);
        common.push(Fingerprint::new("the text of --eval", text));
        let mut how = evaluate::Options {
            texts: vec![eval.text.clone()],
            ctx: Some(self.options.ctx),
            chunks: eval.chunks,
            memory: self.options.forward_memory,
            ..evaluate::Options::default()
        };
        let asked = files.iter().map(|file| {
            let sums = self.state.sums([self.output_name(file).as_str()]);
            let mut fingerprints = common.clone();
            fingerprints.push(Fingerprint::new("the file", checksums::text(&sums)));
            let name = name_of(&file.path);
            let known = self.state.evaluation(&name, &fingerprints);
            (file, name, fingerprints, known)
        });
        let asked: Vec<_> = asked.collect();
        let missing = asked.iter().filter(|(_, _, _, known)| known.is_none()).count();
        if missing > 0 {
            self.progress.stage("evaluate", missing + 1);
        }
        let mut models = Vec::with_capacity(files.len());
        for (file, name, fingerprints, known) in asked {
            if let Some(known) = known {
                models.push(known);
                continue;
            }
            how.against = Some(Against::Logits(self.reference(inputs, &common, &how)?));
            let subject = Subject { name: name.clone(), model: gguf::open(&file.path)? };
            let measured = evaluate::evaluate(&[subject], &how, self.progress)?;
            let measured: Vec<Evaluation> = measured.models;
            for evaluation in measured {
                self.state.record_evaluation(&name, &fingerprints, &evaluation)?;
                models.push(evaluation);
            }
        }
        self.state.discard(&self.reference_name())?;
        let reference = Some(self.name.to_string());
        Ok(Some(Evaluations { ctx: self.options.ctx, reference, models }))
    }

    /// Returns the name of the output `file` in the state.
    fn output_name(&self, file: &Written) -> String {
        format!("{}-{}.gguf", self.name, file.ftype)
    }

    /// Returns the file with the source's log-probabilities; makes it if it is missing.
    fn reference(
        &self,
        inputs: &Inputs,
        fingerprints: &[Fingerprint],
        how: &evaluate::Options,
    ) -> Result<PathBuf> {
        let path = self.dir.join(self.reference_name());
        let target = self.target(path.clone(), fingerprints.to_vec());
        if self.state.status(&target)? == OutputStatus::Whole {
            return Ok(path);
        }
        self.produce(&target, true, inputs, |hidden| {
            let subject = Subject { name: self.name.to_string(), model: self.model.clone() };
            let keep = Some(Keep { path: hidden.to_path_buf(), force: true });
            let options =
                evaluate::Options { texts: how.texts.clone(), against: None, keep, ..*how };
            evaluate::evaluate(&[subject], &options, self.progress)
        })?;
        Ok(path)
    }

    fn write_documents(
        &self,
        model: &GgufModel,
        origins: &Origins,
        built: &Build,
    ) -> Result<Vec<PathBuf>> {
        self.progress.stage("documents", 1);
        let files = built.files.iter().map(|file| self.output_name(file));
        let names: Vec<String> = files.chain([name_of(&built.imatrix)]).collect();
        let sums = checksums::text(&self.state.sums(names.iter().map(String::as_str)));
        let documents =
            documents::texts(self.source, model, origins, built, self.options, self.progress)?;
        let mut paths = Vec::with_capacity(documents.len());
        for document in documents {
            let path = self.dir.join(document.name);
            let what = Fingerprint::new("its contents", format!("{sums}{}", document.lasting));
            let target = self.target(path.clone(), vec![what]);
            if self.state.status(&target)? != OutputStatus::Whole {
                self.state.write(document.name, &target.fingerprints, document.text.as_bytes())?;
            }
            paths.push(path);
        }
        Ok(paths)
    }

    fn write_sums(&self, built: &Build) -> Result<()> {
        let files = built.files.iter().map(|file| self.output_name(file));
        let others = built.documents.iter().chain([&built.imatrix]).chain(&built.stack);
        let names: Vec<String> = files.chain(others.map(|path| name_of(path))).collect();
        let text = checksums::text(&self.state.sums(names.iter().map(String::as_str)));
        let target =
            self.target(built.checksums.clone(), vec![Fingerprint::new("the files", &text)]);
        match self.state.status(&target)? {
            OutputStatus::Whole => Ok(()),
            _ => self.state.write(SUMS_FILE, &target.fingerprints, text.as_bytes()),
        }
    }
}

/// The tensors of quantized files that are whole, in the state of the folder.
struct StateJournal<'a> {
    state: &'a State,
    /// Names of the outputs.
    names: Vec<String>,
    inputs: &'a Inputs,
    options: &'a BuildOptions,
}

impl TensorJournal for StateJournal<'_> {
    fn every(&self) -> Duration {
        self.options.save_every
    }

    fn earlier(&self, output: usize) -> TensorHashes {
        self.state.tensors(&self.names[output])
    }

    fn save(&self, whole: &[TensorHashes]) -> Result<()> {
        self.inputs.check_unchanged()?;
        self.state.record_tensors(&self.names, whole)
    }
}
