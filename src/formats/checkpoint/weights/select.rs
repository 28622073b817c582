//! Selecting the files of a folder that are the model's weights, and the file of each tensor.
//!
//! An index, a single file and numbered shards may disagree. Then the contents of the files decide,
//! with a warning that names both sides. The precedence is that of transformers 5
//! (`modeling_utils.py`, `_get_resolved_checkpoint_files`): safetensors before PyTorch's files, a
//! single file before an index. Not here: types and data of tensors, see [`super::stored`].

use super::file::WeightsFile;
use super::index::ShardIndex;
use super::naming::{Naming, PYTORCH, SAFETENSORS};
use crate::base::error::{Error, Result};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

/// The files of a model's weights.
pub(crate) struct WeightFiles {
    /// The opened files, in order.
    pub files: Vec<WeightsFile>,
    /// For tensors that several files hold: the index of the file that is read.
    homes: HashMap<String, usize>,
    /// Decisions about contradicting files, for the user; a sentence each.
    pub warnings: Vec<String>,
}

/// Why the weights of one format cannot be used.
enum Unusable {
    /// There are no files of this format.
    Absent,
    /// Files are missing; weights in the other format may be complete.
    Incomplete(Error),
    /// Files are damaged or contradict each other.
    Broken(Error),
}

impl From<Error> for Unusable {
    fn from(error: Error) -> Unusable {
        Unusable::Broken(error)
    }
}

impl WeightFiles {
    /// Finds and opens the weights in `dir`.
    ///
    /// # Errors
    /// No weights, missing shards, damaged files, or files that leave open which of them are the
    /// model.
    pub(crate) fn open(dir: &Path) -> Result<WeightFiles> {
        let safetensors = match Finder::new(dir, &SAFETENSORS)?.find() {
            Ok(mut found) => {
                found.compare_with_pytorch(dir)?;
                return Ok(found);
            }
            Err(Unusable::Broken(error)) => return Err(error),
            Err(Unusable::Incomplete(error)) => Some(error),
            Err(Unusable::Absent) => None,
        };
        match (Finder::new(dir, &PYTORCH)?.find(), safetensors) {
            (Ok(mut found), Some(error)) => {
                let used = found.files[0].path().display();
                found.warnings.push(format!(
                    "the safetensors files cannot be used ({error}); {used} is used instead"
                ));
                Ok(found)
            }
            (Ok(found), None) => Ok(found),
            (Err(_), Some(error)) => Err(error),
            (Err(Unusable::Broken(error) | Unusable::Incomplete(error)), None) => Err(error),
            (Err(Unusable::Absent), None) => {
                let detail = "no weights in this folder: neither safetensors nor pytorch_model.bin";
                Err(Error::format(dir, detail))
            }
        }
    }

    /// Whether the tensor `name` is read from the file with index `file`, which holds a tensor of
    /// that name.
    pub(crate) fn is_home(&self, name: &str, file: usize) -> bool {
        self.homes.get(name).is_none_or(|home| *home == file)
    }

    /// Warns if the folder's PyTorch file holds tensors that the safetensors files lack.
    fn compare_with_pytorch(&mut self, dir: &Path) -> Result<()> {
        let path = dir.join(PYTORCH.single);
        if !path.is_file() {
            return Ok(());
        }
        let Ok(other) = WeightsFile::open(&path) else { return Ok(()) };
        let used = names_of(&self.files);
        let mut theirs = other.entries().into_iter().map(|entry| entry.name);
        if let Some(name) = theirs.find(|name| !used.contains(*name)) {
            self.warnings.push(format!(
                "{} holds '{name}', which the safetensors files lack; the safetensors files are used",
                path.display()
            ));
        }
        Ok(())
    }
}

/// The names of all tensors in `files`.
fn names_of(files: &[WeightsFile]) -> BTreeSet<String> {
    let entries = files.iter().flat_map(WeightsFile::entries);
    entries.map(|entry| entry.name.to_string()).collect()
}

/// A series of shards: the stem of their names and their number.
type Series = (String, u32);

/// Finds the weights of one format.
struct Finder<'d> {
    dir: &'d Path,
    naming: &'static Naming,
    /// The names of all files of this format in the folder.
    present: BTreeSet<String>,
    warnings: Vec<String>,
}

impl<'d> Finder<'d> {
    fn new(dir: &'d Path, naming: &'static Naming) -> Result<Finder<'d>> {
        let mut present = BTreeSet::new();
        for entry in std::fs::read_dir(dir).map_err(Error::io(dir, "list"))? {
            let name = entry.map_err(Error::io(dir, "list"))?.file_name();
            let name = name.to_string_lossy();
            if naming.matches(&name) && dir.join(&*name).is_file() {
                present.insert(name.into_owned());
            }
        }
        Ok(Finder { dir, naming, present, warnings: Vec::new() })
    }

    fn find(mut self) -> Result<WeightFiles, Unusable> {
        let path = self.dir.join(self.naming.index);
        let index = if path.is_file() { self.read_index(&path)? } else { None };
        let names = match (self.present.contains(self.naming.single), &index) {
            (true, index) => self.with_whole_file(index.as_ref())?,
            (false, Some(index)) => self.by_index(index)?,
            (false, None) => self.by_names()?,
        };
        let files = self.open(&names)?;
        match index.filter(|index| index.files() == names) {
            Some(index) => self.check_against(files, &index),
            None => self.resolve(files, HashMap::new()),
        }
    }

    /// Reads the index. `None`, with a warning, if it is invalid but the single file exists.
    fn read_index(&mut self, path: &Path) -> Result<Option<ShardIndex>> {
        match ShardIndex::read(path) {
            Ok(index) => Ok(Some(index)),
            Err(error) if self.present.contains(self.naming.single) => {
                self.warnings.push(format!("{error}; only {} is used", self.naming.single));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn open(&self, names: &[String]) -> Result<Vec<WeightsFile>> {
        names.iter().map(|name| WeightsFile::open(self.dir.join(name))).collect()
    }

    /// Chooses the single file, or the shards in the same folder if they hold all of its tensors
    /// and more.
    fn with_whole_file(&mut self, index: Option<&ShardIndex>) -> Result<Vec<String>> {
        let single = self.naming.single;
        let whole = vec![single.to_string()];
        let indexed = index.map(|index| index.files()).filter(|files| *files != whole);
        let (others, which) = match indexed {
            Some(files) => (files, self.naming.index.to_string()),
            None => match self.complete_series().as_slice() {
                [(series, names), ..] => {
                    let (stem, count) = series;
                    (names.clone(), format!("the {count} shards of '{stem}'"))
                }
                [] => return Ok(whole),
            },
        };
        let missing = others.iter().filter(|name| !self.present.contains(*name)).count();
        if missing > 0 {
            self.warnings.push(format!(
                "{which} lists {} files, but {missing} of them are missing; only {single} is used",
                others.len()
            ));
            return Ok(whole);
        }
        let others: Vec<String> = others.into_iter().filter(|name| *name != single).collect();
        let ours = names_of(&self.open(&whole)?);
        let theirs = names_of(&self.open(&others)?);
        if ours.is_superset(&theirs) {
            self.warnings.push(format!(
                "both {single} and the shards of {which} are in the folder; {single} is used, as \
                 transformers does"
            ));
            return Ok(whole);
        }
        if theirs.is_superset(&ours) {
            self.warnings.push(format!(
                "both {single} and the shards of {which} are in the folder, but {single} lacks {} of \
                 their tensors; the shards are used",
                theirs.len() - ours.len()
            ));
            return Ok(others);
        }
        let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| {
            a.difference(b).next().cloned().unwrap_or_default()
        };
        let detail = format!(
            "{single} holds '{}', which the shards of {which} lack, and they hold '{}', which it lacks; \
             move the one that is not the model elsewhere",
            only(&ours, &theirs),
            only(&theirs, &ours)
        );
        Err(Error::format(self.dir, detail))
    }

    /// Chooses the files that the index names, or a complete series of shards that holds all
    /// tensors of the index.
    fn by_index(&mut self, index: &ShardIndex) -> Result<Vec<String>, Unusable> {
        let names = index.files();
        let missing: Vec<&String> =
            names.iter().filter(|name| !self.present.contains(*name)).collect();
        let Some(first) = missing.first() else {
            let others: Vec<&String> = self.shards().filter(|name| !names.contains(name)).collect();
            if let Some(other) = others.first() {
                self.warnings.push(format!(
                    "{} shards in the folder are not named by {}, for example '{other}'; they are ignored",
                    others.len(),
                    self.naming.index
                ));
            }
            return Ok(names);
        };
        for (_, shards) in self.complete_series() {
            let held = names_of(&self.open(&shards)?);
            if index.tensors().all(|tensor| held.contains(tensor)) {
                self.warnings.push(format!(
                    "{} names '{first}', which is missing; '{}' and the other shards of its series hold all \
                     listed tensors and are used",
                    self.naming.index, shards[0]
                ));
                return Ok(shards);
            }
        }
        Err(self.incomplete(names.len(), &missing))
    }

    fn incomplete(&self, all: usize, missing: &[&String]) -> Unusable {
        let Some(first) = missing.first() else { return Unusable::Absent };
        let detail = match missing.len() {
            1 => format!("shard '{first}' is missing"),
            n => format!("{n} of {all} shards are missing, '{first}' first"),
        };
        let remedy = "get the missing files with: hf download OWNER/NAME --local-dir";
        let detail = format!("{detail}; {remedy} {}", self.dir.display());
        Unusable::Incomplete(Error::format(self.dir, detail))
    }

    /// The names of all numbered files.
    fn shards(&self) -> impl Iterator<Item = &String> {
        self.present.iter().filter(|name| self.naming.shard_number(name).is_some())
    }

    /// The numbered files by series and number.
    fn series(&self) -> BTreeMap<Series, BTreeMap<u32, String>> {
        let mut all: BTreeMap<Series, BTreeMap<u32, String>> = BTreeMap::new();
        for name in &self.present {
            if let Some((stem, number, count)) = self.naming.shard_number(name) {
                all.entry((stem, count)).or_default().insert(number, name.clone());
            }
        }
        all
    }

    /// The complete series: first those with the names that transformers uses, last Mistral's
    /// `consolidated`.
    fn complete_series(&self) -> Vec<(Series, Vec<String>)> {
        let usual = self.naming.single.split('.').next().unwrap_or_default();
        let mut complete: Vec<(Series, Vec<String>)> = (self.series().into_iter())
            .filter(|((_, count), files)| {
                let from = first_number(files);
                (from..from + count).eq(files.keys().copied())
            })
            .map(|(series, files)| (series, files.into_values().collect()))
            .collect();
        complete.sort_by_key(|((stem, _), _)| (stem != usual, stem == CONSOLIDATED));
        complete
    }

    /// Chooses files by their names, for folders without an index.
    fn by_names(&mut self) -> Result<Vec<String>, Unusable> {
        let complete = self.complete_series();
        match complete.as_slice() {
            [] => {}
            [((stem, _), names), rest @ ..] => {
                if let Some(((_, _), others)) = rest.iter().find(|((other, _), _)| other == stem) {
                    let detail = format!(
                        "the folder has two series of shards, '{}' and '{}', and no {} that names the model's; \
                         move the other one elsewhere",
                        names[0], others[0], self.naming.index
                    );
                    return Err(Unusable::Broken(Error::format(self.dir, detail)));
                }
                let left: Vec<&String> =
                    self.shards().filter(|name| !names.contains(name)).collect();
                if let Some(first) = left.first().filter(|name| !name.starts_with(CONSOLIDATED)) {
                    self.warnings.push(format!(
                        "'{first}' belongs to another series of shards than '{}', which is complete; it \
                         is ignored",
                        names[0]
                    ));
                }
                return Ok(names.clone());
            }
        }
        if let Some(((stem, count), files)) = self.series().into_iter().next() {
            let from = first_number(&files);
            let example = files.values().next().cloned().unwrap_or(stem);
            let all: Vec<String> = (from..from + count)
                .map(|number| self.naming.sibling(&example, number).unwrap_or_default())
                .collect();
            let missing: Vec<&String> = all.iter().filter(|n| !self.present.contains(*n)).collect();
            return Err(self.incomplete(all.len(), &missing));
        }
        let plain = |name: &&String| !name.starts_with(CONSOLIDATED);
        let named: Vec<String> = self.present.iter().filter(plain).cloned().collect();
        let names = if named.is_empty() { self.present.iter().cloned().collect() } else { named };
        match names.len() {
            0 => Err(Unusable::Absent),
            1 => Ok(names),
            _ => Ok(self.disjoint(names)?),
        }
    }

    /// Accepts files with arbitrary names as one model, if no tensor is in two of them.
    fn disjoint(&mut self, names: Vec<String>) -> Result<Vec<String>> {
        let files = self.open(&names)?;
        let mut homes: HashMap<&str, usize> = HashMap::new();
        for (number, file) in files.iter().enumerate() {
            for entry in file.entries() {
                if let Some(first) = homes.insert(entry.name, number) {
                    let detail = format!(
                        "{} {} files and no {} that names the model's: '{}' and '{}' both hold '{}'; move \
                         files that do not belong to the model elsewhere",
                        names.len(),
                        self.naming.suffix.trim_start_matches('.'),
                        self.naming.index,
                        names[first],
                        names[number],
                        entry.name
                    );
                    return Err(Error::format(self.dir, detail));
                }
            }
        }
        self.warnings.push(format!(
            "there is no {}; the {} files from '{}' to '{}' share no tensor and are read as one model",
            self.naming.index,
            names.len(),
            names[0],
            names[names.len() - 1]
        ));
        Ok(names)
    }

    /// Compares `files` with the index. A tensor is read from the file that holds it; if several
    /// do, from the one that the index names.
    fn check_against(
        mut self,
        mut files: Vec<WeightsFile>,
        index: &ShardIndex,
    ) -> Result<WeightFiles, Unusable> {
        self.add_holders(&mut files, index)?;
        let holders = Holders::new(&files, index);
        self.warnings.extend(holders.contradictions(self.naming.index));
        let homes = holders.homes();
        if let Some((tensor, &home)) = homes.iter().min_by_key(|(tensor, _)| *tensor) {
            self.warnings.push(format!(
                "{} tensors are in several files, for example '{tensor}'; it is read from '{}', as {} says",
                homes.len(),
                holders.file_name(home),
                self.naming.index
            ));
        }
        drop(holders);
        self.resolve(files, homes)
    }

    /// Adds files of the folder that hold tensors which the index lists and `files` lack.
    fn add_holders(&self, files: &mut Vec<WeightsFile>, index: &ShardIndex) -> Result<()> {
        let mut held = names_of(files);
        if index.tensors().all(|tensor| held.contains(tensor)) {
            return Ok(());
        }
        let opened: BTreeSet<_> = files.iter().map(|file| file.path().to_path_buf()).collect();
        for path in self.present.iter().map(|name| self.dir.join(name)) {
            if opened.contains(&path) {
                continue;
            }
            let Ok(file) = WeightsFile::open(&path) else { continue };
            let mut names = file.entries().into_iter().map(|entry| entry.name);
            if names.any(|name| index.file_of(name).is_some() && !held.contains(name)) {
                held.extend(file.entries().iter().map(|entry| entry.name.to_string()));
                files.push(file);
            }
        }
        Ok(())
    }

    /// Checks that tensors in several files, for which the index decides nothing, are equal.
    fn resolve(
        mut self,
        files: Vec<WeightsFile>,
        mut homes: HashMap<String, usize>,
    ) -> Result<WeightFiles, Unusable> {
        let mut first_at: HashMap<&str, (usize, usize)> = HashMap::new();
        let entries: Vec<_> = files.iter().map(WeightsFile::entries).collect();
        let mut copies = 0;
        for (number, file) in files.iter().enumerate() {
            let before = copies;
            for (within, entry) in entries[number].iter().enumerate() {
                let Some(&(other, at)) = first_at.get(entry.name) else {
                    first_at.insert(entry.name, (number, within));
                    continue;
                };
                if homes.contains_key(entry.name) {
                    continue;
                }
                let twin = entries[other][at];
                let alike = (twin.dtype, twin.shape) == (entry.dtype, entry.shape)
                    && files[other].tensor_bytes(at) == file.tensor_bytes(within);
                if !alike {
                    let detail = format!(
                        "is in {} too, with other values, and no index says which one to use",
                        files[other].path().display()
                    );
                    let origin = file.path().display().to_string();
                    return Err(Unusable::Broken(Error::tensor(origin, entry.name, detail)));
                }
                homes.insert(entry.name.to_string(), other);
                copies += 1;
            }
            let own = entries[number].len() - (copies - before);
            if own == 0 && copies > before {
                let detail = format!(
                    "holds only tensors that are in {} or other files too; it was probably overwritten by a copy",
                    files[0].path().display()
                );
                return Err(Unusable::Broken(Error::format(file.path(), detail)));
            }
        }
        if copies > 0 {
            self.warnings.push(format!(
                "{copies} tensors of {} are in two files each, with equal values",
                self.dir.display()
            ));
        }
        drop((first_at, entries));
        Ok(WeightFiles { files, homes, warnings: self.warnings })
    }
}

/// The files that hold each tensor, compared with an index.
struct Holders<'a> {
    files: &'a [WeightsFile],
    index: &'a ShardIndex,
    /// Indices of the files that hold a tensor, by its name.
    by_tensor: BTreeMap<String, Vec<usize>>,
}

impl<'a> Holders<'a> {
    fn new(files: &'a [WeightsFile], index: &'a ShardIndex) -> Holders<'a> {
        let mut by_tensor: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (number, file) in files.iter().enumerate() {
            for entry in file.entries() {
                by_tensor.entry(entry.name.to_string()).or_default().push(number);
            }
        }
        Holders { files, index, by_tensor }
    }

    fn file_name(&self, number: usize) -> Cow<'_, str> {
        self.files[number].path().file_name().unwrap_or_default().to_string_lossy()
    }

    /// Whether the index puts `tensor` into file `number`.
    fn is_listed_in(&self, tensor: &str, number: usize) -> bool {
        self.index.file_of(tensor) == Some(&*self.file_name(number))
    }

    /// Warnings about tensors that are not where the index named `name` puts them.
    fn contradictions(&self, name: &str) -> Vec<String> {
        let (mut moved, mut absent) = (Vec::new(), Vec::new());
        for tensor in self.index.tensors() {
            match self.by_tensor.get(tensor) {
                None => absent.push(tensor),
                Some(at) if at.iter().any(|&number| self.is_listed_in(tensor, number)) => {}
                Some(_) => moved.push(tensor),
            }
        }
        let unlisted: Vec<&String> =
            self.by_tensor.keys().filter(|tensor| self.index.file_of(tensor).is_none()).collect();
        let mut warnings = Vec::new();
        if let Some(first) = moved.first() {
            warnings.push(format!(
                "{name} puts {} tensors into other files than hold them, for example '{first}' into '{}'; it \
                 is read from '{}'",
                moved.len(),
                self.index.file_of(first).unwrap_or_default(),
                self.file_name(self.by_tensor[*first][0])
            ));
        }
        if let Some(first) = absent.first() {
            warnings.push(format!(
                "{name} lists {} tensors that no file holds, for example '{first}' in '{}'; they are ignored",
                absent.len(),
                self.index.file_of(first).unwrap_or_default()
            ));
        }
        if let Some(first) = unlisted.first() {
            warnings.push(format!(
                "{name} does not list {} tensors that its files hold, for example '{first}' in '{}'; they are \
                 read",
                unlisted.len(),
                self.file_name(self.by_tensor[*first][0])
            ));
        }
        warnings
    }

    /// For tensors in several files: the file that the index names, if it is one of them.
    fn homes(&self) -> HashMap<String, usize> {
        let repeated = self.by_tensor.iter().filter(|(_, at)| at.len() > 1);
        repeated
            .filter_map(|(tensor, at)| {
                let home = at.iter().find(|&&number| self.is_listed_in(tensor, number))?;
                Some((tensor.clone(), *home))
            })
            .collect()
    }
}

/// The number of the first file of a series: 0 if there is such a file, else 1.
fn first_number(files: &BTreeMap<u32, String>) -> u32 {
    files.keys().next().copied().unwrap_or(1).min(1)
}

/// The names of files in Mistral's own format, which may be in the same folder, begin with this.
const CONSOLIDATED: &str = "consolidated";
