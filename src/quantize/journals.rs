//! Journals of quantized files that no build records: a hidden file `.NAME.tensors.part` beside each output.
//!
//! It says what the output is made from and which of its tensors are whole. Not here: verifying and
//! writing the tensors (`resume`, `run`).

use super::importance::Importance;
use super::plan::QuantPlan;
use super::resume::{TensorHashes, TensorJournal};
use super::run::{Output, Written};
use crate::base::error::{Error, Result};
use crate::base::output::{self, part_path};
use crate::base::progress::Progress;
use crate::base::resume::{CONTINUES, Checkpointing, Fingerprint, Journal, Recorded};
use crate::base::sync::lock;
use crate::formats::gguf::{GgufLayout, GgufModel, Metadata, shard_paths};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// Counted up when the journal's layout or the meaning of its hashes changes.
const VERSION: u32 = 1;

/// The tensors of an output that are whole.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Tensors {
    tensors: TensorHashes,
}

/// The journals of a pass's outputs. They lock the outputs against other runs.
pub struct OutputJournals {
    outputs: Vec<OutputJournal>,
    every: Duration,
    force: bool,
}

struct OutputJournal {
    /// The output's files.
    paths: Vec<PathBuf>,
    journal: Journal,
    fingerprints: Vec<Fingerprint>,
    /// What the file says.
    saved: Mutex<TensorHashes>,
    /// Whether all tensors were whole when this run began: it may replace what the run before made.
    complete: bool,
    _lock: File,
}

impl OutputJournals {
    /// Opens the journals of `outputs`, which are made from `model` with these importance weights. An
    /// earlier run's progress is used if its fingerprints are the same.
    ///
    /// # Errors
    /// If an output exists, unless `force`; if another run is writing it, or a file that is not an
    /// unfinished output has its hidden name.
    pub fn open(
        model: &GgufModel,
        outputs: &[Output],
        importance: Option<&Importance>,
        checkpointing: &Checkpointing,
        force: bool,
        progress: &dyn Progress,
    ) -> Result<OutputJournals> {
        let mut common = checkpointing.fingerprints.clone();
        common.extend(importance.map(Importance::fingerprint));
        let infos = model.tensors.table().infos();
        let source = GgufLayout::new(model.origin(), &Metadata::new(), infos)?;
        common.push(Fingerprint::new("the types of the source's tensors", source.header()));
        for output in outputs {
            OutputJournal::check_before(output, force)?;
        }
        let open = |output: &Output| {
            let mut fingerprints = common.clone();
            fingerprints.extend(output.plan.fingerprints(model.origin())?);
            let checkpointing = Checkpointing { fingerprints, ..checkpointing.clone() };
            OutputJournal::open(output, checkpointing, force, progress)
        };
        let outputs = outputs.iter().map(open).collect::<Result<Vec<_>>>()?;
        Ok(OutputJournals { outputs, every: checkpointing.every, force })
    }

    /// Ends a pass with this result: gives whole files their names. After an interruption or a failure of
    /// the system (a full disk), whole tensors stay for a later run, and a warning says where. Other
    /// errors come again in every run, so nothing stays.
    ///
    /// # Errors
    /// The pass's; if a file cannot get its name.
    pub fn end(
        self,
        written: Result<Vec<Written>>,
        progress: &dyn Progress,
    ) -> Result<Vec<Written>> {
        if let Err(error) = &written {
            match error {
                Error::Interrupted | Error::Io { .. } => self.report_kept(progress),
                _ => self.outputs.iter().for_each(OutputJournal::remove_parts),
            }
        } else {
            for output in &self.outputs {
                output.place(self.force)?;
                output.paths.iter().for_each(|path| {
                    progress.note(&format!("wrote {}", path.display()));
                });
            }
            for output in &self.outputs {
                output::remove_if_exists(output.journal.path())?;
            }
        }
        written
    }

    fn report_kept(&self, progress: &dyn Progress) {
        let (mut tensors, mut files) = (0, Vec::new());
        for output in &self.outputs {
            match lock(&output.saved).len() {
                0 => output.remove_parts(),
                n => {
                    tensors += n;
                    files.push(output.paths[0].display().to_string());
                }
            }
        }
        if tensors > 0 {
            let files = files.join(", ");
            progress.warn(&format!(
                "{tensors} tensors are whole and stay in hidden files beside {files}: {CONTINUES}"
            ));
        }
    }
}

impl TensorJournal for OutputJournals {
    fn every(&self) -> Duration {
        self.every
    }

    fn earlier(&self, output: usize) -> TensorHashes {
        lock(&self.outputs[output].saved).clone()
    }

    fn save(&self, whole: &[TensorHashes]) -> Result<()> {
        self.outputs.iter().zip(whole).try_for_each(|(output, tensors)| output.save(tensors))
    }
}

impl OutputJournal {
    /// Returns the path of the journal of `output`.
    fn path(output: &Output) -> Result<PathBuf> {
        let mut name = output.path.file_name().unwrap_or_default().to_os_string();
        name.push(".tensors");
        part_path(&output.path.with_file_name(name))
    }

    /// Fails if `output` exists and may not be replaced, before any hidden file is made. Where an earlier
    /// run left a journal, [`OutputJournal::open`] decides.
    fn check_before(output: &Output, force: bool) -> Result<()> {
        if OutputJournal::path(output)?.exists() {
            return Ok(());
        }
        let paths = shard_paths(&output.path, &output.plan.shards);
        paths.iter().try_for_each(|path| output::check_file_target(path, force))
    }

    fn open(
        output: &Output,
        checkpointing: Checkpointing,
        force: bool,
        progress: &dyn Progress,
    ) -> Result<OutputJournal> {
        let paths = shard_paths(&output.path, &output.plan.shards);
        let journal = Journal::new(OutputJournal::path(output)?, VERSION);
        for path in &paths {
            refuse_foreign(&part_path(path)?)?;
        }
        let begun = journal.path().exists();
        let lock = output::lock_part(&paths[0])?;
        output::remove_torn(journal.path())?;
        let earlier = journal.read::<Recorded<Tensors>>()?;
        let tensors = checkpointing.usable(earlier, journal.path(), progress);
        let tensors = tensors.unwrap_or_default().tensors;
        let complete = tensors.len() == output.plan.tensors.len();
        let fingerprints = checkpointing.fingerprints;
        let saved = Mutex::new(tensors);
        let opened = OutputJournal { paths, journal, fingerprints, saved, complete, _lock: lock };
        if let Err(error) = opened.check_targets(force) {
            if !begun {
                opened.remove_parts();
            }
            return Err(error);
        }
        Ok(opened)
    }

    /// Fails if a file exists that may not be replaced. A run that was killed while its files got their
    /// names is completed without `force`.
    fn check_targets(&self, force: bool) -> Result<()> {
        let force = force || self.complete;
        self.paths.iter().try_for_each(|path| output::check_file_target(path, force))
    }

    fn save(&self, tensors: &TensorHashes) -> Result<()> {
        if tensors.is_empty() {
            return Ok(());
        }
        let progress = Tensors { tensors: tensors.clone() };
        self.journal.write(&Recorded { fingerprints: self.fingerprints.clone(), progress })?;
        *lock(&self.saved) = tensors.clone();
        Ok(())
    }

    /// Gives the files their names, the first one last: without it, nothing reads the others.
    fn place(&self, force: bool) -> Result<()> {
        // Again: files may have appeared while these were written.
        self.check_targets(force)?;
        self.paths.iter().rev().try_for_each(|path| output::place_part(path))
    }

    /// Removes the hidden files. Ignores errors: one is already being reported.
    fn remove_parts(&self) {
        for path in &self.paths {
            let _ = part_path(path).and_then(|part| output::remove_if_exists(&part));
        }
        let _ = output::remove_if_exists(self.journal.path());
    }
}

/// Fails if the file `part` does not look like an unfinished GGUF file. One whose header was not written
/// yet is empty, or begins with zeros.
fn refuse_foreign(part: &Path) -> Result<()> {
    if !fs::symlink_metadata(part).is_ok_and(|meta| meta.is_file()) {
        return Ok(());
    }
    let mut head = Vec::new();
    let file = File::open(part).map_err(Error::io(part, "open"))?;
    file.take(4).read_to_end(&mut head).map_err(Error::io(part, "read"))?;
    match head.is_empty() || head == b"GGUF" || head.iter().all(|&byte| byte == 0) {
        true => Ok(()),
        false => Err(Error::Usage(format!(
            "{}: in the way, and not left by this program; move it away",
            part.display()
        ))),
    }
}

impl QuantPlan {
    /// Returns fingerprints of what the plan decides: the metadata, and types and places of tensors.
    /// Metadata that follow from other fingerprints are left out, so that a change has one reason.
    ///
    /// # Errors
    /// Those of [`GgufLayout::new`]; `origin` names the model in them.
    pub(crate) fn fingerprints(&self, origin: &str) -> Result<[Fingerprint; 2]> {
        let mut metadata = self.metadata.clone();
        metadata
            .remove_if(|key| key.starts_with("aqueduct.") || key.starts_with("quantize.imatrix."));
        let metadata = GgufLayout::new(origin, &metadata, &[])?;
        let layouts = self.shards.layouts(origin, &Metadata::new(), self.infos())?;
        let headers: Vec<u8> = layouts.iter().flat_map(|layout| layout.header().to_vec()).collect();
        Ok([
            Fingerprint::new("the metadata", metadata.header()),
            Fingerprint::new("types of tensors or the size of shards", headers),
        ])
    }
}
