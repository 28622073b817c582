//! What a build has made so far, so that an interrupted build resumes and a changed one makes only what differs.
//!
//! The hidden file `.aqueduct-build.json` records for each output its [`Fingerprint`]s, and its files with
//! sizes and SHA-256, or its whole tensors. An output is written under its hidden name (`.NAME.part`),
//! synced, hashed and recorded before it gets its name. Files are hashed again before they are used.
//! Not here: what an output depends on (`stages`).

use super::checksums;
use crate::base::error::{Error, Result};
use crate::base::hash;
use crate::base::output::{self, OutputFile};
use crate::base::progress::{Progress, Unit};
use crate::base::resume::{Earlier, Fingerprint, Journal, difference};
use crate::base::sync::lock;
use crate::measure::evaluate::Evaluation;
use crate::quantize::TensorHashes;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

/// The state's name in the folder.
pub const STATE_FILE: &str = ".aqueduct-build.json";
/// Counted up when the layout or the meaning of hashes changes.
const VERSION: u32 = 1;

#[derive(Default, Serialize, Deserialize)]
struct Contents {
    /// Whether the last build completed.
    finished: bool,
    outputs: BTreeMap<String, Output>,
    evaluations: BTreeMap<String, Evaluated>,
}

/// An output: a file, the shards of a model, or a folder.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Output {
    #[serde(alias = "marks")]
    fingerprints: Vec<Fingerprint>,
    /// The paths in the folder that its files will have.
    #[serde(default)]
    paths: BTreeSet<String>,
    /// Its files by their paths in the folder; empty until it is whole.
    #[serde(default)]
    files: BTreeMap<String, Whole>,
    /// Its whole tensors.
    #[serde(default)]
    tensors: TensorHashes,
    #[serde(default)]
    seconds: f64,
    /// Whether it may replace a file that is there, once it is whole.
    #[serde(default)]
    replaces: bool,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Whole {
    bytes: u64,
    sha256: String,
}

#[derive(Clone, Serialize, Deserialize)]
struct Evaluated {
    #[serde(alias = "marks")]
    fingerprints: Vec<Fingerprint>,
    evaluation: Evaluation,
}

/// The state of an output on the disk.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum OutputStatus {
    /// Nothing is recorded of it.
    New,
    /// This output has been begun, from the same inputs.
    Begun,
    /// It is whole, and made from what the build has now.
    Whole,
    /// It is whole, but made from something else; the text gives the reason.
    Changed(String),
    /// A file that no build has written is at this path.
    Foreign(PathBuf),
}

/// The name under which a recorded file was found, with the recorded bytes.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Named,
    Hidden,
}

/// The state of a folder that this process builds into.
pub(super) struct State {
    dir: PathBuf,
    journal: Journal,
    contents: Mutex<Contents>,
    /// Files that are as recorded.
    found: Mutex<BTreeMap<String, Place>>,
    /// Outputs that this build has begun from nothing.
    fresh: Mutex<BTreeSet<String>>,
    /// Other progress of outputs that are not whole, in words.
    kept: Mutex<BTreeMap<String, String>>,
    /// Outputs of an earlier build that this one ignores (`--restart`).
    forgotten: Vec<String>,
    /// Whether the folder was made for this build.
    new_dir: bool,
    _lock: fs::File,
}

impl State {
    /// Locks the folder `dir`, creating it if necessary, and verifies what an earlier build has recorded
    /// there. With `restart`, everything recorded is ignored.
    ///
    /// # Errors
    /// If another build is at work in it.
    pub(super) fn open(dir: &Path, restart: bool, progress: &dyn Progress) -> Result<State> {
        let new_dir = !dir.exists();
        let lock = output::lock_folder(dir)?;
        let journal = Journal::new(dir.join(STATE_FILE), VERSION);
        let mut contents = match journal.read::<Contents>()? {
            Earlier::Found(contents) => contents,
            Earlier::Nothing => Contents::default(),
            Earlier::Unreadable => {
                let place = journal.path().display();
                progress.warn(&format!(
                    "{place}: the record of an earlier build cannot be read; starting anew"
                ));
                Contents::default()
            }
        };
        let mut forgotten = Vec::new();
        if restart {
            forgotten = std::mem::take(&mut contents).outputs.into_keys().collect();
            forgotten.retain(|name| is_plain(name));
        }
        let plain =
            |output: &Output| output.files.keys().chain(&output.paths).all(|name| is_plain(name));
        contents.outputs.retain(|_, output| plain(output));
        let (dir, contents) = (dir.to_path_buf(), Mutex::new(contents));
        let state = State {
            dir,
            journal,
            contents,
            found: Mutex::default(),
            fresh: Mutex::default(),
            kept: Mutex::default(),
            forgotten,
            new_dir,
            _lock: lock,
        };
        state.verify(progress)?;
        Ok(state)
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        lock(&self.contents)
    }

    fn found(&self) -> MutexGuard<'_, BTreeMap<String, Place>> {
        lock(&self.found)
    }

    /// Gives a recorded file its name.
    fn place(&self, path: &Path) -> Result<()> {
        output::place_part(path)?;
        self.found().insert(self.name_of(path), Place::Named);
        Ok(())
    }

    /// Hashes the recorded files, under their names or hidden ones.
    fn verify(&self, progress: &dyn Progress) -> Result<()> {
        let contents = self.contents();
        let files = contents.outputs.values().flat_map(|output| output.files.clone());
        let files: Vec<(String, Whole)> = files.collect();
        drop(contents);
        let there = |path: &Path, whole: &Whole| {
            fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.len() == whole.bytes)
        };
        let mut candidates = Vec::new();
        for (name, whole) in files {
            let path = self.dir.join(&name);
            let hidden = output::part_path(&path)?;
            for (path, place) in [(path, Place::Named), (hidden, Place::Hidden)] {
                if there(&path, &whole) {
                    candidates.push((name.clone(), whole.clone(), path, place));
                }
            }
        }
        if candidates.is_empty() {
            return Ok(());
        }
        let total = candidates.iter().map(|(_, whole, _, _)| whole.bytes).sum();
        progress.begin("verify", total, Unit::Bytes);
        let found = candidates.par_iter().map(|(name, whole, path, place)| {
            let same = hash::sha256_of_file(path, |bytes| progress.advance(bytes))? == whole.sha256;
            Ok(same.then(|| (name.clone(), *place)))
        });
        let found = found.collect::<Result<Vec<_>>>()?;
        progress.end();
        // Of two that are as recorded, the one with the name.
        for (name, place) in found.into_iter().flatten() {
            let mut found = self.found();
            if place == Place::Named || !found.contains_key(&name) {
                found.insert(name, place);
            }
        }
        Ok(())
    }

    /// Returns the status of an output. One that is whole and only lacks its name gets the name now.
    ///
    /// # Errors
    /// If a file cannot be renamed.
    pub(super) fn status(&self, target: &Target) -> Result<OutputStatus> {
        let Target { name, paths, fingerprints } = target;
        let output = self.contents().outputs.get(name).cloned();
        let begun = output.as_ref().is_none_or(|output| output.files.is_empty());
        let replaces = output.as_ref().is_some_and(|output| output.replaces);
        let in_the_way = || paths.iter().find(|path| path.exists());
        if let Some(path) = in_the_way().filter(|_| begun && !replaces) {
            return Ok(OutputStatus::Foreign(path.clone()));
        }
        let Some(output) = output else { return Ok(OutputStatus::New) };
        let reason = difference(&output.fingerprints, fingerprints);
        if begun {
            return Ok(if reason.is_none() { OutputStatus::Begun } else { OutputStatus::New });
        }
        let mut missing = Vec::new();
        for file in output.files.keys() {
            let path = self.dir.join(file);
            let found = self.found().get(file).copied();
            match found {
                Some(Place::Named) => {}
                Some(Place::Hidden) => self.place(&path)?,
                None if path.exists() => return Ok(OutputStatus::Foreign(path)),
                None => missing.push(path),
            }
        }
        Ok(match reason {
            // A part of an output is of no use.
            _ if !missing.is_empty() => OutputStatus::New,
            Some(reason) => OutputStatus::Changed(reason),
            None => OutputStatus::Whole,
        })
    }

    /// Returns the SHA-256 of the output `name`, once it is whole.
    pub(super) fn recorded_hash(&self, name: &str) -> Option<String> {
        let contents = self.contents();
        Some(contents.outputs.get(name)?.files.values().next()?.sha256.clone())
    }

    /// Returns why the recorded output `name` was not made from `fingerprints`; `None` if it was, or nothing
    /// is recorded.
    pub(super) fn difference(&self, name: &str, fingerprints: &[Fingerprint]) -> Option<String> {
        difference(&self.contents().outputs.get(name)?.fingerprints, fingerprints)
    }

    /// Returns the seconds that the output `name` took; 0 if they are unknown.
    pub(super) fn seconds(&self, name: &str) -> f64 {
        self.contents().outputs.get(name).map_or(0.0, |output| output.seconds)
    }

    /// Records that outputs are begun, and whether they may replace files that are there. Progress of an
    /// output with the same fingerprints stays.
    pub(super) fn begin(&self, outputs: &[Target], replace: bool) -> Result<()> {
        let mut contents = self.contents();
        contents.finished = false;
        for Target { name, paths, fingerprints } in outputs {
            let output = contents.outputs.entry(name.clone()).or_default();
            let paths: BTreeSet<String> = paths.iter().map(|path| self.name_of(path)).collect();
            for old in output.paths.difference(&paths) {
                output::remove_if_exists(&output::part_path(&self.dir.join(old))?)?;
            }
            if output.fingerprints != *fingerprints || !output.files.is_empty() {
                *output = Output { fingerprints: fingerprints.clone(), ..Output::default() };
                lock(&self.fresh).insert(name.clone());
            }
            output.paths = paths;
            output.replaces |= replace;
        }
        drop(contents);
        self.save()
    }

    /// Notes that `what` of the output `name` was made, and stays if the build fails.
    pub(super) fn keep(&self, name: &str, what: String) {
        lock(&self.kept).insert(name.to_string(), what);
    }

    /// Returns the whole tensors of the output `name`.
    pub(super) fn tensors(&self, name: &str) -> TensorHashes {
        self.contents().outputs.get(name).map(|o| o.tensors.clone()).unwrap_or_default()
    }

    /// Records the tensors of the outputs `names` that are whole and on the disk.
    pub(super) fn record_tensors(&self, names: &[String], tensors: &[TensorHashes]) -> Result<()> {
        let mut contents = self.contents();
        for (name, tensors) in names.iter().zip(tensors) {
            if let Some(output) = contents.outputs.get_mut(name) {
                output.tensors = tensors.clone();
            }
        }
        drop(contents);
        self.save()
    }

    /// Hashes and records the outputs with the seconds that they took, and gives their files their names.
    /// Files are whole under their hidden names, folders under their own.
    pub(super) fn seal(&self, outputs: &[(Target, f64)], progress: &dyn Progress) -> Result<()> {
        let mut files: Vec<(usize, PathBuf)> = Vec::new();
        let (mut named, mut read) = (Vec::new(), Vec::new());
        for (n, (target, _)) in outputs.iter().enumerate() {
            match &target.paths[..] {
                [folder] if folder.is_dir() => {
                    let inside = checksums::entries(folder)?;
                    named.extend(inside.iter().map(|path| self.name_of(path)));
                    read.extend(inside.iter().cloned());
                    files.extend(inside.into_iter().map(|path| (n, path)));
                }
                paths => {
                    for path in paths {
                        read.push(output::part_path(path)?);
                        files.push((n, path.clone()));
                    }
                }
            }
        }
        let hashed = self.hash(&read, progress)?;
        let mut contents = self.contents();
        for (Target { name, fingerprints, .. }, seconds) in outputs {
            let output = Output {
                fingerprints: fingerprints.clone(),
                seconds: *seconds,
                ..Output::default()
            };
            contents.outputs.insert(name.clone(), output);
        }
        for ((n, path), whole) in files.iter().zip(hashed) {
            if let Some(output) = contents.outputs.get_mut(&outputs[*n].0.name) {
                output.files.insert(self.name_of(path), whole);
            }
        }
        drop(contents);
        self.save()?;
        let hidden = files.iter().filter(|(_, path)| !named.contains(&self.name_of(path)));
        // The first shard last: without it, nothing reads the others.
        hidden.rev().try_for_each(|(_, path)| self.place(path))?;
        self.found().extend(named.into_iter().map(|name| (name, Place::Named)));
        Ok(())
    }

    /// Writes `bytes` as the output `name`, a file of that name.
    pub(super) fn write(
        &self,
        name: &str,
        fingerprints: &[Fingerprint],
        bytes: &[u8],
    ) -> Result<()> {
        let path = self.dir.join(name);
        let whole = Whole { bytes: bytes.len() as u64, sha256: hash::sha256(bytes) };
        let mut file = OutputFile::reopen(&path)?;
        file.clear()?;
        file.append(bytes)?;
        file.seal()?;
        let files = [(name.to_string(), whole)].into();
        let output = Output { fingerprints: fingerprints.to_vec(), files, ..Output::default() };
        self.contents().outputs.insert(name.to_string(), output);
        self.save()?;
        self.place(&path)
    }

    fn hash(&self, paths: &[PathBuf], progress: &dyn Progress) -> Result<Vec<Whole>> {
        let size =
            |path: &PathBuf| Ok(fs::metadata(path).map_err(Error::io(path, "examine"))?.len());
        progress.begin("checksums", paths.iter().map(size).sum::<Result<u64>>()?, Unit::Bytes);
        let whole = paths.par_iter().map(|path| {
            let sha256 = hash::sha256_of_file(path, |bytes| progress.advance(bytes))?;
            Ok(Whole { bytes: size(path)?, sha256 })
        });
        let whole = whole.collect::<Result<Vec<_>>>()?;
        progress.end();
        Ok(whole)
    }

    fn name_of(&self, path: &Path) -> String {
        path.strip_prefix(&self.dir).unwrap_or(path).to_string_lossy().into_owned()
    }

    /// Returns the path in the folder and the SHA-256 of every file of the outputs `names`, sorted by path.
    pub(super) fn sums<'n>(
        &self,
        names: impl IntoIterator<Item = &'n str>,
    ) -> Vec<(PathBuf, String)> {
        let contents = self.contents();
        let outputs = names.into_iter().filter_map(|name| contents.outputs.get(name));
        let files = outputs.flat_map(|output| &output.files);
        let sums: BTreeSet<_> =
            files.map(|(name, whole)| (PathBuf::from(name), whole.sha256.clone())).collect();
        sums.into_iter().collect()
    }

    /// Returns the evaluation of `name`, if it was made with the same fingerprints.
    pub(super) fn evaluation(
        &self,
        name: &str,
        fingerprints: &[Fingerprint],
    ) -> Option<Evaluation> {
        let contents = self.contents();
        let evaluated = contents.evaluations.get(name)?;
        (evaluated.fingerprints == fingerprints).then(|| evaluated.evaluation.clone())
    }

    pub(super) fn record_evaluation(
        &self,
        name: &str,
        fingerprints: &[Fingerprint],
        of: &Evaluation,
    ) -> Result<()> {
        let evaluated = Evaluated { fingerprints: fingerprints.to_vec(), evaluation: of.clone() };
        self.contents().evaluations.insert(name.to_string(), evaluated);
        self.save()
    }

    /// Removes the output `name` and its files.
    pub(super) fn discard(&self, name: &str) -> Result<()> {
        let output = self.contents().outputs.remove(name);
        let Output { files, paths, .. } = output.unwrap_or_default();
        for path in files.keys().chain(&paths).map(|name| self.dir.join(name)) {
            output::remove_if_exists(&output::part_path(&path)?)?;
            output::remove_if_exists(&path)?;
        }
        self.save()
    }

    /// Removes what killed builds have left of `paths` and is of no use: files under names that no run writes
    /// again, and unfinished parts of outputs that are no longer made. Returns the outputs that exist but are
    /// not among `current`.
    pub(super) fn sweep(&self, current: &[String], paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
        let mut names: BTreeSet<String> = paths.iter().map(|path| self.name_of(path)).collect();
        names.insert(STATE_FILE.to_string());
        for entry in fs::read_dir(&self.dir).map_err(Error::io(&self.dir, "read"))? {
            let entry = entry.map_err(Error::io(&self.dir, "read"))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let torn = output::torn_name(&name).is_some_and(|of| {
                let part = of.strip_prefix('.').and_then(|of| of.strip_suffix(".part"));
                names.contains(of) || part.is_some_and(|of| names.contains(of))
            });
            if torn {
                output::remove_if_exists(&entry.path())?;
            }
        }
        let forgotten = self.forgotten.iter().filter(|name| !current.contains(name));
        let forgotten = forgotten.map(|name| self.dir.join(name));
        let mut left: Vec<PathBuf> = forgotten.filter(|path| path.exists()).collect();
        let obsolete: Vec<(String, Output)> = {
            let outputs = &self.contents().outputs;
            let obsolete = outputs.iter().filter(|(name, _)| !current.contains(name));
            obsolete.map(|(name, output)| (name.clone(), output.clone())).collect()
        };
        for (name, output) in obsolete {
            let found = output.files.keys().filter(|file| self.found().contains_key(*file));
            if found.count() == 0 {
                for path in output.paths.iter().chain(output.files.keys()) {
                    output::remove_if_exists(&output::part_path(&self.dir.join(path))?)?;
                }
                self.contents().outputs.remove(&name);
            } else {
                left.push(self.dir.join(name));
            }
        }
        Ok(left)
    }

    /// Records that the build completed.
    pub(super) fn finish(&self) -> Result<()> {
        self.contents().finished = true;
        self.save()
    }

    fn save(&self) -> Result<()> {
        self.journal.write(&*self.contents())
    }

    /// Ends a failed build: reports what stays for a later one, and removes the rest.
    pub(super) fn report_kept(self, progress: &dyn Progress) {
        let (contents, kept, fresh) = (self.contents(), lock(&self.kept), lock(&self.fresh));
        let outputs = &contents.outputs;
        let whole = outputs.values().filter(|output| !output.files.is_empty()).count();
        let begun = outputs.values().filter(|output| !output.tensors.is_empty());
        let (begun, tensors) = begun.fold((0, 0), |(n, all), o| (n + 1, all + o.tensors.len()));
        let useless = outputs.iter().filter(|(name, output)| {
            let nothing = output.files.is_empty() && output.tensors.is_empty();
            nothing && fresh.contains(*name) && !kept.contains_key(*name)
        });
        // Errors are ignored here; one is already being reported.
        let mut gone = 0;
        for (_, output) in useless {
            gone += 1;
            for path in &output.paths {
                if let Ok(path) = output::part_path(&self.dir.join(path)) {
                    let _ = output::remove_if_exists(&path);
                }
            }
        }
        // Whole shards of a stack are in its hidden folder, and have been reported.
        let stack = outputs
            .values()
            .flat_map(|output| &output.paths)
            .any(|path| output::part_path(&self.dir.join(path)).is_ok_and(|path| path.is_dir()));
        if gone == outputs.len() && !stack {
            if !fresh.is_empty() {
                let _ = fs::remove_file(self.dir.join(STATE_FILE));
            }
            if self.new_dir {
                let _ = fs::remove_dir(&self.dir);
            }
        }
        if fresh.is_empty() || (whole + begun + kept.len() == 0) {
            return;
        }
        let mut list = kept.values().cloned().collect::<Vec<_>>();
        list.extend((begun > 0).then(|| format!("{tensors} tensors of {begun} files")));
        list.extend((whole > 0).then(|| format!("{whole} whole outputs")));
        let (dir, list) = (self.dir.display(), list.join(", "));
        progress.warn(&format!(
            "what is done stays in {dir} ({list}): the same command continues after it, with --restart it starts anew"
        ));
    }
}

/// An output that a build makes.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The path of its file in the folder; without shard numbers if it has several.
    pub name: String,
    /// Its files, or the folder.
    pub paths: Vec<PathBuf>,
    /// What it is made from.
    pub fingerprints: Vec<Fingerprint>,
}

/// Whether `name` is the path of a file in the folder, in a stack's folder or in its folder of templates.
fn is_plain(name: &str) -> bool {
    let parts: Vec<_> = Path::new(name).components().collect();
    matches!(parts.len(), 1..=3) && parts.iter().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests;
